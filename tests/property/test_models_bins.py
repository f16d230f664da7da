"""What holds of bins, bases and snapshots for whatever rows and ranges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.basis import column_means, design_matrix
from models.binning import BinningRules, choose_bins, histogram
from models.evaluation import evaluate_histogram, score_histogram
from models.features import InputFeature, TrainingDataError
from models.grid import feature_grid
from models.metrics import OneClassError, auc
from models.scorecard import bin_rows, information_values


@st.composite
def features(draw):
    kind = draw(st.sampled_from(["number", "integer"]))
    low = draw(st.sampled_from([0.0, -1e6, -2.0, 1.0, 18.0]))
    high = low + draw(st.sampled_from([1.0, 3.0, 100.0, 1e4, 1e9]))
    return InputFeature("x", kind, low, high, "none", "X", missing_allowed=True)


@st.composite
def problems(draw):
    feature = draw(features())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(100, 1500))
    shape = draw(st.sampled_from(["uniform", "skewed", "few"]))
    spread = feature.high - feature.low
    values = {
        "uniform": rng.uniform(feature.low, feature.high, count),
        "skewed": feature.low + np.minimum(rng.exponential(spread / 1000, count), spread),
        "few": feature.low + np.minimum(rng.integers(0, 4, count), spread),
    }[shape]
    if feature.type == "integer":
        values = np.rint(values)
    values[rng.random(count) < draw(st.sampled_from([0.0, 0.01, 0.3, 1.0]))] = np.nan
    label = (rng.random(count) < draw(st.sampled_from([0.02, 0.2, 0.5]))).astype(np.int8)
    rules = BinningRules(draw(st.integers(2, 12)), draw(st.sampled_from([1, 50])), draw(st.sampled_from([1, 10])))
    return feature, values, label, rules


@settings(max_examples=200, deadline=None, derandomize=True)
@given(problems())
def test_bins_keep_every_row_meet_the_minima_and_give_a_basis_that_adds_up_to_one(problem):
    feature, values, label, rules = problem
    grid = feature_grid(feature)
    counts = histogram(grid, values, label)
    assert counts.sum() == len(label)
    try:
        bins = choose_bins(feature, grid, counts, rules)
    except TrainingDataError:
        assert min(label.sum(), (1 - label).sum()) < rules.min_cell_count
        return

    missing = bins.missing or (0, 0)
    assert sum(b.goods for b in bins.bins) + missing[0] == (label == 0).sum()
    assert sum(b.bads for b in bins.bins) + missing[1] == (label == 1).sum()
    many = bins.num_columns > 0
    cells = [(b.goods, b.bads) for b in bins.bins] + ([missing] if bins.missing else [])
    if many:
        assert all(g + b >= rules.min_rows and min(g, b) >= rules.min_cell_count for g, b in cells)
        assert sum(row["goods"] + row["bads"] for row in bin_rows([bins])) == len(label)
        assert information_values([bins])["x"] >= 0
        design = design_matrix([bins], {"x": values})
        assert design.sum(axis=1) == pytest.approx(np.ones(len(label)))
        assert design.min() >= 0
        assert design.max() <= 1
        # A column that hardly any row touches would tell about that row: every bin's rows touch its column.
        assert ((design > 0).sum(axis=0) >= rules.min_rows // 2).all()
        assert column_means([bins], [counts]).sum() == pytest.approx(1, abs=1e-5)
    knots = [b.knot for b in bins.bins]
    assert knots == sorted(set(knots))
    assert all(first.high <= second.low for first, second in zip(bins.bins, bins.bins[1:], strict=False))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(problems(), st.integers(2, 7))
def test_bins_do_not_depend_on_how_rows_are_dealt_to_members(problem, members):
    feature, values, label, rules = problem
    if min(label.sum(), (1 - label).sum()) < rules.min_cell_count:
        return
    grid = feature_grid(feature)
    parts = [histogram(grid, values[k::members], label[k::members]) for k in range(members)]

    together = choose_bins(feature, grid, histogram(grid, values, label), rules)

    assert choose_bins(feature, grid, np.sum(parts, axis=0), rules) == together


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(30, 3000), st.floats(-5, 3), st.integers(0, 20))
def test_released_tables_never_show_a_small_cell_and_agree_with_the_rows(seed, count, base, least):
    rng = np.random.default_rng(seed)
    score = rng.normal(base, 2.0, count)
    label = (rng.random(count) < 1 / (1 + np.exp(-score))).astype(np.int8)
    try:
        found = evaluate_histogram(score_histogram(score, label), least)
    except OneClassError:
        assert min(label.sum(), (1 - label).sum()) < max(least, 1)
        return

    assert all(row.goods >= least and row.bads >= least for row in found.table)
    assert sum(row.bads for row in found.table) == label.sum()
    # Rows that share a fine bin count as ties: the error is at most half the share of such pairs.
    counts = score_histogram(score, label)
    ties = float((counts[0] * counts[1]).sum()) / (label.sum() * (1 - label).sum())
    assert abs(found.auc - auc(label, score)) <= ties / 2 + 1e-6
    assert all(low[0] <= high[0] and low[1] <= high[1] for low, high in zip(found.roc, found.roc[1:], strict=False))
