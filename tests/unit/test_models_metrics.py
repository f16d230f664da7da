"""Metrics and evaluation, against scikit-learn and SciPy."""

import numpy as np
import pytest
from scipy.stats import ks_2samp
from sklearn.metrics import brier_score_loss, roc_auc_score

from models.evaluation import COARSE_EDGES, FINE_BINS, evaluate_histogram, score_histogram
from models.metrics import OneClassError, auc, auc_from_counts, brier, gini, ks


def scored(rows=4000, seed=0, base=-2.0):
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(base, 1.3, rows)
    label = (rng.random(rows) < 1 / (1 + np.exp(-log_odds))).astype(np.int8)
    return log_odds, label


def test_auc_ks_gini_and_brier_equal_those_of_other_libraries():
    score, label = scored()
    pd = 1 / (1 + np.exp(-score))

    assert auc(label, score) == pytest.approx(roc_auc_score(label, score))
    assert ks(label, score) == pytest.approx(ks_2samp(score[label == 1], score[label == 0]).statistic)
    assert gini(label, score) == pytest.approx(2 * roc_auc_score(label, score) - 1)
    assert brier(label, pd) == pytest.approx(brier_score_loss(label, pd))


def test_auc_counts_ties_half():
    score, label = scored(500)

    assert auc(label, np.round(score)) == pytest.approx(roc_auc_score(label, np.round(score)))


def test_auc_of_one_class_is_refused():
    with pytest.raises(OneClassError, match="goods and bads"):
        auc_from_counts([3, 4], [0, 0])


def test_figures_from_the_fine_histogram_equal_those_of_the_rows():
    score, label = scored(30000)

    found = evaluate_histogram(score_histogram(score, label), 10)

    assert found.auc == pytest.approx(roc_auc_score(label, score), abs=1e-4)
    assert found.ks == pytest.approx(ks(label, score), abs=2e-3)
    assert found.brier == pytest.approx(brier(label, 1 / (1 + np.exp(-score))), abs=1e-5)
    assert found.gini == pytest.approx(2 * found.auc - 1, abs=2e-6)
    assert (found.rows, found.bads) == (30000, label.sum())


def test_histograms_of_members_add_up_to_the_histogram_of_all_rows():
    score, label = scored(3000)

    parts = sum(score_histogram(score[k::3], label[k::3]) for k in range(3))

    assert (parts == score_histogram(score, label)).all()


def test_scores_beyond_the_reach_of_the_histogram_count_in_its_outer_bins():
    counts = score_histogram(np.array([-50.0, 50.0]), np.array([0, 1]))

    assert counts[0, 0] == 1
    assert counts[1, FINE_BINS - 1] == 1


def test_d2_no_released_cell_and_no_difference_of_released_figures_is_below_the_minimum():
    for seed in range(20):
        score, label = scored(1500, seed=seed, base=-3.0)
        table = evaluate_histogram(score_histogram(score, label), 10).table

        assert sum(row.goods for row in table) == (label == 0).sum()
        assert sum(row.bads for row in table) == label.sum()
        assert all(row.goods >= 10 and row.bads >= 10 for row in table)


def test_d2_roc_points_are_those_of_the_released_table_alone():
    score, label = scored()
    found = evaluate_histogram(score_histogram(score, label), 10)

    assert len(found.roc) == len(found.table) + 1
    assert found.roc[0] == (0.0, 0.0)
    assert found.roc[-1] == (1.0, 1.0)
    riskiest = found.table[-1]
    assert found.roc[1] == pytest.approx((riskiest.goods / (label == 0).sum(), riskiest.bads / label.sum()), abs=1e-6)


def test_d3_edges_of_the_released_table_are_public_and_do_not_depend_on_the_model():
    score, label = scored(20000)
    inner = {row.low_log_odds for row in evaluate_histogram(score_histogram(score, label), 10).table} - {None}
    shifted = {row.low_log_odds for row in evaluate_histogram(score_histogram(score + 0.3, label), 10).table} - {None}

    assert len(COARSE_EDGES) == 19
    assert inner | shifted <= set(COARSE_EDGES)


def test_a_holdout_with_too_few_bads_is_refused_rather_than_released():
    with pytest.raises(OneClassError, match="at least 10"):
        evaluate_histogram(score_histogram(np.zeros(100), np.array([1] * 9 + [0] * 91)), 10)


def test_the_calibration_of_a_true_model_is_close_to_the_diagonal():
    score, label = scored(100000)

    for row in evaluate_histogram(score_histogram(score, label), 10).table:
        assert abs(row.mean_pd - row.bad_rate) < 4 * np.sqrt(row.mean_pd / (row.goods + row.bads))
