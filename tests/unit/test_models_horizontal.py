"""The horizontal program: order of sums, snapshots, weights, refusals, determinism."""

import dataclasses

import numpy as np
import pytest
import torch

from models.bundle import ArtefactError
from models.features import InputFeature, TrainingData, TrainingDataError
from models.horizontal import HorizontalProgram, HorizontalSettings, weight_log2_for_rows
from models.metrics import OneClassError
from models.penalty import CurvatureError
from models.program import ProgramError, open_plainly, run_locally
from policies.errors import SettingsRefused
from protos.sealed_sum.errors import ValueOutOfRange
from protos.sealed_sum.layout import OpenedSum

torch.set_num_threads(1)

FEATURES = (
    InputFeature("late", "integer", 0.0, 20.0, "increasing", "LATE", missing_allowed=False),
    InputFeature("use", "number", 0.0, 5.0, "none", "USE", missing_allowed=True),
)
WEIGHTS = (512, 256, 256)


def rows(seed, count=900, bad=0.0):
    rng = np.random.default_rng(seed)
    late = np.minimum(rng.poisson(0.6, count), 20).astype(float)
    use = rng.gamma(1.2, 0.4, count).clip(0, 5)
    use[rng.random(count) < 0.15] = np.nan
    log_odds = -2 + 0.9 * np.minimum(late, 4) + 0.7 * np.nan_to_num(use) + bad
    label = (rng.random(count) < 1 / (1 + np.exp(-log_odds))).astype(np.int8)
    return TrainingData({"late": late, "use": use}, label, rng.random(count) < 0.3)


def cohort(settings, weights=WEIGHTS):
    return [
        HorizontalProgram(rows(k), FEATURES, "credit", settings, member_number=k, weights=weights)
        for k in range(len(weights))
    ]


def step(members, present=None):
    active = [members[k] for k in present] if present is not None else members
    opened = open_plainly(members[0].layout(), [member.contribution() for member in active])
    return [member.absorb(opened) for member in members]


def finish(members):
    while not members[0].finished:
        step(members)
    return members[0].result()


ALL = [
    HorizontalSettings(),
    HorizontalSettings(method="fedavg", rounds=3),
    HorizontalSettings(method="fedprox", rounds=3),
    HorizontalSettings(method="fedadam", rounds=3),
    HorizontalSettings(method="fedavg", tower="neural", hidden_units=(8,), rounds=3, learning_rate=0.02, batch_size=64),
]


@pytest.mark.parametrize("settings", ALL, ids=lambda s: f"{s.method}-{s.tower}")
def test_a_run_goes_through_bins_training_and_evaluation_and_ends_equal_at_all_members(settings):
    members = cohort(settings)
    purposes = []
    while not members[0].finished:
        purposes.append((members[0].purpose(), members[0].input_class()))
        assert len({member.layout().digest() for member in members}) == 1
        statistics = step(members)
        assert statistics[0] == statistics[1] == statistics[2]
        assert len({member.model_digest() for member in members}) == 1

    results = [member.result() for member in members]
    assert purposes[0] == ("bins", "static")
    assert purposes[-1] == ("evaluate", "static")
    assert set(purposes[1:-1]) == {("train", "step")}
    assert {result.version for result in results} == {results[0].version}
    assert results[0].evaluation.auc > 0.65
    assert results[0].rounds == len(purposes) - 2


@pytest.mark.parametrize("settings", ALL, ids=lambda s: f"{s.method}-{s.tower}")
def test_a_restored_program_goes_on_bit_for_bit_from_every_step(settings):
    members = cohort(settings)
    while not members[0].finished:
        fresh = HorizontalProgram(rows(0), FEATURES, "credit", settings, member_number=0, weights=WEIGHTS)
        fresh.restore(members[0].snapshot())
        assert fresh.purpose() == members[0].purpose()
        assert fresh.model_digest() == members[0].model_digest()
        assert fresh.snapshot() == members[0].snapshot()
        mine, again = members[0].contribution(), fresh.contribution()
        assert all(np.array_equal(mine[name], again[name]) for name in mine)
        members[0] = fresh
        step(members)

    assert members[0].result().artefact == finish(cohort(settings)).artefact


def test_a_snapshot_holds_no_row_whatever_their_number():
    few, many = (
        HorizontalProgram(rows(0, count), FEATURES, "credit", HorizontalSettings(), member_number=0, weights=[1])
        for count in (500, 5000)
    )
    opened = open_plainly(few.layout(), [many.contribution()])
    for program in (few, many):
        program.absorb(opened)

    assert few.snapshot() == many.snapshot()


