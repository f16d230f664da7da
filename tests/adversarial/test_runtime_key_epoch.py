"""A malicious coordinator at the messages of E1 and E2: other cohorts, other keys, old announcements (A10, A11).

Every attack is made in the middle of an honest run, at the node's own `handle`, and the run must then finish.
"""

import pytest

from coordinator.sum_round import RunFailed
from nodes.key_epoch import CohortChanged
from nodes.runtime import MessageRefused
from protos.runs.v1 import runs_pb2
from protos.sealed_sum import sealed_sum_pb2 as pb
from protos.sealed_sum.dealing import DEAL
from protos.sealed_sum.epoch import ANNOUNCE
from protos.sealed_sum.errors import (
    BadSignature,
    CohortRefused,
    DealRefused,
    MalformedMessage,
    ShareInvalid,
    WeakKey,
    WrongEpoch,
)
from protos.sealed_sum.keys import SigningKey
from protos.sealed_sum.wire import sign
from simulations.in_process_consortium import DEFAULT_RUN_ID

STRANGER = SigningKey.from_bytes(bytes([7] * 32))


class Ambush:
    """A relay that attacks the first message of an action, once, and then lets the honest one through."""

    def __init__(self, action, attack):
        self.action, self.attack = action, attack
        self.sprung = False

    def __call__(self, member, action, body, deliver):
        if action == self.action and not self.sprung:
            self.sprung = True
            self.attack(member, body, deliver)
        return deliver(body)


@pytest.fixture
def attacked(found, short_run):
    """Runs `attack(consortium, member, body, deliver)` at the first message of an action; the run must finish."""

    def run(action, attack, members=3):
        ambush = Ambush(action, lambda member, body, deliver: attack(consortium, member, body, deliver))
        consortium = found(members, ambush)
        outcome = consortium.run(short_run)
        assert ambush.sprung
        assert set(outcome.released.signatures) == set(consortium.members)

    return run


def announcement_of(message):
    return pb.Announcement.FromString(pb.Signed.FromString(message).body)


def replaced(request, index, message):
    changed = runs_pb2.CohortRequest()
    changed.CopyFrom(request)
    changed.announcements[index] = message
    return changed.SerializeToString()


# ---- E1 ----


def test_a10_announcements_that_were_swapped_forged_or_left_out_are_refused(attacked):
    def attack(consortium, member, body, deliver):
        request = runs_pb2.CohortRequest.FromString(body)
        own = consortium.members.index(member)
        other = (own + 1) % 3
        theirs = announcement_of(request.announcements[other])
        fresh = pb.Announcement()
        fresh.CopyFrom(theirs)
        fresh.masking_public_key = bytes([9] * 31) + b"\x01"
        small = pb.Announcement()
        small.CopyFrom(theirs)
        small.sealing_public_key = bytes(32)
        posing = pb.Announcement()
        posing.CopyFrom(theirs)
        posing.member = "mallory"
        signed_by = consortium.identities
        peer = consortium.members[other]

        for forged, error in (
            (sign(STRANGER, ANNOUNCE, fresh), BadSignature),
            (sign(signed_by[member], ANNOUNCE, fresh), BadSignature),
            (sign(signed_by[peer], DEAL, fresh), BadSignature),
            (sign(STRANGER, ANNOUNCE, posing), CohortRefused),
            (sign(signed_by[peer], ANNOUNCE, small), WeakKey),
            (request.announcements[own], CohortRefused),
            (b"", MalformedMessage),
            (bytes(1000), MalformedMessage),
        ):
            with pytest.raises(error):
                deliver(replaced(request, other, forged))
        with pytest.raises(WrongEpoch, match="own announcement unchanged"):
            deliver(replaced(request, own, request.announcements[other]))
        del request.announcements[other]
        with pytest.raises(CohortRefused, match="announcements of 3 members, found 2"):
            deliver(request.SerializeToString())
        store = consortium.node_stores[member]
        assert store.run(DEFAULT_RUN_ID).phase == "announced"

    attacked("cohort", attack)


def test_a10_a_cohort_shrunk_to_fewer_members_than_proposed_is_refused(attacked):
    def attack(consortium, member, body, deliver):
        request = runs_pb2.CohortRequest.FromString(body)
        kept = [m for i, m in enumerate(request.announcements) if i == consortium.members.index(member) or i > 1]
        del request.announcements[:]
        request.announcements.extend(kept)
        with pytest.raises(CohortRefused, match="announcements of 5 members"):
            deliver(request.SerializeToString())

    attacked("cohort", attack, members=5)


