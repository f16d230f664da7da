"""What every use case works with: composed once, handed to each."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from coordinator.database.errors import RecordRefused
from coordinator.decisions.records import Transition
from coordinator.decisions.standing import NOTHING, Standing
from coordinator.decisions.store import DecisionStore
from coordinator.decisions.writes import DecisionWrites
from coordinator.financing.notices import Notices
from coordinator.financing.score_source import ScoreSource
from coordinator.financing.statuses import require_step
from coordinator.financing.today import Days, Today
from policies.lending.policy import archived
from protos.sealed_sum.secret import SecretBytes

MAX_REMEMBERED: Final = 16_384
"""Applicants whose standing is remembered, as a guess at what the store will say."""


class Crowd:
    """Who is being decided on now: work about the same applicant or document may share a transaction."""

    def __init__(self) -> None:
        self._present: Counter[Hashable] = Counter()

    @contextmanager
    def joined(self, keys: Sequence[Hashable]) -> Iterator[None]:
        """While work about these is under way."""
        self._present.update(keys)
        try:
            yield
        finally:
            for key in keys:
                self._present[key] -= 1
                if not self._present[key]:
                    del self._present[key]

    def at(self, keys: Sequence[Hashable]) -> bool:
        """Whether anybody else is at one of these."""
        return any(self._present[key] > 1 for key in keys)


@dataclass(frozen=True)
class Means:
    """The parts of `Financing`.

    Attributes:
        store: Decisions and their ledger.
        days: The policy and the lists of the day.
        scores: Where risks come from.
        evidence_key: Keys the fingerprints of documents.
        notices: Webhooks.
        clock: Wall clock, aware.
        crowd: Who is being decided on now.
    """

    store: DecisionStore
    days: Days
    scores: ScoreSource
    evidence_key: SecretBytes
    notices: Notices
    clock: Callable[[], dt.datetime]
    crowd: Crowd = field(default_factory=Crowd)
    _standings: dict[tuple[str, str], Standing] = field(default_factory=dict)
    _kept: set[str] = field(default_factory=set)

    async def today(self) -> Today:
        """The policy and the lists of now, with the policy's tables kept for later explanations.

        Raises:
            PolicyRefused: Some table has no version for today.
            ScreeningRefused: The lists cannot be used.
        """
        today = self.days.known()
        if today is None:
            today = await asyncio.to_thread(self.days.today)
        sha256 = today.policy.sha256
        if sha256 not in self._kept:
            content = archived(today.policy).decode()
            try:
                await self.store.commit(lambda writes: writes.keep_policy(sha256, content))
            except RecordRefused:  # another process keeps it at this moment
                if await asyncio.to_thread(self.store.archived_policy, sha256) is None:
                    raise
            self._kept.add(sha256)
        return today

    def guess(self, tenant: str, applicant: str) -> Standing:
        """What the store will probably say of an applicant; a decision on a wrong guess is taken again."""
        return self._standings.get((tenant, applicant), NOTHING)

    def remember(self, tenant: str, applicant: str, standing: Standing) -> None:
        """What was the case after a decision was written."""
        if len(self._standings) >= MAX_REMEMBERED:
            self._standings.clear()
        self._standings[tenant, applicant] = Standing(standing.number, standing.owed)


def move(
    writes: DecisionWrites, tenant: str, decision_id: str, *, before: str, after: str, actor: str, why: str
) -> Transition:
    """Move a decision by a step that is allowed, with its ledger entry.

    Raises:
        DecisionUnknown: The tenant has none of that id.
        StatusConflict: It stands elsewhere, or no such step leads on from there.
    """
    require_step(decision_id, before, after)
    return writes.move(tenant, decision_id, expected=before, to=after, actor=actor, why=why)
