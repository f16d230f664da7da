"""Newton's sums and steps, penalties and monotone directions."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize

from models.binning import Bin, FeatureBins
from models.features import InputFeature
from models.newton import NewtonState, advance, local_sums, sigmoid, symmetric
from models.penalty import newton_target, penalty_matrix, project_monotone


def bins_of(monotone="none", count=4, name="x"):
    feature = InputFeature(name, "integer", 0.0, 10.0, monotone, "X", missing_allowed=True)
    bins = tuple(Bin(float(k), float(k), atom=True, knot=float(k), goods=50, bads=50) for k in range(count))
    return FeatureBins(feature, bins, missing=(60, 40), missing_bin=0)


def problem(seed=0, rows=600, columns=5):
    rng = np.random.default_rng(seed)
    matrix = np.hstack([np.eye(columns)[rng.integers(0, columns, rows)], np.ones((rows, 1))])
    label = (rng.random(rows) < 0.2 + 0.1 * matrix[:, 1]).astype(float)
    return matrix, label


def test_gradient_and_hessian_are_those_of_the_loss():
    matrix, label = problem()
    point = np.linspace(-1, 1, 6)

    sums = local_sums(matrix, label, point)

    numeric = approx_fprime(point, lambda b: local_sums(matrix, label, b).loss, 1e-6)
    hessian = approx_fprime(point, lambda b: local_sums(matrix, label, b).gradient, 1e-6)
    assert sums.gradient == pytest.approx(numeric, abs=1e-2)
    assert symmetric(sums.hessian, 6) == pytest.approx(hessian, abs=1e-3)


def test_sums_of_members_add_up_to_the_sums_of_all_rows():
    matrix, label = problem(rows=9001)
    point = np.linspace(-1, 1, 6)

    whole = local_sums(matrix, label, point)
    parts = [local_sums(matrix[k::3], label[k::3], point) for k in range(3)]

    assert sum(part.loss for part in parts) == pytest.approx(whole.loss)
    assert sum(part.hessian for part in parts) == pytest.approx(whole.hessian)


def test_a_member_without_rows_adds_zeros():
    sums = local_sums(np.zeros((0, 3)), np.zeros(0), np.zeros(3))

    assert (sums.loss, sums.gradient.tolist()) == (0.0, [0.0] * 3)
    assert sums.hessian.tolist() == [0.0] * 6


def test_sigmoid_does_not_overflow():
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


def test_a_step_that_raises_the_loss_is_halved_until_it_does_not():
    matrix, label = problem()
    bins = [bins_of()]
    penalty = penalty_matrix(bins, 1.0, 0.5)
    # So far out that the curvature vanishes and the full step overshoots.
    state = NewtonState.start(np.array([6.0, -7.0, 5.0, 4.0, -8.0, 1.5]))
    objectives, halved = [], False
    for _ in range(60):
        sums = local_sums(matrix, label, state.parameters)
        state = advance(state, sums.loss, sums.gradient, sums.hessian, penalty=penalty, bins=bins)
        halved |= state.step < 1
        objectives.append(state.objective)
        if state.converged:
            break

    assert halved
    assert state.converged
    assert (np.diff(objectives) <= 1e-6).all()
    found = minimize(
        lambda b: local_sums(matrix, label, b).loss + 0.5 * b @ penalty @ b,
        np.zeros(6),
        jac=lambda b: local_sums(matrix, label, b).gradient + penalty @ b,
        options={"gtol": 1e-8},
    )
    assert state.parameters == pytest.approx(found.x, abs=1e-4)


def test_penalty_leaves_the_intercept_free_and_a_straight_shape_unsmoothed():
    bins = [bins_of(), bins_of(name="y", count=3)]
    penalty = penalty_matrix(bins, 2.0, 5.0)
    straight = np.array([1.0, 2, 3, 4, 0, 1, 1, 1, 0, 9])

    assert penalty.shape == (10, 10)
    assert (penalty[-1] == 0).all()
    assert straight @ penalty @ straight == pytest.approx(2.0 * (straight[:-1] ** 2).sum())
    bent = np.array([0.0, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    assert bent @ penalty @ bent == pytest.approx(2.0 + 5.0 * (4 + 1))


@pytest.mark.parametrize("monotone", ["increasing", "decreasing"])
def test_the_constrained_step_equals_that_of_a_general_solver(monotone):
    rng = np.random.default_rng(6)
    root = rng.normal(size=(6, 6))
    hessian = root @ root.T + np.eye(6)
    gradient = rng.normal(size=6) * 3
    point = rng.normal(size=6)
    sign = 1 if monotone == "increasing" else -1

    found = newton_target(point, gradient, hessian, [bins_of(monotone)])

    expected = minimize(
        lambda b: gradient @ (b - point) + 0.5 * (b - point) @ hessian @ (b - point),
        np.zeros(6),
        jac=lambda b: gradient + hessian @ (b - point),
        constraints=[{"type": "ineq", "fun": lambda b, k=k: sign * (b[k + 1] - b[k])} for k in range(3)],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert (sign * np.diff(found[:4]) >= -1e-9).all()
    assert found == pytest.approx(expected.x, abs=1e-4)


def test_projection_makes_shapes_monotone_and_leaves_the_rest_alone():
    bins = [bins_of("increasing"), bins_of("none", name="y")]
    parameters = np.array([3.0, 1, 2, 5, -7, 4, 1, 3, 0, 2, 0.5])

    projected = project_monotone(parameters, bins)

    assert projected[:4] == pytest.approx([2, 2, 2, 5])
    assert projected[4:].tolist() == parameters[4:].tolist()


def test_a_feature_contract_of_any_type_with_the_right_names_can_be_used():
    terms = SimpleNamespace(
        name="a", type="number", low=0, high=1, monotone="none", reason_code="A", missing_allowed=False, unit="x"
    )

    assert InputFeature.from_terms(terms) == InputFeature("a", "number", 0.0, 1.0, "none", "A", missing_allowed=False)
