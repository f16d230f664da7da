"""How real values become the integers that are added, and back: exact, or refused.

A field states the public range and resolution of one member's value. A value becomes the integer
round((x - low) / step) >= 0, written in limbs of base B with headroom for n members, two limbs a slot.
Masks are uniform on whole slots, so packing changes nothing about secrecy; limbs separate only after the sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from protos.sealed_sum.canonical import digest
from protos.sealed_sum.errors import MalformedMessage, OpeningRefused, ValueOutOfRange
from protos.sealed_sum.parameters import DATA_SLOTS, MAX_CIPHERTEXTS, PLAIN_MODULUS, num_ciphertexts

# A slot is low + LIMB_RANGE * high with both limb sums below LIMB_RANGE, so it never wraps modulo t.
LIMB_RANGE = math.isqrt(PLAIN_MODULUS)
MAX_LEVELS = 1 << 52  # float64 holds every integer up to here, so rounding to a level is exact
MAX_FIELDS = 256

Slots: TypeAlias = NDArray[np.uint64]


@dataclass(frozen=True)
class Field:
    """A named vector of one member's values.

    Attributes:
        name: Name, unique in its layout.
        length: Number of values, > 0.
        low: Smallest value, public.
        high: Largest value, public, > low.
        step: Resolution, > 0; values are rounded to low + step * integer.
    """

    name: str
    length: int
    low: float
    high: float
    step: float

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 128:
            raise ValueError("expected a field name of 1 to 128 characters; name the field after what it holds")
        if not 0 < self.length <= MAX_CIPHERTEXTS * DATA_SLOTS * 2:
            raise ValueError(f"expected a positive length for field {self.name!r}, found {self.length}")
        if not all(map(math.isfinite, (self.low, self.high, self.step))) or self.high <= self.low or self.step <= 0:
            raise ValueError(
                f"expected low < high and step > 0 for field {self.name!r}, "
                f"found low={self.low}, high={self.high}, step={self.step}"
            )
        if (self.high - self.low) / self.step > MAX_LEVELS - 1:
            raise ValueError(f"expected at most 2^52 levels for field {self.name!r}; use a larger step")

    @property
    def levels(self) -> int:
        """Number of integers a value can become."""
        return round((self.high - self.low) / self.step) + 1

    def limbs(self, cohort_size: int) -> int:
        """Limbs a value takes so that n values add without carries."""
        base, count, reach = limb_base(cohort_size), 1, limb_base(cohort_size)
        while reach < self.levels:
            reach *= base
            count += 1
        return count


def limb_base(cohort_size: int) -> int:
    """Levels B of one limb: n * (B - 1) stays below `LIMB_RANGE`. 23.7 bits at n = 5, 20.4 at n = 50."""
    return (LIMB_RANGE - 1) // cohort_size + 1


@dataclass(frozen=True)
class Layout:
    """The fields of one sum, in order."""

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if not 0 < len(names) <= MAX_FIELDS or len(set(names)) != len(names):
            raise ValueError(f"expected 1 to {MAX_FIELDS} fields with different names, found {len(names)}")

    def digest(self) -> bytes:
        """Hash of names, lengths, ranges and steps, 32 bytes."""
        parts: list[bytes | str | int] = []
        for field in self.fields:
            parts += [field.name, field.length]
            parts += [float(number).hex() for number in (field.low, field.high, field.step)]
        return digest("layout", len(self.fields), *parts)

    def num_limbs(self, cohort_size: int) -> int:
        """Limbs of all values."""
        return sum(field.length * field.limbs(cohort_size) for field in self.fields)

    def num_slots(self, cohort_size: int) -> int:
        """Data slots, without tags."""
        return -(-self.num_limbs(cohort_size) // 2)

    def num_ciphertexts(self, cohort_size: int) -> int:
        """Ciphertexts a member uploads."""
        return num_ciphertexts(self.num_slots(cohort_size))


@dataclass(frozen=True)
class OpenedSum:
    """The sum over the contributors, as exact integers.

    Attributes:
        integers: Per field, int64 of shape (field.length,): sum of the members' level numbers.
        contributors: How many members it is over.
        layout: The layout it was encoded with.
    """

    integers: Mapping[str, NDArray[np.int64]]
    contributors: int
    layout: Layout

    def values(self, name: str) -> NDArray[np.float64]:
        """The sum of the members' values of one field, shape (field.length,)."""
        field = next((f for f in self.layout.fields if f.name == name), None)
        if field is None:
            raise KeyError(f"expected a field of the layout, found {name!r}")
        return self.contributors * field.low + field.step * self.integers[name].astype(np.float64)


