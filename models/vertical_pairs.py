"""Pairwise terms within a role: products of coarse hats, chosen by how much gradient they explain on one pass.

A feature's fitted columns are grouped into a few neighbouring ones, so that the groups keep what the main effect says
(the best contiguous partition, Fisher 1958). A pair's cells are the products of two features' groups. Only cells
outside both heaviest groups are asked about; the sums of the others follow from these and the main effects.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from models.features import FloatArray
from models.role_totals import Totals, Whole, total_of
from models.vertical_basis import RoleBasis, column_sums, whole_moments
from protos.encrypted_gradient.parameters import BASIS_LEVELS, MAX_CANDIDATE_PAIRS
from protos.encrypted_gradient.support import Levels, supported_together

_CHUNK_ROWS = 8192


Group: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class PairTerm:
    """One pair of features, and the cells that are asked about.

    The first group of each feature is its heaviest. A cell in such a group needs no column of its own: it is the other
    feature's group, which the main effects hold, less the cells of that group that are asked about.

    Attributes:
        first: Groups of one feature's columns, (start, stop) in the basis, the heaviest first.
        second: Groups of the other feature's columns.
        cells: (group of `first`, group of `second`) of each column, no heaviest group among them.
    """

    first: tuple[Group, ...]
    second: tuple[Group, ...]
    cells: tuple[tuple[int, int], ...]

    def levels(self, levels: Levels) -> Levels:
        """The pair's columns from the basis columns, uint8 of shape (n_rows, n_cells)."""
        out = np.empty((len(levels), len(self.cells)), dtype=np.uint8)
        for start in range(0, len(levels), _CHUNK_ROWS):
            part = levels[start : start + _CHUNK_ROWS].astype(np.float32)
            left = [np.minimum(part[:, a:b].sum(axis=1), BASIS_LEVELS) for a, b in self.first]
            right = [np.minimum(part[:, a:b].sum(axis=1), BASIS_LEVELS) for a, b in self.second]
            for column, (i, j) in enumerate(self.cells):
                out[start : start + _CHUNK_ROWS, column] = np.rint(left[i] * right[j] / BASIS_LEVELS)
        return out

    def expansion(self, main: int) -> FloatArray:
        """What all cells but the heaviest are in terms of the main columns and of `levels`.

        Returns:
            Shape (n_cells + other groups of both features, main + n_cells).
        """
        rows = [np.eye(len(self.cells), main + len(self.cells), main)]
        for axis, groups in enumerate((self.first, self.second)):
            for number, (start, stop) in enumerate(groups[1:], 1):
                row = np.zeros((1, main + len(self.cells)))
                row[0, start:stop] = 1.0
                row[0, [main + at for at, cell in enumerate(self.cells) if cell[axis] == number]] = -1.0
                rows.append(row)
        return np.concatenate(rows)

    def without(self, cell: tuple[int, int]) -> PairTerm:
        """The pair with one cell less; its rows count in the heaviest groups' cells."""
        return PairTerm(self.first, self.second, tuple(c for c in self.cells if c != cell))


def pair_levels(terms: Sequence[PairTerm], levels: Levels) -> Levels:
    """Columns of several pairs side by side."""
    if not terms:
        return np.zeros((len(levels), 0), dtype=np.uint8)
    return np.concatenate([term.levels(levels) for term in terms], axis=1)


def pair_expansion(terms: Sequence[PairTerm], main: int) -> FloatArray:
    """All parameters' columns in terms of the columns that are asked about: main effects, then every pair's cells.

    Returns:
        Shape (n_parameters, main + cells of all pairs).
    """
    width = main + sum(len(term.cells) for term in terms)
    rows = [np.eye(main, width)]
    at = main
    for term in terms:
        own = term.expansion(main)
        row = np.zeros((len(own), width))
        row[:, :main] = own[:, :main]
        row[:, at : at + len(term.cells)] = own[:, main:]
        rows.append(row)
        at += len(term.cells)
    return np.concatenate(rows)


