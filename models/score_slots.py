"""What the slots of one entity mean in a masked sum of scores or of evidence; both ends build it from the agreement."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from policies.agreement import Agreement
from policies.documents import KINDS
from policies.federated_model import STEPS_PER_LOG_ODDS

Slots = NDArray[np.int64]


@dataclass(frozen=True)
class ScoreSlots:
    """Slots of one entity: score, members that know it, one vote per reason code, one per kind of evidence.

    Attributes:
        reason_codes: The catalogue, in order.
        evidence: Kinds of evidence, in order; zero in the sum says that nobody has any (C7).
        scores: Whether score and count of knowing members are there; evidence alone has neither.
    """

    reason_codes: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    scores: bool = True

    @classmethod
    def of_agreement(cls, agreement: Agreement) -> Self:
        """Scores, with a vote for every reason code of the agreement in its order."""
        return cls(tuple(dict.fromkeys(feature.reason_code for feature in agreement.features)))

    @classmethod
    def of_documents(cls) -> Self:
        """Evidence alone, of orders and invoices."""
        return cls(evidence=KINDS, scores=False)

    @cached_property
    def width(self) -> int:
        """Slots of one entity."""
        return 2 * self.scores + len(self.reason_codes) + len(self.evidence)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the meaning, 32 bytes; bound into every mask."""
        text = json.dumps(["tallystick-score-slots/1", self.scores, self.reason_codes, self.evidence])
        return hashlib.sha256(text.encode()).digest()

    @property
    def votes(self) -> slice:
        """Where the votes are."""
        start = 2 * self.scores
        return slice(start, start + len(self.reason_codes))

    @property
    def evidence_at(self) -> slice:
        """Where the evidence is."""
        return slice(self.votes.stop, self.width)


def partial_scores(contributions: NDArray[np.float64], reason_codes: tuple[str, ...], slots: ScoreSlots) -> Slots:
    """A role's slots for each of its rows.

    Args:
        contributions: Log-odds of default that each feature adds, centred on the training population, so that an
            absent role is a zero with a meaning; shape (n_rows, n_features).
        reason_codes: The reason code of each feature.
        slots: The layout.

    Returns:
        int64 of shape (n_rows, slots.width): the rounded score, 1 for "known", 1 for each of the two reason codes
        that cost the row most (none that costs nothing), zero evidence.
    """
    n_rows = len(contributions)
    found = np.zeros((n_rows, slots.width), dtype=np.int64)
    found[:, 0] = np.rint(contributions.sum(axis=1) * STEPS_PER_LOG_ODDS)
    found[:, 1] = 1
    by_code = np.zeros((n_rows, len(slots.reason_codes)))
    for feature, code in enumerate(reason_codes):
        by_code[:, slots.reason_codes.index(code)] += contributions[:, feature]
    votes = found[:, slots.votes]
    for place in range(min(2, by_code.shape[1])):
        worst = np.argsort(-by_code, axis=1, kind="stable")[:, place]
        rows = np.arange(n_rows)
        votes[rows, worst] = by_code[rows, worst] > 0
    return found
