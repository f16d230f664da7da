"""Computations that need sums over all members of a role: they yield this member's numbers and are sent the totals.

The members of a role share one tower. Whatever is fitted to all of their rows is therefore written as a generator: it
yields `Asked`, whole numbers of this member, and goes on with the role's total, which is the same at every member, so
that all of them go on alike. How the total comes about (a masked sum over the members, or nothing at all in a role of
one) is not known here.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.features import FloatArray, TrainingDataError

Whole: TypeAlias = NDArray[np.int64]
T = TypeVar("T")

FRACTION_BITS = 24
"""Real numbers are summed as whole numbers of 2^-24: far below the noise of everything they are made of."""
_LARGEST = float(1 << 32)


@dataclass(frozen=True, eq=False)
class Asked:
    """What a member adds to one sum of its role.

    Attributes:
        purpose: What the numbers are.
        numbers: This member's, shape (n,).
    """

    purpose: str
    numbers: Whole = field(repr=False)


Totals: TypeAlias = Generator[Asked, Whole, T]
"""A computation with role sums in it; returns a T."""


def alone(computation: Totals[T]) -> T:
    """Run a computation of a role with one member: every total is its own numbers."""
    try:
        asked = next(computation)
        while True:
            asked = computation.send(asked.numbers)
    except StopIteration as ended:
        result: T = ended.value
        return result


def total_of(purpose: str, parts: Iterable[NDArray[np.generic]]) -> Totals[list[Whole]]:
    """The role's totals of several arrays of whole numbers, each in its own shape."""
    arrays = [np.asarray(part) for part in parts]
    flat = np.concatenate([array.reshape(-1).astype(np.int64) for array in arrays])
    total = yield Asked(purpose, flat)
    ends = np.cumsum([array.size for array in arrays])[:-1]
    return [part.reshape(array.shape) for part, array in zip(np.split(total, ends), arrays, strict=True)]


def real_total_of(purpose: str, parts: Iterable[FloatArray]) -> Totals[list[FloatArray]]:
    """The role's totals of several arrays of real numbers, to 2^-24 of each term.

    Raises:
        TrainingDataError: A number is not finite or too large to be added up.
    """
    arrays = [np.asarray(part, dtype=np.float64) for part in parts]
    if any(not np.all(np.abs(array) < _LARGEST) for array in arrays):
        raise TrainingDataError(
            f"expected finite numbers for {purpose}, found others; training has diverged on this member's rows"
        )
    scaled = [np.rint(np.ldexp(array, FRACTION_BITS)) for array in arrays]
    totals = yield from total_of(purpose, scaled)
    return [np.ldexp(total.astype(np.float64), -FRACTION_BITS) for total in totals]
