"""Columns that would betray a row are stopped at the feature holder, before the first pass (rule B3)."""

from __future__ import annotations

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


def touched_rows(levels: Levels) -> NDArray[np.int64]:
    """Rows with weight in each column, shape (n_columns,)."""
    return np.asarray(np.count_nonzero(levels, axis=0), dtype=np.int64)


def effective_rows(levels: Levels) -> NDArray[np.float64]:
    """(sum a)^2 / sum a^2 of each column: the number of equal weights that are as spread out."""
    sums = np.zeros(levels.shape[1])
    squares = np.zeros(levels.shape[1])
    for start in range(0, len(levels), 8192):
        block = levels[start : start + 8192].astype(np.float32)  # exact: sums stay below 2^24 * 8
        sums += block.sum(axis=0, dtype=np.float64)
        squares += np.einsum("ij,ij->j", block, block, dtype=np.float64)
    return sums**2 / np.maximum(squares, 1.0)


def supported_columns(levels: Levels, min_rows: int) -> NDArray[np.bool_]:
    """True where a column has enough support to be asked about, shape (n_columns,)."""
    enough = touched_rows(levels) >= max(min_rows, MIN_EFFECTIVE_ROWS)
    return np.asarray(enough & (effective_rows(levels) >= MIN_EFFECTIVE_ROWS))


def check_support(levels: Levels, min_rows: int) -> None:
    """Refuse columns whose gradient would be about a few rows.

    Args:
        levels: Shape (n_rows, n_columns).
        min_rows: `min_rows_per_column` of the agreement; never below 20.

    Raises:
        ColumnBetraysRows: Names how many columns, not which rows.
    """
    bad = int(np.count_nonzero(~supported_columns(levels, min_rows)))
    if bad:
        raise ColumnBetraysRows(
            f"expected at least {max(min_rows, MIN_EFFECTIVE_ROWS)} rows and {MIN_EFFECTIVE_ROWS} effective rows in"
            f" every basis column, found {bad} columns with fewer; merge or leave them out before the first pass"
        )


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
