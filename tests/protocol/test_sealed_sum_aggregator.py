"""What the coordinator's side accepts and refuses: order of steps, A3, A6, A8, A12, section 0."""

import os

import numpy as np
import pytest

from protos.sealed_sum import shamir
from protos.sealed_sum.aggregator import Collecting
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.errors import (
    BadSignature,
    CohortRefused,
    ConflictingMessage,
    HeaderMismatch,
    IncompleteAnswers,
    MalformedCiphertext,
    MalformedMessage,
    ShareInvalid,
    WrongEpoch,
)
from protos.sealed_sum.layout import Field, Layout
from protos.sealed_sum.member import SEEDS, SHARES, UPLOAD, contribute, remember
from protos.sealed_sum.parameters import CIPHERTEXT_BYTES, PRIMES
from protos.sealed_sum.sealed_sum_pb2 import SeedReply, ShareReply, Signed, Upload
from protos.sealed_sum.wire import sign
from simulations.benchmarks.sealed_sum import Consortium

LAYOUT = Layout((Field("count", 4, 0.0, 1e6, 1.0),))
MODEL = bytes([9] * 32)


class Round:
    """Six members without colluders (u = 4, T = 3), k = 3, all uploads made."""

    def __init__(self):
        self.consortium = Consortium.found(Bounds(6, 0, 4, 3))
        self.cohort = self.consortium.view.cohort
        self.header = self.consortium.header(LAYOUT, 3)
        self.values = {m: {"count": np.full(4, 10.0**i)} for i, m in enumerate(self.cohort)}
        self.uploads = {m: self.consortium.contribute(m, self.header, LAYOUT, self.values[m]) for m in self.cohort}
        self.start = Collecting.start(self.consortium.view, 3, 1)

    def collect(self, *names):
        collecting = self.start
        for name in names or self.cohort:
            collecting = collecting.receive(name, self.uploads[name])
        return collecting

    def change(self, message, kind, domain, name, edit):
        """A member's own message, changed and signed by that member again."""
        body = kind.FromString(Signed.FromString(message).body)
        edit(body)
        return sign(self.consortium.states[name].identity, domain, body)

    def replay(self):
        """The consortium as it was before anything was revealed."""
        memories = {
            m: contribute(s, remember(s), self.header, LAYOUT, self.values[m], os.urandom).memory
            for m, s in self.consortium.states.items()
        }
        return Consortium(self.consortium.view, self.consortium.states, memories, os.urandom)


@pytest.fixture(scope="module")
def made():
    return Round()


def opened(made, sealed):
    fresh = Consortium(
        made.consortium.view,
        made.consortium.states,
        {m: remember(s) for m, s in made.consortium.states.items()},
        os.urandom,
    )
    return fresh.open(made.cohort[0], made.header, LAYOUT, sealed).integers["count"].tolist()


def test_uploads_may_arrive_in_any_order_and_twice(made):
    collecting = made.collect(*reversed(made.cohort))

    assert collecting.receive(made.cohort[2], made.uploads[made.cohort[2]]) is collecting
    assert collecting.missing == ()
    assert opened(made, made.replay().reveal(made.header, collecting.close())) == [111_111] * 4


def test_a8_a_second_different_upload_of_a_member_is_refused(made):
    again = contribute(
        made.consortium.states["member-01"],
        remember(made.consortium.states["member-01"]),
        made.header,
        LAYOUT,
        made.values["member-01"],
        os.urandom,
    ).upload
    with pytest.raises(ConflictingMessage, match="member-01"):
        made.collect().receive("member-01", again)


