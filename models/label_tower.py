"""The label holders' side of vertical training: their role's tower, refitted to the others' scores in every pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import linalg

from models.features import FloatArray
from models.newton import sigmoid
from models.role_totals import Totals, real_total_of, total_of
from models.vertical import Tower, VerticalSettings
from models.vertical_basis import RoleBasis, column_sums, scores_of, whole_moments
from models.vertical_pairs import (
    MainEffects,
    PairTerm,
    candidate_pairs,
    choose_pairs,
    pair_expansion,
    pair_levels,
)
from protos.encrypted_gradient.parameters import BASIS_LEVELS
from protos.encrypted_gradient.support import Levels

_CHUNK_ROWS = 8192
_REFIT_STEPS = 4
_REFIT_CHANGE = 1e-3
_LARGEST_CHANGE = 2.0
_RECALIBRATION_STEPS = 6
_LARGEST_RESCALING = 0.3
_OWN = "own rows"
# Gauss-Hermite rules of five, three and two nodes for N(0, 1); a negative node gives the conjugate of the positive one,
# so that its weight is counted there.
_HERMITE = (
    ((0.0, 0.5333333333333333), (1.3556261799742657, 0.4441517912234108), (2.8569700138728056, 0.0225148754432559)),
    ((0.0, 0.6666666666666666), (1.7320508075688772, 0.3333333333333333)),
    ((1.0, 1.0),),
)
# The logistic function has a pole at pi on the imaginary axis: an outer node beyond this distance says nothing.
_FARTHEST = 2.5


class LabelTower:
    """The label role's tower during training, equal at all its members; made by `start`.

    Attributes:
        base_rate: Share of bads on the role's training rows; every party of the run learns it (documented).
    """

    def __init__(
        self, basis: RoleBasis, levels: Levels, label: FloatArray, settings: VerticalSettings, noises: int
    ) -> None:
        self._basis = basis
        self._levels = levels
        self._label = label
        self._settings = settings
        self._noises = noises
        self._main_penalty = basis.penalty(settings.ridge, settings.smoothness)
        self._slope, self._shift = 1.0, 0.0
        self.base_rate = 0.5
        self._rows = 1.0
        self._pairs: tuple[PairTerm, ...] = ()
        self._weights: FloatArray = np.zeros(basis.num_columns + 1)

    @classmethod
    def start(
        cls, basis: RoleBasis, levels: Levels, label: FloatArray, *, settings: VerticalSettings, feature_holders: int
    ) -> Totals[LabelTower]:
        """Prepare the role's tower.

        Args:
            basis: The label role's basis.
            levels: Its columns on this member's training rows.
            label: 1.0 = bad, shape (n_rows,).
            settings: Public settings.
            feature_holders: Members whose noises add up in the scores.
        """
        tower = cls(basis, levels, label, settings, feature_holders)
        rows, bads = yield from total_of("label/base-rate", [np.array([len(label)]), np.array([label.sum()])])
        tower._rows = float(rows[0])
        tower.base_rate = min(max(float(bads[0]) / tower._rows, 1e-4), 1.0 - 1e-4)
        yield from tower._take_pairs(())
        odds = tower.base_rate / (1.0 - tower.base_rate)
        tower._weights = np.append(np.zeros(basis.num_columns), np.log(odds))
        return tower

    def _take_pairs(self, pairs: tuple[PairTerm, ...]) -> Totals[None]:
        main = self._basis.num_columns
        self._pairs = pairs
        self._all_levels = np.concatenate([self._levels, pair_levels(pairs, self._levels)], axis=1)
        (sums,) = yield from total_of("label/sums", [column_sums({_OWN: self._all_levels})])
        self._sums = sums / BASIS_LEVELS
        self._expansion = linalg.block_diag(pair_expansion(pairs, main), np.ones((1, 1)))
        cells = len(self._expansion) - main - 1
        ridge = self._settings.pair_ridge * np.eye(cells)
        self._penalty = linalg.block_diag(self._main_penalty, ridge, np.zeros((1, 1)))

    @property
    def pairs(self) -> tuple[PairTerm, ...]:
        """The label role's own pairs."""
        return self._pairs

    def refit(self, offset: FloatArray) -> Totals[FloatArray]:
        """Fit the role's tower beside the others' summed scores.

        Args:
            offset: Noisy sum of the others' partial scores on this member's rows, shape (n_rows,).

        Returns:
            Residuals p - y at the fit, shape (n_rows,).
        """
        for _ in range(_REFIT_STEPS):
            gradient, curvature = yield from self._sums_at(offset)
            whole = self._expansion @ curvature @ self._expansion.T + self._penalty
            change = linalg.solve(whole, self._expansion @ gradient + self._penalty @ self._weights, assume_a="pos")
            # Far from the optimum a full step may overshoot; no log-odds moves by more than this at once.
            change *= min(1.0, _LARGEST_CHANGE / np.abs(change).max())
            before = self._weights
            self._weights = self._basis.respecting_directions(before - change, self._sums)
            if np.abs(self._weights - before).max() < _REFIT_CHANGE:
                break
        return np.asarray(sigmoid(self._own_scores() + offset) - self._label)

    def _own_scores(self) -> FloatArray:
        weights = self._expansion.T @ self._weights
        return np.asarray(scores_of(self._all_levels, weights[:-1]) + weights[-1])

    def _sums_at(self, offset: FloatArray) -> Totals[tuple[FloatArray, FloatArray]]:
        """The role's gradient and curvature in all columns and the intercept."""
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
        upper = np.triu_indices(size)
        found, packed = yield from real_total_of("label/newton", [gradient, curvature[upper]])
        total = np.zeros((size, size))
        total[upper] = packed
        return found, np.asarray(total + np.triu(total, 1).T)

    def choose_own_pairs(self, offset: FloatArray, roles: Sequence[Sequence[int]] = ()) -> Totals[None]:
        """Choose the label role's own pairwise terms; it has its labels, so no pass is needed.

        Args:
            offset: Noisy sum of the others' partial scores, shape (n_rows,).
            roles: Numbers of the features that may be paired with each other; all of them by default.
        """
        settings = self._settings
        main = self._basis.num_columns
        own = {_OWN: self._levels}
        residuals = sigmoid(self._own_scores() + offset) - self._label
        gradient, _ = yield from self._sums_at(offset)
        (moments,) = yield from total_of("label/moments", [whole_moments(own)])
        effects = MainEffects(
            moments / BASIS_LEVELS**2,
            self._sums[:main],
            self._rows,
            self.base_rate * (1.0 - self.base_rate),
            self._main_penalty,
            self._weights[:main],
        )
        chosen: list[PairTerm] = []
        for features in roles or (range(len(self._basis.bins)),):
            candidates = yield from candidate_pairs(
                self._basis,
                own,
                self._weights[:main],
                self._sums[:main],
                groups=settings.pair_groups,
                min_rows=settings.min_rows_per_column,
                max_colluders=settings.max_colluders,
                most=settings.candidate_pairs,
                features=features,
            )
            if not candidates:
                continue
            cells = pair_levels(candidates, self._levels).T.astype(np.float32) @ residuals / BASIS_LEVELS
            (asked,) = yield from real_total_of("label/cells", [cells])
            chosen += yield from choose_pairs(
                candidates,
                own,
                effects,
                np.concatenate([gradient[:main], asked]),
                residual_total=0.0,  # the intercept was fitted
                ridge=settings.pair_ridge,
                most=settings.pairs,
            )
        yield from self._take_pairs(tuple(chosen))
        added = np.zeros(len(self._expansion) - main - 1)
        self._weights = np.concatenate([self._weights[:main], added, self._weights[-1:]])

    def recalibrate(self, offset: FloatArray) -> Totals[float]:
        """Fit slope and intercept of the served score, which carries no noise; call after the last `refit`.

        Training saw scores v = z + noise; serving gives z. The noise is fresh and normal, so the sum of a smooth h(z)
        is that of h(v + i noise'), with imaginary noise of the same size (corrected scores, Stefanski 1989): the
        moments of the served score are known without the score. With many feature holders their noises add up, and
        the rule has fewer nodes: it then corrects to the fourth, or second, order of the noise.

        Args:
            offset: The last noisy sum of the others' partial scores, of one exchange alone, shape (n_rows,).

        Returns:
            The slope, by which every tower multiplies its weights.
        """
        seen = self._own_scores() + offset
        sigma = float(np.sqrt(self._noises)) * self._settings.score_noise
        (wanted,) = yield from real_total_of(
            "label/bad-scores", [np.array([float(self._label @ seen), float(self._label.sum())])]
        )
        rule = next((each for each in _HERMITE if each[-1][0] * sigma <= _FARTHEST), _HERMITE[-1])
        sigma = min(sigma, _FARTHEST)
        found = np.array([1.0, 0.0])
        for _ in range(_RECALIBRATION_STEPS):
            local = _moments_at(found, seen, sigma, rule)
            moments, curvature = yield from real_total_of("label/recalibration", local)
            change = np.linalg.solve(curvature, moments - wanted)
            found = found - change * (_LARGEST_RESCALING / max(_LARGEST_RESCALING, np.abs(change).max()))
        self._slope, self._shift = float(found[0]), float(found[1])
        return self._slope

    def tower(self) -> tuple[Tower, float]:
        """The trained tower and the model's bias; recalibrated once `recalibrate` has run."""
        columns = self._expansion.T @ self._weights
        means = self._sums / self._rows
        tower = Tower(self._basis, self._pairs, columns[:-1] * self._slope, means)
        return tower, float(columns[-1]) * self._slope + self._shift + tower.offset


def _moments_at(
    at: FloatArray, seen: FloatArray, sigma: float, rule: Sequence[tuple[float, float]]
) -> tuple[FloatArray, FloatArray]:
    """This member's part of the corrected score equations at (slope, shift), and of their derivative."""
    moments, curvature = np.zeros(2), np.zeros((2, 2))
    for node, weight in rule:
        score = seen + 1j * node * sigma
        pd = 1.0 / (1.0 + np.exp(-(at[0] * score + at[1])))
        moments += weight * np.array([(pd * score).sum().real, pd.sum().real])
        slope = pd * (1.0 - pd)
        first, second = (slope * score).sum().real, (slope * score**2).sum().real
        curvature += weight * np.array([[second, first], [first, slope.sum().real]])
    return moments, curvature