def encode(layout: Layout, values: Mapping[str, NDArray[np.float64]], cohort_size: int) -> Slots:
    """Turn one member's values into slots below t, shape (layout.num_slots(n),).

    Args:
        layout: The sum's layout.
        values: One float array per field, shape (field.length,), nothing missing and nothing more.
        cohort_size: Members of the epoch, n; the headroom of every limb.

    Raises:
        ValueOutOfRange: A value is not finite or outside its field; names the field, never the value.
        ValueError: Fields or shapes differ from the layout.
    """
    if set(values) != {field.name for field in layout.fields}:
        raise ValueError(
            f"expected values for {sorted(f.name for f in layout.fields)}, found {sorted(values)}; "
            "send one array per field of the layout"
        )
    half = layout.num_slots(cohort_size)
    limbs = np.zeros(2 * half, dtype=np.uint64)
    base = np.uint64(limb_base(cohort_size))
    at = 0
    for field in layout.fields:
        array = np.asarray(values[field.name], dtype=np.float64)
        if array.shape != (field.length,):
            raise ValueError(f"expected shape ({field.length},) for field {field.name!r}, found {array.shape}")
        # Written so that NaN counts as outside.
        outside = int(array.size - np.count_nonzero((array >= field.low) & (array <= field.high)))
        if outside:
            raise ValueOutOfRange(field=field.name, low=field.low, high=field.high, count=outside)
        # Rounding may reach one past the last level when (high - low) / step is not whole.
        integers = np.minimum(np.rint((array - field.low) / field.step), field.levels - 1).astype(np.uint64)
        count = field.limbs(cohort_size)
        for _ in range(count - 1):
            integers, limbs[at : at + field.length] = np.divmod(integers, base)
            at += field.length
        limbs[at : at + field.length] = integers
        at += field.length
    return limbs[:half] + np.uint64(LIMB_RANGE) * limbs[half:]


def decode(layout: Layout, slots: Slots, cohort_size: int, contributors: int) -> OpenedSum:
    """Read the exact integer sums out of opened slots.

    Args:
        layout: The sum's layout.
        slots: Opened data slots, shape (num_slots,) or padded with zeros to whole ciphertexts.
        cohort_size: Members of the epoch, n.
        contributors: Survivors the sum is over.

    Raises:
        OpeningRefused: A sum exceeds what `contributors` members can add up to, or padding is not zero.
        MalformedMessage: The number of slots does not fit the layout.
    """
    half = layout.num_slots(cohort_size)
    if slots.shape not in {(half,), (layout.num_ciphertexts(cohort_size) * DATA_SLOTS,)}:
        raise MalformedMessage(f"expected {half} slots for this layout, found {slots.size}")
    if slots[half:].any():
        raise OpeningRefused
    high, low = np.divmod(slots[:half], np.uint64(LIMB_RANGE))
    limbs = np.concatenate([low, high])
    base = limb_base(cohort_size)
    integers: dict[str, NDArray[np.int64]] = {}
    at = 0
    for field in layout.fields:
        total = np.zeros(field.length, dtype=np.int64)
        for power in range(field.limbs(cohort_size)):
            limb = limbs[at : at + field.length]
            if limb.max() > contributors * min(base - 1, (field.levels - 1) // base**power):
                raise OpeningRefused
            total += limb.astype(np.int64) * base**power
            at += field.length
        if total.max() > contributors * (field.levels - 1):
            raise OpeningRefused
        integers[field.name] = total
    if limbs[at:].any():
        raise OpeningRefused
    return OpenedSum(integers, contributors, layout)
