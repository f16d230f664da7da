"""Whatever bytes arrive, signed by a member or by nobody: a typed refusal, or the same meaning. Never a crash.

Adversary: the network and the coordinator (any bytes), and members that sign what they like.
"""

import contextlib
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protos.sealed_sum.aggregator import Collecting
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.dealing import accept_deal, deal, dealer_order, ready
from protos.sealed_sum.epoch import announce, join
from protos.sealed_sum.errors import SealedSumError
from protos.sealed_sum.keys import SigningKey
from protos.sealed_sum.layout import Field, Layout
from protos.sealed_sum.member import open_sum, remember, reveal_shares
from protos.sealed_sum.sealed_sum_pb2 import Signed
from simulations.benchmarks.sealed_sum import AGREEMENT_HASH, RUN_ID, Consortium

LAYOUT = Layout((Field("x", 3, 0.0, 9.0, 1.0),))
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
edits = st.tuples(
    st.sampled_from(["flip", "cut", "drop", "double", "random"]), st.integers(0, 2**31), st.binary(max_size=40)
)


def edited(message, edit):
    kind, at, extra = edit
    at %= len(message)
    return {
        "flip": message[:at] + bytes([message[at] ^ (1 + at % 255)]) + message[at + 1 :],
        "cut": message[:at],
        "drop": message[:at] + message[at + 1 :],
        "double": message[:at] + extra + message[at:],
        "random": extra,
    }[kind]


class Parties:
    """Three members and every message they exchange."""

    def __init__(self):
        self.names = ("aa", "bb", "cc")
        self.identities = {name: SigningKey.from_bytes(os.urandom(32)) for name in self.names}
        self.keys = {name: key.public_bytes for name, key in self.identities.items()}
        self.bounds = Bounds.smallest(3, 1)
        made = {n: announce(self.identities[n], n, AGREEMENT_HASH, RUN_ID, 0, os.urandom) for n in self.names}
        self.announced = {n: made[n][0] for n in self.names}
        self.announcements = [made[n][1] for n in self.names]
        self.joined = {n: join(self.announced[n], self.announcements, self.keys, self.bounds) for n in self.names}
        view = self.joined["aa"].view
        self.dealer = dealer_order(view.epoch_id, view.cohort)[0]
        self.dealt = deal(self.joined[self.dealer], os.urandom)
        self.keyed = {self.dealer: self.dealt.keyed}
        self.confirmations = {self.dealer: self.dealt.confirmation}
        for name, message in self.dealt.messages.items():
            self.keyed[name], self.confirmations[name] = accept_deal(self.joined[name], message, self.dealer)
        states = {n: ready(self.keyed[n], list(self.confirmations.values())) for n in self.names}
        self.consortium = Consortium(view, states, {n: remember(s) for n, s in states.items()}, os.urandom)
        self.header = self.consortium.header(LAYOUT, 1)
        self.collecting = Collecting.start(view, 1, 1)
        self.uploads = {n: self.consortium.contribute(n, self.header, LAYOUT, {"x": np.ones(3)}) for n in self.names}
        full = self.collecting
        for name in self.names:
            full = full.receive(name, self.uploads[name])
        self.step = full.close().finalise()
        self.before = dict(self.consortium.memories)
        self.replies = {n: self.consortium.reveal_shares(n, self.header, self.step) for n in self.names}
        step = self.step
        for name in self.names:
            step = step.receive(name, self.replies[name])
        self.sealed = step.finish()

    def signed_edit(self, name, domain, message, edit):
        """The message's body edited and signed by its own member."""
        body = edited(Signed.FromString(message).body, edit)
        return Signed(body=body, signature=self.identities[name].sign(domain, body)).SerializeToString()


@pytest.fixture(scope="module")
def parties():
    return Parties()


@many
@given(edits, st.booleans())
def test_announcements_and_confirmations_never_crash_a_member(parties, edit, sign):
    if sign:
        announcement = parties.signed_edit("bb", "announce", parties.announcements[1], edit)
        confirmation = parties.signed_edit("bb", "confirm", parties.confirmations["bb"], edit)
    else:
        announcement = edited(parties.announcements[1], edit)
        confirmation = edited(parties.confirmations["bb"], edit)
    cohort = [parties.announcements[0], announcement, parties.announcements[2]]

    with contextlib.suppress(SealedSumError):  # another nonce, signed by its member, is a valid announcement
        join(parties.announced["aa"], cohort, parties.keys, parties.bounds)
    if confirmation != parties.confirmations["bb"]:
        with pytest.raises(SealedSumError):
            ready(parties.keyed["aa"], [parties.confirmations["aa"], confirmation, parties.confirmations["cc"]])


@many
@given(edits, st.booleans())
def test_deals_never_crash_a_member(parties, edit, sign):
    recipient, message = next(iter(parties.dealt.messages.items()))
    wrong = parties.signed_edit(parties.dealer, "deal", message, edit) if sign else edited(message, edit)

    if wrong != message:
        with pytest.raises(SealedSumError):
            accept_deal(parties.joined[recipient], wrong, parties.dealer)


@many
@given(edits, st.booleans())
def test_uploads_and_replies_never_crash_the_coordinator(parties, edit, sign):
    upload, reply = parties.uploads["bb"], parties.replies["bb"]
    if sign:
        with contextlib.suppress(SealedSumError):  # a member may upload other residues, and harm the sum alone
            parties.collecting.receive("bb", parties.signed_edit("bb", "upload", upload, edit))
        with contextlib.suppress(SealedSumError):
            parties.step.receive("bb", parties.signed_edit("bb", "shares", reply, edit))
    else:
        for call, message in ((parties.collecting.receive, upload), (parties.step.receive, reply)):
            if edited(message, edit) != message:
                with pytest.raises(SealedSumError):
                    call("bb", edited(message, edit))


@many
@given(edits)
def test_sealed_sums_and_shares_never_crash_a_member(parties, edit):
    state = parties.consortium.states["aa"]
    shares = parties.step.encrypted_shares_for("aa")
    wrong = {"bb": edited(shares["bb"], edit), "cc": shares["cc"]}

    if edited(parties.sealed, edit) != parties.sealed:
        with pytest.raises(SealedSumError):
            open_sum(state, parties.before["aa"], parties.header, LAYOUT, edited(parties.sealed, edit))
    if wrong != shares:
        with pytest.raises(SealedSumError):
            reveal_shares(state, parties.before["aa"], parties.header, ["aa", "bb", "cc"], [], wrong)
