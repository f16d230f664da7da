"""Features and bins as closed records of JSON, checked when they are read."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from models.binning import Bin, FeatureBins
from models.features import InputFeature
from policies.closed_model import ClosedModel

_Count = Annotated[int, Field(ge=0, le=2**53)]


class BinRecord(ClosedModel):
    """One bin (`models.binning.Bin`)."""

    low: float
    high: float
    atom: bool
    knot: float
    goods: _Count
    bads: _Count


class FeatureRecord(ClosedModel):
    """One feature with its bins (`models.binning.FeatureBins`)."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    type: Literal["number", "integer"]
    low: float
    high: float
    monotone: Literal["none", "increasing", "decreasing"]
    reason_code: Annotated[str, Field(min_length=1, max_length=128)]
    missing_allowed: bool
    bins: Annotated[list[BinRecord], Field(min_length=1, max_length=1000)]
    missing_goods: _Count | None
    missing_bads: _Count | None
    missing_bin: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"expected low < high for the feature {self.name!r}")
        if self.missing_bin >= len(self.bins):
            raise ValueError(f"expected the bin of missing values of {self.name!r} among its bins")
        if (self.missing_goods is None) != (self.missing_bads is None):
            raise ValueError(f"expected both counts of missing values of {self.name!r}, or none")
        peaks = [b.knot for b in self.bins]
        if any(first >= second for first, second in itertools.pairwise(peaks)):
            raise ValueError(f"expected the bins of {self.name!r} in ascending order")
        return self

    @classmethod
    def of(cls, bins: FeatureBins) -> FeatureRecord:
        """The record of a feature's bins."""
        feature = bins.feature
        goods, bads = bins.missing or (None, None)
        return cls(
            name=feature.name,
            type=feature.type,
            low=feature.low,
            high=feature.high,
            monotone=feature.monotone,
            reason_code=feature.reason_code,
            missing_allowed=feature.missing_allowed,
            bins=[
                BinRecord(low=b.low, high=b.high, atom=b.atom, knot=b.knot, goods=b.goods, bads=b.bads)
                for b in bins.bins
            ],
            missing_goods=goods,
            missing_bads=bads,
            missing_bin=bins.missing_bin,
        )

    def to_bins(self) -> FeatureBins:
        """The feature's bins again, exactly."""
        feature = InputFeature.from_terms(self)
        bins = tuple(Bin(b.low, b.high, b.atom, b.knot, b.goods, b.bads) for b in self.bins)
        missing = None
        if self.missing_goods is not None and self.missing_bads is not None:
            missing = (self.missing_goods, self.missing_bads)
        return FeatureBins(feature, bins, missing=missing, missing_bin=self.missing_bin)
