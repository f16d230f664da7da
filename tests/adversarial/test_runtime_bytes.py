"""Whatever bytes arrive under whatever action, a node answers with one typed sentence and stays as it was (A5)."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodes import runtime
from nodes.runtime import MessageRefused
from policies.errors import UserError
from protos.runs.v1 import runs_pb2
from protos.sealed_sum.errors import SealedSumError
from simulations.in_process_consortium import DEFAULT_RUN_ID

ACTIONS = ("cosign", "join", "cohort", "deal", "contribute", "seeds", "shares", "artefact", "end")
VICTIM = "bank-1"
MEMBERS = ("bank-1", "bank-2", "bank-3")


@pytest.fixture(scope="module")
def halfway(tmp_path_factory, found_in, short_run):
    """A consortium whose members have uploaded sum 1; the coordinator was killed there."""

    class Stop(Exception):
        pass

    def relay(member, action, body, deliver):
        if action == "shares" and runs_pb2.SharesRequest.FromString(body).k == 1:
            raise Stop
        return deliver(body)

    with found_in(tmp_path_factory.mktemp("halfway"), 3, relay) as consortium:
        with pytest.raises(Stop):
            consortium.run(short_run)
        yield consortium


def refused(consortium, action, body):
    """True when refused; whatever else happens but a harmless answer is an error of the node."""
    try:
        consortium.nodes[VICTIM].handle(action, body)
    except (UserError, SealedSumError) as refusal:
        sentence = str(refusal)
        assert len(sentence) < 1000
        assert "\n" not in sentence
        assert not re.search(r"Traceback|0x[0-9a-f]{8}|b'\\x", sentence), sentence
        return True
    return False


names = st.one_of(st.sampled_from([*MEMBERS, "", "mallory", "bank-1\n", "é" * 40]), st.text(max_size=20))
numbers = st.one_of(st.sampled_from([0, 1, 2, 3, 2**31, 2**32 - 1]), st.integers(0, 2**32 - 1))
blobs = st.one_of(st.binary(max_size=200), st.just(bytes(5000)))
run_ids = st.one_of(st.just(DEFAULT_RUN_ID), st.text(max_size=70))
rosters = st.lists(names, max_size=6)
messages = {
    "cosign": st.builds(
        runs_pb2.SignedProposal, proposal=blobs, operator_signature=blobs, cosigner=names, cosignature=blobs
    ),
    "join": st.builds(
        runs_pb2.SignedProposal, proposal=blobs, operator_signature=blobs, cosigner=names, cosignature=blobs
    ),
    "cohort": st.builds(
        runs_pb2.CohortRequest, run_id=run_ids, announcements=st.lists(blobs, max_size=4), attempt=numbers
    ),
    "deal": st.builds(runs_pb2.DealRequest, run_id=run_ids, attempt=numbers, deal=blobs),
    "contribute": st.builds(
        runs_pb2.ContributeRequest,
        run_id=run_ids,
        k=numbers,
        openings=st.lists(st.builds(runs_pb2.Opening, k=numbers, sealed_sum=blobs, survivors=rosters), max_size=3),
        confirmations=st.lists(blobs, max_size=4),
    ),
    "seeds": st.builds(runs_pb2.SeedsRequest, run_id=run_ids, k=numbers, survivors=rosters, dropped=rosters),
    "shares": st.builds(
        runs_pb2.SharesRequest,
        run_id=run_ids,
        k=numbers,
        survivors=rosters,
        dropped=rosters,
        encrypted_shares=st.dictionaries(names, blobs, max_size=4),
    ),
    "artefact": st.builds(runs_pb2.RunReference, run_id=run_ids),
    "end": st.builds(runs_pb2.EndRequest, run_id=run_ids, reason=st.text(max_size=50), operator_signature=blobs),
}
lenient = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("action", ACTIONS)
def test_random_bytes_are_refused_with_one_sentence(halfway, action):
    before = halfway.node_stores[VICTIM].run(DEFAULT_RUN_ID)

    @lenient
    @given(st.binary(max_size=300))
    def attack(body):
        assert refused(halfway, action, body)

    attack()
    assert halfway.node_stores[VICTIM].run(DEFAULT_RUN_ID) == before


@pytest.mark.parametrize("action", ACTIONS)
def test_well_formed_messages_with_random_contents_change_nothing(halfway, action):
    """Some get an answer that the node has given before, such as its upload, or where it stands."""
    store = halfway.node_stores[VICTIM]
    before = store.run(DEFAULT_RUN_ID)

    @lenient
    @given(messages[action])
    def attack(message):
        refused(halfway, action, message.SerializeToString())

    attack()
    assert store.run(DEFAULT_RUN_ID) == before
    assert [run_id for run_id, *_ in store.runs()] == [DEFAULT_RUN_ID]


@lenient
@given(action=st.sampled_from(ACTIONS), kind=st.sampled_from(ACTIONS), data=st.data())
def test_a_message_under_another_messages_action_is_refused_or_harmless(halfway, action, kind, data):
    store = halfway.node_stores[VICTIM]
    before = store.run(DEFAULT_RUN_ID)
    refused(halfway, action, data.draw(messages[kind]).SerializeToString())
    assert store.run(DEFAULT_RUN_ID) == before


@pytest.mark.parametrize("action", ["", "Contribute", "contribute ", "__init__", "handle", "x" * 10_000, "open"])
def test_an_unknown_action_is_refused_with_the_known_ones_named(halfway, action):
    with pytest.raises(MessageRefused, match="Expected one of artefact, cohort, contribute") as refusal:
        halfway.nodes[VICTIM].handle(action, b"")
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("action", [*ACTIONS, "status"])
def test_an_oversized_body_is_refused_before_it_is_parsed(halfway, action, monkeypatch):
    monkeypatch.setattr(runtime, "MAX_BODY_BYTES", 1000)
    monkeypatch.setattr(runtime, "_parse", None)
    with pytest.raises(MessageRefused, match="at most 1000 bytes, this one has 1001"):
        halfway.nodes[VICTIM].handle(action, bytes(1001))


def test_status_tells_who_the_node_is_and_nothing_else(halfway):
    reply = runs_pb2.StatusReply.FromString(halfway.nodes[VICTIM].handle("status", b"\xff" * 100))
    assert reply.member == VICTIM
    assert len(reply.agreement_hash) == 32
    assert [field.name for field, _ in reply.ListFields()] == ["member", "agreement_hash", "protocol_version"]


def test_the_run_goes_on_after_all_of_it(halfway, short_run):
    halfway.steps.relay = lambda member, action, body, deliver: deliver(body)
    assert halfway.drive().released.table.quality is not None