def test_a10_announcements_of_an_earlier_run_do_not_open_a_new_epoch(found, short_run):
    """The old messages are genuine and the coordinator has kept them."""
    recorded, seen = {}, []

    def relay(member, action, body, deliver):
        if action != "cohort":
            return deliver(body)
        request = runs_pb2.CohortRequest.FromString(body)
        if request.run_id == "run-00000001":
            recorded[member] = list(request.announcements)
            return deliver(body)
        own = consortium.members.index(member)
        old = recorded[member][(own + 1) % 3]
        with pytest.raises(WrongEpoch, match="announcement for this agreement and run"):
            deliver(replaced(request, (own + 1) % 3, old))
        with pytest.raises(WrongEpoch, match="own announcement unchanged"):
            deliver(replaced(request, own, recorded[member][own]))
        seen.append(member)
        return deliver(body)

    consortium = found(3, relay)
    consortium.run(short_run, run_id="run-00000001")
    consortium.run(short_run, run_id="run-00000002")
    assert seen == list(consortium.members)


def test_a10_a_second_view_of_the_cohort_is_refused(attacked):
    """A peer may sign two announcements; the node takes part in the first epoch only."""

    def attack(consortium, member, body, deliver):
        deliver(body)
        request = runs_pb2.CohortRequest.FromString(body)
        other = (consortium.members.index(member) + 1) % 3
        second = announcement_of(request.announcements[other])
        second.nonce = bytes([5] * 32)
        peer = consortium.members[other]
        with pytest.raises(CohortChanged, match="expected the announcements that this node has accepted"):
            deliver(replaced(request, other, sign(consortium.identities[peer], ANNOUNCE, second)))

    attacked("cohort", attack)


# ---- E2 ----


def test_a11_a_deal_before_the_cohort_is_refused(attacked):
    def attack(consortium, member, body, deliver):
        deal = runs_pb2.DealRequest(run_id=DEFAULT_RUN_ID, attempt=0, deal=b"x").SerializeToString()
        with pytest.raises(MessageRefused, match="announcements come before the deal"):
            consortium.nodes[member].handle("deal", deal)
        sums = runs_pb2.SeedsRequest(run_id=DEFAULT_RUN_ID).SerializeToString()
        for action in ("seeds", "shares", "artefact"):
            with pytest.raises(MessageRefused, match="sums begin after all members confirmed one key"):
                consortium.nodes[member].handle(action, sums)

    attacked("cohort", attack)


def test_a11_only_the_dealer_whose_turn_it_is_deals_and_only_to_this_member(attacked):
    def attack(consortium, member, body, deliver):
        request = runs_pb2.DealRequest.FromString(body)
        deal = pb.Deal.FromString(pb.Signed.FromString(request.deal).body)
        (third,) = set(consortium.members) - {deal.dealer, member}

        def with_deal(signer, **changes):
            changed = pb.Deal()
            changed.CopyFrom(deal)
            for name, value in changes.items():
                setattr(changed, name, value)
            message = sign(signer, DEAL, changed)
            attempt = changes.get("attempt", request.attempt)
            return runs_pb2.DealRequest(run_id=DEFAULT_RUN_ID, attempt=attempt, deal=message).SerializeToString()

        dealer = consortium.identities[deal.dealer]
        for forged, error in (
            (with_deal(STRANGER), BadSignature),
            (with_deal(consortium.identities[third]), BadSignature),
            (with_deal(consortium.identities[third], dealer=third), BadSignature),
            (with_deal(dealer, attempt=1), BadSignature),
            (with_deal(dealer, recipient=third), WrongEpoch),
            (with_deal(dealer, epoch_id=bytes(32)), WrongEpoch),
            (with_deal(dealer, sealed_keys=bytes(len(deal.sealed_keys))), ShareInvalid),
            (with_deal(dealer, sealed_keys=b""), MalformedMessage),
            (with_deal(dealer, attempt=3), CohortChanged),
            (with_deal(dealer, attempt=2**32 - 1), CohortChanged),
        ):
            with pytest.raises(error):
                deliver(forged)
        assert consortium.node_stores[member].run(DEFAULT_RUN_ID).phase == "joined"

    attacked("deal", attack)


