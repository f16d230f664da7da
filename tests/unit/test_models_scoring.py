"""Artefacts and scores."""

import hashlib
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load, save

from models.artefact import ArtefactError, load_model, model_version
from models.bundle import canonical_json, pack, unpack
from models.features import InputFeature, TrainingData
from models.horizontal import HorizontalProgram, HorizontalSettings
from models.program import run_locally
from models.released import calibration_bins, feature_shapes, histogram_bins, quality, roc_points
from models.scoring import ScoringInputError, score_frame

torch.set_num_threads(1)

FEATURES = (
    InputFeature("late", "integer", 0.0, 20.0, "increasing", "LATE", missing_allowed=False),
    InputFeature("use", "number", 0.0, 5.0, "none", "DEBT", missing_allowed=True),
    InputFeature("debt", "number", -10.0, 10.0, "none", "DEBT", missing_allowed=False),
)


def program(**settings):
    rng = np.random.default_rng(7)
    count = 6000
    late = np.minimum(rng.poisson(0.6, count), 20).astype(float)
    use = rng.gamma(1.2, 0.4, count).clip(0, 5)
    use[rng.random(count) < 0.15] = np.nan
    debt = rng.normal(0, 2, count).clip(-10, 10)
    log_odds = -2 + 0.9 * np.minimum(late, 4) + 0.7 * np.nan_to_num(use) + 0.3 * debt
    label = (rng.random(count) < 1 / (1 + np.exp(-log_odds))).astype(np.int8)
    data = TrainingData({"late": late, "use": use, "debt": debt}, label, rng.random(count) < 0.3)
    chosen = HorizontalSettings(**settings)
    return HorizontalProgram(
        data, FEATURES, "credit", chosen, member_number=0, weights=[1], provenance={"run_id": "r1"}
    )


@pytest.fixture(scope="module", params=["additive", "neural"])
def trained(request):
    if request.param == "additive":
        return run_locally(program())
    return run_locally(program(method="fedavg", tower="neural", hidden_units=(16, 8), rounds=8, batch_size=128))


@pytest.fixture
def rows():
    return pd.DataFrame({"late": [0, 3, 1], "use": [0.2, 4.0, None], "debt": [0.0, 5.0, -3.0], "note": ["a", "b", "c"]})


def test_the_version_of_a_model_is_the_sha256_of_its_artefact(trained):
    model = load_model(trained.artefact, trained.version)

    assert trained.version == hashlib.sha256(trained.artefact).hexdigest() == model_version(trained.artefact)
    assert model.version == trained.version
    assert model.to_bytes() == trained.artefact
    assert (model.task, model.provenance) == ("credit", {"run_id": "r1"})


def test_a_loaded_model_scores_as_the_trained_one(trained, rows):
    model = load_model(trained.artefact)

    scores = score_frame(model, rows)

    assert scores.pd == pytest.approx(1 / (1 + np.exp(-scores.log_odds)))
    assert scores.pd[1] > scores.pd[0]
    assert scores.points == pytest.approx(600 - 20 / math.log(2) * (scores.log_odds + math.log(50)))


def test_base_and_contributions_add_up_to_the_score_in_points_and_log_odds(trained, rows):
    model = load_model(trained.artefact)

    scores = score_frame(model, rows)

    assert scores.contributions.shape == (3, 3)
    total = scores.base_points + scores.contribution_points.sum(axis=1)
    assert total == pytest.approx(scores.points)
    # The integration of a neural tower leaves a small rest; an additive tower leaves none.
    rest = scores.log_odds - model.base_log_odds - scores.contributions.sum(axis=1)
    assert np.abs(rest).max() < (1e-9 if model.tower == "additive" else 0.05)


def test_reasons_are_ranked_by_points_lost_and_share_codes(trained, rows):
    scores = score_frame(load_model(trained.artefact), rows)

    reasons = scores.reasons(1)

    lost = [reason.points_lost for reason in reasons]
    assert lost == sorted(lost, reverse=True)
    assert {reason.reason_code for reason in reasons} == {"LATE", "DEBT"}
    debt = next(reason for reason in reasons if reason.reason_code == "DEBT")
    assert set(debt.features) == {"use", "debt"}
    assert debt.points_lost == pytest.approx(-scores.contribution_points[1, 1:].sum())
    assert len(scores.reasons(1, limit=1)) == 1


def test_one_row_as_plain_data_goes_into_json(trained, rows):
    plain = json.loads(json.dumps(score_frame(load_model(trained.artefact), rows).row(2)))

    assert set(plain) == {"pd", "log_odds", "points", "base_points", "contributions", "reasons"}
    assert set(plain["contributions"]) == {"late", "use", "debt"}


