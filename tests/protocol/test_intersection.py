"""Private set intersection of two honest members: rule B9, sizes, states on disk, and what each side ends up with."""

import os
import re

import numpy as np
import pytest

from protos.private_set_intersection.channel import Channel, Pair, session_id
from protos.private_set_intersection.curve import BlindingScalar, parse_elements, raise_elements
from protos.private_set_intersection.errors import (
    InputChanged,
    MalformedElement,
    NotComplete,
    SetSizeRefused,
    WeakElement,
    WrongSession,
)
from protos.private_set_intersection.feature_holder import UNKNOWN, finish, match
from protos.private_set_intersection.identifiers import (
    OrderSeed,
    keyed_entities,
    members_key,
    normalise,
    shuffled_order,
)
from protos.private_set_intersection.label_holder import advance_label_holder
from protos.private_set_intersection.session import Limits, Shape, Side
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.errors import CohortRefused, MalformedMessage
from simulations.benchmarks.sealed_sum import Consortium
from simulations.intersection import ANY_SIZE, InProcessPair

BANK, PAYMENT, LOGISTICS = "member-00", "member-01", "member-02"
PAIR = Pair(BANK, PAYMENT)
LEFT = [f"seller {number}" for number in range(150)]
RIGHT = [f"seller {number}" for number in range(100, 220)]


@pytest.fixture(scope="module")
def ready():
    return Consortium.found(Bounds.smallest(3, 1)).states


def key_of(state):
    return members_key(state.keyed.tag_key, state.view.agreement_hash, state.epoch_id)


def aligned_identifiers(pair, left, right):
    """What the feature holder's rows say, in the label holder's order: (label holder's identifier, its own or None)."""
    rows = pair.feature_holder.aligned.rows
    return [
        (left[row], None if at == UNKNOWN else right[at])
        for row, at in zip(pair.label_holder.arranged.rows, rows, strict=True)
    ]


def test_feature_holder_aligns_its_rows_to_the_label_holders_order(ready):
    pair = InProcessPair(ready, PAIR, LEFT, RIGHT)

    aligned = pair.run()

    assert aligned.num_common == 50
    for theirs, ours in aligned_identifiers(pair, LEFT, RIGHT):
        assert ours == (theirs if theirs in RIGHT else None)


def test_both_sides_may_send_chunks_of_other_sizes(ready):
    for chunk_elements in (1, 7, 150, 1000):
        pair = InProcessPair(ready, PAIR, LEFT[90:], RIGHT[:30], chunk_elements=chunk_elements)
        assert pair.run().num_common == 30


def test_an_empty_overlap_is_a_normal_answer(ready):
    assert InProcessPair(ready, PAIR, ["a", "b"], ["c"]).run().num_common == 0


def test_b9_feature_holder_matches_and_the_label_holder_learns_only_sizes(ready):
    everything = InProcessPair(ready, PAIR, LEFT, LEFT)
    nothing = InProcessPair(ready, PAIR, LEFT, [f"stranger {number}" for number in range(150)])
    everything.run(), nothing.run()

    for pair in (everything, nothing):
        side = pair.label_holder.side
        assert pair.label_holder.aligned is None
        assert pair.label_holder.kept == {"own": [], "peer": []}
        assert (side.peer, side.blinded_received, side.done) == (Shape(150, 64), 3, True)
    assert [[len(m) for m in said] for said in everything.transcript] == [
        [len(m) for m in said] for said in nothing.transcript
    ]


def test_b9_scalars_and_orders_are_fresh_for_each_session(ready):
    one = InProcessPair(ready, PAIR, LEFT, RIGHT)
    other = InProcessPair(ready, Pair(BANK, LOGISTICS), LEFT, RIGHT)
    back = InProcessPair(ready, Pair(PAYMENT, BANK), RIGHT, LEFT)

    scalars = {p.side.scalar.raw for pair in (one, other, back) for p in (pair.label_holder, pair.feature_holder)}
    orders = {p.side.order_seed.raw for pair in (one, other, back) for p in (pair.label_holder, pair.feature_holder)}

    assert len(scalars) == len(orders) == 6
    assert (
        len({session_id(ready[BANK].epoch_id, pair) for pair in (PAIR, Pair(BANK, LOGISTICS), Pair(PAYMENT, BANK))})
        == 3
    )


def test_b9_elements_leave_in_an_order_that_says_nothing_about_the_source(ready):
    pair = InProcessPair(ready, PAIR, LEFT, RIGHT)

    for party, identifiers in ((pair.label_holder, LEFT), (pair.feature_holder, RIGHT)):
        rows = party.arranged.rows
        assert sorted(rows) == list(range(len(identifiers)))
        assert list(rows) != sorted(rows)
        assert np.array_equal(party.arranged.elements, party.entities.elements[rows])


