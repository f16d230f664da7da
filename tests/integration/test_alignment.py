"""Alignment of three roles through the real node runtimes: partial overlap, duplicates, kills, restarts, refusals."""

import itertools
import sqlite3

import numpy as np
import pytest

from coordinator.sum_round import RunFailed
from nodes.alignment_store import AlignmentStore
from policies.proposal import ProposalRefused, sign_end
from protos.private_set_intersection.channel import Pair
from protos.private_set_intersection.identifiers import normalise
from protos.runs.v1 import alignment_pb2, runs_pb2
from simulations.in_process_alignment import ALIGNING_POLICY, RUN_ID, InProcessAlignment

ROLES = {"bank-a": "bank", "payment-a": "payment", "logistics-a": "logistics"}
IDENTIFIERS = {
    "bank-a": [f"GB {number:05d}" for number in range(200)] + ["gb00003", "", None],
    "payment-a": [f"gb-{number:05d}" for number in range(150, 290)] + ["GB00150", "GB 00150"],
    "logistics-a": [f"GB{number:05d}" for number in range(100, 160)] + ["???"],
}
PAIRS = (Pair("bank-a", "logistics-a"), Pair("bank-a", "payment-a"))


def consortium(folder, **changes):
    return InProcessAlignment(ROLES, IDENTIFIERS, folder, id_type="code", **changes)


def check(aligned, pairs=PAIRS):
    """Every pair's order on disk is right, row by row; returns the number of common entities by pair."""
    common = {}
    for pair in pairs:
        theirs, ours = (aligned.aligned(member, pair) for member in (pair.label_holder, pair.feature_holder))
        left, right = (
            [normalise("code", value) for value in aligned.identifiers[member]]
            for member in (pair.label_holder, pair.feature_holder)
        )
        assert len(theirs) == len(ours) == len(set(left) - {None})
        assert len(set(theirs)) == len(theirs)
        for row, at in zip(theirs, ours, strict=True):
            assert (right[at] if at >= 0 else None) == (left[row] if left[row] in right else None)
        common[pair] = int((ours >= 0).sum())
    return common


def test_three_roles_align_with_partial_overlap_and_duplicates(tmp_path):
    with consortium(tmp_path) as aligned:
        aligned.open_epoch()
        driven = aligned.align()

        assert aligned.pairs == PAIRS
        assert check(aligned) == {PAIRS[0]: 60, PAIRS[1]: 50}
        assert driven.traffic.exchanges == 7  # open, hello, four chunks of 64 one behind the other, end
        assert [event for event, _ in aligned.events][-2:] == ["aligning", "aligned"]


def test_one_order_of_the_label_holder_holds_for_all_feature_holders(tmp_path):
    with consortium(tmp_path) as aligned:
        aligned.open_epoch()
        aligned.align()

        first, second = (aligned.aligned("bank-a", pair) for pair in PAIRS)
        assert np.array_equal(first, second)
        assert list(first) != sorted(first)


def test_every_label_holder_aligns_with_every_feature_holder(tmp_path):
    roles = {**ROLES, "bank-b": "bank", "payment-b": "payment"}
    identifiers = {**IDENTIFIERS, "bank-b": IDENTIFIERS["bank-a"][:120], "payment-b": IDENTIFIERS["payment-a"][:20]}
    with InProcessAlignment(roles, identifiers, tmp_path, id_type="code", step_elements=300) as aligned:
        aligned.open_epoch()
        aligned.align()

        assert len(aligned.pairs) == 6
        assert check(aligned, aligned.pairs)[Pair("bank-b", "logistics-a")] == 20


@pytest.mark.parametrize("member", sorted(ROLES))
@pytest.mark.parametrize("at", [0, 1, 3, 4, 5, 6])
def test_a_node_killed_between_write_and_send_resumes(tmp_path, member, at):
    """The exchange is committed, its answer does not arrive, the node starts again and is asked again."""
    calls = itertools.count()

    def wrap(name, handle):
        def killed(action, body):
            reply = handle(action, body)
            if action == "align" and next(calls) == at:
                aligned.restart_node(name)
            return reply

        return killed if name == member else handle

    def unheard(name, action, attempt):
        return "late" if name == member and action == "align" and attempt == at else None

    with consortium(tmp_path, faults=unheard, wrap=wrap) as aligned:
        aligned.open_epoch()
        aligned.align()

        assert check(aligned) == {PAIRS[0]: 60, PAIRS[1]: 50}


@pytest.mark.parametrize("member", sorted(ROLES))
def test_a_node_restarted_before_every_exchange_loses_nothing(tmp_path, member):
    def wrap(name, handle):
        def restarted(action, body):
            if action == "align":
                aligned.restart_node(name)
            return handle(action, body)

        return restarted if name == member else handle

    with consortium(tmp_path, wrap=wrap) as aligned:
        aligned.open_epoch()
        aligned.align()

        assert check(aligned) == {PAIRS[0]: 60, PAIRS[1]: 50}


