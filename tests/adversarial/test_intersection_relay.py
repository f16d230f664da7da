"""A malicious relay, or a malicious peer, against an honest member of a private set intersection: rules B8 and B9.

Adversary of B8: the coordinator, which carries every message, and may collude with a third member (so that it has
K_members and can compute any element). Adversary of B9: the peer itself, with its own valid keys.
"""

import os

import numpy as np
import pytest

from protos.private_set_intersection import private_set_intersection_pb2 as pb
from protos.private_set_intersection.channel import BLINDED, CHUNK, DONE, HELLO, RAISED, Channel, Pair
from protos.private_set_intersection.curve import ELEMENT_BYTES
from protos.private_set_intersection.errors import (
    ChunkNotAuthentic,
    ChunkOutOfOrder,
    MalformedElement,
    SetSizeRefused,
    WeakElement,
    WrongSession,
)
from protos.private_set_intersection.identifiers import keyed_entities, members_key
from protos.private_set_intersection.session import Limits
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.errors import BadSignature, MalformedMessage, SealedSumError
from protos.sealed_sum.sealed_sum_pb2 import Signed
from protos.sealed_sum.wire import sign
from simulations.benchmarks.sealed_sum import Consortium
from simulations.intersection import InProcessPair

BANK, PAYMENT, LOGISTICS = "member-00", "member-01", "member-02"
PAIR = Pair(BANK, PAYMENT)
LEFT = [f"seller {number}" for number in range(60)]
RIGHT = [f"seller {number}" for number in range(30, 100)]


@pytest.fixture(scope="module")
def ready():
    return Consortium.found(Bounds.smallest(3, 1)).states


@pytest.fixture
def pair(ready):
    """Two exchanges in: hellos are over, the first chunk of each side is at the relay."""
    started = InProcessPair(ready, PAIR, LEFT, RIGHT, chunk_elements=20)
    started.exchange(), started.exchange()
    return started


def chunk_of(message):
    return pb.SealedChunk.FromString(Signed.FromString(message).body)


def resigned(identity, message, **changes):
    chunk = chunk_of(message)
    for name, value in changes.items():
        setattr(chunk, name, value)
    return sign(identity, CHUNK, chunk)


def test_b8_relay_cannot_play_the_other_side_with_its_own_dictionary(ready, pair):
    """Even with a third member's keys: K_members gives it elements, not the peer's signature or channel."""
    guesses = keyed_entities(
        ["seller 7"],
        "text",
        members_key(ready[LOGISTICS].keyed.tag_key, ready[BANK].view.agreement_hash, ready[BANK].epoch_id),
    )
    own = Channel.between(ready[LOGISTICS], Pair(BANK, LOGISTICS))
    forged = own.send(BLINDED, 0, guesses.elements.tobytes(), os.urandom)
    before = pair.label_holder.side

    with pytest.raises(BadSignature):
        pair.label_holder.advance([forged])
    relabelled = resigned(ready[LOGISTICS].identity, forged, session=before.session, sender=PAYMENT)
    with pytest.raises(BadSignature):
        pair.label_holder.advance([relabelled])
    assert pair.label_holder.side is before


def test_b8_a_signature_alone_does_not_carry_elements(ready, pair):
    """A peer's signing key without its epoch key: the AEAD refuses."""
    message = pair.to_label_holder[-1]
    forged = resigned(ready[PAYMENT].identity, message, sealed=os.urandom(len(chunk_of(message).sealed)))

    with pytest.raises(ChunkNotAuthentic):
        pair.label_holder.advance([forged])


def test_b8_relay_sees_ciphertext_and_sizes_alone(ready):
    """Transcript test: no element, digest or identifier of either side stands in any relayed byte."""
    pair = InProcessPair(ready, PAIR, LEFT, RIGHT, chunk_elements=20)
    pair.run()
    relayed = b"".join(message for said in pair.transcript for message in said)

    for party in (pair.label_holder, pair.feature_holder):
        for element in party.entities.elements:
            assert element.tobytes() not in relayed
    for kind in ("own", "peer"):
        for digests in pair.feature_holder.kept[kind]:
            for start in range(0, len(digests), 16):
                assert digests[start : start + 16] not in relayed
    assert b"seller" not in relayed


