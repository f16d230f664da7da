"""A feature holder's side of vertical training: its role's tower during a run, and the step that each pass asks for."""

from __future__ import annotations

from collections.abc import Mapping

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


class FeatureTower:
    """A role's tower during training, equal at all its members; made by `start`."""

    def __init__(
        self,
        basis: RoleBasis,
        levels: Mapping[str, Levels],
        known: Mapping[str, FloatArray],
        *,
        settings: VerticalSettings,
        base_rate: float,
        feature_roles: int,
    ) -> None:
        self._basis = basis
        self._levels = levels
        self._known = known
        self._settings = settings
        self._base_log_odds = float(np.log(base_rate / (1.0 - base_rate)))
        self._row_curvature = base_rate * (1.0 - base_rate)
        self._feature_roles = feature_roles
        self._absorbed = 0
        self._main_penalty = basis.penalty(settings.ridge, settings.smoothness)
        self._weights = np.zeros(basis.num_columns)
        self._candidates: list[PairTerm] = []
        self._pairs: tuple[PairTerm, ...] = ()
        self._rows = 1.0
        self._all_known = False

    @classmethod
    def start(
        cls,
        basis: RoleBasis,
        levels: Mapping[str, Levels],
        known: Mapping[str, FloatArray],
        *,
        settings: VerticalSettings,
        base_rate: float,
        feature_roles: int,
    ) -> Totals[FeatureTower]:
        """Prepare the role's tower.

        Args:
            basis: The role's basis.
            levels: Label holder -> this member's columns on its training rows; zero rows for entities it does not know.
            known: Label holder -> 1.0 where this member knows the entity, else 0.0.
            settings: Public settings.
            base_rate: Share of bads, told by the label holders.
            feature_roles: How many feature roles move at once.
        """
        tower = cls(basis, levels, known, settings=settings, base_rate=base_rate, feature_roles=feature_roles)
        own = np.array([sum(int(part.sum()) for part in known.values())])
        missing = np.array([not all(bool(part.all()) for part in known.values())])
        rows, members_with_gaps = yield from total_of("tower/rows", [own, missing])
        tower._rows = max(float(rows[0]), 1.0)
        tower._all_known = not members_with_gaps[0]
        yield from tower._prepare()
        return tower

    def _prepare(self) -> Totals[None]:
        """Columns, means and expansion for the main effects and the chosen pairs."""
        main = self._basis.num_columns
        self._all_levels = {
            holder: np.concatenate([part, pair_levels(self._pairs, part)], axis=1)
            for holder, part in self._levels.items()
        }
        self._expansion = pair_expansion(self._pairs, main)
        cells = len(self._expansion) - main
        self._penalty = linalg.block_diag(self._main_penalty, self._settings.pair_ridge * np.eye(cells))
        moments, sums = yield from total_of(
            "tower/moments", [whole_moments(self._all_levels), column_sums(self._all_levels)]
        )
        self._moments = moments / BASIS_LEVELS**2
        self._sums = sums / BASIS_LEVELS
        self._means = self._sums / self._rows

    def _own_curvature(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """This member's part of the curvature: each known row's p (1 - p) by the role's own scores alone.

        The others' scores stay unknown here. The base rate alone would make steps far too long where these columns
        say that the risk is high: on Give Me Some Credit such passes never settled.

        Returns:
            Upper triangle of sum w a a', sum w a, and sum w in an array of one.
        """
        size = len(self._means)
        moments, sums, weight = np.zeros((size, size)), np.zeros(size), 0.0
        for holder, levels in self._all_levels.items():
            pd = sigmoid(self._base_log_odds + self.scores(holder))
            weights = np.asarray(pd * (1.0 - pd) * self._known[holder], dtype=np.float32)
            for start in range(0, len(levels), _CHUNK_ROWS):
                own = weights[start : start + _CHUNK_ROWS, None]
                part = levels[start : start + _CHUNK_ROWS].astype(np.float32) / np.float32(BASIS_LEVELS)
                sums += (part * own).sum(axis=0, dtype=np.float64)
                part *= np.sqrt(own)
                moments += part.T @ part
            weight += float(weights.sum(dtype=np.float64))
        return moments[np.triu_indices(size)], sums, np.array([weight])

    @property
    def columns(self) -> dict[str, Levels]:
        """Columns of the next pass per label holder: main effects, chosen pairs, then candidates."""
        if not self._candidates:
            return self._all_levels
        return {
            holder: np.concatenate([part, pair_levels(self._candidates, self._levels[holder])], axis=1)
            for holder, part in self._all_levels.items()
        }

    @property
    def pairs(self) -> tuple[PairTerm, ...]:
        """The chosen pairs."""
        return self._pairs

    def _column_weights(self) -> FloatArray:
        """Log-odds per column that is asked about."""
        return np.asarray(self._expansion.T @ self._weights)

    def scores(self, label_holder: str) -> FloatArray:
        """Partial scores of one label holder's training rows, centred; zero for unknown entities."""
        weights = self._column_weights()
        raw = scores_of(self._all_levels[label_holder], weights)
        return (raw - float(self._means @ weights)) * self._known[label_holder]

    def propose_pairs(self) -> Totals[None]:
        """Choose candidates for the next pass."""
        settings = self._settings
        self._candidates = yield from candidate_pairs(
            self._basis,
            self._levels,
            self._weights,
            self._sums,
            groups=settings.pair_groups,
            min_rows=settings.min_rows_per_column,
            max_colluders=settings.max_colluders,
            most=settings.candidate_pairs,
        )

    def absorb(self, gradient: FloatArray) -> Totals[None]:
        """Take the step that one pass's column sums ask for; keep the pairs that explain most, if any were asked.

        Args:
            gradient: This member's sum over rows of residual * column, for `columns`; shape (n_columns,).
        """
        total, packed, sums, weight = yield from real_total_of("pass/gradient", [gradient, *self._own_curvature()])
        asked = len(self._means)
        left_over = self._residual_total(total[:asked])
        centred = total[:asked] - self._means * left_over
        if self._candidates:
            centred = yield from self._keep_pairs(centred, total[asked:], left_over)
            packed, sums, weight = yield from real_total_of("pass/curvature", self._own_curvature())
        size = len(self._means)
        raw = np.zeros((size, size))
        raw[np.triu_indices(size)] = packed
        raw += np.triu(raw, 1).T
        curvature = raw - np.outer(sums, sums) / max(float(weight[0]), 1e-9)
        whole = self._expansion @ curvature @ self._expansion.T + self._penalty
        own = self._expansion @ centred + self._penalty @ self._weights
        share = self._settings.step_share(self._absorbed, self._feature_roles)
        self._absorbed += 1
        stepped = self._weights - share * linalg.solve(whole, own, assume_a="pos")
        self._weights = self._basis.respecting_directions(stepped, self._sums)

    def _residual_total(self, gradient: FloatArray) -> float:
        """Residuals of the known rows: a feature's columns add up to one, so their sums do too."""
        if self._all_known:
            return 0.0  # the label holders' intercept has made it zero
        owners = np.array(self._basis.feature_of)
        sums = [gradient[: len(owners)][owners == owner].sum() for owner in np.unique(owners)]
        return float(np.mean(sums))

    def _keep_pairs(self, centred: FloatArray, cells: FloatArray, left_over: float) -> Totals[FloatArray]:
        """Choose among the candidates; returns the centred gradient of the main columns and the chosen cells."""
        main = MainEffects(
            self._moments, self._sums, self._rows, self._row_curvature, self._main_penalty, self._weights
        )
        candidates = self._candidates
        self._pairs = yield from choose_pairs(
            candidates,
            self._levels,
            main,
            np.concatenate([centred, cells]),
            residual_total=left_over,
            ridge=self._settings.pair_ridge,
            most=self._settings.pairs,
        )
        pieces = np.split(cells, np.cumsum([len(term.cells) for term in candidates])[:-1])
        chosen = [piece for term, piece in zip(candidates, pieces, strict=True) if term in self._pairs]
        self._candidates = []
        yield from self._prepare()
        self._weights = np.concatenate([self._weights, np.zeros(len(self._expansion) - len(self._weights))])
        found = np.concatenate([centred, *chosen])
        found[len(centred) :] -= self._means[len(centred) :] * left_over
        return found

    def tower(self, slope: float) -> Tower:
        """The trained tower.

        Args:
            slope: What the label holders' recalibration multiplies all scores by.
        """
        return Tower(self._basis, self._pairs, self._column_weights() * slope, self._means)
