"""The public grid on which histograms are summed: fine, the same for everybody, and it keeps atoms apart.

Quantiles of skewed credit data collapse what matters most: 84 % of past-due counts are 0, so every quantile of
them is 0. The grid therefore gives each small whole number a cell of its own, covers the range with signed
logarithmic steps (a debt ratio may lie between 0 and 300,000) and adds equal steps (an age lies between 18 and 109).
It depends on the agreement's range alone, so it tells nothing about anybody's rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from models.features import BoolArray, FloatArray, InputFeature, IntArray

LOG_STEPS = 384
LINEAR_STEPS = 128
NUMBER_ATOMS = 10
"""For columns of type number, whole numbers up to this size are cells by themselves."""
INTEGER_ATOMS = 128
_UNIT = 2.0**-24
"""Where the signed logarithm turns linear, as a share of the largest magnitude of the range."""


@dataclass(frozen=True, eq=False)
class FeatureGrid:
    """Cells of one feature's public range.

    Attributes:
        lower: Smallest value of each cell, ascending, shape (n_cells,); cell i holds lower[i] <= x < lower[i+1],
            and the first and the last cell also take what lies outside the range.
        centre: A value inside each cell, shape (n_cells,).
        atom: True where the cell holds exactly one value, shape (n_cells,).
    """

    lower: FloatArray
    centre: FloatArray
    atom: BoolArray

    @property
    def num_cells(self) -> int:
        """Number of cells, the cell of missing values not counted."""
        return len(self.lower)

    def cells(self, values: FloatArray) -> IntArray:
        """Cell of each value, shape (n_rows,); missing values get the number `num_cells`."""
        found = np.searchsorted(self.lower, values, side="right") - 1
        cells = np.clip(found, 0, self.num_cells - 1)
        return np.asarray(np.where(np.isnan(values), self.num_cells, cells), dtype=np.int64)

    def upper(self, cell: int, high: float) -> float:
        """First value above `cell`, or the end of the range."""
        return float(self.lower[cell + 1]) if cell + 1 < self.num_cells else high


def log_unit(feature: InputFeature) -> float:
    """Unit of the signed logarithm `asinh(x / unit)` that spreads this feature's range."""
    return max(abs(feature.low), abs(feature.high)) * _UNIT


@lru_cache(maxsize=256)
def feature_grid(feature: InputFeature) -> FeatureGrid:
    """The grid of a feature, from its public range alone; equal on every machine.

    Kept in a cache: treat the arrays as read-only. Edges are rounded to six significant digits,
    so that the last bit of a machine's logarithm cannot move one.
    """
    unit = log_unit(feature)
    first, last = math.asinh(feature.low / unit), math.asinh(feature.high / unit)
    edges = [math.sinh(first + (last - first) * i / LOG_STEPS) * unit for i in range(LOG_STEPS + 1)]
    edges += [feature.low + (feature.high - feature.low) * i / LINEAR_STEPS for i in range(LINEAR_STEPS + 1)]
    edges = [float(f"{edge:.6g}") for edge in edges]
    if feature.type == "integer":
        whole = range(math.ceil(max(feature.low, -INTEGER_ATOMS)), math.floor(min(feature.high, INTEGER_ATOMS)) + 2)
        edges = [float(round(edge)) for edge in edges] + [float(k) for k in whole]
    else:
        whole = range(math.ceil(max(feature.low, -NUMBER_ATOMS)), math.floor(min(feature.high, NUMBER_ATOMS)) + 1)
        for k in whole:
            edges += [float(k), math.nextafter(k, math.inf)]
    inside = sorted({edge for edge in edges if feature.low < edge <= feature.high})
    lower = np.array([feature.low, *inside], dtype=np.float64)
    upper = np.append(lower[1:], feature.high)
    if feature.type == "integer":
        last_value = np.append(lower[1:] - 1.0, feature.high)
        return FeatureGrid(lower=lower, centre=(lower + last_value) / 2, atom=last_value <= lower)
    return FeatureGrid(lower=lower, centre=(lower + upper) / 2, atom=upper <= np.nextafter(lower, np.inf))
