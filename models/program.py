"""What one member computes between two sealed sums, as a fold over the opened sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from models.evaluation import Evaluation
from models.features import FloatArray, IntArray
from protos.sealed_sum.errors import ValueOutOfRange
from protos.sealed_sum.layout import Layout, OpenedSum

Statistics = dict[str, float | list[float]]
"""Figures about the cohort as a whole that may leave a node after a step."""


@dataclass(frozen=True)
class RunResult:
    """What a finished run gives; the same, byte for byte, at every member.

    Attributes:
        artefact: The model (`models.artefact`).
        version: SHA-256 of `artefact`, hexadecimal.
        evaluation: Quality on the cohort's hold-out, fit for release.
        scorecard: Bins with counts of the cohort, WOE and points (`models.scorecard.bin_rows`).
        information_values: Per feature, nats.
        rounds: Training rounds done.
    """

    artefact: bytes = field(repr=False)
    version: str
    evaluation: Evaluation
    scorecard: list[dict[str, Any]] = field(repr=False)
    information_values: dict[str, float]
    rounds: int


class ProgramError(Exception):
    """A program was asked for something that its state does not allow, or was given a foreign snapshot."""


class Program(Protocol):
    """One member's side of a run: deterministic, and replayable from a snapshot.

    The layout depends on public settings and on opened sums alone, so it is equal at all members.
    """

    @property
    def finished(self) -> bool:
        """True when no sum is left and `result` may be asked for."""

    def purpose(self) -> str:
        """What the next sum is for: `bins`, `train` or `evaluate`; `finished` when there is none."""

    def input_class(self) -> Literal["static", "step"]:
        """`static`: the contribution depends on the member's rows alone, so one survivor set per epoch (rule A7)."""

    def layout(self) -> Layout:
        """Fields of the next sum."""

    def contribution(self) -> dict[str, FloatArray]:
        """This member's values for the next sum; the same when asked again."""

    def absorb(self, opened: OpenedSum) -> Statistics:
        """Move on with the opened sum; returns what may be released about it."""

    def model_digest(self) -> bytes:
        """SHA-256 of the model that the next contribution is computed on; zeros before there is one."""

    def snapshot(self) -> bytes:
        """The state, without any row."""

    def restore(self, data: bytes) -> None:
        """Take up the state of `snapshot`, on the same rows and settings."""

    def result(self) -> RunResult:
        """What the run gave."""


def open_plainly(layout: Layout, contributions: Sequence[Mapping[str, FloatArray]]) -> OpenedSum:
    """The sum of values that are all known to the caller, with the rounding of the sealed sum and no sealing.

    For one party on its own rows, and for tests of the arithmetic.

    Raises:
        ValueOutOfRange: A value is not finite or outside its field's public range.
    """
    integers: dict[str, IntArray] = {}
    for public in layout.fields:
        total = np.zeros(public.length, dtype=np.int64)
        for values in contributions:
            array = np.asarray(values[public.name], dtype=np.float64)
            outside = int(array.size - np.count_nonzero((array >= public.low) & (array <= public.high)))
            if outside:
                raise ValueOutOfRange(field=public.name, low=public.low, high=public.high, count=outside)
            levels = np.minimum(np.rint((array - public.low) / public.step), public.levels - 1)
            total += levels.astype(np.int64)
        integers[public.name] = total
    return OpenedSum(integers, len(contributions), layout)


def run_locally(program: Program) -> RunResult:
    """Run a program on one party's rows alone: the same steps, with sums of one."""
    while not program.finished:
        program.absorb(open_plainly(program.layout(), [program.contribution()]))
    return program.result()
