"""Who this node is: identity, agreement and the owner's policy, fixed for the life of the process."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from policies.agreement import Agreement, agreement_hash
from policies.guard import NodePolicy
from protos.sealed_sum.keys import SigningKey


@dataclass(frozen=True)
class Membership:
    """One member of one agreement.

    Attributes:
        member: Its id in the agreement.
        identity: Its Ed25519 identity key.
        agreement: The signed agreement, signatures verified by whoever built this.
        policy: The owner's policy of this node.
    """

    member: str
    identity: SigningKey = field(repr=False)
    agreement: Agreement = field(repr=False)
    policy: NodePolicy = field(repr=False)

    @cached_property
    def agreement_hash(self) -> bytes:
        """SHA-256 of the agreement's canonical form, 32 bytes."""
        return agreement_hash(self.agreement)
