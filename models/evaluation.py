"""Evaluation from histograms of scores by class: the cohort's from a sealed sum, a member's own from its own rows.

The fine histogram (2,000 bins of log-odds) is opened by the members and gives AUC, KS, Gini and Brier. What may be
released besides is one coarse table on 20 public bins. There, a bin with too few goods or bads is merged with its
neighbour: its cells are suppressed, and so is the cell that would give them away by subtraction, since the merged
partition is the only one that any released figure (table, calibration, ROC points) is computed from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from models.features import FloatArray, IntArray
from models.metrics import OneClassError, auc_from_counts, brier_from_counts, ks_from_counts
from models.newton import sigmoid

FINE_BINS = 2000
LOG_ODDS_REACH = 10.0
"""The histogram covers log-odds from -10 to 10; what lies outside counts in the outer bins."""
COARSE_EDGES = tuple(-6.0 + 0.5 * k for k in range(19))
"""Inner edges, in log-odds of default, of the 20 public bins of released tables: the same for every model."""
_DIGITS = 6


@dataclass(frozen=True)
class CoarseBin:
    """One row of the released table.

    Attributes:
        low_log_odds: Lower end, None for the first bin.
        high_log_odds: Upper end, None for the last bin.
        goods: Non-defaulters.
        bads: Defaulters.
        mean_pd: Mean predicted PD, to the fine histogram's resolution.
        bad_rate: Observed share of bads.
    """

    low_log_odds: float | None
    high_log_odds: float | None
    goods: int
    bads: int
    mean_pd: float
    bad_rate: float


@dataclass(frozen=True)
class Evaluation:
    """Quality of one model on one hold-out.

    Attributes:
        auc: Area under the ROC curve.
        ks: Kolmogorov-Smirnov distance.
        gini: 2 AUC - 1.
        brier: Mean squared error of the PD.
        rows: Rows evaluated.
        bads: Defaulters among them.
        bad_rate: Their share.
        mean_pd: Mean predicted PD.
        min_cell_count: No cell of `table` holds fewer goods or fewer bads.
        table: The coarse table, safest bin first; it is the calibration table too.
        roc: (false positive rate, true positive rate) of the table's edges, from (0, 0) to (1, 1); riskiest first.
    """

    auc: float
    ks: float
    gini: float
    brier: float
    rows: int
    bads: int
    bad_rate: float
    mean_pd: float
    min_cell_count: int
    table: tuple[CoarseBin, ...]
    roc: tuple[tuple[float, float], ...]

    def as_plain(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = asdict(self)
        plain["table"] = list(plain["table"])
        plain["roc"] = [list(point) for point in plain["roc"]]
        return plain


def score_histogram(log_odds: FloatArray, label: ArrayLike) -> IntArray:
    """Goods and bads per fine bin of log-odds, shape (2, FINE_BINS), safest bin first."""
    position = np.floor((log_odds + LOG_ODDS_REACH) * (FINE_BINS / (2 * LOG_ODDS_REACH)))
    bins = np.clip(position, 0, FINE_BINS - 1).astype(np.int64)
    kinds = np.asarray(label)
    return np.stack([np.bincount(bins[kinds == kind], minlength=FINE_BINS) for kind in (0, 1)]).astype(np.int64)


def evaluate_histogram(counts: IntArray, min_cell_count: int) -> Evaluation:
    """All figures of one histogram.

    Args:
        counts: Goods and bads per fine bin, shape (2, FINE_BINS), as `score_histogram` gives them.
        min_cell_count: Smallest number of goods, and of bads, in a cell of the table; 0 merges nothing.

    Raises:
        OneClassError: The hold-out has goods only or bads only, or fewer than `min_cell_count` of one kind.
    """
    goods, bads = counts[0], counts[1]
    total_goods, total_bads = int(goods.sum()), int(bads.sum())
    if min(total_goods, total_bads) < max(min_cell_count, 1):
        raise OneClassError(
            f"expected at least {max(min_cell_count, 1)} goods and as many bads in the hold-out, found fewer;"
            " evaluate on more rows"
        )
    width = 2 * LOG_ODDS_REACH / FINE_BINS
    centre = -LOG_ODDS_REACH + width * (np.arange(FINE_BINS, dtype=np.float64) + 0.5)
    pd = sigmoid(np.asarray(centre, dtype=np.float64))
    area = auc_from_counts(goods, bads)
    table = _coarse_table(counts, pd, min_cell_count)
    rows = total_goods + total_bads
    return Evaluation(
        auc=round(area, _DIGITS),
        ks=round(ks_from_counts(goods, bads), _DIGITS),
        gini=round(2 * area - 1, _DIGITS),
        brier=round(brier_from_counts(goods, bads, pd), _DIGITS),
        rows=rows,
        bads=total_bads,
        bad_rate=round(total_bads / rows, _DIGITS),
        mean_pd=round(float(counts.sum(axis=0) @ pd) / rows, _DIGITS),
        min_cell_count=min_cell_count,
        table=table,
        roc=_roc(table),
    )


def _coarse_table(counts: IntArray, pd: FloatArray, min_cell_count: int) -> tuple[CoarseBin, ...]:
    per_unit = FINE_BINS / (2 * LOG_ODDS_REACH)
    edges = [0, *(round((edge + LOG_ODDS_REACH) * per_unit) for edge in COARSE_EDGES), FINE_BINS]
    kept = [0]
    for edge in edges[1:-1]:
        if counts[:, kept[-1] : edge].sum(axis=1).min() >= min_cell_count:
            kept.append(edge)
    # What is left at the risky end joins the bin before it until it holds enough.
    while len(kept) > 1 and counts[:, kept[-1] :].sum(axis=1).min() < min_cell_count:
        kept.pop()
    ends = [*kept[1:], FINE_BINS]
    table = []
    for start, end in zip(kept, ends, strict=True):
        good, bad = (int(total) for total in counts[:, start:end].sum(axis=1))
        rows = counts[:, start:end].sum(axis=0)
        table.append(
            CoarseBin(
                low_log_odds=None if start == 0 else start / per_unit - LOG_ODDS_REACH,
                high_log_odds=None if end == FINE_BINS else end / per_unit - LOG_ODDS_REACH,
                goods=good,
                bads=bad,
                mean_pd=round(float(rows @ pd[start:end]) / max(good + bad, 1), _DIGITS),
                bad_rate=round(bad / max(good + bad, 1), _DIGITS),
            )
        )
    return tuple(table)


def _roc(table: tuple[CoarseBin, ...]) -> tuple[tuple[float, float], ...]:
    goods = np.cumsum([0] + [row.goods for row in reversed(table)])
    bads = np.cumsum([0] + [row.bads for row in reversed(table)])
    return tuple(
        (round(float(good / goods[-1]), _DIGITS), round(float(bad / bads[-1]), _DIGITS))
        for good, bad in zip(goods, bads, strict=True)
    )
