"""The state of a horizontal run at one member: everything that was derived from opened sums, and no row.

A snapshot is exact: a restored run gives the same contributions and the same model, bit for bit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError

from models.bin_records import FeatureRecord
from models.binning import FeatureBins
from models.bundle import canonical_json, pack, unpack
from models.features import FloatArray, IntArray
from models.newton import NewtonState
from models.program import ProgramError
from models.server_step import ServerState
from policies.closed_model import ClosedModel

Stage = Literal["bins", "train", "evaluate", "finished"]


@dataclass(frozen=True, eq=False)
class RunState:
    """Where a run stands.

    Attributes:
        stage: What the next sum is for.
        rounds: Training sums absorbed.
        bins: Shared bins; empty before the first sum.
        means: Mean of each design column over the cohort's training rows.
        rows: The cohort's training rows.
        bads: Defaulters among them.
        hidden_units: Hidden layers of the tower.
        search: Newton's state, for that method while it trains and after.
        server: The averaging methods' state.
        scores: Opened histogram of hold-out scores, shape (2, FINE_BINS), once evaluated.
    """

    stage: Stage = "bins"
    rounds: int = 0
    bins: tuple[FeatureBins, ...] = ()
    means: FloatArray | None = None
    rows: int = 0
    bads: int = 0
    hidden_units: tuple[int, ...] = ()
    search: NewtonState | None = None
    server: ServerState | None = None
    scores: IntArray | None = None

    @property
    def parameters(self) -> FloatArray:
        """Parameters that the next contribution is computed on, intercept last."""
        if self.search is not None:
            if self.stage == "train" or self.search.converged:
                return self.search.parameters
            # Out of rounds: the last point was never evaluated, the accepted one is the best known.
            return self.search.accepted
        if self.server is not None:
            return self.server.parameters
        raise ProgramError("expected a model, found a run without shared bins; absorb the first sum")

    def model_digest(self) -> bytes:
        """SHA-256 over bins and parameters; zeros before there are any."""
        if not self.bins:
            return bytes(32)
        record = canonical_json([FeatureRecord.of(b).model_dump() for b in self.bins])
        digest = hashlib.sha256(b"tallystick/model-state/1\x00")
        digest.update(hashlib.sha256(record.encode()).digest())
        digest.update(canonical_json(self.hidden_units).encode())
        digest.update(np.ascontiguousarray(self.parameters, dtype="<f8").tobytes())
        return digest.digest()

    def to_bytes(self, settings_digest: str) -> bytes:
        """The snapshot, marked with the settings it belongs to."""
        record = _StateRecord(
            format="tallystick-run-state/1",
            settings=settings_digest,
            stage=self.stage,
            rounds=self.rounds,
            rows=self.rows,
            bads=self.bads,
            hidden_units=list(self.hidden_units),
            bins=[FeatureRecord.of(b) for b in self.bins],
            converged=self.search is not None and self.search.converged,
        )
        # Always one array at least: an empty bundle has no canonical form.
        tensors: dict[str, np.ndarray] = {"state": np.zeros(1)}
        if self.means is not None:
            tensors["means"] = self.means
        if self.search is not None:
            # The objective is infinite before the first sum, which a bundle may not hold.
            known = np.isfinite(self.search.objective)
            tensors["search"] = np.array([float(known), self.search.objective if known else 0.0, self.search.step])
            tensors["search.parameters"] = self.search.parameters
            tensors["search.accepted"] = self.search.accepted
            tensors["search.target"] = self.search.target
        if self.server is not None:
            tensors["server.parameters"] = self.server.parameters
            tensors["server.first_moment"] = self.server.first_moment
            tensors["server.second_moment"] = self.server.second_moment
        if self.scores is not None:
            tensors["scores"] = self.scores
        return pack(record.model_dump(), tensors)

    @classmethod
    def from_bytes(cls, data: bytes, settings_digest: str) -> RunState:
        """The state of a snapshot.

        Raises:
            ArtefactError: Not a bundle.
            ProgramError: A bundle that is no snapshot, or one of other settings.
        """
        description, tensors = unpack(data)
        try:
            record = _StateRecord.model_validate(description)
        except ValidationError as error:
            raise ProgramError("expected a snapshot of a run, found another file; start the run again") from error
        if record.settings != settings_digest:
            raise ProgramError(
                "expected a snapshot of this run's settings and features, found one of others; start the run again"
            )
        search = server = None
        if "search" in tensors:
            known, objective, step = tensors["search"].tolist()
            search = NewtonState(
                tensors["search.parameters"],
                tensors["search.accepted"],
                objective if known else float("inf"),
                tensors["search.target"],
                step,
                converged=record.converged,
            )
        if "server.parameters" in tensors:
            server = ServerState(
                tensors["server.parameters"], tensors["server.first_moment"], tensors["server.second_moment"]
            )
        return cls(
            stage=record.stage,
            rounds=record.rounds,
            bins=tuple(b.to_bins() for b in record.bins),
            means=tensors.get("means"),
            rows=record.rows,
            bads=record.bads,
            hidden_units=tuple(record.hidden_units),
            search=search,
            server=server,
            scores=tensors.get("scores"),
        )


class _StateRecord(ClosedModel):
    format: Literal["tallystick-run-state/1"]
    settings: str
    stage: Stage
    rounds: Annotated[int, Field(ge=0)]
    rows: Annotated[int, Field(ge=0)]
    bads: Annotated[int, Field(ge=0)]
    hidden_units: list[int]
    bins: list[FeatureRecord]
    converged: bool
