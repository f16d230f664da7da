"""The coordinator's worker: drives queued runs one after the other, takes up those that a crash has left."""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from coordinator.driver import RunDriver, RunOutcome, Waiting
from coordinator.engine.steps import Steps
from coordinator.epoch_opening import EpochOpening
from coordinator.evidence import build_and_write, build_and_write_tasks
from coordinator.ledger.keeper import LedgerKeeper
from coordinator.registry import Registry
from coordinator.request import RunRequest
from coordinator.settings import CoordinatorSettings
from coordinator.store import CoordinatorStore
from policies.agreement import Agreement
from policies.errors import UserError
from protos.sealed_sum.keys import SigningKey

log = logging.getLogger(__name__)
QUEUE_POLL_S = 0.1


class Engine(Protocol):
    """What the worker needs of the coordinator's engine."""

    def online(self) -> frozenset[str]:
        """Members whose node is connected now."""
        ...

    def open_run(self, name: str) -> AbstractContextManager[Steps]:
        """Steps of a run, while the block lasts."""
        ...


class RunWorker(threading.Thread):
    """Works on runs until `stop` is set; a daemon, so that a run that waits for members does not keep the process.

    Args:
        settings: The coordinator's settings.
        agreement: The signed agreement.
        identity: The operator's identity key.
        store: Runs and their checkpoints.
        engine: Reaches the members.
        stop: Ends the work after the current step; set by the worker itself if it breaks.
        announce: Called with one line at each milestone.
        ledger: Is told what runs opened and released, and witnessed between runs; None in some tests.
    """

    def __init__(
        self,
        settings: CoordinatorSettings,
        agreement: Agreement,
        identity: SigningKey,
        store: CoordinatorStore,
        engine: Engine,
        stop: threading.Event,
        announce: Callable[[str], None],
        ledger: LedgerKeeper | None = None,
    ) -> None:
        super().__init__(name="runs", daemon=True)
        self._settings = settings
        self._agreement = agreement
        self._identity = identity
        self._store = store
        self._engine = engine
        self._stopping = stop
        self._announce = announce
        self._ledger = ledger
        self._failure: BaseException | None = None

    def run(self) -> None:
        """The thread's work; use `start`."""
        try:
            self._record_what_a_crash_left_out()
            while not self._stopping.is_set():
                self._tell_ends()
                stored = self._store.next_run()
                if stored is None:
                    self._witness()
                    self._stopping.wait(QUEUE_POLL_S)
                else:
                    self._announce(f"{stored.run_id}: {'driving' if stored.status == 'queued' else 'taken up again'}")
                    self._work_on(stored.run_id)
        except BaseException as failure:  # raised again in the main thread, see `raise_failure`
            if self._stopping.is_set():
                log.info("the engine went away under the worker", exc_info=True)
            else:
                self._failure = failure
        finally:
            self._stopping.set()

    def raise_failure(self) -> None:
        """Raise in the main thread what broke the worker, so that the process ends and may be started again."""
        if self._failure is not None:
            raise self._failure

    def _work_on(self, run_id: str) -> None:
        try:
            self._drive(run_id)
            self._announce(f"{run_id}: finished")
        except UserError as failure:
            self._fail(run_id, str(failure))
        except Exception:
            if self._stopping.is_set():
                # The engine went away under the run; its checkpoint is on disk, and the next start takes it up.
                log.info("run %s is left at its checkpoint", run_id, exc_info=True)
                return
            # The one place where anything at all may surface: the run is marked, the trace is in the log.
            log.exception("run %s", run_id)
            self._fail(run_id, f"an internal error, see {self._settings.state_dir / 'coordinator.log'}")
        self._record_openings(run_id)

    def _fail(self, run_id: str, reason: str) -> None:
        """Mark a run that the driver has not marked itself: its evidence could not be written, say."""
        stored = self._store.run(run_id)
        if stored is not None and stored.status not in {"finished", "failed"}:
            self._store.close_run(run_id, "failed", now(), reason)
        self._announce(f"{run_id}: failed: {reason}")

    def _drive(self, run_id: str) -> None:
        settings = self._settings
        with self._engine.open_run(run_id) as steps:
            driver = self._driver(steps)
            folder = settings.state_dir / "runs" / run_id
            registry = Registry(settings.state_dir, settings.mlflow_tracking_uri)
            match self._method(run_id):
                case "alignment":
                    driver.align(run_id)
                    driver.finish(run_id)
                case "vertical":
                    outcomes = driver.vertical(run_id)
                    self._record_releases(run_id, outcomes)
                    details = build_and_write_tasks(outcomes, self._agreement, folder, registry, created_at=now())
                    driver.finish(run_id, **details)
                case _:
                    outcome = driver.run(run_id)
                    self._record_releases(run_id, [outcome])
                    details = build_and_write(outcome, self._agreement, folder, registry, created_at=now())
                    driver.finish(run_id, **details)

    def _record_releases(self, run_id: str, outcomes: Sequence[RunOutcome]) -> None:
        """Put what members released into the ledger, before it is published."""
        if self._ledger is not None:
            for outcome in outcomes:
                self._ledger.record_release(run_id, outcome.released)

    def _record_openings(self, run_id: str) -> None:
        """Put into the ledger what a run that is over has opened; whoever could not, does when it starts again."""
        stored = self._store.run(run_id)
        if self._ledger is None or stored is None or not stored.proposal:
            return
        sums = self._store.sums(run_id)[: self._store.num_finished_sums(run_id)]
        try:
            self._ledger.record_openings(run_id, EpochOpening.proposal(stored.proposal).cohort, sums)
        except UserError as problem:
            log.exception("the openings of %s are not in the ledger", run_id)
            self._announce(f"{run_id}: not in the ledger yet: {problem}")

    def _record_what_a_crash_left_out(self) -> None:
        if self._ledger is None:
            return
        known = self._ledger.recorded_runs()
        for run_id, status, _ in self._store.runs():
            if status in {"finished", "failed"} and run_id not in known:
                self._record_openings(run_id)

    def _witness(self) -> None:
        """Between runs, have the ledger co-signed; a refusal is an alarm, and the coordinator goes on."""
        if self._ledger is None or not self._engine.online():
            return
        try:
            outcome = self._ledger.witness_if_due(self._engine.open_run)
        except UserError as problem:
            log.exception("the ledger could not be witnessed")
            self._announce(f"ledger: {problem}")
            return
        if outcome is None:
            return
        for member, refusal in sorted(outcome.refusals.items()):
            self._announce(f"ledger: ALARM: {member} does not co-sign: {refusal.sentence}")
        if outcome.witnesses:
            size = outcome.signed.checkpoint.size
            self._announce(f"ledger: {size} entries, co-signed by {', '.join(outcome.witnesses)}")

    def _method(self, run_id: str) -> str:
        stored = self._store.run(run_id)
        return RunRequest.from_bytes(stored.request).settings.method if stored is not None else ""

    def _tell_ends(self) -> None:
        """Tell members that were away when a run ended, now that they are back: they still hold its keys."""
        for stored in self._store.ends_to_tell():
            cohort = EpochOpening.proposal(stored.proposal).cohort
            if self._engine.online() & set(cohort) - set(stored.told):
                with self._engine.open_run(stored.run_id) as steps:
                    self._driver(steps).end(stored.run_id)

    def _driver(self, steps: Steps) -> RunDriver:
        waiting = Waiting(step_deadline_s=self._settings.step_deadline_s)
        return RunDriver(self._agreement, self._identity, self._store, steps, waiting=waiting, now=now)


def now() -> str:
    """Wall clock as ISO 8601 text."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
