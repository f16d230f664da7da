"""What an opened total becomes before it is kept or seen: an outcome, and a total without what must be discarded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.score_slots import ScoreSlots, Slots
from protos.scoring.v1 import scoring_pb2 as pb

Outcomes = NDArray[np.uint8]


class NotAnswered(Exception):
    """There is no answer.

    Attributes:
        code: For programs; `str()` is the sentence.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class Question:
    """What a client asks."""

    task: str
    model_version: str
    purpose: str
    requester: str
    grant: bytes = field(repr=False)


@dataclass(frozen=True, eq=False)
class Released:
    """One opened sum as the platform may keep it.

    Attributes:
        outcomes: `pb.Outcome` of each entity, shape (n_entities,).
        totals: Signed sums, shape (n_entities, layout.width); zero where there is no score, and in the slot that
            counted the members; evidence is 0 or 1.
    """

    outcomes: Outcomes
    totals: Slots

    @property
    def digest(self) -> bytes:
        """SHA-256 by which the log of openings names it, 32 bytes."""
        return hashlib.sha256(self.outcomes.tobytes() + self.totals.astype("<i8").tobytes()).digest()


@dataclass(frozen=True, eq=False)
class Opened:
    """A released sum, and what the log says of it.

    Attributes:
        released: Outcomes and totals.
        survivors: Whose sum it is.
        request_digest: Of the request.
        disclosure: The entry of the log of openings, signed.
    """

    released: Released
    survivors: tuple[str, ...]
    request_digest: bytes
    disclosure: bytes

    @property
    def totals(self) -> Slots:
        """Totals by entity."""
        return self.released.totals


@dataclass(frozen=True)
class Answer:
    """One entity's place in an opened total."""

    opened: Opened
    row: int
    from_cache: bool

    @property
    def outcome(self) -> pb.Outcome.ValueType:
        """What became of the entity's total."""
        return pb.Outcome.ValueType(int(self.opened.released.outcomes[self.row]))

    @property
    def total(self) -> Slots:
        """The entity's slots, shape (layout.width,)."""
        total: Slots = self.opened.totals[self.row]
        return total


def release(opened: Slots, layout: ScoreSlots, *, one_member_may_answer: bool) -> Released:
    """Discard what the platform must not keep: how many members know an entity, and totals over one member (C6).

    Args:
        opened: The opened sum, shape (n_entities, layout.width).
        layout: What the slots mean.
        one_member_may_answer: Whether the grant lets a total over one knowing member be used.
    """
    totals = opened.copy()
    # Sums of random numbers: anything but zero says that somebody has the evidence, and nothing else (C7).
    totals[:, layout.evidence_at] = totals[:, layout.evidence_at] != 0
    outcomes = np.full(len(totals), pb.SCORED, dtype=np.uint8)
    if layout.scores:
        known = totals[:, 1].copy()
        outcomes[known == 0] = pb.UNKNOWN_ENTITY
        if not one_member_may_answer:
            outcomes[known == 1] = pb.ONE_MEMBER_ONLY
        totals[:, 1] = 0
        totals[outcomes != pb.SCORED] = 0
    return Released(outcomes, totals)


def score_of(answer: Answer, layout: ScoreSlots) -> pb.Score:
    """One entity's answer as it is sent."""
    if answer.outcome != pb.SCORED:
        return pb.Score(outcome=answer.outcome)
    total = answer.total
    return pb.Score(
        outcome=answer.outcome,
        log_odds_64ths=int(total[0]) if layout.scores else 0,
        votes=total[layout.votes].tolist(),
        evidence=total[layout.evidence_at].astype(bool).tolist(),
    )


def batch_of(answers: Sequence[Answer], layout: ScoreSlots) -> pb.ScoreBatchReply:
    """Many entities' answers as they are sent, without what is said of survivors."""
    totals = np.array([answer.total for answer in answers])
    scores = totals[:, 0] if layout.scores else np.zeros(len(answers), dtype=np.int64)
    return pb.ScoreBatchReply(
        outcomes=bytes(answer.outcome for answer in answers),
        log_odds_64ths=scores.astype("<i8").tobytes(),
        votes=totals[:, layout.votes].astype(np.uint8).tobytes(),
        evidence=totals[:, layout.evidence_at].astype(np.uint8).tobytes(),
        disclosures=list(dict.fromkeys(answer.opened.disclosure for answer in answers)),
    )
