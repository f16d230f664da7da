"""Damped Newton over sealed sums: what a member contributes, and the step that everybody takes on the opened sum.

The penalised loss of an additive tower is convex, so the point reached is the optimum of the pooled rows, whoever
holds them. Every evaluation is one sum: loss, gradient and Hessian at the current point. A step that does not lower
the loss is halved and tried again, which costs one more sum and happens in the first steps if at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.basis import snap
from models.binning import FeatureBins
from models.features import FloatArray
from models.penalty import newton_target

_CHUNK_ROWS = 4096
CONVERGED_DECREASE = 1e-6
"""Stop when the quadratic model promises less than this decrease of the summed loss (in nats, over all rows)."""
_SMALLEST_STEP = 2.0**-20


@dataclass(frozen=True, eq=False)
class LocalSums:
    """One member's unpenalised sums over its training rows.

    Attributes:
        loss: Summed log-loss, nats.
        gradient: Shape (p,), intercept last.
        hessian: Upper triangle, row by row, shape (p * (p + 1) / 2,).
    """

    loss: float
    gradient: FloatArray
    hessian: FloatArray


def local_sums(matrix: FloatArray, label: FloatArray, parameters: FloatArray) -> LocalSums:
    """Loss, gradient and Hessian of the log-loss of this member's rows.

    Args:
        matrix: Design matrix with a column of ones at the end, shape (n_rows, p), entries in [0, 1].
        label: 1.0 = bad, shape (n_rows,).
        parameters: Shape (p,), intercept last.
    """
    size = len(parameters)
    log_odds = matrix @ parameters
    pd = sigmoid(log_odds)
    hessian = np.zeros((size, size))
    weight = pd * (1 - pd)
    # In chunks, the weighted copy stays in the processor's cache: faster, and no second design matrix.
    for start in range(0, len(label), _CHUNK_ROWS):
        rows = matrix[start : start + _CHUNK_ROWS]
        hessian += rows.T @ (rows * weight[start : start + _CHUNK_ROWS, None])
    return LocalSums(
        loss=float((np.logaddexp(0.0, log_odds) - label * log_odds).sum()),
        gradient=matrix.T @ (pd - label),
        hessian=hessian[np.triu_indices(size)],
    )


def sigmoid(log_odds: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * log_odds)))


def symmetric(upper: FloatArray, size: int) -> FloatArray:
    """The full matrix of an upper triangle written row by row, shape (size, size)."""
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size)] = upper
    return matrix + np.triu(matrix, 1).T


@dataclass(frozen=True, eq=False)
class NewtonState:
    """Where the search stands.

    Attributes:
        parameters: Point at which the next sums are evaluated, shape (p,), intercept last.
        accepted: Best point evaluated so far; equals `parameters` before the first sum.
        objective: Penalised loss at `accepted`, infinite before the first sum.
        target: Where the full step from `accepted` leads.
        step: Share of the way to `target` at which `parameters` lies.
        converged: The step to `parameters` is the last one.
    """

    parameters: FloatArray
    accepted: FloatArray
    objective: float
    target: FloatArray
    step: float
    converged: bool

    @classmethod
    def start(cls, parameters: FloatArray) -> NewtonState:
        """The state before the first sum."""
        return cls(parameters, parameters, float("inf"), parameters, 1.0, converged=False)


def advance(
    state: NewtonState,
    loss: float,
    gradient: FloatArray,
    hessian: FloatArray,
    *,
    penalty: FloatArray,
    bins: Sequence[FeatureBins],
) -> NewtonState:
    """Take or halve the step, on the cohort's opened sums at `state.parameters`.

    Args:
        state: The state whose `parameters` were evaluated.
        loss: Summed log-loss.
        gradient: Its gradient, shape (p,).
        hessian: Its Hessian, upper triangle.
        penalty: P of `models.penalty.penalty_matrix`.
        bins: Bins per feature.

    Returns:
        The next state; `converged` when its parameters need no further evaluation.
    """
    point = state.parameters
    objective = loss + 0.5 * float(point @ penalty @ point)
    # Sums are rounded: a difference below the resolution is not a rise.
    if objective > state.objective + CONVERGED_DECREASE and state.step > _SMALLEST_STEP:
        step = state.step / 2
        return NewtonState(
            snap(state.accepted + step * (state.target - state.accepted)),
            state.accepted,
            state.objective,
            state.target,
            step,
            converged=False,
        )
    total_gradient = gradient + penalty @ point
    total_hessian = symmetric(hessian, len(point)) + penalty
    target = snap(newton_target(point, total_gradient, total_hessian, bins))
    direction = target - point
    decrease = -float(total_gradient @ direction + 0.5 * direction @ total_hessian @ direction)
    return NewtonState(target, point, objective, target, 1.0, converged=decrease < CONVERGED_DECREASE)
