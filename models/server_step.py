"""The server's step of an averaging method, taken by every member on the opened sum: the coordinator is blind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.features import FloatArray

_FIRST_DECAY = 0.9
_SECOND_DECAY = 0.99
_ADAPTIVITY = 1e-3


@dataclass(frozen=True, eq=False)
class ServerState:
    """Parameters of the cohort and, for `fedadam`, its moments; each of shape (num_parameters,).

    Parameters are rounded to float32 after each step: members train in float32, and all steps up to there are
    single IEEE operations, so that every machine gets the same bits.
    """

    parameters: FloatArray
    first_moment: FloatArray
    second_moment: FloatArray

    @classmethod
    def start(cls, parameters: FloatArray) -> ServerState:
        """The state before the first round."""
        return cls(_as_float32(parameters), np.zeros_like(parameters), np.zeros_like(parameters))


def server_step(
    method: Literal["average", "adam"], state: ServerState, mean_change: FloatArray, learning_rate: float
) -> ServerState:
    """Move the cohort's parameters.

    Args:
        method: `average` adds the mean change (FedAvg, FedProx); `adam` is FedAdam (Reddi et al. 2021, algorithm 2).
        state: Before the step.
        mean_change: Weighted mean of the members' changes, shape (num_parameters,).
        learning_rate: Step size of `adam`.

    Returns:
        The state after the step.
    """
    if method == "average":
        return ServerState(_as_float32(state.parameters + mean_change), state.first_moment, state.second_moment)
    first = _FIRST_DECAY * state.first_moment + (1 - _FIRST_DECAY) * mean_change
    second = _SECOND_DECAY * state.second_moment + (1 - _SECOND_DECAY) * mean_change * mean_change
    moved = state.parameters + learning_rate * first / (np.sqrt(second) + _ADAPTIVITY)
    return ServerState(_as_float32(moved), first, second)


def _as_float32(values: FloatArray) -> FloatArray:
    return values.astype(np.float32).astype(np.float64)
