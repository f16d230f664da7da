"""A member's aligned rows for a vertical run, from its own checked rows.

Until the members intersect their ids, the order that they share is that of the ids themselves: all members must hold
the same entities, which the digest of the order shows without showing an id. Held-out entities are the same at all.
"""

from __future__ import annotations

import hmac

import numpy as np

from models.holdout import holdout_mask
from nodes.contract import CheckedRows
from nodes.vertical_run import AlignedRows


def align_by_id(rows: CheckedRows, holdout_key: bytes, holdout_percent: int) -> AlignedRows:
    """The training rows in ascending order of their ids.

    Args:
        rows: Checked rows; with the label at the label holder alone.
        holdout_key: 32 bytes of the agreement; it keys the digest too, so that outsiders cannot test for ids.
        holdout_percent: Share that is held out, in percent.
    """
    training = ~holdout_mask(rows.entity_ids, holdout_key, holdout_percent)
    digest = hmac.new(holdout_key, b"tallystick/vertical/order", "sha256")
    for entity, kept in zip(rows.entity_ids, training.tolist(), strict=True):
        if kept:
            name = entity.encode()
            digest.update(len(name).to_bytes(8, "little") + name)
    return AlignedRows(
        columns={name: values[training] for name, values in rows.columns.items()},
        known=np.ones(int(training.sum())),
        label=None if rows.label is None else rows.label[training].astype(np.float64),
        alignment_digest=digest.digest(),
    )
