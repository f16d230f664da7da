"""What both sides of a session keep and check alike: sizes, limits, and their own secrets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from protos.private_set_intersection import private_set_intersection_pb2 as pb
from protos.private_set_intersection.channel import BLINDED, HELLO, Channel
from protos.private_set_intersection.curve import ELEMENT_BYTES, BlindingScalar, raise_elements
from protos.private_set_intersection.errors import InputChanged, SetSizeRefused, WrongSession
from protos.private_set_intersection.identifiers import KeyedEntities, OrderSeed
from protos.sealed_sum.errors import MalformedMessage
from protos.sealed_sum.wire import parse

MAX_CHUNK_ELEMENTS = 1 << 16
"""A chunk is then 2 MB, a second and a half of work."""
HELLO_BYTES = 32


@dataclass(frozen=True)
class Limits:
    """What this node's policy allows the two sets to be (rule B9); probing within them is inherent.

    Attributes:
        max_elements: Cap on either set.
        max_ratio: The larger set may have so many times the elements of the smaller one.
    """

    max_elements: int
    max_ratio: float

    def check(self, own: int, peer: int) -> None:
        """Raise SetSizeRefused unless both sets are within the limits."""
        for whose, count in (("this member", own), ("the other member", peer)):
            if not 1 <= count <= self.max_elements:
                raise SetSizeRefused(
                    f"expected 1 to {self.max_elements} entities (cap of this node's policy), found {count} at {whose}"
                )
        if max(own, peer) > self.max_ratio * min(own, peer):
            raise SetSizeRefused(
                f"expected sets of which one is at most {self.max_ratio:g} times the other (ratio of this node's "
                f"policy), found {own} and {peer}; ask this node's owner"
            )


@dataclass(frozen=True)
class Shape:
    """How many elements a side sends, and in which chunks."""

    num_elements: int
    chunk_elements: int

    def __post_init__(self) -> None:
        if not 1 <= self.chunk_elements <= MAX_CHUNK_ELEMENTS:
            raise MalformedMessage(
                f"expected chunks of 1 to {MAX_CHUNK_ELEMENTS} elements, found {self.chunk_elements}"
            )

    @property
    def num_chunks(self) -> int:
        """Chunks of blinded elements."""
        return -(-self.num_elements // self.chunk_elements)

    def count(self, number: int) -> int:
        """Elements in one chunk."""
        return min(self.chunk_elements, self.num_elements - number * self.chunk_elements)


@dataclass(frozen=True)
class Kept:
    """Something to be stored with the state it came with, and brought back at the end."""

    kind: Literal["own", "peer"]
    number: int
    digests: bytes = field(repr=False)


@dataclass(frozen=True)
class Side:
    """What either side holds between two messages; small, whatever the size of the sets.

    Attributes:
        session: 32 bytes.
        own: What this side sends.
        input_digest: Of this side's entities.
        peer: What the other side sends; None before its hello.
        scalar: Fresh for this pair, direction and session (rule B9).
        order_seed: Order in which this side's elements go out.
        hello_sent: Whether the first message has gone out.
        blinded_sent: Own chunks that have gone out.
        blinded_received: Chunks of the peer that have come.
        raised_received: Own chunks that the peer has raised and returned; at the feature holder.
        done: Whether the session has ended as it should.
    """

    session: bytes
    own: Shape
    input_digest: bytes
    scalar: BlindingScalar = field(repr=False)
    order_seed: OrderSeed = field(repr=False)
    peer: Shape | None = None
    hello_sent: bool = False
    blinded_sent: int = 0
    blinded_received: int = 0
    raised_received: int = 0
    done: bool = False

    @classmethod
    def begin(
        cls,
        channel: Channel,
        entities: KeyedEntities,
        chunk_elements: int,
        rng: Callable[[int], bytes],
        *,
        order_seed: OrderSeed | None = None,
    ) -> Self:
        """Draw this session's secrets.

        Args:
            channel: This member's end.
            entities: Its consented entities.
            chunk_elements: Elements a message.
            rng: Cryptographic randomness.
            order_seed: A label holder's order for the whole run, so that all feature holders align to one; fresh
                when None.
        """
        return cls(
            channel.session,
            Shape(len(entities), chunk_elements),
            entities.input_digest(),
            BlindingScalar(rng(BlindingScalar.LENGTH)),
            order_seed or OrderSeed(rng(OrderSeed.LENGTH)),
        )

    def arrange(self, entities: KeyedEntities) -> KeyedEntities:
        """This side's entities in the order in which they go out.

        Raises:
            InputChanged: They are not the ones that the session began with.
        """
        if entities.input_digest() != self.input_digest:
            raise InputChanged
        return entities.arranged(self.order_seed)

    def require_session(self, channel: Channel) -> None:
        """Refuse a channel of another session."""
        if channel.session != self.session:
            raise WrongSession("expected the channel of this session, found one of another")

    def greet(self, channel: Channel, rng: Callable[[int], bytes]) -> tuple[Self, bytes]:
        """The first message: how much will follow."""
        hello = pb.Hello(num_elements=self.own.num_elements, chunk_elements=self.own.chunk_elements)
        message = channel.send(HELLO, 0, hello.SerializeToString(deterministic=True), rng)
        return replace(self, hello_sent=True), message

    def greeted(self, body: bytes, limits: Limits) -> Self:
        """The peer's first message.

        Raises:
            SetSizeRefused: The sets are not within this node's limits.
        """
        hello = parse(pb.Hello, body, HELLO_BYTES)
        limits.check(self.own.num_elements, hello.num_elements)
        return replace(self, peer=Shape(hello.num_elements, hello.chunk_elements))

    def next_blinded(
        self, channel: Channel, arranged: KeyedEntities, rng: Callable[[int], bytes]
    ) -> tuple[Self, bytes]:
        """The next chunk of own elements, blinded."""
        number = self.blinded_sent
        start = number * self.own.chunk_elements
        blinded = raise_elements(self.scalar, arranged.elements[start : start + self.own.chunk_elements])
        message = channel.send(BLINDED, number, blinded.tobytes(), rng)
        return replace(self, blinded_sent=number + 1), message

    def ended(self) -> Self:
        """The session is over: its scalar is overwritten, so that the stored state blinds nothing any more."""
        return replace(self, done=True, scalar=BlindingScalar(bytes(BlindingScalar.LENGTH)))

    @property
    def max_body_bytes(self) -> int:
        """Longest body that may come next."""
        largest = max(self.own.chunk_elements, self.peer.chunk_elements) if self.peer is not None else 1
        return largest * ELEMENT_BYTES

    def to_bytes(self) -> bytes:
        """For the node's own disk; holds the session's secrets."""
        stored = pb.StoredSide(
            session=self.session,
            scalar=self.scalar.raw,
            order_seed=self.order_seed.raw,
            input_digest=self.input_digest,
            own=pb.StoredShape(num_elements=self.own.num_elements, chunk_elements=self.own.chunk_elements),
            hello_sent=self.hello_sent,
            blinded_sent=self.blinded_sent,
            blinded_received=self.blinded_received,
            raised_received=self.raised_received,
            done=self.done,
        )
        if self.peer is not None:
            stored.peer.num_elements = self.peer.num_elements
            stored.peer.chunk_elements = self.peer.chunk_elements
        return stored.SerializeToString(deterministic=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Load what `to_bytes` stored."""
        stored = parse(pb.StoredSide, data, len(data))
        peer = Shape(stored.peer.num_elements, stored.peer.chunk_elements) if stored.HasField("peer") else None
        return cls(
            stored.session,
            Shape(stored.own.num_elements, stored.own.chunk_elements),
            stored.input_digest,
            BlindingScalar(stored.scalar),
            OrderSeed(stored.order_seed),
            peer,
            stored.hello_sent,
            stored.blinded_sent,
            stored.blinded_received,
            stored.raised_received,
            stored.done,
        )


@dataclass(frozen=True)
class Advanced:
    """One exchange's result: store `side` and `kept` before `outgoing` leaves."""

    side: Side
    outgoing: tuple[bytes, ...] = field(repr=False)
    kept: tuple[Kept, ...] = ()
