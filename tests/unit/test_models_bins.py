"""Grid, bins, basis and scorecard."""

import math

import numpy as np
import pytest

from models.basis import blocks, column_means, design_matrix
from models.binning import BinningRules, choose_bins, histogram
from models.features import InputFeature, TrainingData, TrainingDataError
from models.grid import feature_grid
from models.scorecard import (
    EmptyBinError,
    PointsScale,
    bin_rows,
    information_value,
    information_values,
    weight_of_evidence,
)

RULES = BinningRules(bins=8, min_rows=50, min_cell_count=10)


def feature(name="x", kind="integer", low=0.0, high=98.0, **more):
    terms = {"monotone": "none", "reason_code": "X", "missing_allowed": True} | more
    return InputFeature(name=name, type=kind, low=low, high=high, **terms)


def bins_of(terms, values, label, rules=RULES):
    grid = feature_grid(terms)
    counts = histogram(grid, values, label)
    return choose_bins(terms, grid, counts, rules), counts


def past_due(rows=20000, seed=1):
    """84 % zeros, as in Give Me Some Credit: plain quantiles see nothing else."""
    rng = np.random.default_rng(seed)
    values = np.minimum(rng.geometric(0.75, rows) - 1, 98).astype(float)
    values[rng.random(rows) < 0.3] = 0
    label = (rng.random(rows) < np.minimum(0.05 + 0.15 * values, 0.6)).astype(np.int8)
    return values, label


def test_grid_keeps_small_whole_numbers_apart_from_each_other():
    grid = feature_grid(feature(high=100000.0))

    cells = grid.cells(np.arange(0.0, 129.0))

    assert len(set(cells.tolist())) == 129
    assert grid.atom[cells].all()


def test_grid_of_a_number_keeps_zero_apart_from_values_just_above_it():
    grid = feature_grid(feature(kind="number", high=50000.0))

    zero, tiny = grid.cells(np.array([0.0, 1e-4]))

    assert grid.atom[zero]
    assert zero != tiny


def test_grid_counts_missing_values_in_a_cell_of_their_own_and_clips_the_rest_into_the_range():
    grid = feature_grid(feature(high=10.0))

    assert grid.cells(np.array([np.nan, -5.0, 99.0])).tolist() == [grid.num_cells, 0, grid.num_cells - 1]


def test_grid_covers_a_range_of_both_signs_in_ascending_order():
    grid = feature_grid(feature(kind="number", low=-200000.0, high=1e6))

    assert (np.diff(grid.lower) > 0).all()
    assert grid.lower[0] == -200000.0
    ends = np.append(grid.lower[1:], 1e6)
    assert ((grid.centre >= grid.lower) & (grid.centre <= ends)).all()


def test_atoms_keep_bins_of_their_own_where_quantiles_would_collapse():
    values, label = past_due()

    bins, _ = bins_of(feature(), values, label)

    assert set(np.quantile(values, np.arange(1, 8) / 8).tolist()) <= {0.0, 1.0}
    assert [b.low for b in bins.bins if b.atom][:3] == [0.0, 1.0, 2.0]


def test_bins_together_hold_every_row_once():
    values, label = past_due()

    bins, _ = bins_of(feature(), values, label)

    assert sum(b.goods for b in bins.bins) == (label == 0).sum()
    assert sum(b.bads for b in bins.bins) == (label == 1).sum()
    assert 2 <= len(bins.bins) <= RULES.bins + 1


def test_no_bin_is_touched_by_fewer_rows_than_the_minimum():
    rng = np.random.default_rng(2)
    values = rng.lognormal(3, 2, 3000)
    label = (rng.random(3000) < 0.04).astype(np.int8)

    bins, _ = bins_of(feature(kind="number", high=1e6), values, label)

    assert all(b.goods + b.bads >= 50 and min(b.goods, b.bads) >= 10 for b in bins.bins)


def test_rare_missing_values_join_the_fullest_bin_so_that_no_total_gives_them_away():
    values, label = past_due()
    values[:20] = np.nan

    bins, _ = bins_of(feature(), values, label)

    assert bins.missing is None
    assert sum(b.goods + b.bads for b in bins.bins) == len(values)
    design = design_matrix([bins], {"x": np.array([np.nan, 0.0])})
    assert design[0].tolist() == design[1].tolist()


def test_frequent_missing_values_get_a_column_of_their_own():
    values, label = past_due()
    values[:5000] = np.nan

    bins, _ = bins_of(feature(), values, label)

    assert bins.missing == (int((label[:5000] == 0).sum()), int(label[:5000].sum()))
    assert design_matrix([bins], {"x": np.array([np.nan])})[0].tolist() == [0.0] * len(bins.bins) + [1.0]


