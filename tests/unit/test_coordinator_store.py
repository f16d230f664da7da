"""The coordinator's checkpoints: what a restarted coordinator finds, in which order it takes runs up."""

import sqlite3
import stat

import pytest

from coordinator.store import CoordinatorStateRefused, CoordinatorStore

RUN = "run-00000001"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def store(folder):
    store = CoordinatorStore(folder)
    yield store
    store.close()


def test_everything_committed_is_there_after_a_process_that_never_closed_the_file(store, folder):
    store.queue_run(RUN, b"request")
    store.set_proposal(RUN, b"proposal")
    store.set_epoch(RUN, (b"a1", b"a2"), (b"c1",))
    store.fix_survivors(RUN, 0, "bins", ("bank-1", "bank-2"))
    store.finish_sum(RUN, 0, b"sealed")
    store.add_event("now", RUN, "opened", k=0)
    again = CoordinatorStore(folder)

    assert again.run(RUN) == store.run(RUN)
    assert (again.run(RUN).announcements, again.run(RUN).confirmations) == ((b"a1", b"a2"), (b"c1",))
    assert [(s.k, s.purpose, s.survivors, s.sealed_sum) for s in again.sealed_sums(RUN, 0)] == [
        (0, "bins", ("bank-1", "bank-2"), b"sealed")
    ]
    assert [event.event for event in again.events(RUN)] == ["opened"]
    again.close()


def test_a_sum_counts_as_finished_only_with_its_sealed_bytes(store):
    store.queue_run(RUN, b"request")
    store.fix_survivors(RUN, 0, "bins", ("bank-1", "bank-2", "bank-3"))
    assert store.num_finished_sums(RUN) == 0
    assert store.sealed_sums(RUN, 0) == []
    assert [s.survivors for s in store.sums(RUN)] == [("bank-1", "bank-2", "bank-3")]
    store.finish_sum(RUN, 0, b"sealed")
    assert store.num_finished_sums(RUN) == 1
    assert [s.sealed_sum for s in store.sums(RUN)] == [b""]  # without the large bytes


def test_survivors_named_later_replace_the_earlier_ones_and_keep_the_purpose(store):
    store.queue_run(RUN, b"request")
    store.fix_survivors(RUN, 0, "bins", ("bank-1", "bank-2", "bank-3"))
    store.fix_survivors(RUN, 0, "", ("bank-1", "bank-2"))
    (stored,) = store.sums(RUN)
    assert (stored.purpose, stored.survivors) == ("bins", ("bank-1", "bank-2"))


def test_a_run_in_progress_is_taken_up_before_a_queued_one_and_a_finished_one_never(store):
    for number in range(1, 5):
        store.queue_run(f"run-0000000{number}", b"request")
    assert store.next_run().run_id == RUN
    store.set_status("run-00000003", "paused", "sum 2 waits")
    assert store.next_run().run_id == "run-00000003"
    store.set_status("run-00000002", "running")
    assert store.next_run().run_id == "run-00000002"
    store.close_run("run-00000002", "failed", "now", "gave up")
    store.close_run("run-00000003", "finished", "now")
    assert store.next_run().run_id == RUN
    for number in (1, 4):
        store.close_run(f"run-0000000{number}", "finished", "now")
    assert store.next_run() is None


def test_a_run_id_is_used_once(store):
    store.queue_run(RUN, b"request")
    with pytest.raises(sqlite3.IntegrityError):
        store.queue_run(RUN, b"another request")
    assert store.run(RUN).request == b"request"
    assert store.run("run-00000009") is None


def test_a_run_ends_with_its_event_or_not_at_all(store):
    store.queue_run(RUN, b"request")
    store.set_status(RUN, "running")
    with pytest.raises(TypeError):
        store.close_run(RUN, "finished", "now", evidence=object())  # no JSON: the transaction is undone
    assert (store.run(RUN).status, store.events(RUN)) == ("running", [])


def test_members_stay_on_the_list_until_everybody_knows_the_end(store):
    store.queue_run(RUN, b"request")
    store.close_run(RUN, "failed", "now", "gave up")
    assert store.ends_to_tell() == []  # it was never proposed to anybody
    store.queue_run("run-00000002", b"request")
    store.set_proposal("run-00000002", b"proposal")
    assert store.ends_to_tell() == []
    store.close_run("run-00000002", "finished", "now")
    store.set_told("run-00000002", ("bank-1",), everybody=False)
    assert [(run.run_id, run.told) for run in store.ends_to_tell()] == [("run-00000002", ("bank-1",))]
    store.set_told("run-00000002", ("bank-1", "bank-2"), everybody=True)
    assert store.ends_to_tell() == []


def test_events_are_followed_from_where_a_reader_stopped(store, folder):
    store.queue_run(RUN, b"request")
    store.add_event("t1", RUN, "waiting", members=["bank-1"])
    reader = CoordinatorStore(folder)
    (first,) = reader.events(RUN)
    store.add_event("t2", RUN, "joined", members=5)
    assert [(e.event, e.details) for e in reader.events(RUN, after=first.entry)] == [("joined", {"members": 5})]
    reader.close()


def test_the_state_file_is_for_its_owner_alone(store, folder):
    store.queue_run(RUN, b"request")
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


def test_a_file_that_is_no_database_is_refused_with_a_sentence(folder):
    folder.mkdir()
    (folder / "coordinator.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(CoordinatorStateRefused, match="found a file that SQLite cannot read"):
        CoordinatorStore(folder)


def test_a_state_of_another_release_is_refused_with_a_sentence(store, folder):
    db = sqlite3.connect(folder / "coordinator.sqlite")
    db.execute("update meta set value = '99' where key = 'schema'")
    db.commit()
    db.close()
    with pytest.raises(CoordinatorStateRefused, match="has state version 99, this release reads version 1"):
        CoordinatorStore(folder)