def test_b8_relayed_sizes_depend_on_the_sizes_of_the_sets_alone(ready):
    lengths = set()
    for right in (RIGHT, LEFT + [f"x{number}" for number in range(10)], [f"y{number}" for number in range(70)]):
        pair = InProcessPair(ready, PAIR, LEFT, right, chunk_elements=20)
        pair.run()
        lengths.add(tuple(tuple(len(message) for message in said) for said in pair.transcript))

    assert len(lengths) == 1


def test_b9_label_holders_view_is_fresh_noise_whoever_is_known(ready):
    """Two sessions over the same sets show the label holder blinded elements of which no two are equal."""
    views = []
    for _ in range(2):
        pair = InProcessPair(ready, PAIR, LEFT, LEFT, chunk_elements=20)
        seen = []
        while not pair.label_holder.side.done:
            for message in pair.to_label_holder:
                chunk = chunk_of(message)
                if chunk.kind == BLINDED:
                    _, body = pair.label_holder.channel.receive(message, {BLINDED: chunk.number}, 4096)
                    seen += [body[at : at + ELEMENT_BYTES] for at in range(0, len(body), ELEMENT_BYTES)]
            pair.exchange()
        own = {element.tobytes() for element in pair.label_holder.entities.elements}
        assert len(seen) == len(set(seen)) == 60
        assert not own & set(seen)
        views.append(set(seen))
    assert not views[0] & views[1]


def test_b9_feature_holder_cannot_raise_on_what_it_gets_back(ready):
    """The label holder returns 16-byte digests, not elements: an X25519 oracle would answer with 32 bytes."""
    pair = InProcessPair(ready, PAIR, LEFT, RIGHT)
    pair.run()

    assert [len(digests) for digests in pair.feature_holder.kept["own"]] == [64 * 16, 6 * 16]


@pytest.mark.parametrize("receiver", ["label_holder", "feature_holder"])
def test_b8_a_replayed_chunk_is_refused(pair, receiver):
    party, messages = getattr(pair, receiver), getattr(pair, f"to_{receiver}")
    party.advance(messages)

    with pytest.raises(ChunkOutOfOrder):
        party.advance(messages)


@pytest.mark.parametrize("receiver", ["label_holder", "feature_holder"])
def test_b8_a_chunk_out_of_order_is_refused(pair, receiver):
    party = getattr(pair, receiver)
    first = getattr(pair, f"to_{receiver}")
    pair.exchange()
    second = getattr(pair, f"to_{receiver}")
    pair.exchange()
    third = getattr(pair, f"to_{receiver}")

    assert first, second
    with pytest.raises(ChunkOutOfOrder):
        party.advance(third + third)
    with pytest.raises(ChunkOutOfOrder):
        party.advance(tuple(reversed(second)) if receiver == "label_holder" else second)


def test_b8_a_renumbered_chunk_does_not_authenticate(ready, pair):
    """Even the sender's own signature under another number does not move a chunk: the number is in the key and AD."""
    message = pair.to_label_holder[0]
    pair.label_holder.advance([message])

    with pytest.raises(ChunkNotAuthentic):
        pair.label_holder.advance([resigned(ready[PAYMENT].identity, message, number=1)])


def test_b8_a_chunk_of_another_kind_does_not_authenticate(ready, pair):
    raised = pair.label_holder.advance(pair.to_label_holder)[0]
    assert chunk_of(raised).kind == RAISED

    with pytest.raises(ChunkNotAuthentic):
        pair.feature_holder.advance([resigned(ready[BANK].identity, raised, kind=BLINDED)])


def test_b8_a_chunk_of_another_session_is_refused(ready, pair):
    """The same two members the other way round: same keys of the epoch, another session."""
    reverse = InProcessPair(ready, Pair(PAYMENT, BANK), RIGHT, LEFT, chunk_elements=20)
    reverse.exchange(), reverse.exchange()

    with pytest.raises(WrongSession):
        pair.label_holder.advance(reverse.to_feature_holder)
    swapped = [
        resigned(ready[PAYMENT].identity, message, session=pair.label_holder.side.session)
        for message in reverse.to_feature_holder
    ]
    with pytest.raises(ChunkNotAuthentic):
        pair.label_holder.advance(swapped)


