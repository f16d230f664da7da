"""Scores of rows by a released model: PD, score points, and what each feature adds to both.

The log-odds of default are the base plus one contribution per feature, for either tower. An additive tower's
contribution is its own term, centred on the training population. A neural tower's are integrated gradients along the
straight line from the population mean to the row (Sundararajan et al. 2017); what is left of the sum by the numerical
integration goes to the base of that row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from models.artefact import Model
from models.features import FloatArray, InputFeature
from models.newton import sigmoid
from models.towers import torch_log_odds
from policies.errors import UserError

INTEGRATION_STEPS = 64
_CHUNK_ROWS = 4096


class ScoringInputError(UserError):
    """Rows that the model cannot score; the sentence names column and row, never a value."""


@dataclass(frozen=True)
class Reason:
    """One principal reason for a low score.

    Attributes:
        reason_code: Code of the agreement.
        features: The features behind it, most costly first.
        points_lost: Score points that they cost against the population's mean, > 0.
    """

    reason_code: str
    features: tuple[str, ...]
    points_lost: float


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of rows.

    Attributes:
        features: The model's inputs, in order.
        pd: Probability of default, shape (n_rows,).
        log_odds: Log-odds of default, shape (n_rows,).
        points: Score points, more is safer, shape (n_rows,).
        contributions: What each feature adds to `log_odds`, shape (n_rows, n_features).
        contribution_points: The same in points: what each feature adds to `points`.
        base_points: `points` less all contributions, shape (n_rows,); constant for an additive tower.
    """

    features: tuple[InputFeature, ...]
    pd: FloatArray
    log_odds: FloatArray
    points: FloatArray
    contributions: FloatArray
    contribution_points: FloatArray
    base_points: FloatArray

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(feature.name for feature in self.features)

    def reasons(self, row: int, limit: int = 4) -> list[Reason]:
        """The reasons that cost a row most points, at most `limit`; empty when no feature costs any.

        Features that share a reason code count together.
        """
        lost: dict[str, list[tuple[float, str]]] = {}
        for feature, points in zip(self.features, self.contribution_points[row].tolist(), strict=True):
            if points < 0:
                lost.setdefault(feature.reason_code, []).append((-points, feature.name))
        found = [
            Reason(code, tuple(name for _, name in sorted(terms, reverse=True)), math.fsum(cost for cost, _ in terms))
            for code, terms in lost.items()
        ]
        return sorted(found, key=lambda reason: (-reason.points_lost, reason.reason_code))[:limit]

    def row(self, index: int) -> dict[str, Any]:
        """One row as plain data, rounded for a reader: pd, log_odds, points, base_points, contributions, reasons."""
        return {
            "pd": round(float(self.pd[index]), 8),
            "log_odds": round(float(self.log_odds[index]), 6),
            "points": round(float(self.points[index]), 2),
            "base_points": round(float(self.base_points[index]), 2),
            "contributions": {
                feature.name: {
                    "log_odds": round(float(self.contributions[index, k]), 6),
                    "points": round(float(self.contribution_points[index, k]), 2),
                }
                for k, feature in enumerate(self.features)
            },
            "reasons": [
                {
                    "reason_code": reason.reason_code,
                    "features": list(reason.features),
                    "points_lost": round(reason.points_lost, 2),
                }
                for reason in self.reasons(index)
            ],
        }


def score_frame(model: Model, rows: Mapping[str, ArrayLike] | pd.DataFrame) -> Scores:
    """Score rows.

    Args:
        model: A released model.
        rows: Values per feature; other columns are ignored. None or `nan` is a missing value.

    Raises:
        ScoringInputError: A column is absent or not numeric, or a value is missing, infinite, not whole or outside
            the public range where the agreement does not allow it.
    """
    columns = _checked(model, rows)
    design = model.design(columns)
    score = model.tower_log_odds(design)
    contributions = np.empty((len(score), len(model.features)))
    terms = column_terms(model, design)
    for k, block in enumerate(model.blocks):
        contributions[:, k] = terms[:, block.start : block.stop].sum(axis=1)
    points = model.scale.points(score)
    contribution_points = model.scale.contribution_points(contributions)
    return Scores(
        features=model.features,
        pd=sigmoid(score),
        log_odds=score,
        points=points,
        contributions=contributions,
        contribution_points=contribution_points,
        base_points=points - contribution_points.sum(axis=1),
    )


def column_terms(model: Model, design: FloatArray) -> FloatArray:
    """What each column of a design matrix adds to the log-odds of default, shape (n_rows, n_columns)."""
    if model.tower == "additive":
        return np.asarray((design - model.means) * model.parameters[:-1], dtype=np.float64)
    return _integrated_gradients(model, design)


def _integrated_gradients(model: Model, design: FloatArray) -> FloatArray:
    """Attribution to each column, shape (n_rows, n_columns), by the midpoint rule."""
    flat = torch.from_numpy(model.parameters.astype(np.float32))
    base = torch.from_numpy(model.means.astype(np.float32))
    attributed = np.empty(design.shape)
    for start in range(0, len(design), _CHUNK_ROWS):
        away = torch.from_numpy(design[start : start + _CHUNK_ROWS].astype(np.float32)) - base
        total = torch.zeros_like(away)
        for step in range(INTEGRATION_STEPS):
            point = (base + (step + 0.5) / INTEGRATION_STEPS * away).requires_grad_(requires_grad=True)
            (gradient,) = torch.autograd.grad(torch_log_odds(model.shape, flat, point).sum(), point)
            total += gradient
        attributed[start : start + _CHUNK_ROWS] = (away * total / INTEGRATION_STEPS).numpy()
    return attributed


def _checked(model: Model, rows: Mapping[str, ArrayLike] | pd.DataFrame) -> dict[str, FloatArray]:
    columns: dict[str, FloatArray] = {}
    for feature in model.features:
        if feature.name not in rows:
            raise ScoringInputError(f"expected a column {feature.name!r}, found none of that name; add it")
        columns[feature.name] = _column(feature, rows[feature.name])
    sizes = {len(values) for values in columns.values()}
    if len(sizes) != 1:
        raise ScoringInputError("expected columns of one length, found several; read them from the same rows")
    return columns


def _column(feature: InputFeature, given: Any) -> FloatArray:
    try:
        values = np.atleast_1d(np.asarray(given, dtype=np.float64))
    except (TypeError, ValueError, OverflowError) as error:
        raise ScoringInputError(
            f"column {feature.name!r}: expected numbers or missing values, found something else; convert the column"
        ) from error
    if values.ndim != 1:
        raise ScoringInputError(
            f"column {feature.name!r}: expected one value a row, found {values.ndim} dimensions; flatten the column"
        )
    missing = np.isnan(values)
    problems = [
        (missing & (not feature.missing_allowed), "a value", "a missing one, which the agreement does not allow"),
        (
            ~missing & ~((values >= feature.low) & (values <= feature.high)),
            f"a value from {feature.low:g} to {feature.high:g}",
            "one outside",
        ),
    ]
    if feature.type == "integer":
        finite = np.where(np.isfinite(values), values, 0.0)
        problems.append((finite != np.rint(finite), "a whole number", "a fraction"))
    for wrong, expected, found in problems:
        if wrong.any():
            raise ScoringInputError(
                f"column {feature.name!r}, row {int(np.argmax(wrong)) + 1}: expected {expected}, found {found};"
                f" correct it or leave the row out ({int(wrong.sum())} such rows)"
            )
    return values
