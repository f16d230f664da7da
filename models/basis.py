"""The additive basis: hat functions on the bins, exact columns for atoms, one indicator for missing values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.binning import FeatureBins
from models.features import FloatArray, IntArray
from models.grid import feature_grid, log_unit

SNAP = 2.0**24
"""Numbers that every member derives and compares are rounded to multiples of 1 / SNAP."""


def snap(values: FloatArray) -> FloatArray:
    """Round to the nearest multiple of 2^-24, so that the last bits of two machines' arithmetic agree."""
    return np.rint(values * SNAP) / SNAP


@dataclass(frozen=True)
class Block:
    """Columns of one feature in the design matrix.

    Attributes:
        start: First column.
        num_bins: Hat columns, in ascending order of value.
        missing: Whether one more column follows, which marks missing values.
    """

    start: int
    num_bins: int
    missing: bool

    @property
    def stop(self) -> int:
        """Column after the last one."""
        return self.start + self.num_bins + self.missing


def blocks(bins: Sequence[FeatureBins]) -> tuple[Block, ...]:
    """Columns of each feature, in the agreement's order; a constant feature gets an empty block."""
    found: list[Block] = []
    start = 0
    for feature_bins in bins:
        used = feature_bins.num_columns > 0
        found.append(Block(start, len(feature_bins.bins) if used else 0, used and feature_bins.missing is not None))
        start += feature_bins.num_columns
    return tuple(found)


def design_matrix(
    bins: Sequence[FeatureBins], columns: Mapping[str, FloatArray], dtype: type[np.floating] = np.float64
) -> FloatArray:
    """Inputs of a tower, shape (n_rows, n_columns), without an intercept.

    Between the knots of two ranges a row's weight passes linearly, on the scale asinh(x / unit), from one column
    to the other; outside the outer knots it stays with the outer column. A row on an atom belongs to the atom
    alone. So each row's columns of a feature add up to 1.

    Args:
        bins: Bins per feature.
        columns: Values per feature name, shape (n_rows,), `nan` where missing.
        dtype: float64, or float32 for local training in torch.

    Returns:
        The design matrix, entries in [0, 1].
    """
    placed = blocks(bins)
    rows = len(columns[bins[0].feature.name])
    width = placed[-1].stop
    matrix = np.zeros((rows, width), dtype=dtype)
    for feature_bins, block in zip(bins, placed, strict=True):
        if block.num_bins:
            _fill(matrix, feature_bins, block, columns[feature_bins.feature.name])
    return matrix


def _fill(matrix: FloatArray, bins: FeatureBins, block: Block, values: FloatArray) -> None:
    missing = np.isnan(values)
    matrix[missing, block.start + (block.num_bins if block.missing else bins.missing_bin)] = 1
    left = ~missing
    for k, b in enumerate(bins.bins):
        if b.atom:
            here = values == b.low
            matrix[here, block.start + k] = 1
            left &= ~here
    ranges = [k for k, b in enumerate(bins.bins) if not b.atom]
    # Where all bins are atoms, a value between them (never seen in training) is read as in between.
    peaks = np.array(ranges or range(len(bins.bins)), dtype=np.int64)
    rows = np.flatnonzero(left)
    if rows.size == 0:
        return
    unit = log_unit(bins.feature)
    knots = np.arcsinh(np.array([bins.bins[k].knot for k in peaks]) / unit)
    if len(knots) == 1:
        matrix[rows, block.start + peaks[0]] = 1
        return
    position = np.clip(np.arcsinh(values[rows] / unit), knots[0], knots[-1])
    left_knot = np.clip(np.searchsorted(knots, position, side="right") - 1, 0, len(knots) - 2)
    share = (position - knots[left_knot]) / (knots[left_knot + 1] - knots[left_knot])
    matrix[rows, block.start + peaks[left_knot]] = 1 - share
    matrix[rows, block.start + peaks[left_knot + 1]] = share


def column_means(bins: Sequence[FeatureBins], counts: Sequence[IntArray]) -> FloatArray:
    """Mean of each column over the cohort's training rows, shape (n_columns,), read off the shared histogram.

    The towers are centred on it, so that an absent feature is a zero with a meaning. Rows count as if they lay in
    the middle of their grid cell.

    Args:
        bins: Bins per feature.
        counts: Goods and bads per grid cell and feature, each of shape (2, n_cells + 1).
    """
    means = np.zeros(blocks(bins)[-1].stop)
    for feature_bins, block, cells in zip(bins, blocks(bins), counts, strict=True):
        if not block.num_bins:
            continue
        grid = feature_grid(feature_bins.feature)
        at = np.append(np.where(grid.atom, grid.lower, grid.centre), np.nan)
        alone = Block(0, block.num_bins, block.missing)
        matrix = np.zeros((len(at), alone.stop))
        _fill(matrix, feature_bins, alone, at)
        rows = cells.sum(axis=0).astype(np.float64)
        means[block.start : block.stop] = rows @ matrix / rows.sum()
    return snap(means)
