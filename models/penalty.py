"""What keeps an additive tower smooth and, where the agreement says so, monotone.

Penalised loss = sum over rows of the log-loss + 1/2 b' P b. P holds a ridge on every column and, within a feature,
a penalty on the second differences of neighbouring columns; the intercept, last, is free. The penalty counts as that
many rows' worth of evidence, whatever the size of the data (`ridge` 1 is scikit-learn's C = 1).

A monotone feature's columns must not fall (or rise) from bin to bin, atoms included; its missing column is free.
Newton solves each step under that constraint exactly; the averaging methods project onto it after each step of the
opened mean (pool adjacent violators, equal weights: the nearest monotone parameters in the Euclidean sense).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import linalg, optimize

from models.basis import Block, blocks
from models.binning import FeatureBins
from models.features import FloatArray
from policies.errors import UserError


class CurvatureError(UserError):
    """An opened Hessian that no rows can add up to."""


def penalty_matrix(bins: Sequence[FeatureBins], ridge: float, smoothness: float) -> FloatArray:
    """P of the penalised loss, shape (n_columns + 1, n_columns + 1), zero for the intercept.

    Args:
        bins: Bins per feature.
        ridge: Weight of the squared parameters, > 0 (the columns of a feature add up to one, so 0 has no optimum).
        smoothness: Weight of the squared second differences from bin to bin, >= 0.
    """
    placed = blocks(bins)
    size = placed[-1].stop + 1
    matrix = ridge * np.eye(size)
    matrix[-1, -1] = 0.0
    for block in placed:
        if block.num_bins >= 3:
            differences = np.diff(np.eye(block.num_bins), 2, axis=0)
            at = slice(block.start, block.start + block.num_bins)
            matrix[at, at] += smoothness * differences.T @ differences
    return matrix


def monotone_blocks(bins: Sequence[FeatureBins]) -> list[tuple[Block, int]]:
    """Blocks with a direction: +1 where the risk may only rise with the value, -1 where it may only fall."""
    signs = {"none": 0, "increasing": 1, "decreasing": -1}
    found = [(block, signs[b.feature.monotone]) for block, b in zip(blocks(bins), bins, strict=True)]
    return [(block, sign) for block, sign in found if sign and block.num_bins >= 2]


def project_monotone(parameters: FloatArray, bins: Sequence[FeatureBins]) -> FloatArray:
    """The nearest parameters (intercept last) that respect every monotone direction."""
    projected = parameters.copy()
    for block, sign in monotone_blocks(bins):
        at = slice(block.start, block.start + block.num_bins)
        projected[at] = optimize.isotonic_regression(parameters[at], increasing=sign > 0).x
    return projected


def newton_target(
    parameters: FloatArray, gradient: FloatArray, hessian: FloatArray, bins: Sequence[FeatureBins]
) -> FloatArray:
    """Where a full Newton step leads: the minimum of the quadratic model under the monotone directions.

    Args:
        parameters: Current point (intercept last), shape (p,).
        gradient: Gradient of the penalised loss there, shape (p,).
        hessian: Its Hessian, positive definite, shape (p, p).
        bins: Bins per feature, for the directions.

    Returns:
        The minimiser, shape (p,).

    Raises:
        CurvatureError: The Hessian is not positive definite, so it is no sum of Hessians of log-losses.
    """
    linear = hessian @ parameters - gradient
    try:
        factor = linalg.cholesky(hessian, lower=False)
    except (linalg.LinAlgError, ValueError) as error:
        raise CurvatureError(
            "expected a positive definite sum of Hessians, found another; a member computes wrongly, or ridge is too"
            " small: raise it for the whole cohort"
        ) from error
    constrained = monotone_blocks(bins)
    if not constrained:
        return np.asarray(linalg.cho_solve((factor, False), linear), dtype=np.float64)
    # In increments (first column free, later ones as signed steps) the constraint is a plain bound at zero.
    steps = np.eye(len(parameters))
    lowest = np.full(len(parameters), -np.inf)
    for block, sign in constrained:
        at = slice(block.start, block.start + block.num_bins)
        steps[at, at] = sign * np.tril(np.ones((block.num_bins, block.num_bins)))
        steps[at, block.start] = 1.0
        lowest[block.start + 1 : block.start + block.num_bins] = 0.0
    target = linalg.solve_triangular(factor, linear, trans="T", lower=False)
    found = optimize.lsq_linear(factor @ steps, target, bounds=(lowest, np.inf), method="bvls", tol=1e-12)
    return np.asarray(steps @ found.x, dtype=np.float64)