def test_a_constant_feature_takes_no_column_and_has_no_information():
    _, label = past_due()
    varying, _ = bins_of(feature(), *past_due())

    constant, _ = bins_of(feature("c"), np.full(len(label), 3.0), label)

    assert constant.num_columns == 0
    assert information_values([constant]) == {"c": 0.0}
    assert [b.num_bins for b in blocks([constant, varying])] == [0, len(varying.bins)]


def test_a_cohort_without_bads_is_refused_in_one_sentence():
    values, label = past_due()

    with pytest.raises(TrainingDataError, match="at least 10 goods and as many bads"):
        bins_of(feature(), values, np.zeros_like(label))


def test_hats_of_a_row_add_up_to_one_and_pass_linearly_between_knots():
    rng = np.random.default_rng(4)
    values = rng.lognormal(3, 1, 5000)
    label = (rng.random(5000) < 0.3).astype(np.int8)
    terms = feature(kind="number", high=1e4)
    bins, _ = bins_of(terms, values, label)
    first, second = bins.bins[1].knot, bins.bins[2].knot
    unit = 1e4 / 2**24
    middle = math.sinh((math.asinh(first / unit) + math.asinh(second / unit)) / 2) * unit

    design = design_matrix([bins], {"x": np.array([first, middle, second, 0.0, 1e4])})

    assert np.allclose(design.sum(axis=1), 1)
    assert design[0, 1] == pytest.approx(1)
    assert design[1, 1:3] == pytest.approx([0.5, 0.5])
    assert design[2, 2] == pytest.approx(1)
    assert design[3, 0] == 1
    assert design[4, -1] == 1


def test_a_value_between_atoms_that_training_never_saw_is_read_as_in_between():
    values = np.repeat([1.0, 4.0], 500)
    label = np.tile([0, 0, 0, 1], 250).astype(np.int8)
    bins, _ = bins_of(feature(high=6.0), values, label)
    assert all(b.atom for b in bins.bins)

    design = design_matrix([bins], {"x": np.array([1.0, 2.0, 4.0, 6.0])})

    assert design[0].tolist() == [1, 0]
    assert 0 < design[1, 0] < 1
    assert design[3].tolist() == [0, 1]


def test_column_means_from_the_histogram_are_those_of_the_rows_where_cells_are_exact():
    values, label = past_due()
    values[:3000] = np.nan
    bins, counts = bins_of(feature(), values, label)

    expected = design_matrix([bins], {"x": values}).mean(axis=0)

    assert column_means([bins], [counts]) == pytest.approx(expected, abs=1e-6)


def test_weight_of_evidence_is_positive_where_a_bin_is_safer_than_the_population():
    woe = weight_of_evidence([90, 10], [40, 60])

    assert woe == pytest.approx([math.log(0.9 / 0.4), math.log(0.1 / 0.6)])


def test_information_value_matches_its_definition_by_hand():
    expected = (0.9 - 0.4) * math.log(0.9 / 0.4) + (0.1 - 0.6) * math.log(0.1 / 0.6)

    assert information_value([90, 10], [40, 60]) == pytest.approx(expected)


def test_a_bin_without_bads_is_refused_rather_than_given_an_infinite_weight():
    with pytest.raises(EmptyBinError, match="bin 1"):
        weight_of_evidence([90, 10], [40, 0])


def test_twenty_points_double_the_odds_and_six_hundred_stand_for_fifty_to_one():
    scale = PointsScale(pdo_points=20, base_points=600, base_odds=50)

    points = scale.points(np.log([1 / 50, 1 / 100, 1 / 25]))

    assert points == pytest.approx([600, 620, 580])
    assert scale.contribution_points(np.array([math.log(2)])) == pytest.approx([-20])


def test_scorecard_rows_carry_counts_woe_and_points_of_every_bin():
    values, label = past_due()
    values[:5000] = np.nan
    bins, _ = bins_of(feature(), values, label)

    rows = bin_rows([bins], np.arange(bins.num_columns, dtype=float), PointsScale())

    assert len(rows) == len(bins.bins) + 1
    assert rows[-1]["missing"]
    assert rows[-1]["low"] is None
    assert sum(row["goods"] + row["bads"] for row in rows) == len(values)
    assert sum(row["information_value"] for row in rows) == pytest.approx(information_values([bins])["x"], abs=1e-5)
    assert rows[1]["points"] == pytest.approx(-20 / math.log(2), abs=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": np.array([0, 2, 1], np.int8)}, "labels 0"),
        ({"holdout": np.array([True])}, "hold-out mark"),
        ({"columns": {"x": np.array([1.0])}}, "'x': expected 3 values"),
        ({"columns": {"x": np.array([1.0, np.inf, 2.0])}}, "'x': expected finite"),
    ],
)
def test_training_rows_that_do_not_fit_are_refused_in_one_sentence(change, message):
    good = {
        "columns": {"x": np.zeros(3)},
        "label": np.array([0, 1, 1], np.int8),
        "holdout": np.array([True, False, False]),
    }

    with pytest.raises(TrainingDataError, match=message):
        TrainingData(**(good | change))
