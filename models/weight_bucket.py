"""The public weight of a member, in a module of its own: a node announces it before it loads anything for training."""

from __future__ import annotations

import math


def weight_log2_for_rows(num_rows: int) -> int:
    """The public weight bucket of a member with this many rows: log2 of the nearest power of two, at least 0.

    Weights are public (rule A7), so they tell a member's size to within a factor of two, and no more.
    """
    return round(math.log2(max(num_rows, 1)))
