"""The masked sum's rules C1 to C4 and A1, A6, A8, A12 as they hold in it: what opens, and what is refused."""

import dataclasses
import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.masked_sum import masked_sum_pb2 as pb
from protos.masked_sum import sharing
from protos.masked_sum.masking import RequestKeys
from protos.masked_sum.member import SEALED_SHARE_BYTES, contribute, require_one_opening, reveal_seeds, reveal_shares
from protos.masked_sum.request import Request
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.errors import (
    BoundsViolated,
    CohortRefused,
    ConflictingMessage,
    HeaderMismatch,
    IncompleteAnswers,
    MalformedMessage,
    SeedAndShareRefused,
    ShareInvalid,
    SurvivorSetRefused,
    WrongEpoch,
)
from simulations.masked_consortium import MaskedConsortium, random_vector

FIVE = Bounds(5, 1, 4, 3)


@pytest.fixture(scope="module")
def five():
    return MaskedConsortium.found(FIVE)


def vectors(consortium, members=None, slots=4):
    return {m: random_vector(slots) for m in members or consortium.view.cohort}


def asked(request, survivors, shares=b""):
    return pb.Reveal(request_digest=request.digest, survivors=survivors, shares=shares)


@pytest.mark.parametrize("n", [3, 5, 6, 12])
def test_total_is_the_exact_sum_of_all_members(n):
    consortium = MaskedConsortium.found(Bounds.smallest(n, 1))
    values = vectors(consortium)

    total = consortium.open(consortium.request(), values)

    assert np.array_equal(total, np.sum(list(values.values()), axis=0, dtype=np.uint64))


def test_total_is_the_exact_sum_of_the_survivors_when_a_member_drops_in_s1(five):
    values = vectors(five, five.view.cohort[1:])

    assert np.array_equal(five.open(five.request(2), values), np.sum(list(values.values()), axis=0, dtype=np.uint64))


def test_total_is_the_sum_of_the_survivors_when_a_member_drops_in_s2a():
    consortium = MaskedConsortium.found(Bounds(8, 2, 6, 5))
    values = vectors(consortium, consortium.view.cohort[1:])
    states, collecting = consortium.contribute(consortium.request(), values)
    revealing = collecting.close()
    silent = revealing.survivors[0]
    for member in revealing.survivors[1:]:
        question = pb.Reveal.FromString(revealing.seed_request())
        states[member], reply = reveal_seeds(consortium.parties[member], states[member], question)
        revealing.receive_seeds(member, reply)
    revealing.drop(frozenset({silent}))

    consortium.reveal(states, revealing)

    kept = [vector for member, vector in values.items() if member != silent]
    assert np.array_equal(revealing.open_total(), np.sum(kept, axis=0, dtype=np.uint64))


def test_total_opens_with_a_threshold_of_answers_in_s2b(five):
    values = vectors(five)
    states, collecting = five.contribute(five.request(3), values)
    revealing = collecting.close()
    for member in five.view.cohort[:4]:
        assert not revealing.enough
        question = pb.Reveal.FromString(revealing.share_request(member))
        revealing.receive_shares(member, reveal_shares(five.parties[member], states[member], question)[1])

    assert np.array_equal(revealing.open_total(), np.sum(list(values.values()), axis=0, dtype=np.uint64))


def test_total_does_not_open_below_the_threshold(five):
    states, collecting = five.contribute(five.request(4), vectors(five))
    revealing = collecting.close()
    for member in five.view.cohort[:3]:
        question = pb.Reveal.FromString(revealing.share_request(member))
        revealing.receive_shares(member, reveal_shares(five.parties[member], states[member], question)[1])

    with pytest.raises(IncompleteAnswers):
        revealing.open_total()


def test_c1_second_survivor_set_for_one_request_is_refused(five):
    request = five.request(5)
    states, collecting = five.contribute(request, vectors(five))
    revealing = collecting.close()
    member, other = five.view.cohort[0], five.view.cohort[4]
    question = pb.Reveal.FromString(revealing.share_request(member))
    state, _ = reveal_shares(five.parties[member], states[member], question)
    fewer = [name for name in five.view.cohort if name != other]

    with pytest.raises(SurvivorSetRefused):
        reveal_shares(five.parties[member], state, asked(request, fewer, question.shares[:-49]))


