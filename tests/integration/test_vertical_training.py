"""Vertical training with real keys and ciphertexts: the benchmark's own code, on rows that are made here."""

import numpy as np
import pytest

from models.features import InputFeature
from models.metrics import auc
from models.newton import sigmoid
from models.vertical import VerticalSettings
from protos.encrypted_gradient.errors import QueryBudgetExceeded, TooFewContributors
from protos.encrypted_gradient.session import QueryBudget
from simulations.benchmarks.vertical import SPLITS, run
from simulations.datasets.locations import DataSetUnavailable
from simulations.pooled_towers import PooledRows
from simulations.vertical_auditor import UnsafeVerticalAuditor
from simulations.vertical_parties import train_vertically


def _rows(count, seed):
    generator = np.random.default_rng(seed)
    columns = {name: generator.uniform(0, 100, count) for name in "abcdef"}
    z = -2 + 0.02 * columns["a"] + 0.02 * columns["c"] - 0.02 * columns["e"] + (columns["d"] > 60) * (columns["c"] > 50)
    return columns, (generator.random(count) < sigmoid(z)).astype(float)


FEATURES = {
    role: [InputFeature(n, "number", 0.0, 100.0, "none", n.upper(), False) for n in names]
    for role, names in {"bank": "ab", "payment": "cd", "logistics": "ef"}.items()
}


@pytest.mark.parametrize(("roles", "pairs"), [(2, 0), (3, 0), (3, 2)])
def test_a_run_with_all_protections_comes_close_to_the_pooled_columns(roles, pairs):
    features = dict(list(FEATURES.items())[:roles])
    columns, label = _rows(12_000, 1)
    held, held_label = _rows(6000, 2)
    settings = VerticalSettings(passes=5, pairs=pairs)
    trained = train_vertically(features, columns, label, settings, partial_scores_visible=roles == 2)
    score = trained.bias + sum(tower.scores(tower.basis.levels(held)) for tower in trained.towers.values())
    auditor = UnsafeVerticalAuditor(features, PooledRows(columns, label), PooledRows(held, held_label), settings)
    pooled, alone = auditor.auc_of(list(features)), auditor.auc_of(["bank"])
    assert auc(held_label, score) > pooled - 0.006
    assert auc(held_label, score) > alone + 0.02
    assert abs(sigmoid(score).mean() - held_label.mean()) < 0.03
    assert trained.budget.asked <= 12_000
    assert trained.wire.moved_bytes > 0


def test_b5_a_run_with_one_feature_holder_needs_the_flag():
    columns, label = _rows(1000, 1)
    two = {role: FEATURES[role] for role in ("bank", "payment")}
    with pytest.raises(TooFewContributors, match="partial_scores_visible_to_label_holder"):
        train_vertically(two, columns, label, VerticalSettings(passes=2))


def test_b5_with_two_colluders_three_roles_are_too_few():
    columns, label = _rows(1000, 1)
    with pytest.raises(TooFewContributors):
        train_vertically(FEATURES, columns, label, VerticalSettings(passes=2), max_colluders=2)


def test_b4_a_run_that_asks_more_than_its_rows_is_refused():
    columns, label = _rows(1000, 1)
    with pytest.raises(QueryBudgetExceeded):
        train_vertically(FEATURES, columns, label, VerticalSettings(passes=2), budget=QueryBudget(1000, asked=950))


def test_the_benchmark_reports_every_key_and_reaches_its_figures_on_uci_default():
    try:
        (row,) = run([("uci_default", 3)], pairwise=(False,))
    except DataSetUnavailable as missing:
        pytest.skip(str(missing))
    expected = {
        "data",
        "parties",
        "pairwise",
        "auc",
        "auc_pooled",
        "auc_alone",
        "train_s",
        "passes",
        "peak_rss_mb",
        "wire_mb",
    }
    assert expected <= set(row)
    assert row["auc"] >= 0.782
    assert row["auc"] >= row["auc_pooled"] - 0.003
    assert row["passes"] <= 8
    assert row["wire_mb"] <= 75
    assert set(SPLITS) == {("uci_default", 2), ("uci_default", 3), ("gmsc", 3)}
