"""A member's rows in a vertical run: its own, and how the alignment ordered them for every label holder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from models.aligned_rows import UNKNOWN, AlignedRows
from models.features import BoolArray, FloatArray, IntArray
from models.holdout import holdout_mask
from nodes.alignment_store import AlignmentStore
from policies.agreement import Agreement
from policies.alignment import alignment_pairs, members_of_role
from policies.errors import UserError
from policies.proposal import RunProposal
from protos.private_set_intersection.channel import Pair


class NotAligned(UserError):
    """The run's alignment has not ended at this node, or does not fit its rows."""


@dataclass(frozen=True, eq=False)
class OwnRows:
    """This member's consented, checked rows, in the order in which its entities were aligned.

    Attributes:
        entity_ids: One a row.
        columns: Values per feature name, shape (n_rows,), `nan` where missing.
        labels: Task -> 1.0 = bad, shape (n_rows,); the tasks of the run whose label this member's role holds.
    """

    entity_ids: tuple[str, ...] = field(repr=False)
    columns: Mapping[str, FloatArray] = field(repr=False)
    labels: Mapping[str, FloatArray] = field(repr=False)

    def data_version(self, task: str) -> bytes:
        """Names the rows and labels that one task asks about, 32 bytes; for this node's own disk alone."""
        told = hashlib.sha256(task.encode())
        for entity in self.entity_ids:
            told.update(hashlib.sha256(entity.encode()).digest())
        told.update(self.labels[task].astype("<f8").tobytes())
        return told.digest()


class VerticalRows(Protocol):
    """Gives this member's rows for the tasks of a vertical run."""

    def __call__(self, *tasks: str) -> OwnRows:
        """The rows; the same ones, in the same order, as the entities of the alignment."""
        ...


@dataclass(frozen=True, eq=False)
class PlacedRows:
    """Own rows, and where the run's alignment placed them.

    Attributes:
        own: The rows.
        holdout: Which of them are held out, shape (n_rows,).
        places: Label holder -> own row or UNKNOWN at each place of its order.
        answers: Own rows about which this member answers: not those that an earlier member of its role knows (C10).
    """

    own: OwnRows
    holdout: BoolArray = field(repr=False)
    places: Mapping[str, IntArray] = field(repr=False)
    answers: BoolArray = field(repr=False)

    def at(self, label_holders: tuple[str, ...]) -> AlignedRows:
        """The columns in the orders of some label holders."""
        return AlignedRows(self.own.columns, {holder: self.places[holder] for holder in label_holders})


def placed_rows(
    agreement: Agreement, proposal: RunProposal, member: str, own: OwnRows, store: AlignmentStore
) -> PlacedRows:
    """Read the orders that the run's alignment left on this node's disk.

    Raises:
        NotAligned: One is missing, or speaks of rows that this member does not have.
    """
    pairs = alignment_pairs(agreement, proposal)
    count = len(own.entity_ids)
    role = agreement.member(member).role
    peers = set(members_of_role(agreement, proposal, role))
    answers = np.ones(count, dtype=np.bool_)
    places: dict[str, IntArray] = {}
    for pair in pairs:
        if member not in (pair.label_holder, pair.feature_holder):
            continue
        order = _order(store, pair, count)
        if pair.label_holder in peers and pair.feature_holder in peers:
            if pair.feature_holder == member:
                answers[order[order != UNKNOWN]] = False
        else:
            places[pair.label_holder] = order
    for holder, order in places.items():
        if holder != member:
            known = order != UNKNOWN
            silent = np.zeros(len(order), dtype=np.bool_)
            silent[known] = ~answers[order[known]]
            places[holder] = np.where(silent, UNKNOWN, order)
    entities = agreement.entities
    held_out = holdout_mask(own.entity_ids, entities.holdout_key_bytes, entities.holdout_percent, entities.id_type)
    return PlacedRows(own, held_out, places, answers)


def _order(store: AlignmentStore, pair: Pair, count: int) -> IntArray:
    order = store.aligned_rows(pair)
    if order is None:
        raise NotAligned(
            f"Expected the alignment of {pair.label_holder} and {pair.feature_holder} to have ended, found it open; "
            "the coordinator must finish it first."
        )
    if order.size and (int(order.max()) >= count or int(order.min()) < UNKNOWN):
        raise NotAligned(
            f"Expected the alignment of {pair.label_holder} and {pair.feature_holder} to be about this node's "
            f"{count} rows, found others; its source changed during the run, propose a new one."
        )
    return order
