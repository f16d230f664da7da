"""This node's part in aligning a run's entities with other members, pair by pair (PROTOCOLS rules B8 and B9).

The coordinator carries sealed messages; what they say, to whom and in which order is decided between members. An
exchange is committed with its reply before the reply leaves; asked again, the node answers with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from nodes.alignment_store import AlignmentStore, StoredSession
from nodes.membership import Membership
from nodes.store import NodeStore, RunRecord
from policies.alignment import alignment_pairs
from policies.errors import UserError
from policies.guard import alignment_limits
from policies.proposal import RunProposal
from protos.private_set_intersection.channel import Channel, Pair
from protos.private_set_intersection.feature_holder import advance_feature_holder, finish, is_complete
from protos.private_set_intersection.identifiers import KeyedEntities, keyed_entities, members_key
from protos.private_set_intersection.label_holder import advance_label_holder
from protos.private_set_intersection.session import Kept, Side
from protos.runs.v1 import alignment_pb2
from protos.sealed_sum.dealing import Ready


class AlignmentRefused(UserError):
    """A message that does not fit where this node's alignment stands."""


class EntityProvider(Protocol):
    """Gives the identifiers of this member's rows."""

    def __call__(self, tasks: Sequence[str], purpose: str) -> Iterable[object]:
        """One identifier a row, None for rows whose entity did not consent to the purpose; the same for a whole run.

        Such rows keep their places, so that the rows of an order (`AlignmentStore.aligned_rows`) are those of the
        member's checked rows, whatever is granted or revoked between alignment and training.
        """
        ...


