"""Shared bins: from the cohort's opened histogram, the same edges at every member.

All choices are made on whole numbers, so that two machines cannot disagree by the last bit of a division.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.features import InputFeature, IntArray, TrainingDataError
from models.grid import FeatureGrid


@dataclass(frozen=True)
class Bin:
    """One bin of a feature, with the cohort's counts.

    Attributes:
        low: Smallest value in the bin, unless an atom takes that value.
        high: End of the bin, not in it (except for the last bin); equals `low` for an atom.
        atom: The bin holds one exact value (0 late payments, say).
        knot: Where the bin's hat function peaks: the middle of its rows.
        goods: Non-defaulters of the cohort's training rows in this bin.
        bads: Defaulters.
    """

    low: float
    high: float
    atom: bool
    knot: float
    goods: int
    bads: int


@dataclass(frozen=True)
class FeatureBins:
    """Bins of one feature.

    Attributes:
        feature: The input.
        bins: In ascending order of value, at least one.
        missing: Counts (goods, bads) of rows without a value when they are frequent enough for a column of their
            own; None when they are not: then a missing value is read as `missing_bin`.
        missing_bin: The most frequent bin.
    """

    feature: InputFeature
    bins: tuple[Bin, ...]
    missing: tuple[int, int] | None
    missing_bin: int

    @property
    def num_columns(self) -> int:
        """Columns that the feature takes in a design matrix; a constant feature takes none."""
        if len(self.bins) == 1 and self.missing is None:
            return 0
        return len(self.bins) + (self.missing is not None)


@dataclass(frozen=True)
class BinningRules:
    """How bins are chosen.

    Attributes:
        bins: Number of bins aimed at, missing values not counted.
        min_rows: A bin with fewer training rows is merged into a neighbour: its gradient would be about them.
        min_cell_count: Likewise with fewer goods or bads, so that the WOE table may be shown.
    """

    bins: int
    min_rows: int
    min_cell_count: int


@dataclass(frozen=True)
class _Run:
    """Consecutive cells on their way to becoming a bin."""

    cells: tuple[int, ...]
    atom: bool
    goods: int
    bads: int

    def joined(self, other: _Run) -> _Run:
        return _Run(self.cells + other.cells, atom=False, goods=self.goods + other.goods, bads=self.bads + other.bads)


def histogram(grid: FeatureGrid, values: np.ndarray, label: np.ndarray) -> IntArray:
    """Goods and bads per cell of one member's rows, shape (2, n_cells + 1); the last cell counts missing values."""
    cells = grid.cells(values)
    size = grid.num_cells + 1
    return np.stack(
        [np.bincount(cells[label == kind], minlength=size) for kind in (0, 1)],
    ).astype(np.int64)


def choose_bins(feature: InputFeature, grid: FeatureGrid, counts: IntArray, rules: BinningRules) -> FeatureBins:
    """Bins of one feature from the cohort's counts per cell.

    A cell's mass is the mean of its share of all rows and of its share of goods and bads taken alike, so that
    edges lie where the rows are and where the rare bads are. Atoms that are heavier than an even share get a bin
    of their own; what remains is cut into even parts; bins below the minima are merged into a neighbour.

    Args:
        feature: The input.
        grid: Its public grid.
        counts: Goods and bads per cell, shape (2, n_cells + 1), missing values last.
        rules: Number of bins and minima.

    Returns:
        The bins, with knots and counts.

    Raises:
        TrainingDataError: The cohort holds too few goods or bads to learn from.
    """
    goods, bads = counts[0, :-1], counts[1, :-1]
    total_goods, total_bads = int(counts[0].sum()), int(counts[1].sum())
    if min(total_goods, total_bads) < rules.min_cell_count:
        raise TrainingDataError(
            f"expected at least {rules.min_cell_count} goods and as many bads in the cohort's training rows,"
            " found fewer; add data or members"
        )
    mass = [
        2 * (g + b) * total_goods * total_bads + (g * total_bads + b * total_goods) * (total_goods + total_bads)
        for g, b in zip(goods.tolist(), bads.tolist(), strict=True)
    ]
    cells = [i for i, weight in enumerate(mass) if weight > 0]
    runs = _cut(cells, _heavy_atoms(cells, mass, grid, rules.bins), mass, goods, bads, rules.bins)
    runs = _merge_small(runs, rules)
    bins = tuple(_bin(run, grid, goods + bads) for run in runs) or (
        Bin(feature.low, feature.high, atom=False, knot=(feature.low + feature.high) / 2, goods=0, bads=0),
    )
    bins = _without_gaps(bins, feature)
    fullest = max(range(len(bins)), key=lambda k: (bins[k].goods + bins[k].bads, -k))
    missing = (int(counts[0, -1]), int(counts[1, -1]))
    only = runs[0] if len(runs) == 1 else None
    if _small(*missing, rules) or not runs or (only and _small(only.goods, only.bads, rules)):
        # Counted in the fullest bin, so that no total of a shown table gives the few away.
        bins = tuple(
            replace(b, goods=b.goods + missing[0], bads=b.bads + missing[1]) if k == fullest else b
            for k, b in enumerate(bins)
        )
        return FeatureBins(feature, bins, missing=None, missing_bin=fullest)
    return FeatureBins(feature, bins, missing=missing, missing_bin=fullest)


