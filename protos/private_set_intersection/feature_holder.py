"""The feature holder's side: it matches, and so learns which of its entities the label holder has (rule B9)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from protos.private_set_intersection.channel import BLINDED, DONE, HELLO, RAISED, Channel
from protos.private_set_intersection.curve import DIGEST_BYTES, digests, parse_elements, raise_elements
from protos.private_set_intersection.errors import MalformedElement, NotComplete
from protos.private_set_intersection.identifiers import KeyedEntities
from protos.private_set_intersection.session import Advanced, Kept, Limits, Side

UNKNOWN = -1
"""In `AlignedRows.rows`: the label holder's entity is not one of ours; the tower's answer for it is zero."""


@dataclass(frozen=True, eq=False)
class AlignedRows:
    """A feature holder's rows in the label holder's order.

    Attributes:
        rows: For each entity of the label holder the row of this member, or UNKNOWN, (n_label_holder,).
    """

    rows: NDArray[np.int64] = field(repr=False)

    @property
    def num_common(self) -> int:
        """Entities that both know."""
        return int((self.rows != UNKNOWN).sum())


def advance_feature_holder(
    side: Side,
    channel: Channel,
    arranged: KeyedEntities,
    incoming: Sequence[bytes],
    limits: Limits,
    rng: Callable[[int], bytes],
) -> Advanced:
    """Take what came, and say the next things; nothing changes where something is refused.

    Args, errors: As `advance_label_holder`.
    """
    side.require_session(channel)
    outgoing: list[bytes] = []
    kept: list[Kept] = []
    if not side.hello_sent:
        side, message = side.greet(channel, rng)
        outgoing.append(message)
    for message in incoming:
        kind, body = channel.receive(message, _expected(side), side.max_body_bytes)
        if kind == HELLO:
            side = side.greeted(body, limits)
        elif kind == RAISED:
            number = side.raised_received
            if len(body) != side.own.count(number) * DIGEST_BYTES:
                raise MalformedElement(
                    f"expected {side.own.count(number)} digests of {DIGEST_BYTES} bytes, found {len(body)} bytes"
                )
            kept.append(Kept("own", number, body))
            side = replace(side, raised_received=number + 1)
        elif side.peer is not None:
            number = side.blinded_received
            raised = raise_elements(side.scalar, parse_elements(body, side.peer.count(number)))
            kept.append(Kept("peer", number, digests(side.session, raised)))
            side = replace(side, blinded_received=number + 1)
    if side.peer is not None and side.blinded_sent < side.own.num_chunks:
        side, message = side.next_blinded(channel, arranged, rng)
        outgoing.append(message)
    return Advanced(side, tuple(outgoing), tuple(kept))


def is_complete(side: Side) -> bool:
    """Whether everything has arrived that matching needs."""
    return (
        side.peer is not None
        and side.raised_received == side.own.num_chunks
        and side.blinded_received == side.peer.num_chunks
    )


def finish(
    side: Side,
    channel: Channel,
    arranged: KeyedEntities,
    own_digests: bytes,
    peer_digests: bytes,
    rng: Callable[[int], bytes],
) -> tuple[Side, AlignedRows, bytes]:
    """Match, and tell the label holder that the session is over; the message says nothing else.

    Args:
        side: Complete.
        channel: This member's end.
        arranged: `side.arrange` of its entities.
        own_digests: All kept of kind "own", in order.
        peer_digests: All kept of kind "peer", in order.
        rng: Cryptographic randomness.

    Raises:
        NotComplete: Something has not arrived.
        MalformedElement: Two of the label holder's elements match one of ours.
    """
    side.require_session(channel)
    if not is_complete(side) or side.peer is None:
        raise NotComplete("expected every chunk of both sides before matching, found some missing; go on with the run")
    places = match(own_digests, peer_digests)
    rows = np.where(places == UNKNOWN, UNKNOWN, arranged.rows[places])
    message = channel.send(DONE, 0, b"", rng)
    return side.ended(), AlignedRows(rows), message


def match(own: bytes, peer: bytes) -> NDArray[np.int64]:
    """Where each of the peer's digests stands among one's own, or UNKNOWN, (n_peer,).

    Sorted search on the first 8 bytes, then the last 8 compared: 60 bytes an element, whatever the sets.

    Args:
        own: n_own digests of 16 bytes, all different.
        peer: n_peer digests.

    Raises:
        MalformedElement: Own digests repeat, or two of the peer's are the same one of ours.
    """
    mine = np.frombuffer(own, dtype="<u8").reshape(-1, 2)
    theirs = np.frombuffer(peer, dtype="<u8").reshape(-1, 2)
    order = np.lexsort((mine[:, 1], mine[:, 0]))
    ordered = mine[order]
    if len(ordered) > 1 and (ordered[1:] == ordered[:-1]).all(axis=1).any():
        raise MalformedElement("expected every returned element once, found one twice; refuse the session")
    found = np.full(len(theirs), UNKNOWN, dtype=np.int64)
    first = np.searchsorted(ordered[:, 0], theirs[:, 0], side="left")
    last = np.searchsorted(ordered[:, 0], theirs[:, 0], side="right")
    # Elements that agree in their first 8 bytes are a run of one, but for a chance of 2^-24.
    for offset in range(int((last - first).max(initial=0))):
        at = first + offset
        within = np.flatnonzero(at < last)
        hits = within[ordered[at[within], 1] == theirs[within, 1]]
        found[hits] = order[at[hits]]
    known = found[found != UNKNOWN]
    if len(np.unique(known)) != len(known):
        raise MalformedElement("expected every element of the label holder once, found one twice; refuse the session")
    return found


def _expected(side: Side) -> dict[int, int]:
    """The messages that may come next: both streams advance on their own."""
    if side.peer is None:
        return {HELLO: 0}
    expected = {}
    if side.raised_received < side.blinded_sent:
        expected[RAISED] = side.raised_received
    if side.blinded_received < side.peer.num_chunks:
        expected[BLINDED] = side.blinded_received
    return expected
