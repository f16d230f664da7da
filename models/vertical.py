"""Vertical training of additive towers: what each side computes between two passes of encrypted gradients.

The label holder fits its own tower exactly to whatever the others' scores leave over, so the others descend on the
profiled loss: min over the label holder's tower. Its gradient in a feature holder's columns is A' r at that minimum.
Each feature holder takes a fixed share of its own block's Newton step, so no scalar is exchanged at all, and nothing
of rule B7 leaks; with two or more feature holders the share is smaller, because all of them move at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from models.features import FloatArray, TrainingDataError
from models.newton import sigmoid
from models.vertical_basis import RoleBasis, scores_of, second_moments
from models.vertical_pairs import (
    MainEffects,
    PairTerm,
    candidate_pairs,
    choose_pairs,
    pair_expansion,
    pair_levels,
)
from protos.encrypted_gradient.parameters import BASIS_LEVELS, MAX_PASSES, SCORE_NOISE_SIGMA
from protos.encrypted_gradient.support import Levels

_CHUNK_ROWS = 8192
_REFIT_STEPS = 4
_REFIT_CHANGE = 1e-3
_LARGEST_CHANGE = 2.0
_RECALIBRATION_STEPS = 6
# Gauss-Hermite rule of five nodes for N(0, 1); the negative nodes give the conjugates of the positive ones.
_HERMITE = (
    (0.0, 0.5333333333333333),
    (1.3556261799742657, 0.4441517912234108),
    (2.8569700138728056, 0.0225148754432559),
)


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
    """

    bins: int = 8
    ridge: float = 1.0
    smoothness: float = 20.0
    min_rows_per_column: int = 50
    passes: int = 5
    pairs: int = 0
    pair_groups: int = 4
    pair_ridge: float = 40.0
    candidate_pairs: int = 10
    screening_pass: int = 1
    score_noise: float = SCORE_NOISE_SIGMA

    def __post_init__(self) -> None:
        if not 1 <= self.passes <= MAX_PASSES:
            raise VerticalSettingsRefused(f"expected 1 to {MAX_PASSES} passes, found {self.passes}")
        if self.pairs and not 1 <= self.screening_pass < self.passes - 1:
            raise VerticalSettingsRefused(
                f"expected the screening pass after the first and before the last of {self.passes}, found"
                f" {self.screening_pass}"
            )

    def step_share(self, feature_holders: int) -> float:
        """Share of the block Newton step: simultaneous steps of correlated blocks overshoot."""
        return min(0.9, 1.2 / feature_holders)


@dataclass(frozen=True, eq=False)
class Tower:
    """A role's trained part of the score.

    Attributes:
        basis: Its columns.
        pairs: Its pairwise terms.
        weights: Log-odds per column, pairs last.
        offset: Subtracted from every known row, so that the tower's mean over the training rows is zero and an absent
            role is a zero with a meaning.
    """

    basis: RoleBasis
    pairs: tuple[PairTerm, ...]
    weights: FloatArray
    offset: float

    def scores(self, levels: Levels) -> FloatArray:
        """Partial log-odds of rows, from their basis columns."""
        main = self.basis.num_columns
        return (
            scores_of(levels, self.weights[:main])
            + scores_of(pair_levels(self.pairs, levels), self.weights[main:])
            - self.offset
        )


