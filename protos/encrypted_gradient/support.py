"""Columns that would betray a row are stopped at the feature holder, before the first pass (rule B3)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from protos.encrypted_gradient.errors import ColumnBetraysRows, GradientBounds
from protos.encrypted_gradient.parameters import (
    BASIS_LEVELS,
    MIN_EFFECTIVE_ROWS,
    PLAIN_MODULUS,
    RESIDUAL_LEVELS,
)

Levels = NDArray[np.uint8]
"""Basis values as whole numbers in [0, 127], shape (n_rows, n_columns)."""


@dataclass(frozen=True, eq=False)
class CheckedColumns:
    """A feature holder's columns on the rows of every label holder, checked: range and wrap (B1), support (B3).

    With several label holders the answers are masked against each other, so that the feature holder learns a column's
    sum over all of their rows, and support counts over all of them. Up to c label holders may tell it their own part:
    what is left must have support too, whichever c they are.

    Attributes:
        levels: Label holder -> basis values, shape (its rows, columns); the same columns for all.
        min_rows: `min_rows_per_column` of the agreement.
        max_colluders: c of the agreement.
    """

    levels: Mapping[str, Levels] = field(repr=False)
    min_rows: int
    max_colluders: int = 1

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ColumnBetraysRows: A column with too little support.
            GradientBounds: Values or sums outside their range.
        """
        if not self.levels or len({levels.shape[1:] for levels in self.levels.values()}) != 1:
            raise GradientBounds("expected the same columns for every label holder, and at least one of them")
        for levels in self.levels.values():
            check_column_bounds(levels)
        bad = int(np.count_nonzero(~supported_together(self.levels, self.min_rows, self.max_colluders)))
        if bad:
            raise ColumnBetraysRows(
                f"expected at least {max(self.min_rows, MIN_EFFECTIVE_ROWS)} rows and {MIN_EFFECTIVE_ROWS} effective"
                f" rows in every basis column, found {bad} columns with fewer; merge or leave them out before the"
                " first pass"
            )

    @property
    def num_columns(self) -> int:
        """Columns, candidate pairs included."""
        return int(next(iter(self.levels.values())).shape[1])


def supported_together(levels: Mapping[str, Levels], min_rows: int, max_colluders: int) -> NDArray[np.bool_]:
    """True where a column has enough support over all label holders' rows, and without any c of them.

    Args:
        levels: Label holder -> basis values, shape (its rows, columns).
        min_rows: `min_rows_per_column` of the agreement; never below 20.
        max_colluders: c of the agreement.

    Returns:
        Shape (columns,).
    """
    holders = sorted(levels)
    parts = {holder: _support_sums(levels[holder]) for holder in holders}
    left_out = max_colluders if len(holders) > 1 else 0
    enough = np.ones(next(iter(parts.values())).shape[1], dtype=np.bool_)
    for absent in itertools.combinations(holders, left_out):
        rest = [parts[holder] for holder in holders if holder not in absent]
        touched, sums, squares = np.sum(rest, axis=0)
        enough &= touched >= max(min_rows, MIN_EFFECTIVE_ROWS)
        enough &= sums**2 >= MIN_EFFECTIVE_ROWS * np.maximum(squares, 1.0)
    return enough


def _support_sums(levels: Levels) -> NDArray[np.float64]:
    """Rows with weight, sum of weights and sum of their squares of each column, shape (3, n_columns)."""
    found = np.zeros((3, levels.shape[1]))
    for start in range(0, len(levels), 8192):
        block = levels[start : start + 8192].astype(np.float32)  # exact: sums stay below 2^24 * 8
        found[0] += np.count_nonzero(block, axis=0)
        found[1] += block.sum(axis=0, dtype=np.float64)
        found[2] += np.einsum("ij,ij->j", block, block, dtype=np.float64)
    return found


def check_column_bounds(levels: Levels) -> None:
    """Refuse columns whose folded sum could wrap modulo t for some residuals (B1).

    Raises:
        GradientBounds: A value above 127, or 511 * sum(a) reaches t / 2.
    """
    if levels.dtype != np.uint8 or (levels.size and int(levels.max()) > BASIS_LEVELS):
        raise GradientBounds(f"expected basis values in [0, {BASIS_LEVELS}], found larger ones; scale the basis")
    largest = int(levels.sum(axis=0, dtype=np.int64).max(initial=0))
    _below_half(RESIDUAL_LEVELS * largest, "columns")


def check_residual_bounds(residuals: NDArray[np.int64], noise: float = 0.0) -> None:
    """Refuse residuals whose folded sum could wrap modulo t for some column (B1).

    Args:
        residuals: Whole numbers, shape (n_rows,).
        noise: Room for the label noise, in folded units.

    Raises:
        GradientBounds: A residual outside [-511, 511], or 127 * sum |r| + noise reaches t / 2.
    """
    if residuals.size and int(np.abs(residuals).max()) > RESIDUAL_LEVELS:
        raise GradientBounds(f"expected residuals within +-{RESIDUAL_LEVELS}, found larger ones; round them first")
    _below_half(BASIS_LEVELS * int(np.abs(residuals).sum()) + int(np.ceil(noise)), "residuals")


def _below_half(largest: int, what: str) -> None:
    if 2 * largest >= PLAIN_MODULUS:
        raise GradientBounds(
            f"expected {what} whose sums stay below half of {PLAIN_MODULUS}, found up to {largest}; use fewer rows"
        )