class Alignment:
    """A member's intersections in one run.

    Args:
        membership: Who this node is.
        proposal: The accepted proposal.
        record: The run as last committed, phase `ready`.
        entities: Identifiers of this member's rows.
        store: Durable state.
        rng: Cryptographic randomness.
        now: Wall clock as ISO 8601 text, for the journal.
    """

    def __init__(
        self,
        membership: Membership,
        proposal: RunProposal,
        record: RunRecord,
        entities: EntityProvider,
        store: NodeStore,
        *,
        rng: Callable[[int], bytes],
        now: Callable[[], str],
    ) -> None:
        self._membership = membership
        self._proposal = proposal
        self._ready = Ready.from_bytes(record.state, membership.identity)
        self._identifiers = entities
        self._journal = store
        self._store = AlignmentStore(store, proposal.run_id)
        self._limits = alignment_limits(membership.policy)
        self._rng = rng
        self._now = now
        self._pairs = [
            pair
            for pair in alignment_pairs(membership.agreement, proposal)
            if membership.member in (pair.label_holder, pair.feature_holder)
        ]
        self._keyed: KeyedEntities | None = None
        self._arranged: dict[bytes, KeyedEntities] = {}
        self._channels: dict[Pair, Channel] = {}

    def answer(self, message: alignment_pb2.AlignRequest) -> alignment_pb2.AlignReply:
        """Answer one step.

        Raises:
            AlignmentRefused: It is empty, about a pair that is none of the run's, or out of order.
            SealedSumError: What a peer sent is refused.
        """
        match message.WhichOneof("step"):
            case "open":
                pairs = [self._pair(pair) for pair in message.open.pairs]
                parcels = [parcel for pair in pairs for parcel in self._open(pair, message.open.chunk_elements)]
            case "relay":
                pairs = [
                    self._pair(parcel.pair) for parcel in message.relay.parcels
                ]  # all of them before any is served
                parcels = [self._exchange(*each) for each in zip(pairs, message.relay.parcels, strict=True)]
            case _:
                raise AlignmentRefused(
                    f"Run {self._proposal.run_id}: expected an opening or a relay of an alignment, found neither; "
                    "coordinator and node must run the same release."
                )
        return alignment_pb2.AlignReply(parcels=parcels)

    def _open(self, pair: Pair, chunk_elements: int) -> list[alignment_pb2.Parcel]:
        """Begin a session, or say again what was said last."""
        if self._store.session(pair) is None:
            # One order for all feature holders of this label holder, so that their answers meet row by row.
            earlier = self._store.any_side(pair.label_holder) if self._is_label_holder(pair) else None
            keyed = self._entities()
            side = Side.begin(
                self._channel(pair),
                keyed,
                chunk_elements,
                self._rng,
                order_seed=earlier.order_seed if earlier is not None else None,
            )
            self._note(
                "alignment begun",
                pair,
                entities=len(keyed),
                duplicates=keyed.num_duplicates,
                malformed=keyed.num_malformed,
            )
            self._advance(pair, StoredSession(side, -1), ())
        return [alignment_pb2.Parcel.FromString(reply) for reply in self._store.replies(pair).values()]

    def _exchange(self, pair: Pair, parcel: alignment_pb2.Parcel) -> alignment_pb2.Parcel:
        """Take what the peer said, unless it was taken before."""
        stored = self._store.session(pair)
        expected = -1 if stored is None else stored.exchange
        if stored is None or parcel.exchange not in (expected, expected + 1):
            raise AlignmentRefused(
                f"Run {self._proposal.run_id}: expected exchange {expected + 1} of {pair.label_holder} and "
                f"{pair.feature_holder}, found {parcel.exchange}; open the alignment again."
            )
        if parcel.exchange == expected:
            return alignment_pb2.Parcel.FromString(self._store.replies(pair)[expected])
        return self._advance(pair, stored, tuple(parcel.messages))

    def _advance(self, pair: Pair, stored: StoredSession, incoming: tuple[bytes, ...]) -> alignment_pb2.Parcel:
        """One exchange, committed."""
        channel, arranged = self._channel(pair), self._arrange(stored.side)
        advance = advance_label_holder if self._is_label_holder(pair) else advance_feature_holder
        advanced = advance(stored.side, channel, arranged, incoming, self._limits, self._rng)
        side, outgoing, rows = advanced.side, advanced.outgoing, None
        if self._is_label_holder(pair):
            if side.done and not stored.side.done:
                rows = arranged.rows
                self._note("alignment ended", pair, entities_of_peer=side.peer.num_elements if side.peer else 0)
        elif is_complete(side) and not side.done:
            own, peer = (self._digests(pair, kind, advanced.kept) for kind in ("own", "peer"))
            side, aligned, last = finish(side, channel, arranged, own, peer, self._rng)
            outgoing, rows = (*outgoing, last), aligned.rows
            self._note("alignment ended", pair, entities_of_peer=len(aligned.rows), common=aligned.num_common)
        reply = alignment_pb2.Parcel(
            pair=alignment_pb2.AlignPair(label_holder=pair.label_holder, feature_holder=pair.feature_holder),
            exchange=stored.exchange + 1,
            messages=outgoing,
            done=side.done,
        )
        self._store.commit(pair, side, stored.exchange + 1, reply.SerializeToString(), advanced.kept, rows)
        if side.done:
            self._forget(pair)
        return reply

    def _digests(self, pair: Pair, kind: str, last: Sequence[Kept]) -> bytes:
        """What matching needs: the committed digests and those that came with the last messages."""
        return self._store.digests(pair, kind) + b"".join(part.digests for part in last if part.kind == kind)

    # -- what can be computed again ---------------------------------------------------------------------

    def _entities(self) -> KeyedEntities:
        if self._keyed is None:
            key = members_key(self._ready.keyed.tag_key, self._ready.view.agreement_hash, self._ready.epoch_id)
            kind = self._membership.agreement.entities.id_type
            self._keyed = keyed_entities(self._identifiers(self._proposal.tasks, self._proposal.purpose), kind, key)
        return self._keyed

    def _arrange(self, side: Side) -> KeyedEntities:
        if side.order_seed.raw not in self._arranged:
            self._arranged[side.order_seed.raw] = side.arrange(self._entities())
        return self._arranged[side.order_seed.raw]

    def _channel(self, pair: Pair) -> Channel:
        if pair not in self._channels:
            self._channels[pair] = Channel.between(self._ready, pair)
        return self._channels[pair]

    def _forget(self, pair: Pair) -> None:
        """Drop the elements once the last session is over."""
        self._channels.pop(pair, None)
        sessions = [self._store.session(each) for each in self._pairs]
        if all(session is not None and session.side.done for session in sessions):
            self._keyed = None
            self._arranged.clear()

    # -- shared -----------------------------------------------------------------------------------------

    def _is_label_holder(self, pair: Pair) -> bool:
        return pair.label_holder == self._membership.member

    def _pair(self, pair: alignment_pb2.AlignPair) -> Pair:
        named = Pair(pair.label_holder, pair.feature_holder)
        if named not in self._pairs:
            raise AlignmentRefused(
                f"Run {self._proposal.run_id}: expected a label holder and a feature holder of the run, one of them "
                f"{self._membership.member}, found {named.label_holder[:31]!r} and {named.feature_holder[:31]!r}."
            )
        return named

    def _note(self, event: str, pair: Pair, **counts: int) -> None:
        details: dict[str, str | int | list[str]] = dict(counts)
        self._journal.journal(
            self._now(),
            self._proposal.run_id,
            event,
            label_holder=pair.label_holder,
            feature_holder=pair.feature_holder,
            **details,
        )
