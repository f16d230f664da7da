"""Whose keys a consortium's ledger has: the operator signs its checkpoints, every member witnesses them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from policies.agreement import Agreement
from protos.ledger.checkpoints import log_key, witness_key
from protos.ledger.notes import NoteKey


@dataclass(frozen=True)
class LedgerKeys:
    """The keys by which a ledger is checked.

    Attributes:
        log: The operator's, under the ledger's origin.
        witnesses: Each member's, by member id.
    """

    log: NoteKey
    witnesses: Mapping[str, NoteKey]

    def all(self) -> tuple[NoteKey, ...]:
        """The operator's key and the witnesses'."""
        return (self.log, *self.witnesses.values())

    @property
    def origin(self) -> str:
        """First line of the ledger's checkpoints."""
        return self.log.name


def ledger_origin(agreement: Agreement) -> str:
    """The name of the consortium's ledger: the same while name and operator's key are, whoever joins or leaves."""
    named = hashlib.sha256(f"{agreement.name}\n{agreement.coordinator.identity_key}".encode()).hexdigest()
    return f"tallystick-ledger/{named[:32]}"


def ledger_keys(agreement: Agreement) -> LedgerKeys:
    """The keys that an agreement gives its ledger."""
    origin = ledger_origin(agreement)
    return LedgerKeys(
        log_key(origin, agreement.coordinator.identity_key_bytes),
        {member.id: witness_key(origin, member.id, member.identity_key_bytes) for member in agreement.members},
    )