def test_every_answer_may_come_late_or_twice(tmp_path):
    def faults(name, action, attempt):
        return {"align": ("duplicate", "late", None)[attempt % 3]}.get(action)

    with consortium(tmp_path, faults=faults) as aligned:
        aligned.open_epoch()
        aligned.align()

        assert check(aligned) == {PAIRS[0]: 60, PAIRS[1]: 50}


def test_a_coordinator_that_starts_again_takes_the_alignment_up(tmp_path):
    calls = itertools.count()

    def wrap(name, handle):
        def stopped(action, body):
            if action == "align" and next(calls) == 13:
                raise KeyboardInterrupt  # the coordinator dies in the middle of a step
            return handle(action, body)

        return stopped

    with consortium(tmp_path, wrap=wrap) as aligned:
        aligned.open_epoch()
        with pytest.raises(KeyboardInterrupt):
            aligned.align()
        aligned.align()

        assert check(aligned) == {PAIRS[0]: 60, PAIRS[1]: 50}


def test_a_member_that_stays_away_ends_the_alignment_with_its_name(tmp_path):
    def faults(name, action, attempt):
        return "lost" if name == "payment-a" and action == "align" and attempt > 2 else None

    with consortium(tmp_path, faults=faults, deadline_s=10.0, pause_limit_s=30.0) as aligned:
        aligned.open_epoch()
        with pytest.raises(RunFailed, match="needs payment-a, who stayed away for 30 s"):
            aligned.align()
        assert ("paused", {"reason": "the alignment waits for payment-a", "members": ["payment-a"]}) in aligned.events


def test_b9_a_nodes_policy_refuses_an_oversized_set(tmp_path):
    strict = ALIGNING_POLICY.model_copy(update={"max_aligned_entities": 150})
    with consortium(tmp_path, policies={"logistics-a": strict}) as aligned:
        aligned.open_epoch()
        with pytest.raises(RunFailed, match=r"logistics-a refused .*SetSizeRefused.*1 to 150 entities.* found 200"):
            aligned.align()


def test_b9_a_nodes_policy_refuses_sets_out_of_proportion(tmp_path):
    strict = ALIGNING_POLICY.model_copy(update={"max_set_ratio": 3.0})
    with consortium(tmp_path, policies={"bank-a": strict}) as aligned:
        aligned.open_epoch()
        with pytest.raises(RunFailed, match=r"bank-a refused .*SetSizeRefused.*at most 3 times"):
            aligned.align()


def test_journals_tell_each_member_what_it_gave_and_learnt(tmp_path):
    with consortium(tmp_path) as aligned:
        aligned.open_epoch()
        aligned.align()

        def entries(member):
            return [
                (event, details["feature_holder"], {k: v for k, v in details.items() if not k.endswith("_holder")})
                for _, _, event, details in aligned.stores[member].journal_entries(RUN_ID)
                if event.startswith("alignment")
            ]

        begun = {"entities": 200, "duplicates": 1, "malformed": 2}
        assert entries("bank-a") == [
            ("alignment begun", "logistics-a", begun),
            ("alignment begun", "payment-a", begun),
            ("alignment ended", "logistics-a", {"entities_of_peer": 60}),
            ("alignment ended", "payment-a", {"entities_of_peer": 140}),
        ]
        assert entries("payment-a") == [
            ("alignment begun", "payment-a", {"entities": 140, "duplicates": 2, "malformed": 0}),
            ("alignment ended", "payment-a", {"entities_of_peer": 200, "common": 50}),
        ]
        assert entries("logistics-a")[0][2] == {"entities": 60, "duplicates": 0, "malformed": 1}


def test_secrets_of_a_session_are_gone_when_it_ends_and_its_order_when_the_run_does(tmp_path):
    with consortium(tmp_path) as aligned:
        aligned.open_epoch()
        aligned.align()
        for member in ROLES:
            for pair in PAIRS:
                stored = AlignmentStore(aligned.stores[member], RUN_ID).session(pair)
                if stored is not None:
                    assert stored.side.scalar.raw == bytes(32)
                    assert AlignmentStore(aligned.stores[member], RUN_ID).digests(pair, "own") == b""
        end = runs_pb2.EndRequest(
            run_id=RUN_ID, reason="over", operator_signature=sign_end(RUN_ID, "over", aligned.operator.private)
        )
        aligned.nodes["payment-a"].handle("end", end.SerializeToString())
        with pytest.raises(KeyError):
            aligned.aligned("payment-a", PAIRS[1])
        with sqlite3.connect(tmp_path / "payment-a" / "node.sqlite") as db:
            assert db.execute("select count(*) from alignments").fetchone() == (0,)
            assert db.execute("select count(*) from alignment_parts").fetchone() == (0,)
        db.close()


