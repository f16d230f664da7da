"""One row at a time is the frame's score, to the last bit."""

import math

import numpy as np
import pytest

from models.artefact import load_model
from models.features import InputFeature, TrainingData
from models.horizontal import HorizontalProgram, HorizontalSettings
from models.program import run_locally
from models.scoring import ScoringInputError, score_frame
from models.scoring_row import RowScorer

FEATURES = (
    InputFeature("late", "integer", 0.0, 20.0, "increasing", "LATE", missing_allowed=False),
    InputFeature("use", "number", 0.0, 5.0, "none", "DEBT", missing_allowed=True),
    InputFeature("debt", "number", -10.0, 10.0, "none", "DEBT", missing_allowed=False),
    InputFeature("flag", "integer", 0.0, 1.0, "none", "FLAG", missing_allowed=False),
    InputFeature("same", "number", 0.0, 1.0, "none", "SAME", missing_allowed=True),
)


def rows(rng, count):
    use = rng.gamma(1.2, 0.4, count).clip(0, 5)
    use[rng.random(count) < 0.15] = np.nan
    return {
        "late": np.minimum(rng.poisson(0.6, count), 20).astype(float),
        "use": use,
        "debt": rng.normal(0, 2, count).clip(-10, 10),
        "flag": rng.integers(0, 2, count).astype(float),
        "same": np.full(count, 0.5),
    }


@pytest.fixture(scope="module", params=["additive", "neural"])
def model(request):
    rng = np.random.default_rng(7)
    columns = rows(rng, 6000)
    log_odds = -2 + 0.9 * np.minimum(columns["late"], 4) + 0.7 * np.nan_to_num(columns["use"]) + 0.3 * columns["debt"]
    label = (rng.random(6000) < 1 / (1 + np.exp(-log_odds))).astype(np.int8)
    data = TrainingData(columns, label, rng.random(6000) < 0.3)
    settings = {}
    if request.param == "neural":
        settings = {"method": "fedavg", "tower": "neural", "hidden_units": (16, 8), "rounds": 2, "batch_size": 128}
    program = HorizontalProgram(data, FEATURES, "credit", HorizontalSettings(**settings), member_number=0, weights=[1])
    return load_model(run_locally(program).artefact)


def test_one_row_is_scored_as_the_frame_scores_it_to_the_last_bit(model):
    scorer = RowScorer(model)
    columns = rows(np.random.default_rng(11), 200)
    columns["late"][:21] = np.arange(21)
    columns["debt"][:3] = -10.0, 10.0, 0.0

    for k in range(200):
        row = {name: None if math.isnan(values[k]) else float(values[k]) for name, values in columns.items()}
        alone, framed = (
            scorer.score(row),
            score_frame(model, {name: [value] for name, value in columns.items() for value in [value[k]]}),
        )
        for name in ("pd", "log_odds", "points", "contributions", "contribution_points", "base_points"):
            assert getattr(alone, name).tobytes() == getattr(framed, name).tobytes(), (k, name)
        assert alone.reasons(0) == framed.reasons(0)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"late": None}, "'late': expected a value, found a missing one"),
        ({"late": math.nan}, "'late': expected a value, found a missing one"),
        ({"late": 1.5}, "'late': expected a whole number, found a fraction"),
        ({"late": 21.0}, "'late': expected a value from 0 to 20, found one outside"),
        ({"debt": math.inf}, "'debt': expected a value from -10 to 10, found one outside"),
        ({"other": 1.0}, "found 1 more"),
    ],
)
def test_a_row_that_the_model_cannot_score_is_refused(model, change, expected):
    row = {"late": 1.0, "use": None, "debt": 0.0, "flag": 1.0, "same": 0.5}

    with pytest.raises(ScoringInputError, match=expected):
        RowScorer(model).score(row | change)