def test_one_order_of_the_label_holder_serves_every_feature_holder(ready):
    seed = OrderSeed(os.urandom(32))
    first = InProcessPair(ready, PAIR, LEFT, RIGHT, order_seed=seed)
    second = InProcessPair(ready, Pair(BANK, LOGISTICS), LEFT, LEFT[:60], order_seed=seed)

    assert first.label_holder.side.scalar.raw != second.label_holder.side.scalar.raw
    first.run(), second.run()
    assert np.array_equal(first.label_holder.arranged.rows, second.label_holder.arranged.rows)


def test_a_session_that_is_over_has_forgotten_its_scalar(ready):
    pair = InProcessPair(ready, PAIR, LEFT, RIGHT)
    pair.run()

    assert pair.label_holder.side.scalar.raw == pair.feature_holder.side.scalar.raw == bytes(32)


def test_b9_duplicates_are_removed_before_and_the_first_row_stays(ready):
    entities = keyed_entities(["Anna", "anna ", "Bert", "ANNA"], "text", key_of(ready[BANK]))

    assert (entities.num_duplicates, entities.num_malformed) == (2, 0)
    assert entities.rows.tolist() == [0, 2]
    pair = InProcessPair(ready, PAIR, ["bert", "Anna", "anna"], ["Anna", "anna ", "Bert", "ANNA"])
    assert pair.run().num_common == 2


def test_malformed_identifiers_are_counted_and_never_shown(ready):
    entities = keyed_entities([None, "", " ", 7, "12-34", "abc"], "digits", key_of(ready[BANK]))

    assert (len(entities), entities.num_malformed) == (1, 5)
    assert "12" not in re.sub(r"num_\w+=\d+", "", repr(entities))


@pytest.mark.parametrize(
    ("kind", "same", "malformed"),
    [
        ("text", ["Étoile  Ltd", "étoile ltd ", "E\u0301TOILE LTD"], ["", "   ", "x" * 257]),
        ("digits", ["00123-45", "00 123.45", "0012345"], ["12a", "-", "\u0663\u0664٫"]),
        ("code", ["nl 8573.46", "NL857346"], ["é1", "--"]),
        ("email", ["A.B@Example.com", " a.b@example.com"], ["a@b", "a b@c.de", "@c.de"]),
        ("phone", ["+49 (30) 1234-567", "+49301234567"], ["030 1234567", "+0123456789", "+12"]),
    ],
)
def test_identifiers_are_normalised_by_the_agreements_type(kind, same, malformed):
    assert len({normalise(kind, value) for value in same}) == 1
    assert normalise(kind, same[0]) is not None
    assert [normalise(kind, value) for value in malformed] == [None] * len(malformed)


def test_leading_zeros_of_digits_tell_two_entities_apart():
    assert normalise("digits", "0012") != normalise("digits", "12")


def test_elements_of_one_identifier_differ_by_type_and_epoch(ready):
    other = Consortium.found(Bounds.smallest(3, 1)).states
    of = [
        keyed_entities(["1234"], kind, key_of(state)).elements.tobytes()
        for kind, state in (("text", ready[BANK]), ("digits", ready[BANK]), ("text", other[BANK]))
    ]

    assert len(set(of)) == 3
    assert keyed_entities(["1234"], "text", key_of(ready[PAYMENT])).elements.tobytes() == of[0]


def test_b9_small_order_elements_are_refused():
    scalar = BlindingScalar(os.urandom(32))
    small = [0, 1, 325606250916557431795983626356110631294008115727848805560023387167927233504, 2**255 - 20]
    for point in small:
        element = np.frombuffer(point.to_bytes(32, "little"), dtype=np.uint8).reshape(1, 32)
        with pytest.raises(WeakElement, match="1 of small order"):
            raise_elements(scalar, element)


@pytest.mark.parametrize("point", [2**255 - 19, 2**255 - 1, 2**255 + 9])
def test_elements_that_no_exchange_produces_are_refused(point):
    with pytest.raises(MalformedElement, match="found 1 that are not"):
        parse_elements(bytes([9, *[0] * 31]) + point.to_bytes(32, "little"), 2)


def test_largest_canonical_elements_are_accepted():
    assert len(parse_elements((2**255 - 21).to_bytes(32, "little"), 1)) == 1


def test_b9_set_size_cap_is_checked_at_both_sides(ready):
    for left, right in ((LEFT, RIGHT[:10]), (LEFT[:10], RIGHT)):
        pair = InProcessPair(ready, PAIR, left, right, limits=Limits(max_elements=100, max_ratio=1e9))
        pair.exchange()
        for party, incoming in (
            (pair.label_holder, pair.to_label_holder),
            (pair.feature_holder, pair.to_feature_holder),
        ):
            with pytest.raises(SetSizeRefused, match="1 to 100 entities"):
                party.advance(incoming)


