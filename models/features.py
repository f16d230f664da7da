"""What the models need to know of a feature, and the rows that they are trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policies.errors import UserError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

ValueType = Literal["number", "integer"]
Monotone = Literal["none", "increasing", "decreasing"]


class TrainingDataError(UserError):
    """The rows cannot be trained on as they are; the sentence names the column and never shows a value."""


class FeatureTerms(Protocol):
    """The part of a feature contract that a model reads; the agreement's own feature type fits."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def type(self) -> ValueType: ...  # noqa: D102
    @property
    def low(self) -> float: ...  # noqa: D102
    @property
    def high(self) -> float: ...  # noqa: D102
    @property
    def monotone(self) -> Monotone: ...  # noqa: D102
    @property
    def reason_code(self) -> str: ...  # noqa: D102
    @property
    def missing_allowed(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class InputFeature:
    """One input of a model.

    Attributes:
        name: Column name.
        type: `integer` columns hold whole numbers only.
        low: Smallest value of the public range, in the column's unit.
        high: Largest value of the public range.
        monotone: Direction in which the probability of default may move as the value grows.
        reason_code: What a decline says when this feature is a principal reason for it.
        missing_allowed: Whether a row may come without a value.
    """

    name: str
    type: ValueType
    low: float
    high: float
    monotone: Monotone
    reason_code: str
    missing_allowed: bool

    @classmethod
    def from_terms(cls, terms: FeatureTerms) -> InputFeature:
        """A plain copy of what the agreement says."""
        return cls(
            name=terms.name,
            type=terms.type,
            low=float(terms.low),
            high=float(terms.high),
            monotone=terms.monotone,
            reason_code=terms.reason_code,
            missing_allowed=terms.missing_allowed,
        )


@dataclass(frozen=True, eq=False)
class TrainingData:
    """One member's rows; they never leave the node.

    Attributes:
        columns: Feature name to values, float64 of shape (n_rows,), `nan` where missing.
        label: 1 = bad (default), 0 = good, shape (n_rows,).
        holdout: True for rows kept for evaluation, shape (n_rows,).

    Raises:
        TrainingDataError: Lengths differ, a label is neither 0 nor 1, a value is infinite.
    """

    columns: Mapping[str, FloatArray]
    label: NDArray[np.int8]
    holdout: BoolArray

    def __post_init__(self) -> None:
        rows = len(self.label)
        if self.holdout.shape != (rows,) or self.holdout.dtype != np.bool_:
            raise TrainingDataError(
                f"expected one true or false hold-out mark for each of {rows} rows, found"
                f" {self.holdout.size} of type {self.holdout.dtype}; build it with models.holdout"
            )
        if not np.isin(self.label, (0, 1)).all():
            raise TrainingDataError("expected labels 0 (good) or 1 (bad), found others; recode the label column")
        for name, values in self.columns.items():
            if values.shape != (rows,):
                raise TrainingDataError(
                    f"column {name!r}: expected {rows} values, one for each label, found {values.size};"
                    " read both from the same rows"
                )
            if np.isinf(values).any():
                raise TrainingDataError(
                    f"column {name!r}: expected finite values or missing ones, found infinite ones;"
                    " set these rows aside"
                )

    def selected(self, rows: BoolArray, names: Sequence[str]) -> dict[str, FloatArray]:
        """The named columns of the marked rows."""
        absent = [name for name in names if name not in self.columns]
        if absent:
            raise TrainingDataError(
                f"expected the column {absent[0]!r} of the agreement, found"
                f" {', '.join(sorted(self.columns)) or 'none'}; map the source's columns to the agreement's"
            )
        return {name: self.columns[name][rows] for name in names}


def as_float_column(name: str, values: ArrayLike) -> FloatArray:
    """`values` as float64 with `nan` for missing.

    Raises:
        TrainingDataError: They are not numbers.
    """
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TrainingDataError(
            f"column {name!r}: expected numbers, found something else; convert the column"
        ) from error
