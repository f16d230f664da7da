"""What one masked sum is about, in one byte string that every mask is bound to (C3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Self

from protos.masked_sum import masked_sum_pb2 as pb
from protos.sealed_sum.canonical import digest
from protos.sealed_sum.errors import MalformedMessage
from protos.sealed_sum.wire import DIGEST_BYTES, expect_length, expect_member, expect_roster, expect_text, parse

TOKEN_BYTES = 32
MAX_ENTITIES = 100_000
MAX_SLOTS_PER_ENTITY = 256
MAX_SLOTS = 4_000_000
MAX_GRANT_BYTES = MAX_ENTITIES * (TOKEN_BYTES + 8 * 16) + 4096  # with who answers, in up to eight roles (C10)
MAX_REQUEST_BYTES = MAX_GRANT_BYTES + MAX_ENTITIES * TOKEN_BYTES + 16_384


@dataclass(frozen=True)
class Request:
    """A validated request.

    Attributes:
        epoch_id: The key epoch, 32 bytes.
        k: Attempt number, strictly increasing in the epoch: two attempts never share a mask.
        task: The agreement's task.
        model_version: Version of the model asked for.
        purpose: What the answer is used for.
        requester: Who asked the platform.
        window: Number of the answer window.
        asked_at_ms: The gateway's clock, Unix milliseconds.
        layout_digest: What the slots of one entity mean, 32 bytes.
        slots_per_entity: Slots of one entity.
        roster: The epoch's cohort, sorted.
        entities: Entity tokens, joined, 32 bytes each, in order.
        grant: The signed grant.
        wire: The bytes as sent and received; the digest is over these.
    """

    epoch_id: bytes
    k: int
    task: str
    model_version: str
    purpose: str
    requester: str
    window: int
    asked_at_ms: int
    layout_digest: bytes
    slots_per_entity: int
    roster: tuple[str, ...]
    entities: bytes = field(repr=False)
    grant: bytes = field(repr=False)

    def __post_init__(self) -> None:
        expect_length(self.epoch_id, DIGEST_BYTES, "epoch id")
        expect_length(self.layout_digest, DIGEST_BYTES, "layout digest")
        for what in ("task", "model_version", "purpose", "requester"):
            expect_text(getattr(self, what), what)
        _expect_members(self.roster)
        count, rest = divmod(len(self.entities), TOKEN_BYTES)
        if rest or not 1 <= count <= MAX_ENTITIES:
            raise MalformedMessage(f"expected 1 to {MAX_ENTITIES} entity tokens, found {len(self.entities)} bytes")
        if count > 1 and len(set(self.tokens)) != count:
            raise MalformedMessage("expected every entity once in a request, found one repeated")
        if not 1 <= self.slots_per_entity <= MAX_SLOTS_PER_ENTITY or self.num_slots > MAX_SLOTS:
            raise MalformedMessage(
                f"expected 1 to {MAX_SLOTS_PER_ENTITY} slots an entity and at most {MAX_SLOTS} in all, found "
                f"{self.slots_per_entity} for {count} entities; ask in smaller batches"
            )

    @property
    def num_entities(self) -> int:
        """Entities asked about."""
        return len(self.entities) // TOKEN_BYTES

    @property
    def num_slots(self) -> int:
        """Length of the summed vector."""
        return self.num_entities * self.slots_per_entity

    def in_turn(self, members: tuple[str, ...]) -> tuple[str, ...]:
        """Members in the order in which they are asked for shares: another one is the first at every attempt."""
        first = self.k % len(members)
        return (*members[first:], *members[:first])

    @cached_property
    def tokens(self) -> tuple[bytes, ...]:
        """The entity tokens, in order."""
        return split_tokens(self.entities)

    @cached_property
    def wire(self) -> bytes:
        """The canonical bytes."""
        return pb.Request(
            epoch_id=self.epoch_id,
            k=self.k,
            task=self.task,
            model_version=self.model_version,
            purpose=self.purpose,
            requester=self.requester,
            window=self.window,
            asked_at_ms=self.asked_at_ms,
            layout_digest=self.layout_digest,
            slots_per_entity=self.slots_per_entity,
            roster=self.roster,
            entities=self.entities,
            grant=self.grant,
        ).SerializeToString(deterministic=True)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of everything above: in every seed, key and answer of this sum, 32 bytes."""
        return digest("masked-sum/request", self.wire)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse a received request.

        Raises:
            MalformedMessage: It is not one, or not in canonical form.
        """
        body = parse(pb.Request, data, MAX_REQUEST_BYTES)
        found = cls(
            body.epoch_id,
            body.k,
            body.task,
            body.model_version,
            body.purpose,
            body.requester,
            body.window,
            body.asked_at_ms,
            body.layout_digest,
            body.slots_per_entity,
            tuple(body.roster),
            body.entities,
            body.grant,
        )
        found.__dict__["wire"] = data  # canonical, or it would not have been parsed
        return found


@lru_cache(maxsize=64)
def _expect_members(roster: tuple[str, ...]) -> None:
    """Check a roster; the same one comes with every request of an epoch."""
    expect_roster((expect_member(member) for member in roster), "the roster")


def split_tokens(joined: bytes) -> tuple[bytes, ...]:
    """32-byte tokens out of their concatenation."""
    return tuple(joined[start : start + TOKEN_BYTES] for start in range(0, len(joined), TOKEN_BYTES))


def digest_of(message: bytes) -> bytes:
    """The request that an answer is to, read without parsing it: its first field, 32 bytes; checked later."""
    return message[2:34]
