"""Scoring beside training in a node process: a thread with its own event loop, its own stream and its own journal."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import uvloop

from nodes.membership import Membership
from nodes.revocations import RevocationStore, revocations_folder
from nodes.scoring import ScoringResponder
from nodes.scoring_guard import ScoringGuard
from nodes.scoring_journal import Journal
from nodes.scoring_stream import GatewayConnection, attend
from nodes.scoring_tables import EntityTable, ScoreTables
from policies.scoring_policy import ScoringPolicy
from policies.token_key import TokenKey


class ScoringService:
    """Answers scores until it is stopped.

    Args:
        membership: Who this node is.
        policy: What it answers; without one there is no service (fail closed).
        tables: (task, model version) -> what it knows; a `ScoreTables` is watched as long as the service runs.
        connection: Where the gateway is.
        state_dir: The folders of the journal and of revocation lists are made in it.
        now: This node's clock, Unix seconds.
        token_key: The members' key, for grants that name who answers.
        responder: What answers; another one for simulations of members that lie.
    """

    def __init__(
        self,
        membership: Membership,
        policy: ScoringPolicy,
        tables: Mapping[tuple[str, str], EntityTable],
        connection: GatewayConnection,
        state_dir: Path,
        *,
        now: Callable[[], float] = time.time,
        token_key: TokenKey | None = None,
        responder: type[ScoringResponder] = ScoringResponder,
    ) -> None:
        self._connection = connection
        self._journal = Journal(state_dir / "scoring", now)
        revocations = RevocationStore(revocations_folder(state_dir), policy.issuer_keys)
        guard = ScoringGuard(
            policy, membership.agreement, membership.member, self._journal, revocations, now, token_key=token_key
        )
        self._tables = tables
        self._responder = responder(membership, guard, tables, now=now)
        self._loop = uvloop.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)
        self._on_online: Callable[[], None] | None = None

    def start(self, on_online: Callable[[], None] | None = None) -> None:
        """Connect, and connect again whenever the stream ends; `on_online` is called each time it is admitted."""
        self._on_online = on_online
        if isinstance(self._tables, ScoreTables):
            self._tables.start()
        self._thread.start()

    def stop(self) -> None:
        """End the stream; what was written is flushed."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        if isinstance(self._tables, ScoreTables):
            self._tables.stop()
        self._journal.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(
                attend(self._connection, self._responder, self._journal, self._stop, on_online=self._on_online)
            )
        finally:
            self._loop.close()
