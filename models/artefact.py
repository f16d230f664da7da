"""The model artefact: safetensors with canonical JSON; its SHA-256 is its version.

Bins carry the cohort's counts, since the scorecard shows them; nothing in the file speaks of one member.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from models.basis import Block, blocks, design_matrix
from models.bin_records import FeatureRecord
from models.binning import FeatureBins
from models.bundle import ArtefactError, pack, unpack
from models.features import FloatArray, InputFeature
from models.newton import sigmoid
from models.scorecard import PointsScale
from models.towers import MAX_PARAMETERS, TowerShape, log_odds
from policies.closed_model import ClosedModel

__all__ = ["ArtefactError", "Model", "load_model", "model_version"]

FORMAT: Literal["tallystick-model/1"] = "tallystick-model/1"
_Name = Annotated[str, Field(min_length=1, max_length=200)]
_Positive = Annotated[float, Field(gt=0)]


class _ScaleRecord(ClosedModel):
    pdo_points: _Positive
    base_points: float
    base_odds: _Positive


class _ModelRecord(ClosedModel):
    format: Literal["tallystick-model/1"]
    task: _Name
    method: _Name
    rounds: Annotated[int, Field(ge=0)]
    base_rate: Annotated[float, Field(gt=0, lt=1)]
    hidden_units: Annotated[list[Annotated[int, Field(ge=1, le=1 << 20)]], Field(max_length=16)]
    features: Annotated[list[FeatureRecord], Field(min_length=1, max_length=2000)]
    scale: _ScaleRecord
    provenance: Annotated[dict[_Name, _Name], Field(max_length=32)]


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model.

    Attributes:
        task: What it predicts.
        method: How it was trained.
        rounds: Training rounds.
        base_rate: Share of bads in the cohort's training rows.
        bins: Bins per feature, in the agreement's order.
        shape: The tower's sizes.
        parameters: Flat vector, intercept last.
        means: Mean of each design column over the cohort's training rows; contributions are centred on it.
        scale: Points scale.
        provenance: Public facts (agreement hash, run id).
    """

    task: str
    method: str
    rounds: int
    base_rate: float
    bins: tuple[FeatureBins, ...]
    shape: TowerShape
    parameters: FloatArray
    means: FloatArray
    scale: PointsScale
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def tower(self) -> Literal["additive", "neural"]:
        """Kind of tower."""
        return "neural" if self.shape.hidden_units else "additive"

    @property
    def features(self) -> tuple[InputFeature, ...]:
        """The inputs, in order."""
        return tuple(b.feature for b in self.bins)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Columns of each feature in the design matrix."""
        return blocks(self.bins)

    @cached_property
    def version(self) -> str:
        """SHA-256 of the artefact, hexadecimal."""
        return model_version(self.to_bytes())

    @cached_property
    def base_log_odds(self) -> float:
        """Log-odds of default of the tower at the mean of every column: where contributions start from."""
        return float(self.tower_log_odds(self.means[None, :])[0])

    def design(self, columns: Mapping[str, FloatArray]) -> FloatArray:
        """Design matrix of rows, shape (n_rows, n_columns); values as in `models.scoring`, already checked."""
        return design_matrix(self.bins, columns)

    def log_odds(self, columns: Mapping[str, FloatArray]) -> FloatArray:
        """Log-odds of default, shape (n_rows,)."""
        return self.tower_log_odds(self.design(columns))

    def tower_log_odds(self, design: FloatArray) -> FloatArray:
        """Log-odds of default of rows of a design matrix, shape (n_rows,)."""
        return log_odds(self.shape, self.parameters, design)

    def pd(self, columns: Mapping[str, FloatArray]) -> FloatArray:
        """Probability of default, shape (n_rows,)."""
        return sigmoid(self.log_odds(columns))

    def column_contributions(self) -> FloatArray | None:
        """Contribution to the log-odds of default of each column at its knot, centred; None for a neural tower."""
        if self.shape.hidden_units:
            return None
        centred = np.zeros(self.shape.num_inputs)
        for block in self.blocks:
            at = slice(block.start, block.stop)
            centred[at] = self.parameters[at] - self.means[at] @ self.parameters[at]
        return centred

    def to_bytes(self) -> bytes:
        """The artefact."""
        record = _ModelRecord(
            format=FORMAT,
            task=self.task,
            method=self.method,
            rounds=self.rounds,
            base_rate=self.base_rate,
            hidden_units=list(self.shape.hidden_units),
            features=[FeatureRecord.of(b) for b in self.bins],
            scale=_ScaleRecord(
                pdo_points=self.scale.pdo_points,
                base_points=self.scale.base_points,
                base_odds=self.scale.base_odds,
            ),
            provenance=dict(self.provenance),
        )
        # Neural parameters are float32 numbers already (models.server_step); the file need not be twice as long.
        dtype = np.float32 if self.shape.hidden_units else np.float64
        return pack(record.model_dump(), {"parameters": self.parameters.astype(dtype), "means": self.means})


def model_version(artefact: bytes) -> str:
    """SHA-256 of an artefact, hexadecimal."""
    return hashlib.sha256(artefact).hexdigest()


def load_model(artefact: bytes, expected_version: str | None = None) -> Model:
    """Read a model.

    Args:
        artefact: Bytes of the file.
        expected_version: SHA-256 that it must have, hexadecimal.

    Raises:
        ArtefactError: It is not a model artefact, contradicts itself, or is another version.
    """
    found = model_version(artefact)
    if expected_version is not None and not hmac.compare_digest(found, expected_version.lower()):
        raise ArtefactError(f"expected the model version {expected_version[:64]}, found {found}; fetch the model again")
    description, tensors = unpack(artefact)
    try:
        record = _ModelRecord.model_validate(description)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])[:120]
        raise ArtefactError(
            f"expected a model description of the form {FORMAT}, found a problem at {where or 'its top'};"
            " fetch the model again"
        ) from error
    bins = tuple(feature.to_bins() for feature in record.features)
    shape = TowerShape(sum(b.num_columns for b in bins), tuple(record.hidden_units))
    _check_tensors(tensors, bins, shape)
    model = Model(
        task=record.task,
        method=record.method,
        rounds=record.rounds,
        base_rate=record.base_rate,
        bins=bins,
        shape=shape,
        parameters=tensors["parameters"].astype(np.float64),
        means=tensors["means"],
        scale=PointsScale(record.scale.pdo_points, record.scale.base_points, record.scale.base_odds),
        provenance=record.provenance,
    )
    if model.version != found:
        raise ArtefactError("expected a canonical model artefact, found another encoding; fetch the model again")
    return model


def _check_tensors(tensors: Mapping[str, Any], bins: Sequence[FeatureBins], shape: TowerShape) -> None:
    names = [b.feature.name for b in bins]
    dtype = np.float32 if shape.hidden_units else np.float64
    if len(set(names)) != len(names):
        raise ArtefactError("expected features with different names, found one twice; fetch the model again")
    if not shape.num_inputs > 0 or shape.num_parameters > MAX_PARAMETERS:
        raise ArtefactError(
            f"expected a tower of 1 to {MAX_PARAMETERS} parameters, found {shape.num_parameters}; fetch the model again"
        )
    if set(tensors) != {"parameters", "means"}:
        raise ArtefactError("expected the arrays parameters and means, found others; fetch the model again")
    if tensors["parameters"].shape != (shape.num_parameters,) or tensors["parameters"].dtype != dtype:
        raise ArtefactError("expected parameters that fit the tower, found others; fetch the model again")
    if tensors["means"].shape != (shape.num_inputs,) or tensors["means"].dtype != np.float64:
        raise ArtefactError("expected one mean per column, found others; fetch the model again")
