"""One role's basis over the rows that it shares with a label holder: whole-number hats without rare columns.

The role that holds the columns does not see the labels, so its bins come from its own histogram of values; a column
that too few rows touch is merged into its neighbour here, before the first pass (PROTOCOLS, rule B3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from models.aligned_rows import AlignedRows
from models.basis import blocks, design_matrix
from models.binning import BinningRules, FeatureBins, choose_bins
from models.features import FloatArray, InputFeature, IntArray, TrainingDataError
from models.grid import FeatureGrid, feature_grid
from models.penalty import penalty_matrix
from models.role_totals import Totals, Whole, total_of
from protos.encrypted_gradient.parameters import BASIS_LEVELS
from protos.encrypted_gradient.support import Levels, supported_together

_CHUNK_ROWS = 8192


@dataclass(frozen=True)
class RoleBasis:
    """Columns of one role.

    Attributes:
        bins: Bins per feature; their `bads` are zero, since the role does not know them.
        merged: Column of the basis that each column of the design matrix belongs to, -1 where it is left out.
        feature_of: Number of the feature that each column of the basis belongs to.
    """

    bins: tuple[FeatureBins, ...]
    merged: tuple[int, ...]
    feature_of: tuple[int, ...]

    @property
    def num_columns(self) -> int:
        """Columns of the basis."""
        return len(self.feature_of)

    def block(self, feature: int) -> slice:
        """Columns of one feature."""
        columns = [at for at, owner in enumerate(self.feature_of) if owner == feature]
        return slice(columns[0], columns[-1] + 1) if columns else slice(0, 0)

    def ordered(self, feature: int) -> tuple[IntArray, int]:
        """Columns of one feature in ascending order of value, without a missing column of its own, and its direction.

        Returns:
            Columns, and +1 where the risk may only rise with the value, -1 where it may only fall, else 0.
        """
        block = blocks(self.bins)[feature]
        own = [into for into in self.merged[block.start : block.start + block.num_bins] if into >= 0]
        sign = {"none": 0, "increasing": 1, "decreasing": -1}[self.bins[feature].feature.monotone]
        return np.unique(np.array(own, dtype=np.int64)), sign

    def respecting_directions(self, weights: FloatArray, mass: FloatArray) -> FloatArray:
        """The nearest main effects that respect every monotone direction of the agreement (pool adjacent violators).

        Args:
            weights: Log-odds per column; further entries (pairs, an intercept) are left as they are.
            mass: Weight of each column over the role's rows, shape (num_columns,).
        """
        found = weights.copy()
        for feature in range(len(self.bins)):
            columns, sign = self.ordered(feature)
            if sign and len(columns) > 1:
                near = np.maximum(mass[columns], 1.0)
                found[columns] = isotonic_regression(weights[columns], weights=near, increasing=sign > 0).x
        return found

    def levels(self, columns: Mapping[str, FloatArray]) -> Levels:
        """Basis values as whole numbers, uint8 of shape (n_rows, n_columns), entries in [0, 127].

        Args:
            columns: Values per feature name, shape (n_rows,), `nan` where missing.
        """
        rows = len(columns[self.bins[0].feature.name])
        out = np.zeros((rows, self.num_columns), dtype=np.uint8)
        kept = [(at, into) for at, into in enumerate(self.merged) if into >= 0]
        for start in range(0, rows, _CHUNK_ROWS):
            part = {name: values[start : start + _CHUNK_ROWS] for name, values in columns.items()}
            design = design_matrix(self.bins, part, np.float32)
            summed = np.zeros((len(design), self.num_columns), dtype=np.float32)
            for at, into in kept:
                summed[:, into] += design[:, at]
            out[start : start + _CHUNK_ROWS] = np.rint(np.minimum(summed, 1.0) * BASIS_LEVELS)
        return out

    def penalty(self, ridge: float, smoothness: float) -> FloatArray:
        """P of the penalised loss in the basis, shape (n_columns, n_columns).

        A merged column is the sum of design columns, so they share one parameter and their penalties add up.
        """
        design = penalty_matrix(self.bins, ridge, smoothness)[:-1, :-1]
        together = np.zeros((len(self.merged), self.num_columns))
        for at, into in enumerate(self.merged):
            if into >= 0:
                together[at, into] = 1.0
        return np.asarray(together.T @ design @ together)


def fit_basis(
    features: Sequence[InputFeature], rows: AlignedRows, *, bins: int, min_rows: int, max_colluders: int
) -> Totals[RoleBasis]:
    """Choose a role's bins and merge what is rare at any of its members; the same basis at all of them.

    Args:
        features: The role's features.
        rows: This member's columns on the aligned training rows.
        bins: Bins aimed at per feature.
        min_rows: Rows that must touch every column, at every member by itself.
        max_colluders: Label holders that may help a feature holder, see `CheckedColumns`.

    Raises:
        TrainingDataError: No feature varies on the rows.
    """
    used = rows.used
    grids = [feature_grid(feature) for feature in features]
    counts = yield from total_of(
        "basis/histogram",
        [
            np.bincount(grid.cells(rows.columns[feature.name][used]), minlength=grid.num_cells + 1)
            for feature, grid in zip(features, grids, strict=True)
        ],
    )
    chosen = tuple(
        _unlabelled_bins(feature, grid, cells, bins, min_rows)
        for feature, grid, cells in zip(features, grids, counts, strict=True)
    )
    placed = blocks(chosen)
    whole = RoleBasis(
        chosen,
        tuple(range(placed[-1].stop)),
        tuple(number for number, block in enumerate(placed) for _ in range(block.start, block.stop)),
    )
    if whole.num_columns == 0:
        raise TrainingDataError("expected a feature that varies, found constant ones only; check the source")
    return (yield from without_rare_columns(whole, rows, min_rows, max_colluders))


def _unlabelled_bins(feature: InputFeature, grid: FeatureGrid, rows: IntArray, bins: int, min_rows: int) -> FeatureBins:
    """Bins by the number of rows alone: half of them play the bads, so that edges lie where the rows are."""
    found = choose_bins(feature, grid, np.stack([rows, rows]), BinningRules(bins, 2 * min_rows, 0))
    missing = found.missing and (found.missing[0], 0)
    return replace(found, bins=tuple(replace(b, bads=0) for b in found.bins), missing=missing)


def without_rare_columns(basis: RoleBasis, rows: AlignedRows, min_rows: int, max_colluders: int) -> Totals[RoleBasis]:
    """Merge each rare column into its thinner neighbour of the same feature; leave it out where it has none.

    Rare is what has too little support at any member, since a member learns the sums of its own columns. The role's
    members learn for how many of them a column is rare, not for whom.
    """
    while True:
        levels = rows.arrange(basis.levels(rows.columns))
        rare = ~supported_together(levels, min_rows, max_colluders)
        members, weight = yield from total_of("basis/support", [rare, column_sums(levels)])
        if not members.any():
            return basis
        column = int(np.flatnonzero(members)[0])
        neighbours = [
            other
            for other in (column - 1, column + 1)
            if 0 <= other < basis.num_columns and basis.feature_of[other] == basis.feature_of[column]
        ]
        into = min(neighbours, key=lambda other: weight[other], default=-1)
        basis = _joined(basis, column, into)
        if basis.num_columns == 0:
            raise TrainingDataError(
                f"expected columns that at least {min_rows} aligned rows touch at every member of the role, found "
                "none; align more entities, or train without the smallest member"
            )


def _joined(basis: RoleBasis, column: int, into: int) -> RoleBasis:
    def moved(at: int) -> int:
        target = into if at == column else at
        return target - (target > column)

    return RoleBasis(
        basis.bins,
        tuple(moved(at) if at >= 0 and (at != column or into >= 0) else -1 for at in basis.merged),
        tuple(owner for at, owner in enumerate(basis.feature_of) if at != column),
    )


def whole_moments(levels: Mapping[str, Levels], other: Mapping[str, Levels] | None = None) -> Whole:
    """A' B over the rows of all label holders, as whole numbers in squared basis levels.

    Args:
        levels: Label holder -> columns, shape (its rows, n).
        other: The second set of columns, shape (its rows, m); the first one again without it.

    Returns:
        Shape (n, m).
    """
    width = next(iter(levels.values())).shape[1]
    total = np.zeros((width, width if other is None else next(iter(other.values())).shape[1]))
    for holder, left in levels.items():
        for start in range(0, len(left), _CHUNK_ROWS):
            part = left[start : start + _CHUNK_ROWS].astype(np.float32)
            same = part if other is None else other[holder][start : start + _CHUNK_ROWS].astype(np.float32)
            total += part.T @ same  # whole numbers below 127^2 * 8192, to 2^-24 of their size: 1e-7 at most
    return np.rint(total).astype(np.int64)


def column_sums(levels: Mapping[str, Levels]) -> Whole:
    """Sum of every column over the rows of all label holders, in basis levels, shape (n_columns,)."""
    return np.asarray(np.sum([part.sum(axis=0, dtype=np.int64) for part in levels.values()], axis=0), dtype=np.int64)


def scores_of(levels: Levels, weights: FloatArray) -> NDArray[np.float64]:
    """Log-odds of each row, shape (n_rows,)."""
    out = np.empty(len(levels))
    narrow = (weights / BASIS_LEVELS).astype(np.float32)
    for start in range(0, len(levels), _CHUNK_ROWS):
        out[start : start + _CHUNK_ROWS] = levels[start : start + _CHUNK_ROWS].astype(np.float32) @ narrow
    return out
