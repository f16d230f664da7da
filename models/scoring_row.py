"""One row through a released model: the figures of `models.scoring.score_frame`, bit for bit, for much less.

What a frame needs for any number of rows (columns, masks, searches) is worked out once per model; a row is then a few
scalar steps per feature and the very same products and sums.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.artefact import Model
from models.basis import Block
from models.binning import FeatureBins
from models.features import FloatArray, InputFeature
from models.grid import log_unit
from models.newton import sigmoid
from models.scoring import Scores, ScoringInputError, column_terms


@dataclass(frozen=True)
class _Placed:
    """Where a feature's value goes in the design row.

    Attributes:
        feature: The input.
        missing: Column of a missing value; None for a constant feature, which has no column.
        atoms: Value of an atom to its column.
        unit: Unit of the logarithm.
        knots: Of the ranges, on the logarithm's scale.
        peaks: Column of each knot.
    """

    feature: InputFeature
    missing: int | None
    atoms: Mapping[float, int]
    unit: float
    knots: tuple[float, ...]
    peaks: tuple[int, ...]


class RowScorer:
    """A model, prepared for one row at a time; keep it as long as the model.

    Args:
        model: A released model.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._placed = tuple(_placed(b, block) for b, block in zip(model.bins, model.blocks, strict=True))
        self._width = model.blocks[-1].stop
        self._names = frozenset(feature.name for feature in model.features)

    def score(self, values: Mapping[str, float | None]) -> Scores:
        """Score one row.

        Args:
            values: By feature; None or absent is a missing value.

        Raises:
            ScoringInputError: A value is of no feature, missing where it may not be, or outside the public range.
        """
        if not values.keys() <= self._names:
            raise ScoringInputError(
                f"expected the features of the model ({', '.join(sorted(self._names))[:300]}), found"
                f" {len(values.keys() - self._names)} more; remove what is not known"
            )
        model = self.model
        design = np.zeros((1, self._width))
        row = design[0]
        for placed in self._placed:
            value = _checked(placed.feature, values.get(placed.feature.name))
            if placed.missing is None:
                continue
            if value is None:
                row[placed.missing] = 1
            elif (atom := placed.atoms.get(value)) is not None:
                row[atom] = 1
            elif len(placed.knots) == 1:
                row[placed.peaks[0]] = 1
            else:
                _between(row, placed, value)
        score = model.tower_log_odds(design)
        contributions = np.empty((1, len(model.features)))
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


def _between(row: FloatArray, placed: _Placed, value: float) -> None:
    knots = placed.knots
    # numpy's logarithm and not math's: they may differ in the last bit.
    position = min(max(float(np.arcsinh(value / placed.unit)), knots[0]), knots[-1])
    left = min(max(bisect_right(knots, position) - 1, 0), len(knots) - 2)
    share = (position - knots[left]) / (knots[left + 1] - knots[left])
    row[placed.peaks[left]] = 1 - share
    row[placed.peaks[left + 1]] = share


def _checked(feature: InputFeature, value: float | None) -> float | None:
    if value is None or math.isnan(value):
        if feature.missing_allowed:
            return None
        raise _refused(feature, "a value", "a missing one, which the agreement does not allow")
    if not feature.low <= value <= feature.high:
        raise _refused(feature, f"a value from {feature.low:g} to {feature.high:g}", "one outside")
    if feature.type == "integer" and value != math.floor(value):
        raise _refused(feature, "a whole number", "a fraction")
    return float(value)


def _refused(feature: InputFeature, expected: str, found: str) -> ScoringInputError:
    return ScoringInputError(f"feature {feature.name!r}: expected {expected}, found {found}; correct it")


def _placed(bins: FeatureBins, block: Block) -> _Placed:
    if not block.num_bins:
        return _Placed(bins.feature, None, {}, 1.0, (), ())
    # The same choices as `models.basis` makes for a column.
    atoms = {b.low: block.start + k for k, b in enumerate(bins.bins) if b.atom}
    peaks = [k for k, b in enumerate(bins.bins) if not b.atom] or list(range(len(bins.bins)))
    unit = log_unit(bins.feature)
    knots = np.arcsinh(np.array([bins.bins[k].knot for k in peaks]) / unit)
    return _Placed(
        feature=bins.feature,
        missing=block.start + (block.num_bins if block.missing else bins.missing_bin),
        atoms=atoms,
        unit=unit,
        knots=tuple(knots.tolist()),
        peaks=tuple(block.start + k for k in peaks),
    )
