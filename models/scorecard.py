"""Weight of evidence, information value and score points, as a scorecard's readers expect them.

WOE = ln(%good / %bad): positive where the bin is safer than the population. Points rise with safety: `pdo` points
double the odds, and odds are good:bad.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.basis import Block, blocks
from models.binning import FeatureBins
from models.features import FloatArray


class EmptyBinError(ValueError):
    """A bin has no goods or no bads, so its WOE would be infinite."""


def weight_of_evidence(goods: Sequence[int], bads: Sequence[int]) -> FloatArray:
    """WOE per bin, in nats.

    Args:
        goods: Non-defaulters per bin, all > 0.
        bads: Defaulters per bin, all > 0.

    Returns:
        ln(%good / %bad), shape (n_bins,).

    Raises:
        EmptyBinError: A bin has no goods or no bads.
    """
    good, bad = np.asarray(goods, dtype=np.float64), np.asarray(bads, dtype=np.float64)
    empty = np.flatnonzero((good <= 0) | (bad <= 0))
    if empty.size:
        raise EmptyBinError(f"expected goods and bads in every bin, found none in bin {int(empty[0])}; merge it")
    return np.asarray(np.log((good / good.sum()) / (bad / bad.sum())), dtype=np.float64)


def information_value(goods: Sequence[int], bads: Sequence[int]) -> float:
    """Information value of one binned feature: sum over bins of (%good - %bad) * WOE, in nats.

    Raises:
        EmptyBinError: A bin has no goods or no bads.
    """
    woe = weight_of_evidence(goods, bads)
    good, bad = np.asarray(goods, dtype=np.float64), np.asarray(bads, dtype=np.float64)
    return float(((good / good.sum() - bad / bad.sum()) * woe).sum())


@dataclass(frozen=True)
class PointsScale:
    """How log-odds become score points.

    Attributes:
        pdo_points: Points that double the odds, > 0.
        base_points: Points at `base_odds`.
        base_odds: Odds good:bad at `base_points`, > 0.
    """

    pdo_points: float = 20.0
    base_points: float = 600.0
    base_odds: float = 50.0

    @property
    def points_per_nat(self) -> float:
        """Points lost for one more unit of log-odds of default."""
        return self.pdo_points / math.log(2.0)

    def points(self, log_odds_bad: FloatArray) -> FloatArray:
        """Score points of log-odds of default (bad:good); more points are safer."""
        return self.base_points - self.points_per_nat * (np.asarray(log_odds_bad) + math.log(self.base_odds))

    def contribution_points(self, contributions: FloatArray) -> FloatArray:
        """Points that contributions to the log-odds of default add (negative: they cost points)."""
        return -self.points_per_nat * np.asarray(contributions)


def bin_rows(
    bins: Sequence[FeatureBins], values: FloatArray | None = None, scale: PointsScale | None = None
) -> list[dict[str, object]]:
    """The scorecard table as plain rows: one per feature and bin, with counts of the cohort, WOE and points.

    Args:
        bins: Bins per feature.
        values: Contribution of each column to the log-odds of default at the bin's knot, shape (n_columns,); None
            for a neural tower, which has no points per bin.
        scale: Points scale that goes with `values`.

    Returns:
        Rows with the keys feature, bin, low, high, atom, missing, goods, bads, bad_rate, woe,
        information_value (the bin's part) and, with `values`, contribution and points.
    """
    rows: list[dict[str, object]] = []
    for feature_bins, block in zip(bins, blocks(bins), strict=True):
        rows += _feature_rows(feature_bins, block, values, scale)
    return rows


def information_values(bins: Sequence[FeatureBins]) -> dict[str, float]:
    """Information value per feature, rounded to 1e-6; 0 for a feature that has one bin."""
    found: dict[str, float] = {}
    for feature_bins in bins:
        goods, bads = _counts(feature_bins)
        found[feature_bins.feature.name] = round(information_value(goods, bads), 6) if len(goods) > 1 else 0.0
    return found


def _counts(bins: FeatureBins) -> tuple[list[int], list[int]]:
    pairs = [(b.goods, b.bads) for b in bins.bins] + ([bins.missing] if bins.missing else [])
    return [good for good, _ in pairs], [bad for _, bad in pairs]


def _feature_rows(
    bins: FeatureBins, block: Block, values: FloatArray | None, scale: PointsScale | None
) -> list[dict[str, object]]:
    goods, bads = _counts(bins)
    many = len(goods) > 1
    woe = weight_of_evidence(goods, bads) if many else np.zeros(len(goods))
    rows: list[dict[str, object]] = []
    for k, (good, bad) in enumerate(zip(goods, bads, strict=True)):
        missing = k == len(bins.bins)
        row: dict[str, object] = {
            "feature": bins.feature.name,
            "bin": k,
            "low": None if missing else bins.bins[k].low,
            "high": None if missing else bins.bins[k].high,
            "atom": not missing and bins.bins[k].atom,
            "missing": missing,
            "goods": good,
            "bads": bad,
            "bad_rate": round(bad / max(good + bad, 1), 6),
            "woe": round(float(woe[k]), 6),
            "information_value": round(float((good / sum(goods) - bad / sum(bads)) * woe[k]), 6) if many else 0.0,
        }
        if values is not None and scale is not None:
            contribution = float(values[block.start + k]) if block.num_bins else 0.0
            row["contribution"] = round(contribution, 6)
            row["points"] = round(float(scale.contribution_points(np.array(contribution))), 2)
        rows.append(row)
    return rows
