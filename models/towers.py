"""Towers: what turns a design matrix into log-odds of default; their parameters are one flat vector.

An additive tower is the neural tower without hidden layers, so both share one parameter layout: per layer the
weights, row by row of its outputs, then the biases; the last number is the bias of the output (the intercept).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from models.features import FloatArray

MAX_PARAMETERS = 50_000_000


@dataclass(frozen=True)
class TowerShape:
    """Sizes of a tower.

    Attributes:
        num_inputs: Columns of the design matrix.
        hidden_units: Units per hidden layer (ReLU); empty for an additive tower.
    """

    num_inputs: int
    hidden_units: tuple[int, ...] = ()

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(outputs, inputs) per layer, the output layer last."""
        sizes = [self.num_inputs, *self.hidden_units, 1]
        return [(outputs, inputs) for inputs, outputs in pairwise(sizes)]

    @property
    def num_parameters(self) -> int:
        """Length of the flat parameter vector."""
        return sum(outputs * (inputs + 1) for outputs, inputs in self.layers)

    @property
    def split_sizes(self) -> list[int]:
        """Lengths of the pieces of the flat vector: weights and biases of each layer in turn."""
        return [size for outputs, inputs in self.layers for size in (outputs * inputs, outputs)]


def num_parameters(num_inputs: int, hidden_units: tuple[int, ...]) -> int:
    """Parameters of a tower of this shape."""
    return TowerShape(num_inputs, hidden_units).num_parameters


def hidden_for_parameters(num_inputs: int, target: int, layers: int = 2) -> tuple[int, ...]:
    """Equal hidden layers whose tower has about `target` parameters.

    Args:
        num_inputs: Columns of the design matrix.
        target: Parameters aimed at.
        layers: Number of hidden layers, >= 1.

    Returns:
        Units per hidden layer, at least one each: the largest that do not exceed the target.
    """
    low, high = 1, max(2, target)
    while high - low > 1:
        middle = (low + high) // 2
        if num_parameters(num_inputs, (middle,) * layers) <= target:
            low = middle
        else:
            high = middle
    return (low,) * layers


def derived_generator(*parts: str | int) -> torch.Generator:
    """A torch generator seeded by public values; for initial weights and shuffles, never for anything secret."""
    text = "|".join(map(str, parts)).encode()
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1)
    return generator


def initial_parameters(shape: TowerShape, intercept: float, seed: int) -> FloatArray:
    """The parameters that every member starts from, shape (num_parameters,).

    Hidden weights are uniform with He's variance (2 / inputs), the output layer is zero but for the intercept:
    the first scores are the base rate.
    """
    generator = derived_generator("initial-parameters", seed)
    parameters = torch.zeros(shape.num_parameters, dtype=torch.float32)
    start = 0
    for outputs, inputs in shape.layers[:-1]:
        reach = math.sqrt(6.0 / inputs)
        drawn = torch.rand(outputs * inputs, generator=generator, dtype=torch.float32)
        parameters[start : start + outputs * inputs] = (2.0 * drawn - 1.0) * reach
        start += outputs * (inputs + 1)
    flat = np.asarray(parameters.numpy(), dtype=np.float64)
    flat[-1] = intercept
    return flat


def torch_log_odds(shape: TowerShape, flat: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Log-odds of default, shape (n_rows,), differentiable in `flat` and `inputs`."""
    # One split and not many slices: its backward pass is a single concatenation.
    pieces = torch.split(flat, shape.split_sizes)
    values = inputs
    for layer, (outputs, width) in enumerate(shape.layers):
        values = torch.addmm(pieces[2 * layer + 1], values, pieces[2 * layer].view(outputs, width).t())
        if layer + 1 < len(shape.layers):
            values = torch.relu(values)
    return values.squeeze(1)


def log_odds(shape: TowerShape, parameters: FloatArray, inputs: FloatArray) -> FloatArray:
    """Log-odds of default of a design matrix, float64 of shape (n_rows,)."""
    if not shape.hidden_units:
        return np.asarray(inputs @ parameters[:-1] + parameters[-1], dtype=np.float64)
    flat = torch.from_numpy(parameters.astype(np.float32))
    with torch.no_grad():
        scores = torch_log_odds(shape, flat, torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32)))
    return np.asarray(scores.numpy(), dtype=np.float64)
