"""The towers of a vertical run, fitted with everybody's columns in one place: what a run is compared with.

Basis, penalties, centring and the choice of pairs are those of the members. What differs is the way there: all towers
move together, in damped Newton steps, to the optimum of the penalised loss; no noise, no rounding, no fixed passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from models.aligned_rows import UNKNOWN, AlignedRows
from models.features import BoolArray, FloatArray, InputFeature
from models.newton import sigmoid
from models.role_totals import alone
from models.vertical import Tower, VerticalSettings
from models.vertical_basis import RoleBasis, column_sums, fit_basis, scores_of, whole_moments
from models.vertical_pairs import (
    MainEffects,
    PairTerm,
    candidate_pairs,
    choose_pairs,
    pair_expansion,
    pair_levels,
)
from policies.errors import UserError
from protos.encrypted_gradient.parameters import BASIS_LEVELS
from protos.encrypted_gradient.support import Levels

_CHUNK_ROWS = 8192
_MOST_STEPS = 60
_SETTLED = 1e-5
_LARGEST_CHANGE = 2.0
_POOLED = "auditor"
"""Stands for every label holder, since all rows are in one place."""


class RowsRefused(UserError):
    """Rows that no vertical run could have, or on which no model settles."""


@dataclass(frozen=True, eq=False)
class PooledRows:
    """Everybody's columns of the same entities, side by side.

    Attributes:
        columns: Values per feature name, shape (n_rows,), `nan` where missing or where the role does not know the row.
        label: 1.0 = bad, shape (n_rows,).
        known: By role, True where it knows the row, shape (n_rows,); a role that is not in it knows all rows.
        holder: Member that holds the row's label, shape (n_rows,); empty where nobody asks.
    """

    columns: Mapping[str, FloatArray] = field(repr=False)
    label: FloatArray = field(repr=False)
    known: Mapping[str, BoolArray] = field(default_factory=dict, repr=False)
    holder: NDArray[np.str_] = field(default_factory=lambda: np.zeros(0, dtype=np.str_), repr=False)

    def known_to(self, role: str) -> BoolArray:
        """Rows that a role knows, shape (n_rows,)."""
        return self.known.get(role, np.ones(len(self.label), dtype=np.bool_))

    def part(self, rows: BoolArray) -> PooledRows:
        """Some of the rows.

        Args:
            rows: Shape (n_rows,).
        """
        return PooledRows(
            {name: values[rows] for name, values in self.columns.items()},
            self.label[rows],
            {role: known[rows] for role, known in self.known.items()},
            self.holder[rows] if len(self.holder) else self.holder,
        )


def train_pooled(
    features: Mapping[str, Sequence[InputFeature]], rows: PooledRows, settings: VerticalSettings
) -> tuple[dict[str, Tower], float]:
    """Fit one tower a role.

    Args:
        features: Features per role.
        rows: The training rows.
        settings: The run's settings.

    Returns:
        Towers by role, and the bias in log-odds.

    Raises:
        RowsRefused: The loss has no optimum that Newton steps reach.
        TrainingDataError: No feature of a role varies.
    """
    sides = [_Side.of(role, of_role, rows.columns, rows.known_to(role), settings) for role, of_role in features.items()]
    fit = _Fit(sides, rows.label, settings)
    fit.settle()
    if settings.pairs:
        fit.choose_pairs()
        fit.settle()
    return fit.towers()


@dataclass(frozen=True, eq=False)
class _Side:
    """One role's columns on the training rows.

    Attributes:
        levels: Main columns, zero rows where the role does not know the entity.
        all_levels: Main columns and the cells of its pairs.
        known: 1.0 where it knows the entity.
    """

    role: str
    basis: RoleBasis
    levels: Levels = field(repr=False)
    all_levels: Levels = field(repr=False)
    known: FloatArray = field(repr=False)
    pairs: tuple[PairTerm, ...] = ()

    @classmethod
    def of(
        cls,
        role: str,
        features: Sequence[InputFeature],
        columns: Mapping[str, FloatArray],
        known: BoolArray,
        settings: VerticalSettings,
    ) -> _Side:
        rows = AlignedRows(columns, {_POOLED: np.where(known, np.arange(len(known)), UNKNOWN)})
        basis = alone(
            fit_basis(
                features,
                rows,
                bins=settings.bins,
                min_rows=settings.min_rows_per_column,
                max_colluders=settings.max_colluders,
            )
        )
        levels = rows.arrange(basis.levels(columns))[_POOLED]
        return cls(role, basis, levels, levels, known.astype(np.float64))

    def with_pairs(self, pairs: tuple[PairTerm, ...]) -> _Side:
        whole = np.concatenate([self.levels, pair_levels(pairs, self.levels)], axis=1)
        return _Side(self.role, self.basis, self.levels, whole, self.known, pairs)

    @property
    def rows(self) -> float:
        return max(float(self.known.sum()), 1.0)

    @property
    def sums(self) -> FloatArray:
        return np.asarray(column_sums({_POOLED: self.all_levels}) / BASIS_LEVELS)

    @property
    def means(self) -> FloatArray:
        return np.asarray(self.sums / self.rows)

    @property
    def expansion(self) -> FloatArray:
        """Parameters in terms of the columns and of the column `known`, which centres them.

        Returns:
            Shape (n_parameters, n_columns + 1).
        """
        centring = np.eye(len(self.means), len(self.means) + 1)
        centring[:, -1] = -self.means
        return np.asarray(pair_expansion(self.pairs, self.basis.num_columns) @ centring)

    def penalty(self, settings: VerticalSettings) -> FloatArray:
        """Of the parameters, shape (n_parameters, n_parameters)."""
        main = self.basis.penalty(settings.ridge, settings.smoothness)
        cells = len(pair_expansion(self.pairs, self.basis.num_columns)) - len(main)
        return np.asarray(linalg.block_diag(main, settings.pair_ridge * np.eye(cells)))


class _Fit:
    """All sides' parameters and the intercept, moved together."""

    def __init__(self, sides: list[_Side], label: FloatArray, settings: VerticalSettings) -> None:
        self._label = label
        self._settings = settings
        rate = float(label.mean())
        self._weights = [np.zeros(0) for _ in sides]
        self._intercept = float(np.log(rate / (1.0 - rate)))
        self._row_curvature = rate * (1.0 - rate)
        self._take(sides)

    def _take(self, sides: list[_Side]) -> None:
        """Go on with these sides; parameters that are new begin at zero."""
        self._sides = sides
        self._expansions = [side.expansion for side in sides]
        self._weights = [
            np.concatenate([weights, np.zeros(len(expansion) - len(weights))])
            for weights, expansion in zip(self._weights, self._expansions, strict=True)
        ]
        # Last, the intercept, which nothing penalises.
        self._expansion = linalg.block_diag(*self._expansions, np.ones((1, 1)))
        self._penalty = linalg.block_diag(*(side.penalty(self._settings) for side in sides), np.zeros((1, 1)))

    def settle(self) -> None:
        """Damped Newton steps to the optimum."""
        for _ in range(_MOST_STEPS):
            gradient, curvature = self._sums()
            parameters = np.concatenate([*self._weights, [self._intercept]])
            change = linalg.solve(
                self._expansion @ curvature @ self._expansion.T + self._penalty,
                self._expansion @ gradient + self._penalty @ parameters,
                assume_a="pos",
            )
            largest = float(np.abs(change).max())
            # Far from the optimum a full step may overshoot; no log-odds moves by more than this at once.
            before = parameters
            *moved, last = np.split(
                before - change * min(1.0, _LARGEST_CHANGE / largest),
                np.cumsum([len(weights) for weights in self._weights]),
            )
            self._intercept = float(last[0])
            self._weights = [
                side.basis.respecting_directions(weights, side.sums)
                for side, weights in zip(self._sides, moved, strict=True)
            ]
            if np.abs(np.concatenate([*self._weights, last]) - before).max() < _SETTLED:
                return
        raise RowsRefused(f"Expected pooled towers to settle within {_MOST_STEPS} steps, found them still moving.")

    def _scores(self) -> FloatArray:
        total = np.full(len(self._label), self._intercept)
        for side, expansion, weights in zip(self._sides, self._expansions, self._weights, strict=True):
            columns = expansion.T @ weights
            total += scores_of(side.all_levels, columns[:-1]) + columns[-1] * side.known
        return total

    def _sums(self) -> tuple[FloatArray, FloatArray]:
        """Gradient and curvature of the loss in all columns, each side's `known` column after its own, and a one."""
        pd = sigmoid(self._scores())
        residuals, spread = pd - self._label, np.sqrt(pd * (1.0 - pd))
        size = self._expansion.shape[1]
        gradient, curvature = np.zeros(size), np.zeros((size, size))
        for start in range(0, len(pd), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            part = np.ones((len(pd[rows]), size))
            at = 0
            for side in self._sides:
                width = side.all_levels.shape[1]
                part[:, at : at + width] = side.all_levels[rows] / BASIS_LEVELS
                part[:, at + width] = side.known[rows]
                at += width + 1
            gradient += part.T @ residuals[rows]
            part *= spread[rows, None]
            curvature += part.T @ part
        return gradient, curvature

    def choose_pairs(self) -> None:
        """Every side's pairwise terms, by the members' own rule."""
        residuals = sigmoid(self._scores()) - self._label
        self._take(
            [
                side.with_pairs(self._pairs_of(side, weights, residuals))
                for side, weights in zip(self._sides, self._weights, strict=True)
            ]
        )

    def _pairs_of(self, side: _Side, weights: FloatArray, residuals: FloatArray) -> tuple[PairTerm, ...]:
        settings, levels = self._settings, {_POOLED: side.levels}
        sums = side.sums[: side.basis.num_columns]
        candidates = alone(
            candidate_pairs(
                side.basis,
                levels,
                weights,
                sums,
                groups=settings.pair_groups,
                min_rows=settings.min_rows_per_column,
                max_colluders=settings.max_colluders,
                most=settings.candidate_pairs,
            )
        )
        effects = MainEffects(
            whole_moments(levels) / BASIS_LEVELS**2,
            sums,
            side.rows,
            self._row_curvature,
            side.basis.penalty(settings.ridge, settings.smoothness),
            weights,
        )
        columns = np.concatenate([side.levels, pair_levels(candidates, side.levels)], axis=1)
        asked = columns.T.astype(np.float32) @ residuals / BASIS_LEVELS
        left_over = float(residuals @ side.known)
        asked[: len(sums)] -= sums / side.rows * left_over
        return alone(
            choose_pairs(
                candidates,
                levels,
                effects,
                asked,
                residual_total=left_over,
                ridge=settings.pair_ridge,
                most=settings.pairs,
            )
        )

    def towers(self) -> tuple[dict[str, Tower], float]:
        """The fitted towers and the bias."""
        found = {}
        for side, expansion, weights in zip(self._sides, self._expansions, self._weights, strict=True):
            columns = expansion.T @ weights
            found[side.role] = Tower(side.basis, side.pairs, columns[:-1], side.means)
        return found, self._intercept