def candidate_pairs(
    basis: RoleBasis,
    levels: Mapping[str, Levels],
    weights: FloatArray,
    mass: FloatArray,
    *,
    groups: int,
    min_rows: int,
    max_colluders: int,
    most: int,
    features: Sequence[int] | None = None,
) -> Totals[list[PairTerm]]:
    """Pairs worth one look at the labels, most promising first, without any look at them.

    Args:
        basis: The role's basis.
        levels: This member's columns on every label holder's training rows.
        weights: Fitted main effects, shape (n_columns,).
        mass: Sum of every column over the role's rows, shape (n_columns,).
        groups: Groups per feature, at least 2.
        min_rows: Rows that must touch every cell at every member; others get no column (rule B3).
        max_colluders: Label holders that may help a feature holder, see `CheckedColumns`.
        most: At most so many pairs, and never more than 30 (rule B4).
        features: Numbers of the features that may be paired; all by default. Features with a direction never are: a
            product would bend it.

    Returns:
        Pairs of the features whose main effects spread the scores most.
    """
    usable: dict[int, tuple[Group, ...]] = {}
    spread: dict[int, float] = {}
    for feature in range(len(basis.bins)) if features is None else features:
        block = basis.block(feature)
        directed = basis.ordered(feature)[1] != 0
        if block.stop - block.start >= 2 and mass[block].sum() > 0 and not directed:
            usable[feature] = _heaviest_first(_groups(weights[block], mass[block], groups), mass[block], block.start)
            mean = np.average(weights[block], weights=mass[block])
            spread[feature] = float(np.average((weights[block] - mean) ** 2, weights=mass[block])) ** 0.5
    pairs = sorted(itertools.combinations(usable, 2), key=lambda pair: (-spread[pair[0]] * spread[pair[1]], pair))
    terms = [
        PairTerm(
            usable[first],
            usable[second],
            tuple(itertools.product(range(1, len(usable[first])), range(1, len(usable[second])))),
        )
        for first, second in pairs[: min(most, MAX_CANDIDATE_PAIRS)]
    ]
    if not terms:
        return []
    return (yield from _supported(terms, levels, min_rows, max_colluders))


def _supported(
    terms: Sequence[PairTerm], levels: Mapping[str, Levels], min_rows: int, max_colluders: int
) -> Totals[list[PairTerm]]:
    """Leave out cells with too few rows at a member, and cells whose group would have too few rows beside them (B3).

    The rows of a group that are in none of its cells are the group's column less its cells' columns: whoever asks for
    all of them asks for these rows too. One sum of the role serves all pairs at once.
    """
    columns = [{holder: term.levels(part) for holder, part in levels.items()} for term in terms]
    thin, mass = yield from total_of(
        "pairs/cells",
        [
            np.concatenate([~supported_together(own, min_rows, max_colluders) for own in columns]),
            np.concatenate([column_sums(own) for own in columns]),
        ],
    )
    ends = np.cumsum([len(term.cells) for term in terms])[:-1]
    masses = [
        dict(zip(term.cells, part.tolist(), strict=True))
        for term, part in zip(terms, np.split(mass, ends), strict=True)
    ]
    kept = [
        replace(term, cells=tuple(cell for cell, flag in zip(term.cells, part, strict=True) if not flag))
        for term, part in zip(terms, np.split(thin, ends), strict=True)
    ]
    while True:
        flags = [_thin_groups(term, levels, min_rows, max_colluders) for term in kept]
        (members,) = yield from total_of("pairs/groups", [np.concatenate(flags)])
        if not members.any():
            return [term for term in kept if term.cells]
        for number, part in enumerate(np.split(members, np.cumsum([len(flag) for flag in flags])[:-1])):
            if part.any():
                own = _cells_of_group(kept[number], int(np.flatnonzero(part)[0]))
                kept[number] = kept[number].without(min(own, key=lambda cell: (masses[number][cell], cell)))


def _group_numbers(term: PairTerm) -> list[tuple[int, int]]:
    """(axis, number) of every group that is not its feature's heaviest."""
    return [(axis, number) for axis, own in enumerate((term.first, term.second)) for number in range(1, len(own))]


def _cells_of_group(term: PairTerm, place: int) -> list[tuple[int, int]]:
    axis, number = _group_numbers(term)[place]
    return [cell for cell in term.cells if cell[axis] == number]


def _thin_groups(term: PairTerm, levels: Mapping[str, Levels], min_rows: int, max_colluders: int) -> NDArray[np.bool_]:
    """True for every group with cells whose remaining rows are few but not none, in the order of `_group_numbers`."""
    columns = {holder: term.levels(part) for holder, part in levels.items()}
    found = []
    for place, (axis, number) in enumerate(_group_numbers(term)):
        own = [term.cells.index(cell) for cell in _cells_of_group(term, place)]
        start, stop = (term.first, term.second)[axis][number]
        left = {}
        for holder, part in levels.items():
            beside = columns[holder][:, own].sum(axis=1, dtype=np.int64)
            rest = part[:, start:stop].sum(axis=1, dtype=np.int64) - beside
            # Rounded products leave up to half a level a cell behind; that is no row of its own.
            rest[rest <= len(own)] = 0
            left[holder] = np.minimum(rest, BASIS_LEVELS).astype(np.uint8).reshape(-1, 1)
        few = any(part.any() for part in left.values()) and not supported_together(left, min_rows, max_colluders)[0]
        found.append(bool(own) and few)
    return np.array(found, dtype=np.bool_)