def test_contributions_of_an_additive_model_average_to_zero_over_the_training_population():
    one = program()
    model = load_model(run_locally(one).artefact)

    contributions = score_frame(model, one._training).contributions

    assert np.abs(contributions.mean(axis=0)).max() < 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"late": None}, "'late'"),
        ({"late": [0, 1.5, 1]}, "'late', row 2: expected a whole number"),
        ({"late": [0, 3, 21]}, "'late', row 3: expected a value from 0 to 20"),
        ({"late": [0, float("nan"), 1]}, "'late', row 2: .*missing"),
        ({"debt": [0, float("inf"), 1]}, "'debt', row 2"),
        ({"debt": ["a", "b", "c"]}, "'debt': expected numbers"),
        ({"debt": [[1.0, 2.0]] * 3}, "'debt': expected one value a row"),
        ({"debt": [0.0, 1.0]}, "one length"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused_in_one_sentence_without_their_values(trained, rows, change, message):
    given = {name: rows[name].tolist() for name in ("late", "use", "debt")} | change
    if change.get("late", 0) is None:
        del given["late"]

    with pytest.raises(ScoringInputError, match=message) as refused:
        score_frame(load_model(trained.artefact), given)
    assert "21" not in str(refused.value)
    assert "\n" not in str(refused.value)


def corrupted(artefact, **change):
    """The artefact with fields of its description replaced, canonical again."""
    description, tensors = unpack(artefact)
    return pack(description | change, tensors)


def test_artefacts_that_are_not_what_they_should_be_are_refused(trained):
    good = trained.artefact
    description, tensors = unpack(good)
    header = int.from_bytes(good[:8], "little")
    bad = [
        b"",
        b"PK\x03\x04" + good,
        good[:-1],
        good + b"\x00",
        good[: 8 + header],
        b"\xff" * 8 + good[8:],
        (header + 1).to_bytes(8, "little") + good[8:],
        b"\x80\x05\x95" + b"." * 64,
        (1 << 16).to_bytes(8, "little") + b"[" * (1 << 16),
        (1 << 16).to_bytes(8, "little") + b'{"a":' * ((1 << 16) // 5) + b" ",
        save({k: np.ascontiguousarray(v) for k, v in tensors.items()}),
        save(dict(tensors), metadata={"tallystick": canonical_json(description), "other": "x"}),
        save(dict(tensors), metadata={"tallystick": json.dumps(description)}),
        pack(description, {"parameters": tensors["parameters"]}),
        pack(description, tensors | {"more": np.zeros(1)}),
        pack(description, tensors | {"parameters": tensors["parameters"][:-1]}),
        pack(description, tensors | {"parameters": np.zeros(len(tensors["parameters"]), np.int64)}),
        pack(description, tensors | {"means": tensors["means"] * np.nan}),
        pack(["not", "an", "object"], tensors),
        corrupted(good, format="tallystick-model/2"),
        corrupted(good, unknown=1),
        corrupted(good, hidden_units=[10**9]),
        corrupted(good, hidden_units=[1 << 20] * 16),
        corrupted(good, base_rate=2.0),
        corrupted(good, features=[]),
        corrupted(good, features=description["features"] + description["features"][:1]),
        corrupted(good, scale={"pdo_points": -20.0, "base_points": 600.0, "base_odds": 50.0}),
    ]

    for data in bad:
        with pytest.raises(ArtefactError) as refused:
            load_model(data)
        assert "\n" not in str(refused.value)


def test_another_version_than_the_expected_one_is_refused(trained):
    with pytest.raises(ArtefactError, match="expected the model version"):
        load_model(trained.artefact, "0" * 64)


def test_every_flipped_byte_makes_another_version_or_a_refusal(trained):
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(trained.artefact), 200).tolist():
        flipped = bytearray(trained.artefact)
        flipped[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(ArtefactError):
            load_model(bytes(flipped), trained.version)


def test_a_flipped_artefact_is_refused_or_read_exactly_as_it_stands(trained):
    rng = np.random.default_rng(1)
    for place in rng.integers(0, len(trained.artefact), 300).tolist():
        flipped = bytearray(trained.artefact)
        flipped[place] ^= 1 << int(rng.integers(8))
        try:
            model = load_model(bytes(flipped))
        except ArtefactError:
            continue
        assert model.to_bytes() == bytes(flipped)


def test_a_file_is_plain_safetensors_that_other_programs_read(trained):
    assert set(load(trained.artefact)) == {"parameters", "means"}


def test_the_parts_of_a_released_table_come_from_the_result(trained):
    model = load_model(trained.artefact)

    shapes = feature_shapes(model, roles={"late": "bank"}, units={"late": "times"})
    found = trained.evaluation

    assert [shape.feature for shape in shapes] == ["late", "use", "debt"]
    assert (shapes[0].role, shapes[0].unit, shapes[1].role) == ("bank", "times", "member")
    assert shapes[0].bins[0].label == "0"
    assert shapes[1].bins[-1].missing
    assert all(sum(b.share for b in shape.bins) == pytest.approx(1) for shape in shapes)
    assert shapes[0].bins[-1].log_odds > shapes[0].bins[0].log_odds
    assert shapes[0].bins[-1].points < shapes[0].bins[0].points
    assert quality(found).auc == found.auc
    assert sum(b.rows or 0 for b in calibration_bins(found)) == found.rows
    assert sum(b.bads or 0 for b in histogram_bins(found)) == found.bads
    assert roc_points(found)[-1].true_positive_rate == 1.0


def test_shapes_of_an_additive_model_are_the_contributions_that_rows_get():
    model = load_model(run_locally(program()).artefact)
    shape = feature_shapes(model)[0]
    atoms = [b for b in shape.bins if b.low == b.high]

    scores = score_frame(
        model, {"late": [b.low for b in atoms], "use": [None] * len(atoms), "debt": [0.0] * len(atoms)}
    )

    assert scores.contributions[:, 0] == pytest.approx([b.log_odds for b in atoms], abs=1e-6)