@pytest.mark.parametrize(
    "changed",
    [
        {"entities": bytes(31) + b"\1"},
        {"purpose": "marketing"},
        {"k": 7},
    ],
    ids=["another entity", "another purpose", "another attempt"],
)
def test_c3_unequal_requests_do_not_cancel(five, changed):
    """The coordinator asks one member about something else than the rest: what it adds up is noise."""
    request = five.request(6)
    other = five.request(**({"k": 6} | changed))
    zeros = {member: np.zeros(4, dtype=np.uint64) for member in five.view.cohort}
    total = np.zeros(4, dtype=np.uint64)
    for member, vector in zeros.items():
        shown = other if member == five.view.cohort[2] else request
        state, upload = contribute(five.parties[member], shown, vector, os.urandom)
        total += np.frombuffer(pb.Upload.FromString(upload).vector, dtype="<u8")
        # Even with every self mask known, which is more than the coordinator can have:
        total -= _self_mask_of(five, state, shown, upload, member)

    assert np.all(total != 0)


def _self_mask_of(consortium, state, request, upload, member):
    """The self mask, out of the masked zeros and the pairwise seeds that only the test has."""
    from protos.masked_sum.masking import add_pairwise  # noqa: PLC0415

    pairwise = np.zeros(4, dtype=np.uint64)
    add_pairwise(pairwise, member, ((peer, keys[0]) for peer, keys in state.keys.items()))
    return np.frombuffer(pb.Upload.FromString(upload).vector, dtype="<u8") - pairwise


def test_keys_of_a_request_are_those_of_hkdf_expand(five):
    """Held against the cryptography library's own HKDF-Expand (RFC 5869), which is not what computes them."""
    party, digest = five.parties[five.view.cohort[0]], bytes(range(32))
    keys = RequestKeys(party.pairs, digest)
    for pair in party.pairs:
        expected = HKDFExpand(SHA512(), 64, b"tallystick/masked-sum/1/request" + digest).derive(pair.key.raw)
        assert keys.blocks[pair.peer] == expected
        assert keys[pair.peer][0].raw + keys[pair.peer][1].raw == expected
    assert all(block.hex() not in repr(keys) for block in keys.blocks.values())


def test_c3_upload_to_another_request_is_not_added(five):
    request, other = five.request(8), five.request(8, purpose="marketing")
    _, collecting = five.contribute(request, vectors(five, five.view.cohort[:2]))
    _, upload = contribute(five.parties[five.view.cohort[2]], other, random_vector(4), os.urandom)

    with pytest.raises(HeaderMismatch):
        collecting.receive(five.view.cohort[2], upload)


def test_c3_every_field_of_a_request_changes_its_digest(five):
    request = five.request(9)
    changed = {
        "epoch_id": bytes(31) + b"\1",
        "k": 10,
        "task": "fraud",
        "model_version": "11" * 32,
        "purpose": "other",
        "requester": "other",
        "window": 2,
        "asked_at_ms": 1,
        "layout_digest": bytes(31) + b"\1",
        "slots_per_entity": 5,
        "roster": request.roster[1:],
        "entities": bytes(31) + b"\1",
        "grant": b"x",
    }
    assert changed.keys() == {field.name for field in dataclasses.fields(Request)}
    digests = {dataclasses.replace(request, **{name: value}).digest for name, value in changed.items()}

    assert len(digests | {request.digest}) == len(changed) + 1


def test_c3_order_of_entities_is_bound(five):
    one, two = bytes(32), bytes(31) + b"\1"

    assert five.request(entities=one + two).digest != five.request(entities=two + one).digest


def test_c4_member_refuses_fewer_survivors_than_the_bounds(five):
    request = five.request(11)
    states, _ = five.contribute(request, vectors(five))
    member = five.view.cohort[0]
    few = asked(request, five.view.cohort[:3], bytes(98))

    for reveal in (reveal_seeds, reveal_shares):
        with pytest.raises(CohortRefused, match="at least 4"):
            reveal(five.parties[member], states[member], few)