@dataclass(frozen=True, eq=False)
class MainEffects:
    """Where the main effects stand when candidates are judged; every figure is the role's.

    Attributes:
        moments: A' A of the main columns, shape (n_columns, n_columns).
        sums: Sum of every main column, in basis units, shape (n_columns,).
        known_rows: Rows that the role knows.
        row_curvature: Curvature of one row, p0 (1 - p0).
        penalty: P, shape (n_columns, n_columns).
        weights: Shape (n_columns,).
    """

    moments: FloatArray
    sums: FloatArray
    known_rows: float
    row_curvature: float
    penalty: FloatArray
    weights: FloatArray

    def curvature(self, raw: FloatArray, left: FloatArray, right: FloatArray) -> FloatArray:
        """Curvature of second moments, centred on the known rows."""
        return np.asarray(self.row_curvature * (raw - np.outer(left, right) / self.known_rows))


def choose_pairs(
    candidates: Sequence[PairTerm],
    levels: Mapping[str, Levels],
    main: MainEffects,
    gradient: FloatArray,
    *,
    residual_total: float,
    ridge: float,
    most: int,
) -> Totals[tuple[PairTerm, ...]]:
    """Keep the pairs that explain most gradient after the main effects have taken their own step.

    What a pair explains is the drop of the loss that one Newton step in its cells promises (a score test, Rao 1948); it
    must promise more than one nat per column.

    Args:
        candidates: Pairs that were asked about.
        levels: This member's main columns on every label holder's training rows.
        main: The main effects.
        gradient: Unpenalised gradient of the main columns, centred, then of the candidates' cells in their order, not
            centred yet: their means are found here.
        residual_total: Sum of the known rows' residuals, for that centring.
        ridge: Ridge on every cell, in rows' worth.
        most: At most so many pairs.
    """
    if not candidates:
        return ()
    size = len(main.weights)
    cells_of = [{holder: term.levels(part) for holder, part in levels.items()} for term in candidates]
    asked: list[Whole] = []
    for columns in cells_of:
        asked += [column_sums(columns), whole_moments(columns, levels), whole_moments(columns)]
    totals = [part.astype(np.float64) for part in (yield from total_of("pairs/moments", asked))]
    own = main.curvature(main.moments, main.sums, main.sums)
    penalised = gradient[:size] + main.penalty @ main.weights
    step = linalg.solve(own + main.penalty, penalised, assume_a="pos")
    after = gradient[:size] - own @ step
    ranked: list[tuple[float, int]] = []
    at = size
    for number, term in enumerate(candidates):
        width = len(term.cells)
        sums = totals[3 * number] / BASIS_LEVELS
        cross = main.curvature(totals[3 * number + 1] / BASIS_LEVELS**2, sums, main.sums)
        cells = main.curvature(totals[3 * number + 2] / BASIS_LEVELS**2, sums, sums)
        expansion = term.expansion(size)
        asked_about = gradient[at : at + width] - sums / main.known_rows * residual_total
        left = expansion @ np.concatenate([after, asked_about - cross @ step])
        curvature = expansion @ np.block([[own, cross.T], [cross, cells]]) @ expansion.T
        curvature += ridge * np.eye(len(expansion))
        explained = 0.5 * float(left @ linalg.solve(curvature, left, assume_a="pos"))
        if explained > len(expansion):
            ranked.append((explained, number))
        at += width
    best = sorted(ranked, key=lambda pair: (-pair[0], pair[1]))[:most]
    return tuple(candidates[number] for number in sorted(number for _, number in best))


def _groups(weights: FloatArray, mass: FloatArray, groups: int) -> list[tuple[int, int]]:
    """Contiguous groups with the least spread of `weights` inside them, by dynamic programming."""
    size = len(weights)
    counts, sums, squares = (
        np.concatenate([[0.0], np.cumsum(mass * power)]) for power in (np.ones(size), weights, weights**2)
    )

    def spread(start: int, stop: int) -> float:
        rows = counts[stop] - counts[start]
        return float(squares[stop] - squares[start] - (sums[stop] - sums[start]) ** 2 / max(rows, 1e-9))

    best: list[dict[int, tuple[float, tuple[int, ...]]]] = [{0: (0.0, ())}]
    for _ in range(min(groups, size)):
        reached: dict[int, tuple[float, tuple[int, ...]]] = {}
        for start, (cost, cuts) in best[-1].items():
            for stop in range(start + 1, size + 1):
                option = (cost + spread(start, stop), (*cuts, stop))
                if stop not in reached or option < reached[stop]:
                    reached[stop] = option
        best.append(reached)
    stops = best[-1][size][1]
    return list(zip((0, *stops[:-1]), stops, strict=True))


def _heaviest_first(groups: Sequence[Group], mass: FloatArray, start: int) -> tuple[Group, ...]:
    by_mass = sorted(groups, key=lambda group: (-mass[group[0] : group[1]].sum(), group))
    return tuple((start + a, start + b) for a, b in by_mass)