def test_b8_a_message_sent_back_to_its_author_is_refused(pair):
    with pytest.raises(BadSignature):
        pair.label_holder.advance(pair.to_feature_holder)


def test_b8_a_chunk_of_another_epoch_is_refused(ready, pair):
    later = Consortium.found(Bounds.smallest(3, 1)).states
    other = InProcessPair(later, PAIR, LEFT, RIGHT, chunk_elements=20)
    other.exchange(), other.exchange()
    message = resigned(ready[PAYMENT].identity, other.to_label_holder[0])

    with pytest.raises(WrongSession):
        pair.label_holder.advance([message])


def honest_channel_of_the_peer(ready):
    return Channel.between(ready[PAYMENT], PAIR)


@pytest.mark.parametrize("point", [0, 1, 2**255 - 20])
def test_b9_a_peers_small_order_points_are_refused_whole(ready, pair, point):
    body = point.to_bytes(32, "little") + bytes([9, *[0] * 31]) * 19
    message = honest_channel_of_the_peer(ready).send(BLINDED, 0, body, os.urandom)
    before = pair.label_holder.side

    with pytest.raises(WeakElement):
        pair.label_holder.advance([message])
    assert pair.label_holder.side is before


@pytest.mark.parametrize("count", [0, 19, 21])
def test_b9_a_peer_sends_as_many_elements_as_its_hello_said(ready, pair, count):
    message = honest_channel_of_the_peer(ready).send(BLINDED, 0, bytes([9, *[0] * 31]) * count, os.urandom)

    with pytest.raises((MalformedElement, MalformedMessage)):
        pair.label_holder.advance([message])


def test_b9_a_peer_sends_no_chunk_beyond_its_hello(ready):
    pair = InProcessPair(ready, PAIR, LEFT, RIGHT, chunk_elements=70)
    pair.exchange(), pair.exchange()
    pair.label_holder.advance(pair.to_label_holder)
    more = honest_channel_of_the_peer(ready).send(BLINDED, 1, bytes(32), os.urandom)

    with pytest.raises(ChunkOutOfOrder):
        pair.label_holder.advance([more])


def test_b9_a_second_hello_does_not_change_the_size(ready, pair):
    hello = pb.Hello(num_elements=10**6, chunk_elements=20).SerializeToString(deterministic=True)

    with pytest.raises(ChunkOutOfOrder):
        pair.label_holder.advance([honest_channel_of_the_peer(ready).send(HELLO, 0, hello, os.urandom)])


@pytest.mark.parametrize("count", [0, 101, 10**9, 2**63])
def test_b9_an_oversized_or_empty_set_is_refused_at_the_hello(ready, count):
    pair = InProcessPair(ready, PAIR, LEFT, RIGHT, limits=Limits(max_elements=100, max_ratio=10.0))
    pair.label_holder.advance(())
    hello = pb.Hello(num_elements=count, chunk_elements=20).SerializeToString(deterministic=True)

    with pytest.raises(SetSizeRefused):
        pair.label_holder.advance([honest_channel_of_the_peer(ready).send(HELLO, 0, hello, os.urandom)])


def test_b9_a_label_holder_that_sends_an_element_twice_is_refused(ready):
    pair = InProcessPair(ready, PAIR, LEFT, RIGHT)
    party = pair.label_holder
    party.arranged.elements[:] = party.arranged.elements[np.zeros(60, dtype=int) + np.argmax(party.arranged.rows >= 30)]

    with pytest.raises(MalformedElement, match="once"):
        pair.run()


def test_an_end_that_comes_early_is_refused(ready, pair):
    with pytest.raises(ChunkOutOfOrder):
        pair.label_holder.advance([honest_channel_of_the_peer(ready).send(DONE, 0, b"", os.urandom)])


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_cut_message_is_refused(pair, cut):
    with pytest.raises(SealedSumError):
        pair.label_holder.advance([pair.to_label_holder[0][:cut]])


def test_every_flipped_byte_of_a_message_is_refused(pair):
    message = pair.to_label_holder[0]
    before = pair.label_holder.side
    for at in range(0, len(message), 7):
        flipped = bytearray(message)
        flipped[at] ^= 0x40
        with pytest.raises(SealedSumError):
            pair.label_holder.advance([bytes(flipped)])
    assert pair.label_holder.side is before
