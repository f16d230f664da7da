"""Whatever arrives as a message of an alignment, a node answers with one typed sentence and stays as it was."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodes.alignment_store import AlignmentStore
from policies.errors import UserError
from protos.private_set_intersection.channel import Pair
from protos.runs.v1 import alignment_pb2
from protos.sealed_sum.errors import SealedSumError
from simulations.in_process_alignment import RUN_ID, InProcessAlignment

ROLES = {"bank-a": "bank", "payment-a": "payment", "logistics-a": "logistics"}
IDENTIFIERS = {
    "bank-a": [f"seller {number}" for number in range(100)],
    "payment-a": [f"seller {number}" for number in range(50, 150)],
    "logistics-a": [f"seller {number}" for number in range(80, 130)],
}
PAIRS = (Pair("bank-a", "logistics-a"), Pair("bank-a", "payment-a"))
lenient = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

names = st.one_of(st.sampled_from([*ROLES, "", "mallory"]), st.text(max_size=10))
blobs = st.binary(max_size=120)
numbers = st.one_of(st.integers(0, 12), st.integers(0, 2**32 - 1))
pairs = st.builds(alignment_pb2.AlignPair, label_holder=names, feature_holder=names)
parcels = st.builds(
    alignment_pb2.Parcel,
    pair=pairs,
    exchange=numbers,
    messages=st.lists(blobs, min_size=1, max_size=3),
    done=st.booleans(),
)
requests = st.one_of(
    st.builds(
        alignment_pb2.AlignRequest,
        run_id=st.one_of(st.just(RUN_ID), st.text(max_size=20)),
        relay=st.builds(alignment_pb2.AlignRelay, parcels=st.lists(parcels, max_size=3)),
    ),
    st.builds(
        alignment_pb2.AlignRequest,
        run_id=st.just(RUN_ID),
        open=st.builds(
            alignment_pb2.AlignOpen,
            pairs=st.lists(pairs, max_size=3),
            chunk_elements=numbers,
            confirmations=st.lists(blobs, max_size=3),
        ),
    ),
)


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """Three members in the middle of an alignment; the coordinator was killed there, and the last requests are kept."""

    calls, kept = itertools.count(), []

    def wrap(name, handle):
        def stopped(action, body):
            if action == "align":
                kept.append((name, body))
                if next(calls) == 10:
                    raise KeyboardInterrupt
            return handle(action, body)

        return stopped

    with InProcessAlignment(ROLES, IDENTIFIERS, tmp_path_factory.mktemp("halfway"), wrap=wrap) as aligned:
        aligned.open_epoch()
        with pytest.raises(KeyboardInterrupt):
            aligned.align()
        aligned.kept = kept
        yield aligned


def states(aligned, member):
    store = AlignmentStore(aligned.stores[member], RUN_ID)
    sessions = [store.session(pair) for pair in PAIRS]
    return [None if one is None else (one.side.to_bytes(), one.exchange) for one in sessions]


def answer(aligned, member, body):
    """The reply, or None where it was refused in one sentence."""
    try:
        return aligned.nodes[member].handle("align", body)
    except (UserError, SealedSumError) as refusal:
        sentence = str(refusal)
        assert "\n" not in sentence
        assert len(sentence) < 600
        return None


@pytest.mark.parametrize("member", sorted(ROLES))
def test_random_bytes_are_refused_and_change_nothing(halfway, member):
    before = states(halfway, member)

    @lenient
    @given(blobs)
    def attack(body):
        assert answer(halfway, member, body) is None

    attack()
    assert states(halfway, member) == before


@pytest.mark.parametrize("member", sorted(ROLES))
def test_well_formed_requests_with_random_contents_change_nothing(halfway, member):
    before = states(halfway, member)
    assert any(before)

    @lenient
    @given(requests)
    def attack(request):
        answer(halfway, member, request.SerializeToString())

    attack()
    assert states(halfway, member) == before


def test_b8_earlier_requests_are_answered_as_before_or_refused(halfway):
    for member in ROLES:
        before = states(halfway, member)
        for name, body in halfway.kept[:-1]:
            if name == member:
                answer(halfway, member, body)
        assert states(halfway, member) == before


def test_b8_requests_for_one_member_are_refused_by_every_other(halfway):
    for (name, body), member in itertools.product(halfway.kept, ROLES):
        request = alignment_pb2.AlignRequest.FromString(body)
        named = [parcel.pair for parcel in request.relay.parcels] or list(request.open.pairs)
        if member == name or all(member in (pair.label_holder, pair.feature_holder) for pair in named):
            continue
        assert answer(halfway, member, body) is None


def test_the_alignment_goes_on_after_all_of_it(halfway):
    halfway.align()

    assert [int((halfway.aligned(pair.feature_holder, pair) >= 0).sum()) for pair in PAIRS] == [20, 50]
