"""The record of a federated model: read back as written, refused when it is none, and the scale of its points."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.scorecard import PointsScale
from policies.errors import SettingsRefused
from policies.federated_model import FILE_NAME, FederatedModel, load_federated_model

MODEL = FederatedModel(
    run_id="run-1",
    task="credit",
    version="ab" * 32,
    bias=-2.5,
    pdo_points=20.0,
    base_points=600.0,
    base_odds=50.0,
    reason_codes=("AGE", "INCOME"),
)


@pytest.mark.parametrize("as_folder", [True, False])
def test_record_is_read_back_as_it_was_written(tmp_path, as_folder):
    MODEL.save(tmp_path / FILE_NAME)

    assert load_federated_model(tmp_path if as_folder else tmp_path / FILE_NAME) == MODEL


@given(st.integers(-64 * 50, 64 * 50))
def test_points_are_those_of_the_models_own_scale(total):
    scale = PointsScale(pdo_points=20.0, base_points=600.0, base_odds=50.0)
    log_odds = -2.5 + total / 64

    assert MODEL.points(total) == pytest.approx(float(scale.points(log_odds)))
    assert MODEL.probability(total) == pytest.approx(1 / (1 + math.exp(-log_odds)))


@pytest.mark.parametrize("total", [-(2**62), 2**62])
def test_probability_of_an_absurd_total_is_still_one(total):
    assert 0 <= MODEL.probability(total) <= 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"bias": "x"}, "bias"),
        ({"bias": math.nan}, "bias"),
        ({"pdo_points": 0.0}, "pdo_points"),
        ({"version": "1"}, "version"),
        ({"reason_codes": []}, "reason_codes"),
        ({"reason_codes": ["AGE", "AGE"]}, "every reason code once"),
        ({"format": "tallystick-federated-model/2"}, "format"),
        ({"extra": 1}, "extra"),
    ],
)
def test_record_that_does_not_hold_together_is_one_sentence(tmp_path, change, sentence):
    (tmp_path / FILE_NAME).write_text(json.dumps(MODEL.model_dump(mode="json") | change))
    with pytest.raises(SettingsRefused, match=sentence):
        load_federated_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b'"x"'])
def test_file_that_is_no_record_is_one_sentence(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(SettingsRefused, match="expected the record of a federated model"):
        load_federated_model(tmp_path)