def test_b9_ratio_of_the_sets_is_checked_before_any_element_leaves(ready):
    pair = InProcessPair(ready, PAIR, LEFT, RIGHT[:14], limits=Limits(max_elements=1000, max_ratio=10.0))
    pair.exchange()
    before = pair.label_holder.side

    for party, incoming in ((pair.label_holder, pair.to_label_holder), (pair.feature_holder, pair.to_feature_holder)):
        with pytest.raises(SetSizeRefused, match="at most 10 times the other"):
            party.advance(incoming)
    assert pair.label_holder.side is before
    assert before.blinded_sent == 0


def test_an_empty_set_is_refused(ready):
    pair = InProcessPair(ready, PAIR, LEFT, ["", None])
    pair.exchange()

    with pytest.raises(SetSizeRefused, match="found 0 at the other member"):
        pair.label_holder.advance(pair.to_label_holder)


@pytest.mark.parametrize("stopped_after", range(6))
def test_a_session_resumes_from_what_is_on_disk(ready, stopped_after):
    pair = InProcessPair(ready, PAIR, LEFT, RIGHT, chunk_elements=50)
    for _ in range(stopped_after):
        pair.exchange()
    pair.label_holder.restart()
    pair.feature_holder.restart()

    assert pair.run().num_common == 50


def test_a_session_does_not_resume_with_other_entities(ready):
    pair = InProcessPair(ready, PAIR, LEFT, RIGHT)
    changed = keyed_entities([*RIGHT, "one more"], "text", key_of(ready[PAYMENT]))

    with pytest.raises(InputChanged):
        pair.feature_holder.side.arrange(changed)


def test_a_stored_side_reads_back_as_it_was(ready):
    pair = InProcessPair(ready, PAIR, LEFT, RIGHT)
    pair.exchange(), pair.exchange()
    for party in (pair.label_holder, pair.feature_holder):
        again = Side.from_bytes(party.side.to_bytes())
        assert again.to_bytes() == party.side.to_bytes()
        assert again.peer == party.side.peer
        assert again.peer is not None


def test_secrets_of_a_session_never_show(ready):
    party = InProcessPair(ready, PAIR, LEFT, RIGHT).label_holder

    for shown in (repr(party.side), repr(party.channel)):
        assert party.side.scalar.raw.hex() not in shown
        assert "scalar" not in shown
        assert "shared" not in shown


def test_a_side_is_not_advanced_over_another_sessions_channel(ready):
    pair = InProcessPair(ready, PAIR, LEFT, RIGHT)
    other = Channel.between(ready[BANK], Pair(BANK, LOGISTICS))

    with pytest.raises(WrongSession):
        advance_label_holder(pair.label_holder.side, other, pair.label_holder.arranged, (), ANY_SIZE, os.urandom)


def test_matching_before_everything_has_arrived_is_refused(ready):
    pair = InProcessPair(ready, PAIR, LEFT, RIGHT)
    pair.exchange()

    with pytest.raises(NotComplete):
        finish(
            pair.feature_holder.side, pair.feature_holder.channel, pair.feature_holder.arranged, b"", b"", os.urandom
        )


@pytest.mark.parametrize("pair", [Pair(BANK, BANK), Pair(PAYMENT, LOGISTICS), Pair(BANK, "stranger")])
def test_a_session_needs_this_member_and_another_of_the_cohort(ready, pair):
    with pytest.raises(CohortRefused):
        Channel.between(ready[BANK], pair)


@pytest.mark.parametrize("chunk_elements", [0, 65537])
def test_chunks_have_a_bounded_size(chunk_elements):
    with pytest.raises(MalformedMessage, match="1 to 65536"):
        Shape(10, chunk_elements)


def test_digests_that_agree_in_their_first_half_are_told_apart():
    def digest(first, last):
        return first.to_bytes(8, "little") + last.to_bytes(8, "little")

    own = digest(5, 1) + digest(5, 2) + digest(4, 9) + digest(5, 3)

    assert match(own, digest(5, 3) + digest(5, 4) + digest(4, 9) + digest(5, 1)).tolist() == [3, UNKNOWN, 2, 0]


def test_a_digest_that_comes_twice_is_refused():
    with pytest.raises(MalformedElement, match="returned element once"):
        match(bytes(32), bytes(16))
    with pytest.raises(MalformedElement, match="label holder once"):
        match(bytes(16), bytes(32))


def test_an_order_is_a_permutation_that_its_seed_fixes():
    seed = OrderSeed(bytes(range(32)))

    assert sorted(shuffled_order(seed, 1000)) == list(range(1000))
    assert np.array_equal(shuffled_order(seed, 1000), shuffled_order(seed, 1000))
    assert not np.array_equal(shuffled_order(seed, 1000), shuffled_order(OrderSeed(bytes(32)), 1000))
