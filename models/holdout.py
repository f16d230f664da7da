"""Which rows are kept for evaluation: a keyed hash of the entity's id, so that all members keep the same entities."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

import numpy as np

from models.features import BoolArray
from protos.private_set_intersection.identifiers import IdentifierType, normalise


def holdout_mask(ids: Iterable[object], key: bytes, percent: int = 30, id_type: IdentifierType = "text") -> BoolArray:
    """True where HMAC-SHA256(key, normalised id) mod 100 is below `percent`.

    Members that write one id differently must hold it out all the same, so the hash is over the form that aligns it. An
    id that is malformed for its type aligns with nothing; it is hashed as it stands.

    Args:
        ids: Entity ids.
        key: The agreement's hold-out key.
        percent: Share kept, 0 to 100.
        id_type: How ids are written, from the agreement.

    Returns:
        Shape (n_rows,).
    """
    forms = (normalise(id_type, entity) or str(entity) for entity in ids)
    return np.array(
        [int.from_bytes(hmac.digest(key, form.encode(), "sha256"), "big") % 100 < percent for form in forms],
        dtype=np.bool_,
    )
