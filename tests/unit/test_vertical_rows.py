"""Aligned rows of a vertical run: the same order, the same hold-out, and a digest that tells orders apart."""

import numpy as np

from models.holdout import holdout_mask
from nodes.contract import CheckedRows
from nodes.vertical_rows import align_by_id

KEY = bytes(range(32))
IDS = tuple(f"e{number:04d}" for number in range(500))


def checked(ids=IDS, label=None, name="amount"):
    return CheckedRows(entity_ids=ids, columns={name: np.arange(len(ids), dtype=float)}, label=label)


def test_members_with_the_same_entities_share_order_hold_out_and_digest():
    bank = align_by_id(checked(label=np.ones(500, dtype=np.int8)), KEY, 30)
    payer = align_by_id(checked(name="bills"), KEY, 30)
    assert bank.alignment_digest == payer.alignment_digest
    assert np.array_equal(bank.columns["amount"], payer.columns["bills"])
    assert payer.label is None
    assert bank.label is not None
    assert len(bank.label) == len(bank.known)


def test_held_out_entities_are_never_trained_on():
    kept = align_by_id(checked(), KEY, 30).columns["amount"].astype(int)
    assert not holdout_mask([IDS[at] for at in kept], KEY, 30).any()
    assert 300 < len(kept) < 400


def test_another_entity_or_another_key_gives_another_digest():
    found = {
        align_by_id(checked(), KEY, 30).alignment_digest,
        align_by_id(checked(IDS[:-1]), KEY, 30).alignment_digest,
        align_by_id(checked((*IDS[:-1], "f0000")), KEY, 30).alignment_digest,
        align_by_id(checked(), bytes(32), 30).alignment_digest,
    }
    assert len(found) >= 3
    assert align_by_id(checked(), KEY, 30).alignment_digest != align_by_id(checked(), bytes(32), 30).alignment_digest
