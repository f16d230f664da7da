"""The coordinator's worker over members in this process: what it does when a run's end goes wrong."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

import coordinator.worker
from coordinator.ledger.entries import parse_entry
from coordinator.ledger.keeper import LedgerKeeper
from coordinator.ledger.log import Log
from coordinator.worker import RunWorker
from policies.errors import UserError
from policies.ledger_keys import ledger_keys
from simulations.in_process_consortium import DEFAULT_RUN_ID

FINISHED = f"{DEFAULT_RUN_ID}: finished"


class LocalEngine:
    """The engine's place, over a consortium of this process; `away` names members that are not connected."""

    def __init__(self, consortium):
        self.consortium = consortium
        self.away = set()

    def online(self):
        return frozenset(self.consortium.members) - self.away

    @contextmanager
    def open_run(self, name):
        steps = self.consortium.steps
        yield SimpleNamespace(
            online=self.online,
            wait_online=steps.wait_online,
            run_step=steps.run_step,
        )


@pytest.fixture
def worker_of(tmp_path):
    """A worker that stops after it has announced a line."""

    def made(engine, *, until, then=lambda: None, ledger=None):
        consortium, stop, lines = engine.consortium, threading.Event(), []

        def announce(line):
            lines.append(line)
            if line.startswith(until):
                then()
                stop.set()

        settings = SimpleNamespace(step_deadline_s=60.0, state_dir=tmp_path / "state", mlflow_tracking_uri="")
        worker = RunWorker(
            settings, consortium.agreement, consortium.operator, consortium.store, engine, stop, announce, ledger
        )
        return worker, lines

    return made


@pytest.fixture
def evidence(monkeypatch):
    """What writing the evidence does; nothing until told otherwise."""
    writing = SimpleNamespace(do=lambda: None)

    def build_and_write(*_arguments, **_options):
        writing.do()
        return {}

    monkeypatch.setattr(coordinator.worker, "Registry", lambda *_: None)
    monkeypatch.setattr(coordinator.worker, "build_and_write", build_and_write)
    return writing


def phases(consortium):
    return [phase for store in consortium.node_stores.values() for _, phase, _, _ in store.runs()]


def test_run_whose_evidence_cannot_be_written_fails_once_with_the_sentence(found, short_run, worker_of, evidence):
    def refuse():
        raise UserError("Expected a registry, found none; start it.")

    consortium, evidence.do = found(), refuse
    consortium.queue(short_run)
    worker, lines = worker_of(LocalEngine(consortium), until=f"{DEFAULT_RUN_ID}: failed")
    worker.run()
    worker.raise_failure()

    assert lines == [
        f"{DEFAULT_RUN_ID}: driving",
        f"{DEFAULT_RUN_ID}: failed: Expected a registry, found none; start it.",
    ]
    assert consortium.store.run(DEFAULT_RUN_ID).status == "failed"
    assert consortium.events()[-1].event == "failed"
    assert consortium.events()[-1].details == {"reason": "Expected a registry, found none; start it."}


def test_member_that_was_away_at_the_end_deletes_its_keys_when_it_is_back(found, short_run, worker_of, evidence):
    consortium = found()
    engine = LocalEngine(consortium)
    evidence.do = lambda: engine.away.add("bank-3")
    consortium.queue(short_run)
    worker, _ = worker_of(engine, until=FINISHED)
    worker.run()
    worker.raise_failure()
    assert phases(consortium) == ["ended", "ended", "ready"]
    assert [stored.told for stored in consortium.store.ends_to_tell()] == [("bank-1", "bank-2")]

    engine.away.clear()
    consortium.queue(short_run, run_id="run-00000002")
    evidence.do = lambda: None
    worker, _ = worker_of(engine, until="run-00000002: finished")
    worker.run()
    worker.raise_failure()
    assert phases(consortium) == ["ended"] * 6
    assert consortium.store.ends_to_tell() == []


def test_run_that_breaks_while_the_coordinator_stops_is_left_at_its_checkpoint(found, short_run, worker_of, evidence):
    consortium = found()
    consortium.queue(short_run)
    worker, lines = worker_of(LocalEngine(consortium), until="never")

    def stop_and_break():
        worker._stopping.set()
        raise ConnectionError

    evidence.do = stop_and_break
    worker.run()
    worker.raise_failure()

    assert lines == [f"{DEFAULT_RUN_ID}: driving"]
    assert consortium.store.run(DEFAULT_RUN_ID).status == "running"
    assert phases(consortium) == ["ready"] * 3