class FeatureTower:
    """A feature holder's tower during training."""

    def __init__(
        self,
        basis: RoleBasis,
        levels: Levels,
        known: FloatArray,
        *,
        settings: VerticalSettings,
        base_rate: float,
        feature_holders: int,
    ) -> None:
        """Prepare.

        Args:
            basis: The role's basis.
            levels: Its columns on the aligned training rows; zero rows for entities it does not know.
            known: 1.0 where the role knows the entity, else 0.0; shape (n_rows,).
            settings: Public settings.
            base_rate: Share of bads, told by the label holder.
            feature_holders: How many feature holders move at once.
        """
        self._basis = basis
        self._levels = levels
        self._known = known
        self._settings = settings
        self._row_curvature = base_rate * (1.0 - base_rate)
        self._share = settings.step_share(feature_holders)
        self._main_penalty = basis.penalty(settings.ridge, settings.smoothness)
        self._weights = np.zeros(basis.num_columns)
        self._candidates: list[PairTerm] = []
        self._pairs: tuple[PairTerm, ...] = ()
        self._prepare()

    def _prepare(self) -> None:
        """Columns, expansion and preconditioner for the main effects and the chosen pairs."""
        main = self._basis.num_columns
        self._all_levels = np.concatenate([self._levels, pair_levels(self._pairs, self._levels)], axis=1)
        self._expansion = pair_expansion(self._pairs, main)
        cells = len(self._expansion) - main
        self._penalty = linalg.block_diag(self._main_penalty, self._settings.pair_ridge * np.eye(cells))
        rows = max(float(self._known.sum()), 1.0)
        self._means = self._all_levels.sum(axis=0, dtype=np.float64) / (BASIS_LEVELS * rows)
        centred = second_moments(self._all_levels) - rows * np.outer(self._means, self._means)
        curvature = self._row_curvature * (self._expansion @ centred @ self._expansion.T)
        self._factor = linalg.cho_factor(curvature + self._penalty)

    @property
    def columns(self) -> Levels:
        """Columns of the next pass: main effects, chosen pairs, then candidates."""
        if self._candidates:
            return np.concatenate([self._all_levels, pair_levels(self._candidates, self._levels)], axis=1)
        return self._all_levels

    @property
    def pairs(self) -> tuple[PairTerm, ...]:
        """The chosen pairs."""
        return self._pairs

    def _column_weights(self) -> FloatArray:
        """Log-odds per column that is asked about."""
        return np.asarray(self._expansion.T @ self._weights)

    def scores(self) -> FloatArray:
        """Partial scores of the aligned training rows, centred; zero for unknown entities."""
        weights = self._column_weights()
        return (scores_of(self._all_levels, weights) - float(self._means @ weights)) * self._known

    def propose_pairs(self) -> int:
        """Choose candidates for the next pass; returns how many columns they add."""
        settings = self._settings
        self._candidates = candidate_pairs(
            self._basis,
            self._levels,
            self._weights,
            groups=settings.pair_groups,
            min_rows=settings.min_rows_per_column,
            most=settings.candidate_pairs,
        )
        return sum(len(term.cells) for term in self._candidates)

    def absorb(self, gradient: FloatArray) -> None:
        """Take the step that one pass's column sums ask for; keep the pairs that explain most, if any were asked.

        Args:
            gradient: sum over rows of residual * column, for `columns`; shape (n_columns,).
        """
        total = self._residual_total(gradient)
        asked = self._all_levels.shape[1]
        centred = gradient[:asked] - self._means * total
        if self._candidates:
            centred = self._keep_pairs(centred, gradient[asked:], total)
        own = self._expansion @ centred + self._penalty @ self._weights
        self._weights = self._weights - self._share * linalg.cho_solve(self._factor, own)

    def _residual_total(self, gradient: FloatArray) -> float:
        """Residuals of the known rows: a feature's columns add up to one, so their sums do too."""
        if self._known.all():
            return 0.0  # the label holder's intercept has made it zero
        owners = np.array(self._basis.feature_of)
        sums = [gradient[: len(owners)][owners == owner].sum() for owner in np.unique(owners)]
        return float(np.mean(sums))

    def _keep_pairs(self, centred: FloatArray, cells: FloatArray, total: float) -> FloatArray:
        """Choose among the candidates; returns the centred gradient of the main columns and the chosen cells."""
        rows = max(float(self._known.sum()), 1.0)
        levels = pair_levels(self._candidates, self._levels)
        cells = cells - levels.sum(axis=0, dtype=np.float64) / (BASIS_LEVELS * rows) * total
        main = MainEffects(self._levels, rows, self._row_curvature, self._main_penalty, self._weights)
        self._pairs = choose_pairs(
            self._candidates,
            main,
            np.concatenate([centred, cells]),
            ridge=self._settings.pair_ridge,
            most=self._settings.pairs,
        )
        pieces = np.split(cells, np.cumsum([len(term.cells) for term in self._candidates])[:-1])
        chosen = [piece for term, piece in zip(self._candidates, pieces, strict=True) if term in self._pairs]
        self._candidates = []
        self._prepare()
        self._weights = np.concatenate([self._weights, np.zeros(len(self._expansion) - len(self._weights))])
        return np.concatenate([centred, *chosen])

    def tower(self, slope: float) -> Tower:
        """The trained tower.

        Args:
            slope: What the label holder's recalibration multiplies all scores by.
        """
        weights = self._column_weights() * slope
        return Tower(self._basis, self._pairs, weights, float(self._means @ weights))