def test_the_coordinator_refuses_uploads_that_are_not_the_members(made):
    stolen = made.uploads["member-01"]
    resigned = made.change(stolen, Upload, UPLOAD, "member-02", lambda body: None)

    with pytest.raises(BadSignature, match="member-02"):
        made.start.receive("member-02", stolen)
    with pytest.raises(MalformedMessage, match="another member"):
        made.start.receive("member-02", resigned)
    with pytest.raises(CohortRefused):
        made.start.receive("stranger", stolen)
    with pytest.raises(BadSignature):
        made.start.receive("member-01", made.change(stolen, Upload, SHARES, "member-01", lambda body: None))


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (lambda b: setattr(b, "k", 2), WrongEpoch),
        (lambda b: setattr(b, "epoch_id", MODEL), WrongEpoch),
        (lambda b: setattr(b, "header_digest", b""), MalformedMessage),
        (lambda b: setattr(b, "seed_commitment", bytes(31)), MalformedMessage),
        (lambda b: setattr(b, "ciphertexts", bytes(CIPHERTEXT_BYTES)), MalformedCiphertext),
        (lambda b: setattr(b, "ciphertexts", b"\xff" * CIPHERTEXT_BYTES), MalformedCiphertext),
        (lambda b: setattr(b, "ciphertexts", b.ciphertexts[:-1]), MalformedCiphertext),
        (lambda b: setattr(b, "ciphertexts", 2 * b.ciphertexts), MalformedMessage),
        (lambda b: b.shares.pop(), MalformedMessage),
        (lambda b: b.shares.append(b.shares[0]), MalformedMessage),
        (lambda b: setattr(b.shares[0], "recipient", "member-01"), MalformedMessage),
        (lambda b: setattr(b.shares[0], "sealed_share", bytes(81)), MalformedMessage),
        (lambda b: setattr(b.shares[0], "nonce", bytes(11)), MalformedMessage),
    ],
)  # fmt: skip
def test_the_coordinator_refuses_malformed_uploads_and_keeps_its_state(made, edit, error):
    before = made.collect("member-00")
    with pytest.raises(error):
        before.receive("member-01", made.change(made.uploads["member-01"], Upload, UPLOAD, "member-01", edit))
    assert before.missing == made.cohort[1:]


def test_a5_the_coordinator_refuses_a_residue_that_is_its_prime(made):
    def edit(body):
        packed = bytearray(body.ciphertexts)
        packed[:5] = PRIMES[0].to_bytes(5, "little")
        body.ciphertexts = bytes(packed)

    with pytest.raises(MalformedCiphertext, match="below its prime"):
        made.start.receive("member-01", made.change(made.uploads["member-01"], Upload, UPLOAD, "member-01", edit))


def test_a3_uploads_for_different_headers_do_not_meet_in_one_sum(made):
    state = made.consortium.states["member-01"]
    other = made.consortium.header(LAYOUT, 3, model_digest=MODEL)
    upload = contribute(state, remember(state), other, LAYOUT, made.values["member-01"], os.urandom).upload

    with pytest.raises(HeaderMismatch, match="member-01"):
        made.collect("member-00").receive("member-01", upload)


def test_a1_the_coordinator_gives_up_below_u_before_anything_is_revealed(made):
    collecting = made.collect(*made.cohort[:3])

    assert not collecting.enough
    with pytest.raises(CohortRefused, match="at least 4"):
        collecting.close()
    with pytest.raises(CohortRefused, match="at least 4"):
        made.collect().close().drop(made.cohort[:3])


def test_a6_silent_members_move_to_the_dropped_and_the_rest_is_asked_again(made):
    node, closed = made.replay(), made.collect(*made.cohort[:5]).close()
    first = node.reveal_seeds("member-00", made.header, closed.survivors, closed.dropped)
    closed = closed.receive("member-00", first)
    smaller = closed.drop({"member-04"})

    assert closed.missing == made.cohort[1:5]
    assert smaller.missing == made.cohort[:4]
    with pytest.raises(IncompleteAnswers, match="member-01"):
        smaller.finalise()
    with pytest.raises(MalformedMessage, match="survivors it was asked about"):
        smaller.receive("member-00", first)
    assert opened(made, node.reveal(made.header, smaller)) == [1_111] * 4


