"""Two members that intersect their entities inside one process; only the relay between them is a call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from protos.private_set_intersection.channel import Channel, Pair
from protos.private_set_intersection.feature_holder import (
    AlignedRows,
    advance_feature_holder,
    finish,
    is_complete,
)
from protos.private_set_intersection.identifiers import (
    IdentifierType,
    KeyedEntities,
    OrderSeed,
    keyed_entities,
    members_key,
)
from protos.private_set_intersection.label_holder import advance_label_holder
from protos.private_set_intersection.session import Advanced, Limits, Side
from protos.sealed_sum.dealing import Ready

ANY_SIZE = Limits(max_elements=10_000_000, max_ratio=1e9)
Rng = Callable[[int], bytes]


@dataclass
class Party:
    """One end, with what a node would have on its disk."""

    channel: Channel
    entities: KeyedEntities
    arranged: KeyedEntities
    side: Side
    limits: Limits
    rng: Rng
    kept: dict[Literal["own", "peer"], list[bytes]] = field(default_factory=lambda: {"own": [], "peer": []})
    aligned: AlignedRows | None = None

    @classmethod
    def begin(
        cls,
        ready: Ready,
        pair: Pair,
        identifiers: Iterable[object],
        kind: IdentifierType,
        chunk_elements: int,
        limits: Limits,
        rng: Rng,
        order_seed: OrderSeed | None = None,
    ) -> Party:
        """Key the identifiers and draw the session's secrets."""
        key = members_key(ready.keyed.tag_key, ready.view.agreement_hash, ready.epoch_id)
        channel = Channel.between(ready, pair)
        entities = keyed_entities(identifiers, kind, key)
        side = Side.begin(channel, entities, chunk_elements, rng, order_seed=order_seed)
        return cls(channel, entities, side.arrange(entities), side, limits, rng)

    @property
    def is_label_holder(self) -> bool:
        """Which of the two this is."""
        return self.channel.member == self.channel.pair.label_holder

    def advance(self, incoming: Sequence[bytes]) -> tuple[bytes, ...]:
        """One exchange."""
        advance = advance_label_holder if self.is_label_holder else advance_feature_holder
        advanced: Advanced = advance(self.side, self.channel, self.arranged, incoming, self.limits, self.rng)
        self.side, outgoing = advanced.side, advanced.outgoing
        for kept in advanced.kept:
            self.kept[kept.kind].append(kept.digests)
        if not self.is_label_holder and is_complete(self.side) and not self.side.done:
            own, peer = b"".join(self.kept["own"]), b"".join(self.kept["peer"])
            self.side, self.aligned, last = finish(self.side, self.channel, self.arranged, own, peer, self.rng)
            outgoing = (*outgoing, last)
        return outgoing

    def restart(self) -> None:
        """Forget everything but what is on disk and in the source."""
        self.side = Side.from_bytes(self.side.to_bytes())
        self.arranged = self.side.arrange(self.entities)


class InProcessPair:
    """A label holder and a feature holder of one epoch.

    Args:
        ready: State of both members (and of others) after E2.
        pair: Who takes part.
        left: The label holder's identifiers.
        right: The feature holder's identifiers.
        kind: How they are written.
        chunk_elements: Elements a message, at either end.
        limits: Of both nodes' policies.
        rng: Cryptographic randomness.
        order_seed: The label holder's order; fresh when None.
    """

    def __init__(
        self,
        ready: dict[str, Ready],
        pair: Pair,
        left: Iterable[object],
        right: Iterable[object],
        *,
        kind: IdentifierType = "text",
        chunk_elements: int = 64,
        limits: Limits = ANY_SIZE,
        rng: Rng = os.urandom,
        order_seed: OrderSeed | None = None,
    ) -> None:
        self.label_holder = Party.begin(
            ready[pair.label_holder], pair, left, kind, chunk_elements, limits, rng, order_seed
        )
        self.feature_holder = Party.begin(ready[pair.feature_holder], pair, right, kind, chunk_elements, limits, rng)
        self.to_label_holder: tuple[bytes, ...] = ()
        self.to_feature_holder: tuple[bytes, ...] = ()
        self.transcript: list[tuple[bytes, ...]] = []

    def exchange(self) -> None:
        """Each side takes what the other one said last."""
        said = self.label_holder.advance(self.to_label_holder), self.feature_holder.advance(self.to_feature_holder)
        self.to_feature_holder, self.to_label_holder = said
        self.transcript.extend(said)

    def run(self) -> AlignedRows:
        """Exchange until both are done."""
        while not self.label_holder.side.done:
            self.exchange()
        if self.feature_holder.aligned is None:
            raise RuntimeError("the label holder was told that the session is over before it was")
        return self.feature_holder.aligned
