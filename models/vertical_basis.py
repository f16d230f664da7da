"""One role's basis over the rows that it shares with a label holder: whole-number hats without rare columns.

The role that holds the columns does not see the labels, so its bins come from its own histogram of values; a column
that too few rows touch is merged into its neighbour here, before the first pass (PROTOCOLS, rule B3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.basis import blocks, design_matrix
from models.binning import BinningRules, FeatureBins, choose_bins
from models.features import BoolArray, FloatArray, InputFeature, TrainingDataError
from models.grid import feature_grid
from models.penalty import penalty_matrix
from protos.encrypted_gradient.parameters import BASIS_LEVELS
from protos.encrypted_gradient.support import Levels, supported_columns

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
    features: Sequence[InputFeature], columns: Mapping[str, FloatArray], known: BoolArray, *, bins: int, min_rows: int
) -> RoleBasis:
    """Choose a role's bins and merge what is rare.

    Args:
        features: The role's features.
        columns: Values per feature name on the aligned training rows, shape (n_rows,).
        known: Rows that the role knows, shape (n_rows,).
        bins: Bins aimed at per feature.
        min_rows: Rows that must touch every column.

    Raises:
        TrainingDataError: No feature varies on the rows.
    """
    chosen = tuple(_unlabelled_bins(feature, columns[feature.name][known], bins, min_rows) for feature in features)
    placed = blocks(chosen)
    whole = RoleBasis(
        chosen,
        tuple(range(placed[-1].stop)),
        tuple(number for number, block in enumerate(placed) for _ in range(block.start, block.stop)),
    )
    if whole.num_columns == 0:
        raise TrainingDataError("expected a feature that varies, found constant ones only; check the source")
    return _without_rare_columns(whole, {name: values[known] for name, values in columns.items()}, min_rows)


def _unlabelled_bins(feature: InputFeature, values: FloatArray, bins: int, min_rows: int) -> FeatureBins:
    """Bins by the number of rows alone: half of them play the bads, so that edges lie where the rows are."""
    grid = feature_grid(feature)
    rows = np.bincount(grid.cells(values), minlength=grid.num_cells + 1).astype(np.int64)
    found = choose_bins(feature, grid, np.stack([rows, rows]), BinningRules(bins, 2 * min_rows, 0))
    missing = found.missing and (found.missing[0], 0)
    return replace(found, bins=tuple(replace(b, bads=0) for b in found.bins), missing=missing)


def _without_rare_columns(basis: RoleBasis, columns: Mapping[str, FloatArray], min_rows: int) -> RoleBasis:
    """Merge each rare column into its thinner neighbour of the same feature; leave it out where it has none."""
    while True:
        levels = basis.levels(columns)
        rare = np.flatnonzero(~supported_columns(levels, min_rows))
        if rare.size == 0:
            return basis
        column = int(rare[0])
        weight = levels.sum(axis=0, dtype=np.int64)
        neighbours = [
            other
            for other in (column - 1, column + 1)
            if 0 <= other < basis.num_columns and basis.feature_of[other] == basis.feature_of[column]
        ]
        into = min(neighbours, key=lambda other: weight[other], default=-1)
        basis = _joined(basis, column, into)


def _joined(basis: RoleBasis, column: int, into: int) -> RoleBasis:
    def moved(at: int) -> int:
        target = into if at == column else at
        return target - (target > column)

    return RoleBasis(
        basis.bins,
        tuple(moved(at) if at >= 0 and (at != column or into >= 0) else -1 for at in basis.merged),
        tuple(owner for at, owner in enumerate(basis.feature_of) if at != column),
    )


def second_moments(levels: Levels, other: Levels | None = None) -> FloatArray:
    """A' B over the rows of two sets of columns (A' A without a second), in units of the basis."""
    right = levels if other is None else other
    total = np.zeros((levels.shape[1], right.shape[1]))
    for start in range(0, len(levels), _CHUNK_ROWS):
        part = levels[start : start + _CHUNK_ROWS].astype(np.float32)
        same = part if other is None else right[start : start + _CHUNK_ROWS].astype(np.float32)
        total += part.T @ same  # whole numbers below 127^2 * 8192 * 2^-24: relative error 1e-7 at most
    return total / BASIS_LEVELS**2


def scores_of(levels: Levels, weights: FloatArray) -> NDArray[np.float64]:
    """Log-odds of each row, shape (n_rows,)."""
    out = np.empty(len(levels))
    narrow = (weights / BASIS_LEVELS).astype(np.float32)
    for start in range(0, len(levels), _CHUNK_ROWS):
        out[start : start + _CHUNK_ROWS] = levels[start : start + _CHUNK_ROWS].astype(np.float32) @ narrow
    return out
