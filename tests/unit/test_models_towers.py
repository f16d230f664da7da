"""Towers, local training and the server step."""

import numpy as np
import pytest
import torch

from models.local_training import LocalRules, train_locally
from models.server_step import ServerState, server_step
from models.towers import (
    TowerShape,
    hidden_for_parameters,
    initial_parameters,
    log_odds,
    num_parameters,
    torch_log_odds,
)

torch.set_num_threads(1)


@pytest.mark.parametrize("target", [10_000, 1_000_000])
def test_hidden_units_are_found_for_a_number_of_parameters(target):
    hidden = hidden_for_parameters(80, target)

    assert 0.97 * target <= num_parameters(80, hidden) <= target
    assert num_parameters(80, tuple(units + 1 for units in hidden)) > target


def test_a_tower_has_the_parameters_of_its_layers():
    assert TowerShape(7).num_parameters == 8
    assert TowerShape(7, (3, 2)).num_parameters == 7 * 3 + 3 + 3 * 2 + 2 + 2 + 1


def test_a_neural_tower_equals_the_same_network_built_from_torch_layers():
    shape = TowerShape(5, (4, 3))
    rng = np.random.default_rng(0)
    flat = rng.normal(size=shape.num_parameters)
    network = torch.nn.Sequential(
        torch.nn.Linear(5, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)
    )
    torch.nn.utils.vector_to_parameters(torch.tensor(flat, dtype=torch.float32), network.parameters())
    inputs = rng.normal(size=(20, 5))

    expected = network(torch.tensor(inputs, dtype=torch.float32)).detach().numpy()[:, 0]

    assert log_odds(shape, flat, inputs) == pytest.approx(expected, abs=1e-5)


def test_an_additive_tower_is_a_neural_one_without_hidden_layers():
    flat = np.array([1.0, -2.0, 0.5])
    inputs = np.array([[1.0, 0.0], [0.25, 0.75]])

    assert log_odds(TowerShape(2), flat, inputs) == pytest.approx([1.5, -0.75])
    in_torch = torch_log_odds(TowerShape(2), torch.tensor(flat), torch.tensor(inputs))
    assert in_torch.numpy() == pytest.approx([1.5, -0.75])


def test_initial_parameters_depend_on_the_public_seed_alone_and_score_the_base_rate():
    shape = TowerShape(6, (16, 8))

    one, again, other = (initial_parameters(shape, -2.5, seed) for seed in (1, 1, 2))

    assert one.tolist() == again.tolist()
    assert one.tolist() != other.tolist()
    assert log_odds(shape, one, np.random.default_rng(0).random((9, 6))) == pytest.approx([-2.5] * 9)


def test_initial_weights_have_the_reach_of_hes_variance():
    shape = TowerShape(50, (200,))
    weights = initial_parameters(shape, 0.0, 0)[: 50 * 200]

    assert np.abs(weights).max() <= np.sqrt(6 / 50)
    assert weights.std() == pytest.approx(np.sqrt(2 / 50), rel=0.05)


def rules(**change):
    usual = {"epochs": 3, "batch_size": 32, "learning_rate": 0.05, "optimiser": "adam", "proximal_mu": 0.0}
    return LocalRules(**(usual | change))


def local_problem(rows=300):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand((rows, 4), generator=generator)
    label = (inputs[:, 0] > 0.5).float()
    return inputs, label


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_local_training_takes_the_same_steps_as_torchs_own_optimiser(optimiser):
    shape = TowerShape(4, (5,))
    start = torch.from_numpy(initial_parameters(shape, 0.1, 3).astype(np.float32))
    inputs, label = local_problem()

    found = train_locally(
        shape,
        start,
        inputs,
        label,
        penalty=torch.full_like(start, 0.01),
        rules=rules(epochs=4, batch_size=300, optimiser=optimiser),
        shuffle_seed=("a", 1),
    )

    expected = start.clone().requires_grad_()
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    steps = kinds[optimiser]([expected], lr=0.05)
    for _ in range(4):
        steps.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(torch_log_odds(shape, expected, inputs), label)
        (loss + 0.005 * (expected**2).sum()).backward()
        steps.step()
    assert found.numpy() == pytest.approx(expected.detach().numpy(), abs=2e-4)


def test_local_training_shuffles_by_its_seed_alone():
    shape = TowerShape(4)
    start = torch.zeros(5)
    inputs, label = local_problem()

    def trained(*seed):
        return train_locally(
            shape, start, inputs, label, penalty=torch.zeros(5), rules=rules(), shuffle_seed=seed
        ).tolist()

    assert trained(0, 1, 2) == trained(0, 1, 2)
    assert trained(0, 1, 2) != trained(0, 1, 3)
    assert start.tolist() == [0.0] * 5


def test_a_full_penalty_matrix_pulls_like_its_diagonal_when_it_is_one():
    shape = TowerShape(4)
    inputs, label = local_problem()
    diagonal = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0])

    one, other = (
        train_locally(shape, torch.ones(5), inputs, label, penalty=p, rules=rules(), shuffle_seed=(0,)).numpy()
        for p in (diagonal, torch.diag(diagonal))
    )

    assert one == pytest.approx(other, abs=1e-6)


def test_fedavg_adds_the_mean_change():
    state = ServerState.start(np.array([1.0, 2.0]))

    moved = server_step("average", state, np.array([0.5, -0.25]), 9.0)

    assert moved.parameters.tolist() == [1.5, 1.75]


def test_fedadam_follows_the_published_recursion():
    state = ServerState.start(np.array([1.0]))
    first = second = 0.0
    expected = 1.0
    for change in (0.5, -0.2, 0.1):
        state = server_step("adam", state, np.array([change]), 0.1)
        first = 0.9 * first + 0.1 * change
        second = 0.99 * second + 0.01 * change**2
        expected += 0.1 * first / (second**0.5 + 1e-3)

    assert state.parameters == pytest.approx([expected], abs=1e-6)


def test_parameters_after_a_server_step_are_float32_numbers():
    moved = server_step("average", ServerState.start(np.array([0.1])), np.array([0.2]), 0.0).parameters

    assert moved.tolist() == moved.astype(np.float32).astype(np.float64).tolist()
