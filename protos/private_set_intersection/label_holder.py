"""The label holder's side: it blinds, raises what the other side sends, and learns a number.

It returns the raised elements as truncated digests, so that the feature holder gets nothing that it could raise on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from protos.private_set_intersection.channel import BLINDED, DONE, HELLO, RAISED, Channel
from protos.private_set_intersection.curve import digests, parse_elements, raise_elements
from protos.private_set_intersection.identifiers import KeyedEntities
from protos.private_set_intersection.session import Advanced, Limits, Side


def advance_label_holder(
    side: Side,
    channel: Channel,
    arranged: KeyedEntities,
    incoming: Sequence[bytes],
    limits: Limits,
    rng: Callable[[int], bytes],
) -> Advanced:
    """Take what came, and say the next things; nothing changes where something is refused.

    Args:
        side: As stored after the last exchange.
        channel: This member's end.
        arranged: `side.arrange` of its entities.
        incoming: The feature holder's messages, in order.
        limits: Of this node's policy.
        rng: Cryptographic randomness.

    Raises:
        SealedSumError: A message is refused; see `Channel.receive`, `Limits.check` and `parse_elements`.
    """
    side.require_session(channel)
    outgoing: list[bytes] = []
    if not side.hello_sent:
        side, message = side.greet(channel, rng)
        outgoing.append(message)
    for message in incoming:
        kind, body = channel.receive(message, _expected(side), side.max_body_bytes)
        if kind == HELLO:
            side = side.greeted(body, limits)
        elif kind == BLINDED and side.peer is not None:
            number = side.blinded_received
            raised = raise_elements(side.scalar, parse_elements(body, side.peer.count(number)))
            outgoing.append(channel.send(RAISED, number, digests(side.session, raised), rng))
            side = replace(side, blinded_received=number + 1)
        else:
            side = side.ended()
    if side.peer is not None and side.blinded_sent < side.own.num_chunks:
        side, message = side.next_blinded(channel, arranged, rng)
        outgoing.append(message)
    return Advanced(side, tuple(outgoing))


def _expected(side: Side) -> dict[int, int]:
    """The one message that may come next."""
    if side.peer is None:
        return {HELLO: 0}
    if side.blinded_received < side.peer.num_chunks:
        return {BLINDED: side.blinded_received}
    return {DONE: 0} if side.blinded_sent == side.own.num_chunks and not side.done else {}