def test_a11_a_second_deal_after_the_first_sum_began_is_refused(found, short_run):
    """Also where it is genuine: the next dealer's, asked for by the coordinator before."""
    deals, refused = {}, []

    def relay(member, action, body, deliver):
        if action == "deal":
            deals[member] = body
        if action == "contribute" and runs_pb2.ContributeRequest.FromString(body).k == 1 and member in deals:
            node, store = consortium.nodes[member], consortium.node_stores[member]
            before = store.run(DEFAULT_RUN_ID)
            request = runs_pb2.DealRequest.FromString(deals[member])
            answer = node.handle("deal", deals[member])
            assert runs_pb2.DealReply.FromString(answer).confirmation == before.confirmation
            request.attempt += 1
            with pytest.raises(MessageRefused, match="has its sealing key already"):
                node.handle("deal", request.SerializeToString())
            cohort = runs_pb2.CohortRequest(run_id=DEFAULT_RUN_ID, attempt=1).SerializeToString()
            assert not runs_pb2.CohortReply.FromString(node.handle("cohort", cohort)).deals
            assert store.run(DEFAULT_RUN_ID) == before
            refused.append(member)
        return deliver(body)

    consortium = found(3, relay)
    consortium.run(short_run)
    assert len(refused) == 2


def test_a11_nobody_sums_before_everybody_confirmed_the_same_keys(attacked):
    def attack(consortium, member, body, deliver):
        request = runs_pb2.ContributeRequest.FromString(body)
        genuine = list(request.confirmations)
        own = consortium.members.index(member)
        peer = (own + 1) % 3
        parsed = pb.Confirmation.FromString(pb.Signed.FromString(genuine[peer]).body)
        parsed.key_commitment = bytes(32)
        signed_by = list(consortium.identities.values())

        def confirmed(*messages):
            changed = runs_pb2.ContributeRequest()
            changed.CopyFrom(request)
            del changed.confirmations[:]
            changed.confirmations.extend(messages)
            return changed.SerializeToString()

        swapped = [*genuine]
        for forged, error in (
            (sign(signed_by[peer], "confirm", parsed), DealRefused),
            (sign(STRANGER, "confirm", parsed), BadSignature),
            (sign(signed_by[peer], DEAL, parsed), BadSignature),
            (genuine[own], CohortRefused),
            (b"", MalformedMessage),
        ):
            swapped[peer] = forged
            with pytest.raises(error):
                deliver(confirmed(*swapped))
        with pytest.raises(CohortRefused, match="confirmations of 3 members"):
            deliver(confirmed(*genuine[:2]))
        behind = runs_pb2.ContributeReply.FromString(deliver(confirmed())).behind
        assert (behind.opened, behind.needs_confirmations) == (0, True)
        store = consortium.node_stores[member]
        assert store.run(DEFAULT_RUN_ID).phase == "keyed"
        assert store.blob(DEFAULT_RUN_ID, "upload") == b""

    attacked("contribute", attack)


def test_a11_a_dealer_that_gives_two_members_different_keys_is_found_out_before_the_first_sum(found, short_run):
    """The dealer's own node is asked twice, from two copies of its state: both deals are genuine."""
    state = {}

    def relay(member, action, body, deliver):
        if action == "cohort":
            node, store = consortium.nodes[member], consortium.node_stores[member]
            answer = deliver(body)
            if runs_pb2.CohortReply.FromString(answer).deals:
                record = store.run(DEFAULT_RUN_ID)
                store.set_keyed(DEFAULT_RUN_ID, record.state, attempt=99, deals={}, confirmation=b"")
                state["second"] = runs_pb2.CohortReply.FromString(node.handle("cohort", body)).deals
                store.set_keyed(
                    DEFAULT_RUN_ID, record.state, attempt=0, deals=record.deals, confirmation=record.confirmation
                )
            return answer
        if action == "deal" and "given" not in state:
            state["given"] = member
            request = runs_pb2.DealRequest.FromString(body)
            request.deal = state["second"][member]
            return deliver(request.SerializeToString())
        return deliver(body)

    consortium = found(3, relay)
    with pytest.raises(RunFailed, match=r"refused sum 0 \(DealRefused\)"):
        consortium.run(short_run)
    assert all(store.blob(DEFAULT_RUN_ID, "upload") == b"" for store in consortium.node_stores.values())