def test_contributions_are_the_same_when_asked_again():
    members = cohort(HorizontalSettings(method="fedavg", tower="neural", hidden_units=(8,)))
    step(members)

    first, second = members[1].contribution(), members[1].contribution()

    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_members_and_rounds_and_seeds_shuffle_rows_differently():
    def change(seed, number, rounds):
        members = cohort(HorizontalSettings(method="fedavg", batch_size=64, seed=seed, rounds=5), (1, 1, 1))
        twin = HorizontalProgram(
            rows(0),
            FEATURES,
            "credit",
            HorizontalSettings(method="fedavg", batch_size=64, seed=seed, rounds=5),
            member_number=number,
            weights=(1, 1, 1),
        )
        opened = open_plainly(twin.layout(), [member.contribution() for member in members])
        twin.absorb(opened)
        for _ in range(rounds):
            zero = {f.name: np.zeros(f.length) for f in twin.layout().fields} | {"weight": np.ones(1)}
            twin.absorb(open_plainly(twin.layout(), [zero]))
        return twin.contribution()["change"].tobytes()

    assert len({change(0, 0, 0), change(0, 1, 0), change(0, 0, 1), change(1, 0, 0)}) == 4


def test_fedavg_after_a_dropout_is_the_weighted_mean_of_those_who_remain():
    members = cohort(HorizontalSettings(method="fedavg", rounds=2))
    step(members)
    before = members[0].model().parameters
    first, second = members[0].contribution(), members[1].contribution()

    step(members, present=[0, 1])

    # Contributions are scaled by weight / largest weight: 512 and 256 of 512.
    mean = (512 * first["change"] + 256 * (second["change"] * 2)) / (512 + 256)
    assert members[2].model().parameters[:-1][6:] == pytest.approx((before + mean)[:-1][6:], abs=1e-5)
    assert members[2].model().parameters[-1] == pytest.approx((before + mean)[-1], abs=1e-5)


def test_changes_beyond_the_public_range_are_cut_and_counted_at_the_member_alone():
    members = cohort(HorizontalSettings(method="fedavg", learning_rate=0.5, clip=0.01))
    step(members)

    contribution = members[0].contribution()

    assert np.abs(contribution["change"]).max() == 0.01
    assert members[0].clipped_values > 0
    assert set(contribution) == {"change", "weight", "loss"}


def test_training_that_diverges_is_refused_by_the_member_itself():
    members = cohort(HorizontalSettings(method="fedavg", optimiser="sgd", learning_rate=1e38, local_epochs=3))
    step(members)

    with pytest.raises(TrainingDataError, match="lower learning_rate"):
        members[0].contribution()


def test_fedprox_stays_closer_to_the_cohort_than_fedavg():
    def reach(method):
        settings = HorizontalSettings(method=method, proximal_mu=10.0, batch_size=64, local_epochs=5)
        members = cohort(settings)
        step(members)
        return np.abs(members[0].contribution()["change"]).max()

    assert reach("fedprox") < reach("fedavg")


def test_a7_weights_tell_a_size_to_within_a_factor_of_two():
    assert [weight_log2_for_rows(n) for n in (0, 1, 2, 3, 1000, 42000)] == [0, 0, 1, 2, 10, 15]


@pytest.mark.parametrize("weights", [(3, 4, 8), (0, 1, 2), (1, 2, 1 << 30)])
def test_weights_that_are_no_powers_of_two_or_too_far_apart_are_refused(weights):
    with pytest.raises(SettingsRefused, match="weight"):
        cohort(HorizontalSettings(), weights)


def test_more_rows_than_the_public_bound_are_refused():
    with pytest.raises(TrainingDataError, match="max_rows_per_member"):
        cohort(HorizontalSettings(max_rows_per_member=100))


def test_a_column_of_the_agreement_that_is_absent_is_named():
    data = rows(0)
    lacking = TrainingData({"late": data.columns["late"]}, data.label, data.holdout)

    with pytest.raises(TrainingDataError, match="'use'"):
        HorizontalProgram(lacking, FEATURES, "credit", HorizontalSettings(), member_number=0, weights=[1])


def test_a_sum_of_another_step_is_refused():
    members = cohort(HorizontalSettings())
    opened = open_plainly(members[0].layout(), [member.contribution() for member in members])
    members[0].absorb(opened)

    with pytest.raises(ProgramError, match="'train'"):
        members[0].absorb(opened)


def test_a_histogram_whose_features_disagree_on_the_number_of_rows_is_refused():
    members = cohort(HorizontalSettings())
    opened = open_plainly(members[0].layout(), [member.contribution() for member in members])
    wrong = dict(opened.integers)
    wrong["cells"] = wrong["cells"].copy()
    wrong["cells"][0] += 1

    with pytest.raises(ProgramError, match="counts its rows wrongly"):
        members[0].absorb(OpenedSum(wrong, opened.contributors, opened.layout))


def test_a_member_with_a_value_outside_a_public_range_refuses_itself():
    members = cohort(HorizontalSettings())
    values = members[0].contribution()
    values["cells"][0] = -1.0

    with pytest.raises(ValueOutOfRange, match="cells"):
        open_plainly(members[0].layout(), [values])


