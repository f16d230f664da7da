"""From a run's result to the parts of the table that its members sign (`policies.release`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from models.binning import Bin
from models.evaluation import CoarseBin, Evaluation
from models.features import FloatArray, InputFeature
from models.newton import sigmoid
from models.scorecard import information_values, weight_of_evidence
from policies.release import CalibrationBin, FeatureShape, HistogramBin, Quality, RocPoint, ShapeBin

if TYPE_CHECKING:  # torch comes with it, which a table of a vertical run does not need
    from models.artefact import Model


def quality(evaluation: Evaluation) -> Quality:
    """Figures of the hold-out as a whole."""
    return Quality(
        auc=evaluation.auc,
        ks=evaluation.ks,
        gini=evaluation.gini,
        brier=evaluation.brier,
        rows=evaluation.rows,
        bads=evaluation.bads,
    )


def calibration_bins(evaluation: Evaluation) -> tuple[CalibrationBin, ...]:
    """Predicted against observed, per coarse bin."""
    found = []
    for row in evaluation.table:
        low, high = _pd_range(row)
        found.append(
            CalibrationBin(
                pd_low=low,
                pd_high=high,
                mean_pd=row.mean_pd,
                observed_rate=row.bad_rate,
                rows=row.goods + row.bads,
            )
        )
    return tuple(found)


def histogram_bins(evaluation: Evaluation) -> tuple[HistogramBin, ...]:
    """Goods and bads per coarse bin."""
    found = []
    for row in evaluation.table:
        low, high = _pd_range(row)
        found.append(HistogramBin(pd_low=low, pd_high=high, goods=row.goods, bads=row.bads))
    return tuple(found)


def roc_points(evaluation: Evaluation) -> tuple[RocPoint, ...]:
    """Points of the ROC curve at the coarse bins' edges."""
    return tuple(
        RocPoint(false_positive_rate=false_positive, true_positive_rate=true_positive)
        for false_positive, true_positive in evaluation.roc
    )


def feature_shapes(
    model: Model, roles: Mapping[str, str] | None = None, units: Mapping[str, str] | None = None
) -> tuple[FeatureShape, ...]:
    """What the model makes of each feature: a row per bin, with its contribution at the bin's knot.

    For a neural tower, the contribution is that of the feature alone, with all others at the population's mean.

    Args:
        model: The model.
        roles: Role per feature name; `member` where absent.
        units: Unit per feature name; empty where absent.
    """
    values = information_values(model.bins)
    found = []
    for k, feature_bins in enumerate(model.bins):
        feature = feature_bins.feature
        at = [b.knot for b in feature_bins.bins] + ([np.nan] if feature_bins.missing else [])
        log_odds = _alone(model, k, at)
        counts = [(b.goods, b.bads) for b in feature_bins.bins]
        counts += [feature_bins.missing] if feature_bins.missing else []
        goods, bads = [good for good, _ in counts], [bad for _, bad in counts]
        woe = weight_of_evidence(goods, bads) if len(counts) > 1 else np.zeros(1)
        points = model.scale.contribution_points(log_odds)
        rows = sum(goods) + sum(bads)
        shapes = []
        for j, (good, bad) in enumerate(counts):
            b = feature_bins.bins[j] if j < len(feature_bins.bins) else None
            before = feature_bins.bins[j - 1] if 0 < j <= len(feature_bins.bins) else None
            shapes.append(
                ShapeBin(
                    label=_label(feature, b, before, last=j + 1 == len(feature_bins.bins)),
                    low=None if b is None else b.low,
                    high=None if b is None else b.high,
                    missing=b is None,
                    log_odds=float(log_odds[j]),
                    points=float(points[j]),
                    woe=float(woe[j]),
                    share=(good + bad) / rows,
                )
            )
        found.append(
            FeatureShape(
                feature=feature.name,
                role=(roles or {}).get(feature.name, "member"),
                unit=(units or {}).get(feature.name, ""),
                information_value=max(0.0, values[feature.name]),
                bins=tuple(shapes),
            )
        )
    return tuple(found)


def _alone(model: Model, number: int, values: list[float]) -> FloatArray:
    """Contribution of one feature's values, shape (n_values,), with all other columns at their means."""
    block, name = model.blocks[number], model.features[number].name
    columns = {f.name: np.full(len(values), f.low) for f in model.features}
    columns[name] = np.array(values)
    design = np.tile(model.means, (len(values), 1))
    design[:, block.start : block.stop] = model.design(columns)[:, block.start : block.stop]
    return model.tower_log_odds(design) - model.base_log_odds


def _pd_range(row: CoarseBin) -> tuple[float, float]:
    low = 0.0 if row.low_log_odds is None else float(sigmoid(np.array(row.low_log_odds)))
    high = 1.0 if row.high_log_odds is None else float(sigmoid(np.array(row.high_log_odds)))
    return low, high


def _label(feature: InputFeature, b: Bin | None, before: Bin | None, *, last: bool) -> str:
    if b is None:
        return "missing"
    if b.atom:
        return f"{b.low:g}"
    if feature.type == "integer":
        end = b.high if last else b.high - 1
        return f"{b.low:g} to {end:g}" if end > b.low else f"{b.low:g}"
    if before is not None and before.atom:
        return f"over {b.low:g} to {b.high:g}"
    return f"{b.low:g} to {b.high:g}"