def test_a_source_that_changes_in_mid_alignment_is_refused_after_a_restart(tmp_path):
    calls = itertools.count()

    def wrap(name, handle):
        def changed(action, body):
            if action == "align" and name == "payment-a" and next(calls) == 4:
                aligned.identifiers["payment-a"] = [*IDENTIFIERS["payment-a"], "gb99999"]
                aligned.restart_node("payment-a")
            return handle(action, body)

        return changed

    with consortium(tmp_path, wrap=wrap) as aligned:
        aligned.open_epoch()
        with pytest.raises(RunFailed, match=r"payment-a refused .*InputChanged.*start a new run"):
            aligned.align()


def test_b8_a_relay_that_swaps_the_parcels_of_two_feature_holders_is_refused(tmp_path):
    """The coordinator hands the bank what the other feature holder said."""

    def wrap(name, handle):
        def swapped(action, body):
            if name == "bank-a" and action == "align":
                request = alignment_pb2.AlignRequest.FromString(body)
                if request.WhichOneof("step") == "relay":
                    first, second = request.relay.parcels
                    one, two = list(first.messages), list(second.messages)
                    first.ClearField("messages"), second.ClearField("messages")
                    first.messages.extend(two), second.messages.extend(one)
                    body = request.SerializeToString()
            return handle(action, body)

        return swapped

    with consortium(tmp_path, wrap=wrap) as aligned:
        aligned.open_epoch()
        with pytest.raises(RunFailed, match=r"bank-a refused .*BadSignature"):
            aligned.align()


def relay(pair, exchange, messages=()):
    named = alignment_pb2.AlignPair(label_holder=pair.label_holder, feature_holder=pair.feature_holder)
    parcel = alignment_pb2.Parcel(pair=named, exchange=exchange, messages=messages)
    return alignment_pb2.AlignRequest(
        run_id=RUN_ID, relay=alignment_pb2.AlignRelay(parcels=[parcel])
    ).SerializeToString()


def test_exchanges_out_of_order_and_pairs_of_others_are_refused(tmp_path):
    with consortium(tmp_path) as aligned:
        aligned.open_epoch()
        aligned.align()
        node = aligned.nodes["payment-a"]

        for exchange in (0, 99):
            with pytest.raises(Exception, match=r"expected exchange \d+ of bank-a and payment-a"):
                node.handle("align", relay(PAIRS[1], exchange))
        for pair in (PAIRS[0], Pair("payment-a", "bank-a"), Pair("payment-a", "payment-a")):
            with pytest.raises(Exception, match="one of them payment-a"):
                node.handle("align", relay(pair, 0))
        with pytest.raises(Exception, match="found neither"):
            node.handle("align", alignment_pb2.AlignRequest(run_id=RUN_ID).SerializeToString())


def test_the_last_answer_is_given_again_byte_for_byte(tmp_path):
    with consortium(tmp_path) as aligned:
        aligned.open_epoch()
        replies = {}

        def recorded(action, body, handle=aligned.nodes["bank-a"].handle):
            replies[body] = handle(action, body)
            return replies[body]

        aligned.nodes["bank-a"].handle = recorded
        aligned.align()
        last_body, last_reply = list(replies.items())[-1]
        aligned.restart_node("bank-a")

        assert aligned.nodes["bank-a"].handle("align", last_body) == last_reply


def test_a_node_whose_policy_names_no_alignment_refuses_to_join(tmp_path):
    strict = ALIGNING_POLICY.model_copy(update={"methods": ("newton",)})
    with consortium(tmp_path, policies={"logistics-a": strict}) as aligned, pytest.raises(RunFailed, match="method"):
        aligned.open_epoch()


def test_an_alignment_run_sums_nothing(tmp_path):
    with consortium(tmp_path) as aligned:
        aligned.open_epoch()
        aligned.align()
        with pytest.raises(Exception, match="sums nothing"):
            aligned.nodes["bank-a"].handle(
                "contribute", runs_pb2.ContributeRequest(run_id=RUN_ID, k=0).SerializeToString()
            )
    assert issubclass(ProposalRefused, Exception)


def test_members_that_do_not_fit_together_any_more_end_the_alignment_with_a_sentence(tmp_path):
    """A coordinator that had withheld a member's messages once finds no next step, and says so instead of waiting."""

    def wrap(name, handle):
        def ahead(action, body):
            if name == "payment-a" and action == "align":
                request = alignment_pb2.AlignRequest.FromString(body)
                if request.WhichOneof("step") == "relay" and request.relay.parcels[0].exchange == 2:
                    handle(action, body)
                    for exchange in (3, 4):
                        handle(action, relay(PAIRS[1], exchange))
                    aligned.restart_node(name)
            return handle(action, body)

        return ahead

    with consortium(tmp_path, wrap=wrap) as aligned:
        aligned.open_epoch()
        with pytest.raises(RunFailed, match=r"payment-a refused .*expected exchange 5"):
            aligned.align()
        with pytest.raises(RunFailed, match="bank-a and payment-a cannot go on"):
            aligned.align()