def test_a_hessian_that_no_rows_can_add_up_to_is_refused():
    members = cohort(HorizontalSettings())
    step(members)
    opened = open_plainly(members[0].layout(), [member.contribution() for member in members])
    wrong = dict(opened.integers)
    wrong["hessian"] = wrong["hessian"][::-1].copy()

    with pytest.raises(CurvatureError, match="positive definite"):
        members[0].absorb(OpenedSum(wrong, opened.contributors, opened.layout))


def test_three_hundred_features_fit_into_one_sum():
    data = rows(0)
    many = tuple(dataclasses.replace(FEATURES[0], name=f"late_{k}") for k in range(300))
    columns = {feature.name: data.columns["late"] for feature in many}

    program = HorizontalProgram(
        TrainingData(columns, data.label, data.holdout),
        many,
        "credit",
        HorizontalSettings(),
        member_number=0,
        weights=[1],
    )
    program.absorb(open_plainly(program.layout(), [program.contribution()]))

    assert program.num_parameters > 300


def test_a_result_before_the_end_and_a_step_after_it_are_refused():
    members = cohort(HorizontalSettings())
    with pytest.raises(ProgramError, match="finished run"):
        members[0].result()
    with pytest.raises(ProgramError, match="shared bins"):
        members[0].model()
    assert members[0].model_digest() == bytes(32)

    finish(members)

    assert members[0].purpose() == "finished"
    with pytest.raises(ProgramError, match="sums left"):
        members[0].layout()
    with pytest.raises(ProgramError, match="sums left"):
        members[0].contribution()


def test_a_snapshot_of_other_settings_is_refused():
    snapshot = cohort(HorizontalSettings())[0].snapshot()

    with pytest.raises(ProgramError, match="settings and features"):
        cohort(HorizontalSettings(bins=5))[0].restore(snapshot)
    with pytest.raises(ArtefactError, match="expected a model artefact"):
        cohort(HorizontalSettings())[0].restore(b"not a snapshot")


def test_a_members_private_view_is_of_its_own_holdout_and_in_no_result():
    members = cohort(HorizontalSettings())
    with pytest.raises(ProgramError, match="trained model"):
        members[0].private_evaluation()

    result = finish(members)

    own = members[0].private_evaluation()
    assert own.rows == int(rows(0).holdout.sum())
    assert result.evaluation.rows == sum(int(rows(k).holdout.sum()) for k in range(3))


def test_a_cohort_whose_holdout_has_too_few_bads_is_not_evaluated():
    data = [dataclasses.replace(rows(k), holdout=np.arange(900) < 20) for k in range(3)]
    members = [
        HorizontalProgram(
            part, FEATURES, "credit", HorizontalSettings(min_cell_count=30), member_number=k, weights=WEIGHTS
        )
        for k, part in enumerate(data)
    ]

    with pytest.raises(OneClassError, match="hold-out"):
        finish(members)


def test_a_member_without_training_rows_does_not_stop_the_cohort():
    data = rows(1)
    idle = dataclasses.replace(data, holdout=np.ones(len(data.label), dtype=bool))
    for settings in (HorizontalSettings(), HorizontalSettings(method="fedavg", rounds=2)):
        members = cohort(settings)
        members[1] = HorizontalProgram(idle, FEATURES, "credit", settings, member_number=1, weights=WEIGHTS)
        assert finish(members).evaluation.auc > 0.6


def test_newton_out_of_rounds_keeps_the_best_point_that_was_evaluated():
    members = cohort(HorizontalSettings(rounds=1))
    step(members)
    start = members[0].model().parameters
    step(members)

    assert members[0].purpose() == "evaluate"
    assert members[0].model().parameters.tolist() == start.tolist()


def test_one_party_alone_runs_the_same_program():
    program = HorizontalProgram(rows(0, 3000), FEATURES, "credit", HorizontalSettings(), member_number=0, weights=[1])

    assert run_locally(program).evaluation.rows == int(rows(0, 3000).holdout.sum())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "sgd"}, "method"),
        ({"tower": "forest"}, "tower"),
        ({"optimiser": "lbfgs"}, "optimiser"),
        ({"tower": "neural"}, "additive tower"),
        ({"hidden_units": (4,)}, "hidden units"),
        ({"method": "fedavg", "tower": "neural", "hidden_units": (0,)}, "hidden_units"),
        ({"bins": 1}, "bins"),
        ({"rounds": 0}, "rounds"),
        ({"ridge": 0.0}, "ridge"),
        ({"clip": float("nan")}, "clip"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"smoothness": float("inf")}, "smoothness"),
        ({"max_rows_per_member": 1 << 30}, "max_rows_per_member"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_one_sentence(change, message):
    with pytest.raises(SettingsRefused, match=message):
        HorizontalSettings(**change)