def _heavy_atoms(cells: Sequence[int], mass: Sequence[int], grid: FeatureGrid, bins: int) -> frozenset[int]:
    own: set[int] = set()
    while bins - len(own) > 1:
        rest = [i for i in cells if i not in own]
        total = sum(mass[i] for i in rest)
        heavy = [i for i in rest if grid.atom[i] and mass[i] * (bins - len(own)) >= total]
        if not heavy:
            break
        own.add(max(heavy, key=lambda i: (mass[i], -i)))
    return frozenset(own)


def _cut(
    cells: Sequence[int],
    atoms: frozenset[int],
    mass: Sequence[int],
    goods: IntArray,
    bads: IntArray,
    bins: int,
) -> list[_Run]:
    """Split the cells, from low to high, into the given atoms and even parts of the rest."""

    def run(members: Sequence[int], *, atom: bool) -> _Run:
        chosen = list(members)
        return _Run(tuple(chosen), atom, int(goods[chosen].sum()), int(bads[chosen].sum()))

    total = sum(mass[i] for i in cells if i not in atoms)
    parts = max(bins - len(atoms), 1)
    runs: list[_Run] = []
    open_cells: list[int] = []
    seen = cuts = 0
    for i in cells:
        if i in atoms:
            if open_cells:
                runs.append(run(open_cells, atom=False))
                open_cells = []
            runs.append(run([i], atom=True))
            continue
        open_cells.append(i)
        seen += mass[i]
        if seen * parts >= total * (cuts + 1):
            runs.append(run(open_cells, atom=False))
            open_cells = []
            cuts = seen * parts // total
    if open_cells:
        runs.append(run(open_cells, atom=False))
    return runs


def _small(goods: int, bads: int, rules: BinningRules) -> bool:
    return goods + bads < rules.min_rows or min(goods, bads) < rules.min_cell_count


def _merge_small(runs: list[_Run], rules: BinningRules) -> list[_Run]:
    runs = list(runs)
    while len(runs) > 1:
        candidates = [k for k, run in enumerate(runs) if _small(run.goods, run.bads, rules)]
        if not candidates:
            break
        k = min(candidates, key=lambda k: (runs[k].goods + runs[k].bads, k))
        neighbours = [j for j in (k - 1, k + 1) if 0 <= j < len(runs)]
        # A bin of a range takes it rather than an atom, which would stop being one.
        j = min(neighbours, key=lambda j: (runs[j].atom, runs[j].goods + runs[j].bads, j))
        first, second = min(j, k), max(j, k)
        runs[first : second + 1] = [runs[first].joined(runs[second])]
    return runs


def _bin(run: _Run, grid: FeatureGrid, rows: IntArray) -> Bin:
    chosen = list(run.cells)
    reached = np.cumsum(rows[chosen])
    middle = chosen[int(np.searchsorted(2 * reached, reached[-1]))]
    low = float(grid.lower[chosen[0]])
    return Bin(
        low=low,
        high=low if run.atom else grid.upper(chosen[-1], float(grid.lower[-1])),
        atom=run.atom,
        knot=float(grid.centre[middle]),
        goods=run.goods,
        bads=run.bads,
    )


def _without_gaps(bins: tuple[Bin, ...], feature: InputFeature) -> tuple[Bin, ...]:
    """Stretch the ranges between atoms, so that the empty cells between two bins belong to one of them."""
    stretched: list[Bin] = []
    for k, b in enumerate(bins):
        if b.atom:
            stretched.append(b)
            continue
        low = stretched[-1].high if stretched else feature.low
        if feature.type == "integer" and stretched and stretched[-1].atom:
            low += 1.0
        high = feature.high if k + 1 == len(bins) else bins[k + 1].low
        stretched.append(replace(b, low=low, high=high))
    return tuple(stretched)
