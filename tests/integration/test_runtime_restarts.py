"""Handlers are idempotent, and a node forgets nothing that matters when it is killed between any two messages (E4)."""

import sqlite3

import pytest

from simulations.in_process_consortium import DEFAULT_RUN_ID

MESSAGES_OF_A_SHORT_RUN = 31
"""Of three members: cosign, 3 join, 3 cohort, 2 deal, 3 sums of 3 contribute and 3 shares, 3 final contribute, one
artefact; the three end messages follow only after the evidence is written."""


class Recorded:
    """A relay that counts messages and hands each over; `before` is called first, with its number."""

    def __init__(self, before=None):
        self.before = before
        self.messages = []

    def __call__(self, member, action, body, deliver):
        self.messages.append((member, action, body))
        if self.before is not None:
            self.before(len(self.messages) - 1, member)
        return deliver(body)


@pytest.fixture(scope="module")
def short_run(short_run):
    """One round of training is enough here."""
    return short_run.model_copy(update={"rounds": 1})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, found_in, short_run):
    """Version of the model that nobody disturbed."""
    relay = Recorded()
    with found_in(tmp_path_factory.mktemp("undisturbed"), 3, relay) as consortium:
        version = consortium.run(short_run).released.table.model_digest
    assert len(relay.messages) == MESSAGES_OF_A_SHORT_RUN
    return version


def test_every_handler_gives_the_same_bytes_when_asked_twice(found, short_run, undisturbed, driver_of):
    asked = set()

    def relay(member, action, body, deliver):
        asked.add(action)
        answer = deliver(body)
        assert deliver(body) == answer, f"{member} answered {action} twice, differently"
        return answer

    consortium = found(relay=relay)
    version = consortium.run(short_run).released.table.model_digest
    driver_of(consortium).finish(DEFAULT_RUN_ID)
    assert asked == {"cosign", "join", "cohort", "deal", "contribute", "shares", "artefact", "end"}
    assert version == undisturbed


def test_a_node_killed_after_every_message_resends_the_same_bytes_and_learns_the_same_model(
    found, short_run, undisturbed
):
    """The answer is lost with the process each time: what was stored before must be all that the answer needs."""

    def relay(member, action, body, deliver):
        answer = deliver(body)
        consortium.restart_node(member)
        assert deliver(body) == answer, f"{member} answered {action} differently after a restart"
        return answer

    consortium = found(relay=relay)
    assert consortium.run(short_run).released.table.model_digest == undisturbed


@pytest.mark.parametrize("index", range(MESSAGES_OF_A_SHORT_RUN))
def test_a_node_restarted_before_any_one_message_learns_the_same_model(found, short_run, undisturbed, index):
    consortium = found(relay=Recorded(lambda i, member: consortium.restart_node(member) if i == index else None))

    assert consortium.run(short_run).released.table.model_digest == undisturbed


def test_a_node_whose_disk_fails_at_any_write_answers_after_a_retry_as_if_it_had_not(
    found, short_run, undisturbed, monkeypatch
):
    """Memory must not run ahead of the disk: every write of one node fails once, before it happens."""
    failed = set()

    def failing(name, write):
        def write_or_fail(*arguments, **options):
            if name not in failed:
                failed.add(name)
                raise sqlite3.OperationalError("disk I/O error")
            return write(*arguments, **options)

        return write_or_fail

    def relay(member, action, body, deliver):
        while True:
            try:
                return deliver(body)
            except sqlite3.OperationalError:
                continue

    consortium = found(relay=relay)
    store = consortium.node_stores["bank-2"]
    writes = ["add_run", "set_joined", "set_keyed", "set_ready", "save_upload", "save_memory", "commit_opening"]
    for name in [*writes, "save_model", "journal"]:
        monkeypatch.setattr(store, name, failing(name, getattr(store, name)))
    assert consortium.run(short_run).released.table.model_digest == undisturbed
    assert failed == {*writes, "save_model", "journal"}