def test_c4_member_refuses_a_roster_that_is_not_the_epochs(five):
    request = dataclasses.replace(five.request(12), roster=five.view.cohort[:4])

    with pytest.raises(CohortRefused):
        contribute(five.parties[five.view.cohort[0]], request, random_vector(4), os.urandom)


def test_c4_member_refuses_survivors_from_outside_the_cohort(five):
    request = five.request(13)
    states, _ = five.contribute(request, vectors(five))
    strangers = sorted([*five.view.cohort[:4], "stranger"])

    with pytest.raises(CohortRefused):
        reveal_seeds(five.parties[strangers[0]], states[strangers[0]], asked(request, strangers))


@pytest.mark.parametrize(
    "numbers", [(3, 1, 3, 2), (4, 1, 4, 3), (5, 1, 4, 3), (6, 1, 5, 4), (8, 2, 6, 5), (12, 2, 8, 7)]
)
def test_c1_the_agreements_example_bounds_keep_a_request_to_one_opening(numbers):
    require_one_opening(Bounds(*numbers))


def test_c1_bounds_that_allow_two_disjoint_openings_are_refused():
    with pytest.raises(BoundsViolated):
        require_one_opening(Bounds(8, 1, 8, 3))


def test_a6_share_after_seed_of_one_peer_is_refused(five):
    request = five.request(14)
    states, collecting = five.contribute(request, vectors(five))
    member, other = five.view.cohort[0], five.view.cohort[4]
    without = [name for name in five.view.cohort if name != other]
    state, _ = reveal_seeds(five.parties[member], states[member], asked(request, without))
    shares = b"".join(collecting.sealed_share(o, member) for o in five.view.cohort if o != member)

    with pytest.raises(SeedAndShareRefused, match=other):
        reveal_shares(five.parties[member], state, asked(request, five.view.cohort, shares))


def test_a6_seed_after_share_of_one_peer_is_refused(five):
    request = five.request(15)
    states, collecting = five.contribute(request, vectors(five))
    member, other = five.view.cohort[0], five.view.cohort[4]
    revealing = collecting.close()
    question = pb.Reveal.FromString(revealing.share_request(member))
    state, _ = reveal_shares(five.parties[member], states[member], question)
    without = [name for name in five.view.cohort if name != other]

    with pytest.raises(SeedAndShareRefused, match=other):
        reveal_seeds(five.parties[member], state, asked(request, without))


def test_a1_member_gives_nothing_about_its_own_seed(five):
    request = five.request(16)
    states, collecting = five.contribute(request, vectors(five))
    member = five.view.cohort[0]
    assert len(collecting.received[member].shares) == 4 * SEALED_SHARE_BYTES
    question = pb.Reveal.FromString(collecting.close().share_request(member))

    reply = pb.ShareReply.FromString(reveal_shares(five.parties[member], states[member], question)[1])

    assert len(reply.shares) == 4 * sharing.SHARE_BYTES


def test_a1_member_that_is_named_as_dropped_refuses(five):
    request = five.request(17)
    states, _ = five.contribute(request, vectors(five))
    member = five.view.cohort[0]

    with pytest.raises(CohortRefused, match="named as dropped"):
        reveal_seeds(five.parties[member], states[member], asked(request, five.view.cohort[1:]))


def test_replayed_answers_of_another_request_are_refused(five):
    first_states, first = five.contribute(five.request(18), vectors(five))
    five.reveal(first_states, first.close())
    _, second = five.contribute(five.request(19), vectors(five, five.view.cohort[:4]))
    revealing = second.close()
    member = five.view.cohort[0]

    with pytest.raises(HeaderMismatch):
        revealing.receive_shares(member, first_states[member].share_reply)
    with pytest.raises(ConflictingMessage):
        second.receive(member, first_states[member].share_reply)