def test_worker_that_breaks_ends_the_process_with_what_broke_it(found, worker_of):
    consortium = found()
    worker, _ = worker_of(LocalEngine(consortium), until="never")
    consortium.store.close()
    worker.start()
    worker.join()
    assert worker._stopping.is_set()
    with pytest.raises(Exception, match="closed database"):
        worker.raise_failure()


@pytest.fixture
def ledger_of(tmp_path):
    """The ledger of a consortium, as its coordinator's process opens it."""
    opened = []

    def made(consortium):
        settings = SimpleNamespace(database_url=f"sqlite:///{tmp_path / 'decisions.sqlite'}", state_dir=tmp_path)
        opened.append(LedgerKeeper.open(settings, consortium.agreement, consortium.operator))
        return opened[-1]

    yield made
    for ledger in opened:
        ledger.close()


def entries(ledger):
    with ledger._store.reading() as connection:
        return [parse_entry(one.body) for one in Log(connection).entries(0, 1000)]


def test_ledger_says_what_a_run_opened_and_released_and_the_nodes_cosign_it(
    found, short_run, worker_of, evidence, ledger_of
):
    consortium = found()
    ledger = ledger_of(consortium)
    consortium.queue(short_run)
    worker, lines = worker_of(LocalEngine(consortium), until="ledger:", ledger=ledger)
    worker.run()
    worker.raise_failure()

    written = entries(ledger)
    assert [entry.kind for entry in written] == ["release", "opening", "opening", "opening", "opening", "checkpoint"]
    assert written[0].signers == ("bank-1", "bank-2", "bank-3")
    assert [(entry.k, entry.survivors, entry.dropped) for entry in written[1:5]] == [
        (k, ("bank-1", "bank-2", "bank-3"), ()) for k in range(4)
    ]
    assert written[5].witnesses == ("bank-1", "bank-2", "bank-3")
    assert lines[-1] == "ledger: 5 entries, co-signed by bank-1, bank-2, bank-3"


def test_ledger_gets_what_a_crash_left_out_once(found, short_run, worker_of, evidence, ledger_of):
    consortium = found()
    consortium.queue(short_run)
    worker, _ = worker_of(LocalEngine(consortium), until=FINISHED)  # killed before it could tell the ledger
    worker.run()
    worker.raise_failure()
    for _ in range(2):
        ledger = ledger_of(consortium)
        worker, _ = worker_of(LocalEngine(consortium), until="never", ledger=ledger)
        worker._stopping.set()
        worker.run()
        worker.raise_failure()

    assert [entry.kind for entry in entries(ledger)] == ["opening"] * 4


def test_a_run_that_is_released_twice_after_a_crash_is_in_the_ledger_once(found, short_run, driver_of, ledger_of):
    consortium = found()
    ledger = ledger_of(consortium)
    consortium.queue(short_run)
    outcome = driver_of(consortium).run(DEFAULT_RUN_ID)

    for _ in range(2):
        ledger.record_release(DEFAULT_RUN_ID, outcome.released)

    assert [entry.kind for entry in entries(ledger)] == ["release"]


def test_a_node_that_refuses_to_cosign_is_announced_and_the_worker_goes_on(
    found, short_run, worker_of, evidence, ledger_of
):
    consortium = found()
    ledger = ledger_of(consortium)
    origin = ledger_keys(consortium.agreement).origin
    with consortium.node_stores["bank-2"].transaction() as db:  # it was shown another ledger of this operator's
        db.execute("insert into witnessed values (?, 5, ?, x'', '')", (origin, bytes(32)))
    consortium.queue(short_run)
    worker, lines = worker_of(LocalEngine(consortium), until="ledger: 5", ledger=ledger)
    worker.run()
    worker.raise_failure()

    assert lines[-2].startswith("ledger: ALARM: bank-2 does not co-sign: ")
    assert "is forked" in lines[-2]
    assert lines[-1] == "ledger: 5 entries, co-signed by bank-1, bank-3"
    assert [(entry.kind, entry.member) for entry in entries(ledger) if entry.kind == "alarm"] == [("alarm", "bank-2")]
