"""Which rows are kept for evaluation: a keyed hash of the entity's id, so that all members keep the same entities."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

import numpy as np

from models.features import BoolArray


def holdout_mask(ids: Iterable[object], key: bytes, percent: int = 30) -> BoolArray:
    """True where HMAC-SHA256(key, id) mod 100 is below `percent`.

    Args:
        ids: Entity ids; `str` of each is hashed, in UTF-8.
        key: The agreement's hold-out key.
        percent: Share kept, 0 to 100.

    Returns:
        Shape (n_rows,).
    """
    return np.array(
        [int.from_bytes(hmac.digest(key, str(entity).encode(), "sha256"), "big") % 100 < percent for entity in ids],
        dtype=np.bool_,
    )