def test_share_of_another_request_or_owner_is_refused(five):
    _, first = five.contribute(five.request(20), vectors(five))
    request = five.request(21)
    states, second = five.contribute(request, vectors(five))
    member = five.view.cohort[0]
    owners = five.view.cohort[1:]
    replayed = b"".join(first.sealed_share(o, member) for o in owners)
    swapped = b"".join(second.sealed_share(o, member) for o in reversed(owners))
    reflected = second.sealed_share(member, owners[0]) + b"".join(second.sealed_share(o, member) for o in owners[1:])

    for shares in (replayed, swapped, reflected, b""):
        with pytest.raises(ShareInvalid):
            reveal_shares(five.parties[member], states[member], asked(request, five.view.cohort, shares))


def test_request_of_another_epoch_is_refused(five):
    other = MaskedConsortium.found(FIVE)
    with pytest.raises(WrongEpoch):
        contribute(five.parties[five.view.cohort[0]], other.request(), random_vector(4), os.urandom)


@pytest.mark.parametrize("altered", [1, 0xFF], ids=["another field element", "no field element"])
def test_a12_wrong_share_is_found_out_and_another_subset_is_used(five, altered):
    values = vectors(five)
    states, collecting = five.contribute(five.request(22), values)
    revealing = collecting.close()
    five.reveal(states, revealing)
    liar = five.view.cohort[0]
    given = revealing.shares[liar]
    first_bytes = range(0, len(given), sharing.SHARE_BYTES)
    revealing.shares[liar] = bytes(altered if at in first_bytes else byte for at, byte in enumerate(given))

    assert np.array_equal(revealing.open_total(), np.sum(list(values.values()), axis=0, dtype=np.uint64))


def test_a12_total_stays_closed_when_no_shares_fit(five):
    states, collecting = five.contribute(five.request(23), vectors(five))
    revealing = collecting.close()
    five.reveal(states, revealing)
    for liar in five.view.cohort[:3]:
        revealing.shares[liar] = (1).to_bytes(sharing.SHARE_BYTES) * 4

    with pytest.raises(ShareInvalid):
        revealing.open_total()


@pytest.mark.parametrize("damage", [lambda u: u[:-1], lambda u: u + b"\x08\x01", lambda u: u * 2, lambda u: b""])
def test_damaged_upload_is_refused(five, damage):
    request = five.request(24)
    _, collecting = five.contribute(request, vectors(five, five.view.cohort[:1]))
    member = five.view.cohort[1]
    _, upload = contribute(five.parties[member], request, random_vector(4), os.urandom)

    with pytest.raises((MalformedMessage, HeaderMismatch)):
        collecting.receive(member, damage(upload))


@pytest.mark.parametrize(
    "entities", [b"", bytes(31), bytes(64), bytes(32 * 100_001)], ids=["none", "short", "repeated", "too many"]
)
def test_request_with_malformed_entities_is_refused(five, entities):
    with pytest.raises(MalformedMessage):
        five.request(entities=entities)


def test_request_survives_the_wire_and_nothing_else_does(five):
    request = five.request(25)
    assert Request.from_bytes(request.wire) == request
    with pytest.raises(MalformedMessage):
        Request.from_bytes(request.wire + request.wire[:34])


@settings(max_examples=50, deadline=None)
@given(secret=st.binary(min_size=32, max_size=32), threshold=st.integers(1, 6), extra=st.integers(0, 3))
def test_any_threshold_of_shares_rebuilds_the_seed(secret, threshold, extra):
    points = list(range(1, threshold + extra + 1))
    shares = sharing.split(secret, threshold, points, os.urandom)
    chosen = tuple(sorted(points[-threshold:]))

    assert sharing.combine(chosen, [int.from_bytes(shares[x - 1]) for x in chosen]) == secret


def test_one_share_less_fits_every_seed():
    """T - 1 shares: for every other secret there is exactly one polynomial through them, so they say nothing."""
    shares = sharing.split(bytes(32), 3, [1, 2, 3], os.urandom)
    for other in (bytes(32), b"\xff" * 32):
        y0 = int.from_bytes(other)
        y1, y2 = (int.from_bytes(share) for share in shares[:2])
        # Lagrange through (0, y0), (1, y1), (2, y2), evaluated at 3: y0 - 3 y1 + 3 y2.
        third = (y0 - 3 * y1 + 3 * y2) % sharing.FIELD_PRIME

        assert sharing.combine((1, 2, 3), [y1, y2, third]) == other
