"""From the result of a run to the tables that its members sign, in the words of policies/release.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypedDict

from models.evaluation import CoarseBin, Evaluation
from policies.release import (
    CalibrationBin,
    FeatureShape,
    HistogramBin,
    Quality,
    RocPoint,
    ShapeBin,
)


class FeatureWords(Protocol):
    """What a table says of a feature besides its bins; the agreement's own feature type fits."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def role(self) -> str: ...  # noqa: D102
    @property
    def unit(self) -> str: ...  # noqa: D102
    @property
    def type(self) -> str: ...  # noqa: D102


class ReleasedResult(Protocol):
    """The part of `models.program.RunResult` that is released."""

    @property
    def evaluation(self) -> Evaluation: ...  # noqa: D102
    @property
    def scorecard(self) -> list[dict[str, Any]]: ...  # noqa: D102
    @property
    def information_values(self) -> dict[str, float]: ...  # noqa: D102


class EvaluationFields(TypedDict):
    """Keyword arguments of `policies.release.ReleasedTable` that come from the result."""

    quality: Quality
    calibration: tuple[CalibrationBin, ...]
    roc: tuple[RocPoint, ...]
    histogram: tuple[HistogramBin, ...]
    features: tuple[FeatureShape, ...]


def evaluation_fields(result: ReleasedResult, features: Sequence[FeatureWords]) -> EvaluationFields:
    """What a released table says about quality and feature shapes.

    Args:
        result: The result of a finished program; its cells are already merged up to the minimum count.
        features: The agreement's features, for role, unit and type.
    """
    evaluation = result.evaluation
    return EvaluationFields(
        quality=Quality(
            auc=evaluation.auc,
            ks=evaluation.ks,
            gini=evaluation.gini,
            brier=evaluation.brier,
            rows=evaluation.rows,
            bads=evaluation.bads,
        ),
        calibration=tuple(
            CalibrationBin(
                pd_low=_pd(row.low_log_odds, 0.0),
                pd_high=_pd(row.high_log_odds, 1.0),
                mean_pd=row.mean_pd,
                observed_rate=row.bad_rate,
                rows=row.goods + row.bads,
            )
            for row in evaluation.table
        ),
        roc=tuple(RocPoint(false_positive_rate=x, true_positive_rate=y) for x, y in evaluation.roc),
        histogram=tuple(_histogram_bin(row) for row in evaluation.table),
        features=tuple(
            _shape(feature, [row for row in result.scorecard if row["feature"] == feature.name], result)
            for feature in features
            if any(row["feature"] == feature.name for row in result.scorecard)
        ),
    )


def bin_label(row: Mapping[str, Any], *, whole: bool, last: bool) -> str:
    """How a bin reads in a table.

    Args:
        row: A row of `models.scorecard.bin_rows`.
        whole: The feature takes whole numbers only.
        last: The bin holds its upper end; the others do not.
    """
    if row["missing"]:
        return "missing"
    low, high = float(row["low"]), float(row["high"])
    if whole and not last:
        high -= 1
    if row["atom"] or low >= high:
        return _number(low)
    return f"{_number(low)} to {_number(high)}"


def _shape(feature: FeatureWords, rows: Sequence[Mapping[str, Any]], result: ReleasedResult) -> FeatureShape:
    total = sum(row["goods"] + row["bads"] for row in rows)
    last = max((k for k, row in enumerate(rows) if not row["missing"]), default=0)
    return FeatureShape(
        feature=feature.name,
        role=feature.role,
        unit=feature.unit,
        information_value=result.information_values.get(feature.name),
        bins=tuple(
            ShapeBin(
                label=bin_label(row, whole=feature.type == "integer", last=k == last),
                low=row["low"],
                high=row["high"],
                missing=row["missing"],
                log_odds=row.get("contribution"),
                points=row.get("points"),
                woe=row["woe"],
                share=(row["goods"] + row["bads"]) / total if total else None,
            )
            for k, row in enumerate(rows)
        ),
    )


def _histogram_bin(row: CoarseBin) -> HistogramBin:
    return HistogramBin(
        pd_low=_pd(row.low_log_odds, 0.0), pd_high=_pd(row.high_log_odds, 1.0), goods=row.goods, bads=row.bads
    )


def _pd(log_odds: float | None, open_end: float) -> float:
    return open_end if log_odds is None else 1.0 / (1.0 + math.exp(-log_odds))


def _number(value: float) -> str:
    """Three significant digits, thousands apart: 0.0235, 14.2, 12 500."""
    if value.is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u2009")
    return f"{value:.3g}"
