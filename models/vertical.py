"""Vertical training of additive towers: the run's public settings, and a trained tower.

The label holders fit their role's tower exactly to whatever the others' scores leave over (`models.label_tower`), so
the others descend on the profiled loss: min over the label holders' tower. Its gradient in a feature holder's columns
is A' r at that minimum. Each feature role takes a share of its own block's Newton step (`models.feature_tower`) that
is known before the run, so no scalar is exchanged between roles at all, and nothing of rule B7 leaks. With two or more
feature roles the share is smaller, because all of them move at once; and it falls from pass to pass, because every pass
sees fresh noise on the scores: decreasing steps average it (Robbins and Monro 1951), a constant one keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.features import FloatArray, TrainingDataError
from models.vertical_basis import RoleBasis, scores_of
from models.vertical_pairs import PairTerm, pair_levels
from protos.encrypted_gradient.parameters import BASIS_LEVELS, MAX_PASSES, SCORE_NOISE_SIGMA
from protos.encrypted_gradient.support import Levels

_CHUNK_ROWS = 8192

_LARGEST_SHARE = 0.9
_STEPS_TOGETHER = (1.6, 1.4, 1.2, 1.0)
"""Newton steps that all feature roles together may take in a pass; the last value holds for the passes after it."""


class VerticalSettingsRefused(TrainingDataError):
    """Settings under which a vertical run cannot work."""


@dataclass(frozen=True)
class VerticalSettings:
    """Public settings of a vertical run, equal at all members.

    Attributes:
        bins: Bins aimed at per feature.
        ridge: Weight of squared parameters, in rows' worth.
        smoothness: Weight of squared second differences from bin to bin, in rows' worth.
        min_rows_per_column: Rows that must touch every column and cell.
        passes: Gradient passes, at most 8.
        pairs: Pairwise terms per role, 0 for none.
        pair_groups: Coarse groups per feature of a pair.
        pair_ridge: Ridge on pairwise cells, in rows' worth.
        candidate_pairs: Pairs asked about on the screening pass, at most 30.
        screening_pass: The pass on which candidate pairs are asked about.
        score_noise: Standard deviation of the noise on partial scores, log-odds.
        max_colluders: c of the agreement: label holders that may help a feature holder, see `CheckedColumns`.
    """

    bins: int = 8
    ridge: float = 1.0
    smoothness: float = 20.0
    min_rows_per_column: int = 50
    passes: int = 4
    pairs: int = 0
    pair_groups: int = 4
    pair_ridge: float = 40.0
    candidate_pairs: int = 10
    screening_pass: int = 1
    score_noise: float = SCORE_NOISE_SIGMA
    max_colluders: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.passes <= MAX_PASSES:
            raise VerticalSettingsRefused(f"expected 1 to {MAX_PASSES} passes, found {self.passes}")
        if self.pairs and not 1 <= self.screening_pass < self.passes - 1:
            raise VerticalSettingsRefused(
                f"expected the screening pass after the first and before the last of {self.passes}, found"
                f" {self.screening_pass}"
            )

    def step_share(self, number: int, feature_roles: int) -> float:
        """Share of the block Newton step: simultaneous steps of correlated blocks overshoot, late ones keep noise.

        Args:
            number: Of the pass, from 0.
            feature_roles: How many roles move at once.
        """
        together = _STEPS_TOGETHER[min(number, len(_STEPS_TOGETHER) - 1)]
        return min(_LARGEST_SHARE, together / feature_roles)


@dataclass(frozen=True, eq=False)
class Tower:
    """A role's trained part of the score.

    Attributes:
        basis: Its columns.
        pairs: Its pairwise terms.
        weights: Log-odds per column, pairs last.
        means: Mean of each column over the role's training rows: the tower is centred on them, so that an absent role
            is a zero with a meaning.
    """

    basis: RoleBasis
    pairs: tuple[PairTerm, ...]
    weights: FloatArray
    means: FloatArray

    @property
    def offset(self) -> float:
        """Subtracted from every known row, so that the tower's mean over the training rows is zero."""
        return float(self.means @ self.weights)

    def scores(self, levels: Levels) -> FloatArray:
        """Partial log-odds of rows, from their basis columns."""
        main = self.basis.num_columns
        return (
            scores_of(levels, self.weights[:main])
            + scores_of(pair_levels(self.pairs, levels), self.weights[main:])
            - self.offset
        )

    def contributions(self, levels: Levels) -> FloatArray:
        """What each feature adds to the partial log-odds, shape (n_rows, n_features); a pair counts half for each.

        Args:
            levels: Basis columns, shape (n_rows, num_columns).
        """
        owners = np.zeros((len(self.weights), len(self.basis.bins)))
        owners[np.arange(self.basis.num_columns), list(self.basis.feature_of)] = 1.0
        at = self.basis.num_columns
        for term in self.pairs:
            for group in (term.first, term.second):
                owners[at : at + len(term.cells), self.basis.feature_of[group[0][0]]] += 0.5
            at += len(term.cells)
        found = np.empty((len(levels), owners.shape[1]))
        for start in range(0, len(levels), _CHUNK_ROWS):
            part = levels[start : start + _CHUNK_ROWS]
            columns = np.concatenate([part, pair_levels(self.pairs, part)], axis=1).astype(np.float64)
            found[start : start + _CHUNK_ROWS] = ((columns / BASIS_LEVELS - self.means) * self.weights) @ owners
        return found