def test_a6_with_nobody_dropped_no_seeds_are_asked_for(made):
    closed = made.collect().close()

    assert closed.missing == ()
    assert closed.finalise().survivors == made.cohort


def test_seed_replies_are_checked(made):
    node, closed = made.replay(), made.collect(*made.cohort[:5]).close()
    reply = node.reveal_seeds("member-00", made.header, closed.survivors, closed.dropped)
    for edit, error in (
        (lambda b: setattr(b.seeds[0], "peer", "member-01"), MalformedMessage),
        (lambda b: setattr(b.seeds[0], "seed", bytes(31)), MalformedMessage),
        (lambda b: b.seeds.pop(), MalformedMessage),
        (lambda b: setattr(b, "k", 9), WrongEpoch),
        (lambda b: setattr(b, "header_digest", MODEL), HeaderMismatch),
    ):
        with pytest.raises(error):
            closed.receive("member-00", made.change(reply, SeedReply, SEEDS, "member-00", edit))
    with pytest.raises(BadSignature):
        closed.receive("member-01", reply)
    with pytest.raises(CohortRefused):
        closed.receive("member-05", reply)


def share_replies(made):
    node, step = made.replay(), made.collect().close().finalise()
    return step, {m: node.reveal_shares(m, made.header, step) for m in made.cohort}


def test_s2b_needs_any_threshold_plus_one_answers(made):
    step, replies = share_replies(made)
    for name in made.cohort[2:]:
        with pytest.raises(IncompleteAnswers):
            step.finish()
        step = step.receive(name, replies[name])

    assert step.enough
    assert step.missing == made.cohort[:2]
    assert opened(made, step.finish()) == [111_111] * 4


def test_share_replies_are_checked(made):
    step, replies = share_replies(made)
    reply = replies["member-00"]
    for edit, error in (
        (lambda b: setattr(b.shares[0], "owner", "member-00"), MalformedMessage),
        (lambda b: setattr(b.shares[0], "share", bytes(65)), ShareInvalid),
        (lambda b: setattr(b.shares[0], "share", b"\xff" * 66), ShareInvalid),
        (lambda b: b.shares.pop(), MalformedMessage),
        (lambda b: b.survivors.pop(), MalformedMessage),
        (lambda b: setattr(b, "header_digest", MODEL), HeaderMismatch),
    ):
        with pytest.raises(error):
            step.receive("member-00", made.change(reply, ShareReply, SHARES, "member-00", edit))


def test_a12_a_wrong_share_is_found_by_the_commitment_and_another_subset_is_tried(made):
    step, replies = share_replies(made)

    def lie(body):
        body.shares[0].share = (int.from_bytes(body.shares[0].share) ^ 1).to_bytes(66)

    liar = made.change(replies["member-01"], ShareReply, SHARES, "member-01", lie)
    four = step.receive("member-01", liar)
    for name in made.cohort[2:5]:
        four = four.receive(name, replies[name])
    three = step.receive("member-01", liar)
    for name in made.cohort[2:4]:
        three = three.receive(name, replies[name])

    # Four shares of member-00's seed, one of them wrong: three of them fit.
    assert opened(made, four.receive("member-05", replies["member-05"]).finish()) == [111_111] * 4
    with pytest.raises(IncompleteAnswers):
        three.finish()


def test_a12_shares_that_fit_no_commitment_are_refused(made):
    """Four colluding nodes answer with shares of another seed, which would rebuild without any sign of it."""
    step, replies = share_replies(made)
    view = made.consortium.view
    points = range(1, len(made.cohort) + 1)
    forged = {owner: shamir.split(os.urandom(64), 3, list(points), os.urandom) for owner in made.cohort}

    for name in made.cohort[:4]:

        def lie(body, name=name):
            for share in body.shares:
                share.share = forged[share.owner][view.point(name)]

        step = step.receive(name, made.change(replies[name], ShareReply, SHARES, name, lie))
    with pytest.raises(ShareInvalid, match="committed to"):
        step.finish()
