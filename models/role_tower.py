"""A trained role tower as a file of its own: canonical JSON, never pickle, so that equal towers are equal bytes.

It stays with the members of its role; no other party of a vertical run ever sees it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from models.bin_records import FeatureRecord
from models.features import FloatArray, TrainingDataError
from models.vertical import Tower
from models.vertical_basis import RoleBasis
from models.vertical_pairs import PairTerm
from policies.closed_model import ClosedModel

FORMAT: Literal["tallystick-role-tower/1"] = "tallystick-role-tower/1"
MAX_TOWER_BYTES = 16 << 20
_Group = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]]


class RoleTowerRefused(TrainingDataError):
    """Bytes that are no role tower."""


class _PairRecord(ClosedModel):
    first: Annotated[tuple[_Group, ...], Field(min_length=2, max_length=64)]
    second: Annotated[tuple[_Group, ...], Field(min_length=2, max_length=64)]
    cells: Annotated[tuple[tuple[int, int], ...], Field(max_length=4096)]


class _TowerRecord(ClosedModel):
    format: Literal["tallystick-role-tower/1"]
    task: Annotated[str, Field(min_length=1, max_length=64)]
    role: Annotated[str, Field(min_length=1, max_length=64)]
    features: Annotated[tuple[FeatureRecord, ...], Field(min_length=1, max_length=2000)]
    merged: Annotated[tuple[int, ...], Field(max_length=65536)]
    feature_of: Annotated[tuple[int, ...], Field(max_length=65536)]
    pairs: Annotated[tuple[_PairRecord, ...], Field(max_length=100)]
    weights: Annotated[tuple[float, ...], Field(max_length=65536)]
    means: Annotated[tuple[float, ...], Field(max_length=65536)]

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        columns = len(self.feature_of) + sum(len(pair.cells) for pair in self.pairs)
        if len(self.weights) != columns or len(self.means) != columns:
            raise ValueError(f"expected {columns} weights and means, found {len(self.weights)} and {len(self.means)}")
        if any(not -1 <= into < len(self.feature_of) for into in self.merged):
            raise ValueError("expected every design column in a column of the basis, or left out")
        if any(not 0 <= owner < len(self.features) for owner in self.feature_of):
            raise ValueError("expected every column to belong to a feature")
        return self


@dataclass(frozen=True, eq=False)
class RoleTower:
    """A role's tower of one task.

    Attributes:
        task: What it helps to predict.
        role: Whose columns it takes.
        tower: The tower.
    """

    task: str
    role: str
    tower: Tower

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Columns that it takes, in the agreement's order."""
        return tuple(bins.feature.name for bins in self.tower.basis.bins)

    def scores(self, columns: Mapping[str, FloatArray]) -> FloatArray:
        """Partial log-odds of default of each row, centred on the training population, shape (n_rows,).

        Args:
            columns: Values per feature name, shape (n_rows,), `nan` where missing.
        """
        return self.tower.scores(self.tower.basis.levels(columns))

    def contributions(self, columns: Mapping[str, FloatArray]) -> FloatArray:
        """The same by feature, shape (n_rows, n_features); a pair of features counts half for each."""
        return self.tower.contributions(self.tower.basis.levels(columns))

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no white space, UTF-8."""
        tower, basis = self.tower, self.tower.basis
        record = _TowerRecord(
            format=FORMAT,
            task=self.task,
            role=self.role,
            features=tuple(FeatureRecord.of(bins) for bins in basis.bins),
            merged=basis.merged,
            feature_of=basis.feature_of,
            pairs=tuple(_PairRecord(first=pair.first, second=pair.second, cells=pair.cells) for pair in tower.pairs),
            weights=tuple(tower.weights.tolist()),
            means=tuple(tower.means.tolist()),
        )
        return json.dumps(record.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> RoleTower:
        """Read what `to_bytes` wrote.

        Raises:
            RoleTowerRefused: It is something else.
        """
        if len(raw) > MAX_TOWER_BYTES:
            raise RoleTowerRefused(f"expected a role tower of at most {MAX_TOWER_BYTES} bytes, found {len(raw)}")
        try:
            record = _TowerRecord.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "tower"
            raise RoleTowerRefused(f"expected a role tower, found a problem at {where}: {first['msg']}") from None
        basis = RoleBasis(tuple(each.to_bins() for each in record.features), record.merged, record.feature_of)
        pairs = tuple(PairTerm(pair.first, pair.second, pair.cells) for pair in record.pairs)
        return cls(record.task, record.role, Tower(basis, pairs, np.array(record.weights), np.array(record.means)))