class LabelTower:
    """The label holder's own tower, refitted to the others' scores before every pass."""

    def __init__(
        self, basis: RoleBasis, levels: Levels, label: FloatArray, *, settings: VerticalSettings, feature_holders: int
    ) -> None:
        """Prepare.

        Args:
            basis: The label holder's basis.
            levels: Its columns on the training rows.
            label: 1.0 = bad, shape (n_rows,).
            settings: Public settings.
            feature_holders: Whose noises add up in the scores.
        """
        self._basis = basis
        self._levels = levels
        self._label = label
        self._settings = settings
        self._feature_holders = feature_holders
        self._main_penalty = basis.penalty(settings.ridge, settings.smoothness)
        self._take_pairs(())
        self._slope, self._shift = 1.0, 0.0
        rate = self.base_rate
        self._weights = np.append(np.zeros(basis.num_columns), np.log(rate / (1.0 - rate)))

    @property
    def base_rate(self) -> float:
        """Share of bads on the training rows; every party learns it (documented)."""
        return float(self._label.mean())

    def _take_pairs(self, pairs: tuple[PairTerm, ...]) -> None:
        main = self._basis.num_columns
        self._pairs = pairs
        self._all_levels = np.concatenate([self._levels, pair_levels(pairs, self._levels)], axis=1)
        self._expansion = linalg.block_diag(pair_expansion(pairs, main), np.ones((1, 1)))
        cells = len(self._expansion) - main - 1
        ridge = self._settings.pair_ridge * np.eye(cells)
        self._penalty = linalg.block_diag(self._main_penalty, ridge, np.zeros((1, 1)))

    @property
    def pairs(self) -> tuple[PairTerm, ...]:
        """The label holder's own pairs."""
        return self._pairs

    def refit(self, offset: FloatArray) -> FloatArray:
        """Fit the own tower beside the others' summed scores.

        Args:
            offset: Noisy sum of the others' partial scores, shape (n_rows,).

        Returns:
            Residuals p - y at the fit, shape (n_rows,).
        """
        for _ in range(_REFIT_STEPS):
            _, gradient, curvature = self._sums(offset)
            whole = self._expansion @ curvature @ self._expansion.T + self._penalty
            change = linalg.solve(whole, self._expansion @ gradient + self._penalty @ self._weights, assume_a="pos")
            # Far from the optimum a full step may overshoot; no log-odds moves by more than this at once.
            change *= min(1.0, _LARGEST_CHANGE / np.abs(change).max())
            self._weights = self._weights - change
            if np.abs(change).max() < _REFIT_CHANGE:
                break
        return np.asarray(sigmoid(self._own_scores() + offset) - self._label)

    def _own_scores(self) -> FloatArray:
        weights = self._expansion.T @ self._weights
        return np.asarray(scores_of(self._all_levels, weights[:-1]) + weights[-1])

    def _sums(self, offset: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        size = self._expansion.shape[1]
        pd = sigmoid(self._own_scores() + offset)
        residuals = pd - self._label
        spread = np.sqrt(pd * (1.0 - pd)).astype(np.float32)
        gradient, curvature = np.zeros(size), np.zeros((size, size))
        for start in range(0, len(pd), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            part = np.ones((len(spread[rows]), size), dtype=np.float32)
            part[:, :-1] = self._all_levels[rows]
            part[:, :-1] *= np.float32(1.0 / BASIS_LEVELS)
            gradient += part.T @ residuals[rows].astype(np.float32)
            part *= spread[rows, None]
            curvature += part.T @ part
        return residuals, gradient, curvature

    def choose_own_pairs(self, offset: FloatArray, roles: Sequence[Sequence[int]] = ()) -> None:
        """Choose the label holder's own pairwise terms; it has its labels, so no pass is needed.

        Args:
            offset: Noisy sum of the others' partial scores, shape (n_rows,).
            roles: Numbers of the features that may be paired with each other; all of them by default.
        """
        settings = self._settings
        main = self._basis.num_columns
        residuals, gradient, _ = self._sums(offset)
        effects = MainEffects(
            self._levels,
            float(len(self._label)),
            self.base_rate * (1.0 - self.base_rate),
            self._main_penalty,
            self._weights[:main],
        )
        chosen: list[PairTerm] = []
        for features in roles or (range(len(self._basis.bins)),):
            candidates = candidate_pairs(
                self._basis,
                self._levels,
                self._weights[:main],
                groups=settings.pair_groups,
                min_rows=settings.min_rows_per_column,
                most=settings.candidate_pairs,
                features=features,
            )
            cells = pair_levels(candidates, self._levels)
            asked = np.concatenate([gradient[:main], cells.T.astype(np.float32) @ residuals / BASIS_LEVELS])
            chosen += choose_pairs(candidates, effects, asked, ridge=settings.pair_ridge, most=settings.pairs)
        self._take_pairs(tuple(chosen))
        added = np.zeros(len(self._expansion) - main - 1)
        self._weights = np.concatenate([self._weights[:main], added, self._weights[-1:]])

    def recalibrate(self, offset: FloatArray) -> float:
        """Fit slope and intercept of the served score, which carries no noise; call after the last `refit`.

        Training saw scores v = z + noise; serving gives z. The noise is fresh and normal, so the sum of a smooth h(z)
        is that of h(v + i noise'), with imaginary noise of the same size (corrected scores, Stefanski 1989): the
        moments of the served score are known without the score.

        Args:
            offset: The last noisy sum of the others' partial scores, shape (n_rows,).

        Returns:
            The slope, by which every tower multiplies its weights.
        """
        seen = self._own_scores() + offset
        sigma = float(np.sqrt(self._feature_holders)) * self._settings.score_noise
        wanted = np.array([float(self._label @ seen), float(self._label.sum())])
        found = np.array([1.0, 0.0])
        for _ in range(_RECALIBRATION_STEPS):
            moments, curvature = np.zeros(2), np.zeros((2, 2))
            for node, weight in _HERMITE:
                score = seen + 1j * node * sigma
                pd = 1.0 / (1.0 + np.exp(-(found[0] * score + found[1])))
                moments += weight * np.array([(pd * score).sum().real, pd.sum().real])
                slope = pd * (1.0 - pd)
                first, second = (slope * score).sum().real, (slope * score**2).sum().real
                curvature += weight * np.array([[second, first], [first, slope.sum().real]])
            found = found - np.linalg.solve(curvature, moments - wanted)
        self._slope, self._shift = float(found[0]), float(found[1])
        return self._slope

    def tower(self) -> tuple[Tower, float]:
        """The trained tower and the model's bias; recalibrated once `recalibrate` has run."""
        columns = self._expansion.T @ self._weights
        weights = columns[:-1] * self._slope
        mean = float(self._all_levels.sum(axis=0, dtype=np.float64) @ weights) / (BASIS_LEVELS * len(self._label))
        bias = float(columns[-1]) * self._slope + self._shift + mean
        return Tower(self._basis, self._pairs, weights, mean), bias
