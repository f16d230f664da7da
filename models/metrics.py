"""How well a score separates goods from bads: exact on rows, and from counts per score bin.

AUC is the chance that a bad has the higher log-odds of default than a good, ties counting half. KS is the largest
gap between the two distribution functions, Gini = 2 AUC - 1, Brier the mean squared error of the PD.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from models.features import FloatArray, IntArray


class OneClassError(ValueError):
    """There are only goods or only bads, so nothing can be separated."""


def auc(label: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve of rows; `label` 1 = bad, a higher `score` is riskier.

    Raises:
        OneClassError: Only one class is present.
    """
    return auc_from_counts(*_counts_by_score(label, score))


def ks(label: ArrayLike, score: ArrayLike) -> float:
    """Kolmogorov-Smirnov distance of rows.

    Raises:
        OneClassError: Only one class is present.
    """
    return ks_from_counts(*_counts_by_score(label, score))


def gini(label: ArrayLike, score: ArrayLike) -> float:
    """Gini coefficient of rows, 2 AUC - 1.

    Raises:
        OneClassError: Only one class is present.
    """
    return 2.0 * auc(label, score) - 1.0


def brier(label: ArrayLike, pd: ArrayLike) -> float:
    """Mean squared difference of PD and outcome."""
    return float(np.mean((np.asarray(pd, dtype=np.float64) - np.asarray(label, dtype=np.float64)) ** 2))


def auc_from_counts(goods: ArrayLike, bads: ArrayLike) -> float:
    """AUC of counts per score bin, riskier bins last; rows of one bin are ties.

    Raises:
        OneClassError: Only one class is present.
    """
    good, bad = _both(goods, bads)
    below = np.cumsum(good) - good
    return float(((below + good / 2) * bad).sum() / (good.sum() * bad.sum()))


def ks_from_counts(goods: ArrayLike, bads: ArrayLike) -> float:
    """KS of counts per score bin, riskier bins last.

    Raises:
        OneClassError: Only one class is present.
    """
    good, bad = _both(goods, bads)
    return float(np.abs(np.cumsum(bad) / bad.sum() - np.cumsum(good) / good.sum()).max())


def brier_from_counts(goods: ArrayLike, bads: ArrayLike, pd: FloatArray) -> float:
    """Brier score of counts per score bin whose rows all have the bin's PD, shape (n_bins,)."""
    good, bad = np.asarray(goods, dtype=np.float64), np.asarray(bads, dtype=np.float64)
    return float((good * pd**2 + bad * (1 - pd) ** 2).sum() / (good.sum() + bad.sum()))


def _both(goods: ArrayLike, bads: ArrayLike) -> tuple[FloatArray, FloatArray]:
    good, bad = np.asarray(goods, dtype=np.float64), np.asarray(bads, dtype=np.float64)
    if good.sum() <= 0 or bad.sum() <= 0:
        raise OneClassError("expected goods and bads, found one of them only; evaluate on more rows")
    return good, bad


def _counts_by_score(label: ArrayLike, score: ArrayLike) -> tuple[IntArray, IntArray]:
    bad = np.asarray(label).astype(np.int64)
    _, position = np.unique(np.asarray(score, dtype=np.float64), return_inverse=True)
    goods = np.bincount(position, weights=1 - bad)
    bads = np.bincount(position, weights=bad)
    return goods.astype(np.int64), bads.astype(np.int64)
