"""The coordinator process's part in the ledger: what its runs opened and released, and rounds of witnesses.

Decisions come from the process that serves the API; both append to one log, in one database.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Self

import sqlalchemy as sa

from coordinator.database.schema import LedgerEntryRow
from coordinator.decisions.store import DecisionStore, utc_now
from coordinator.decisions.writes import DecisionWrites
from coordinator.engine.steps import Steps
from coordinator.ledger.checkpoints import Checkpointer
from coordinator.ledger.entries import Entry, OpeningEntry, ReleaseEntry, parse_entry, time_text
from coordinator.ledger.witnesses import WitnessOutcome, WitnessRound
from coordinator.releases import Released
from coordinator.settings import CoordinatorSettings
from coordinator.store import StoredSum
from policies.agreement import Agreement
from policies.ledger_keys import LedgerKeys, ledger_keys
from protos.sealed_sum.keys import SigningKey

log = logging.getLogger(__name__)

WITNESS_INTERVAL_S: Final = 300.0
WITNESS_DEADLINE_S: Final = 15.0
RUN_NAME: Final = "ledger"


class LedgerKeeper:
    """Writes into the ledger for the run worker, in its thread.

    Args:
        store: Holds the ledger.
        checkpointer: Signs its checkpoints.
        keys: The ledger's keys of the agreement.
        clock: Wall clock, aware.
        monotonic: Seconds that only grow.
    """

    def __init__(
        self,
        store: DecisionStore,
        checkpointer: Checkpointer,
        keys: LedgerKeys,
        *,
        clock: Callable[[], dt.datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._round = WitnessRound(store, checkpointer, keys, clock=clock)
        self._clock = clock
        self._monotonic = monotonic
        self._next_round = monotonic()

    @classmethod
    def open(cls, settings: CoordinatorSettings, agreement: Agreement, identity: SigningKey) -> Self:
        """Open the ledger that the settings name.

        Raises:
            UserError: The database cannot be used, or does not continue what was signed before.
        """
        keys = ledger_keys(agreement)
        store = DecisionStore.open(settings.database_url, origin=keys.origin)
        try:
            return cls(store, Checkpointer(store, identity.private, settings.state_dir), keys)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def recorded_runs(self) -> frozenset[str]:
        """Runs of which the ledger says what was opened."""
        return frozenset(entry.run for entry in self._about_runs() if isinstance(entry, OpeningEntry))

    def _about_runs(self) -> list[Entry]:
        statement = sa.select(LedgerEntryRow.body).where(LedgerEntryRow.kind.in_(("opening", "release")))
        with self._store.reading() as connection:
            return [parse_entry(body.encode()) for body in connection.execute(statement).scalars()]

    def record_openings(self, run_id: str, cohort: Sequence[str], sums: Sequence[StoredSum]) -> None:
        """Record every sum that a run opened, over whom and without whom (rule A7 iv)."""
        at = time_text(self._clock())

        def work(writes: DecisionWrites) -> None:
            for one in sums:
                writes.append(
                    OpeningEntry(
                        at=at,
                        run=run_id,
                        k=one.k,
                        purpose=one.purpose or "sum",
                        survivors=tuple(sorted(one.survivors)),
                        dropped=tuple(sorted(set(cohort) - set(one.survivors))),
                    )
                )

        if sums:
            self._store.commit_blocking(work)
            self._next_round = self._monotonic()

    def record_release(self, run_id: str, released: Released) -> None:
        """Record what the members of a run have signed and released; once, however often a run is taken up."""
        entry = ReleaseEntry(
            at=time_text(self._clock()),
            run=run_id,
            model=released.table.model_digest or released.table.federated_version,
            table=hashlib.sha256(released.table.canonical()).hexdigest(),
            signers=tuple(sorted(released.signatures)),
        )
        unchanged = {"at": entry.at}
        if not any(
            isinstance(one, ReleaseEntry) and one.model_copy(update=unchanged) == entry for one in self._about_runs()
        ):
            self._store.commit_blocking(lambda writes: writes.append(entry))

    def witness_if_due(self, open_run: Callable[[str], AbstractContextManager[Steps]]) -> WitnessOutcome | None:
        """Have the ledger witnessed, if something new is in it and the last round is some minutes ago.

        Args:
            open_run: Gives steps to the members while the block lasts.

        Returns:
            How the round ended, or None: there was none.
        """
        if self._monotonic() < self._next_round:
            return None
        self._next_round = self._monotonic() + WITNESS_INTERVAL_S
        if not self._round.due():
            return None
        with open_run(RUN_NAME) as steps:
            if not steps.online():
                return None
            return self._round.run(steps, deadline_s=WITNESS_DEADLINE_S)
