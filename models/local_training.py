"""Local epochs of minibatch training at one member; what leaves the member is the change, clipped and scaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from models.towers import TowerShape, derived_generator, torch_log_odds


@dataclass(frozen=True)
class LocalRules:
    """How a member trains between two sums.

    Attributes:
        epochs: Passes over its training rows, >= 1.
        batch_size: Rows a step, >= 1; the last batch of a pass may be smaller.
        learning_rate: Step size, > 0.
        optimiser: `adam` (fresh moments every round, betas .9 and .999) or `sgd`.
        proximal_mu: FedProx (Li et al. 2020): adds mu / 2 * |parameters - start|^2 to the loss; 0 is FedAvg.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    optimiser: Literal["adam", "sgd"]
    proximal_mu: float


def train_locally(
    shape: TowerShape,
    start: torch.Tensor,
    inputs: torch.Tensor,
    label: torch.Tensor,
    *,
    penalty: torch.Tensor,
    rules: LocalRules,
    shuffle_seed: tuple[str | int, ...],
) -> torch.Tensor:
    """Parameters after the local epochs, float32 of shape (num_parameters,).

    The loss is the mean log-loss of the batch plus 1/2 b' P b.

    Args:
        shape: The tower.
        start: Parameters of the cohort, float32.
        inputs: This member's design matrix, float32 of shape (n_rows, n_columns).
        label: 1.0 = bad, float32 of shape (n_rows,).
        penalty: P per training row of the cohort: a full matrix, or its diagonal, float32.
        rules: How to train.
        shuffle_seed: Public values that the order of rows is derived from.

    Returns:
        The new parameters; the same for the same arguments on one machine.
    """
    parameters = start.clone().requires_grad_(requires_grad=True)
    generator = derived_generator("shuffle", *shuffle_seed)
    first = torch.zeros_like(start)
    second = torch.zeros_like(start)
    step = 0
    for _ in range(rules.epochs):
        order = torch.randperm(len(label), generator=generator)
        for batch in torch.split(order, rules.batch_size):
            scores = torch_log_odds(shape, parameters, inputs[batch])
            loss = binary_cross_entropy_with_logits(scores, label[batch])
            (gradient,) = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                gradient += penalty @ parameters if penalty.dim() == 2 else penalty * parameters
                if rules.proximal_mu:
                    gradient.add_(parameters - start, alpha=rules.proximal_mu)
                step += 1
                if rules.optimiser == "sgd":
                    parameters.sub_(gradient, alpha=rules.learning_rate)
                else:
                    _adam(parameters, gradient, first, second, step, rules.learning_rate)
    return parameters.detach()


def _adam(
    parameters: torch.Tensor,
    gradient: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    step: int,
    learning_rate: float,
) -> None:
    """One step of Adam (Kingma and Ba 2015) in place, on one flat vector."""
    first.mul_(0.9).add_(gradient, alpha=0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    scale = (1 - 0.999**step) ** 0.5
    spread = second.sqrt().add_(1e-8 * scale)
    parameters.addcdiv_(first, spread, value=-learning_rate * scale / (1 - 0.9**step))
