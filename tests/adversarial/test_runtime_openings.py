"""A malicious coordinator hands a node something else than the sealed sum, at the node's own handler (A4, A5).

Adversary: the coordinator without a key; it sees every message and makes any bytes it likes. What is not a sealed
sum of this node's header is refused before it is decrypted, and the run goes on. What decrypts to anything but the
sum of the named survivors ends the epoch at this node, for ever.
"""

import numpy as np
import pytest

from coordinator.sum_round import RunFailed
from nodes.runtime import MessageRefused
from protos.runs.v1 import runs_pb2
from protos.sealed_sum import sealed_sum_pb2 as pb
from protos.sealed_sum.ciphertext import SealingKey, pack, reduce_sum, subtract_plain, unpack
from protos.sealed_sum.errors import (
    CohortRefused,
    HeaderMismatch,
    MalformedCiphertext,
    MalformedMessage,
    OpeningRefused,
    SurvivorSetRefused,
    WrongEpoch,
)
from protos.sealed_sum.parameters import CIPHERTEXT_BYTES, PLAIN_MODULUS, POLY_MODULUS_DEGREE, PRIMES
from simulations.in_process_consortium import DEFAULT_RUN_ID

MEMBERS = ("bank-1", "bank-2", "bank-3")
VICTIM = "bank-1"
K = 2
"""The second training sum, which has the layout of the one before."""
ENDED = rf"has ended at this node \(sum {K} was not the sum of the named survivors\); propose a new run"
PRIME_COLUMN = np.array(PRIMES, dtype=np.uint64).reshape(1, 1, -1, 1)


class Forger:
    """What a coordinator holds when sum K is to be opened: the genuine sum, earlier ones, all uploads."""

    def __init__(self, consortium, genuine):
        self.consortium = consortium
        self.genuine = genuine
        self.message = pb.SealedSum.FromString(genuine)
        self.count = len(self.message.ciphertexts) // CIPHERTEXT_BYTES
        (self.earlier,) = (s.sealed_sum for s in consortium.store.sealed_sums(DEFAULT_RUN_ID, K - 1) if s.k == K - 1)

    @property
    def store(self):
        return self.consortium.node_stores[VICTIM]

    def residues(self, message=None):
        ciphertexts = pb.SealedSum.FromString(message).ciphertexts if message else self.message.ciphertexts
        return unpack(ciphertexts, self.count).copy()

    def uploaded_by(self, member):
        stored = self.consortium.node_stores[member].blob(DEFAULT_RUN_ID, "upload")
        return unpack(pb.Upload.FromString(pb.Signed.FromString(stored).body).ciphertexts, self.count).copy()

    def edited(self, *, survivors=None, **fields):
        changed = pb.SealedSum()
        changed.CopyFrom(self.message)
        if survivors is not None:
            del changed.survivors[:]
            changed.survivors.extend(survivors)
        for name, value in fields.items():
            setattr(changed, name, value)
        return changed.SerializeToString(deterministic=True)

    def hand(self, sealed, k=K):
        request = runs_pb2.ContributeRequest(run_id=DEFAULT_RUN_ID, k=k + 1)
        request.openings.add(k=k, sealed_sum=sealed, survivors=MEMBERS)
        return self.consortium.nodes[VICTIM].handle("contribute", request.SerializeToString())


@pytest.fixture
def given(found, short_run):
    """Runs `attack(forger)` when the victim is about to be given sum K; returns the honest run's outcome or error."""

    def run(attack):
        done = []

        def relay(member, action, body, deliver):
            if action == "contribute" and member == VICTIM and not done:
                request = runs_pb2.ContributeRequest.FromString(body)
                if request.k == K + 1:
                    done.append(member)
                    attack(Forger(consortium, next(o.sealed_sum for o in request.openings if o.k == K)))
            return deliver(body)

        consortium = found(3, relay)
        try:
            return consortium, consortium.run(short_run)
        except RunFailed as failure:
            return consortium, failure
        finally:
            assert done

    return run


def test_what_is_no_sealed_sum_of_this_nodes_header_is_refused_and_the_run_goes_on(given):
    def attack(forger):
        before = forger.store.run(DEFAULT_RUN_ID)
        zeros = forger.residues()
        zeros[:, 1] = 0
        too_large = bytearray(forger.message.ciphertexts)
        too_large[:9] = b"\xff" * 9
        cases = [
            (b"", WrongEpoch),
            (b"\xff" * 100, MalformedMessage),
            (forger.genuine[:-1], MalformedMessage),
            (forger.genuine + b"\x01", MalformedMessage),
            (bytes(2 * len(forger.genuine)), MalformedMessage),
            (forger.edited(epoch_id=bytes(32)), WrongEpoch),
            (forger.edited(k=K + 1), HeaderMismatch),
            (forger.edited(k=K - 1), HeaderMismatch),
            (forger.edited(header_digest=bytes(32)), HeaderMismatch),
            (forger.earlier, HeaderMismatch),
            (forger.edited(survivors=MEMBERS[:2]), CohortRefused),
            (forger.edited(survivors=[*MEMBERS, "mallory"]), CohortRefused),
            (forger.edited(survivors=[]), CohortRefused),
            (forger.edited(survivors=[*MEMBERS, "bank-3"]), MalformedMessage),
            (forger.edited(survivors=MEMBERS[::-1]), MalformedMessage),
            (forger.edited(ciphertexts=b""), MalformedCiphertext),
            (forger.edited(ciphertexts=forger.message.ciphertexts[:-CIPHERTEXT_BYTES]), MalformedCiphertext),
            (forger.edited(ciphertexts=forger.message.ciphertexts + bytes(CIPHERTEXT_BYTES)), MalformedMessage),
            (forger.edited(ciphertexts=bytes(too_large)), MalformedCiphertext),
            (forger.edited(ciphertexts=pack(zeros)), MalformedCiphertext),
        ]
        for number, (sealed, error) in enumerate(cases):
            try:
                forger.hand(sealed)
            except error:
                continue
            pytest.fail(f"case {number} was accepted")
        assert forger.store.run(DEFAULT_RUN_ID) == before

    _, outcome = given(attack)
    assert set(outcome.released.signatures) == set(MEMBERS)


def scaled(forger):
    return forger.residues() * np.uint64(2) % PRIME_COLUMN


def shifted(forger):
    slots = np.zeros((forger.count, POLY_MODULUS_DEGREE), dtype=np.uint64)
    slots[0, 5] = 1
    return subtract_plain(forger.residues(), slots)


def flipped_bit(forger):
    residues = forger.residues()
    residues[0, 0, 0, 0] ^= np.uint64(1)
    return residues


def other_sum(forger):
    return forger.residues(forger.earlier)


def added_up(forger):
    return reduce_sum(forger.residues() + forger.residues(forger.earlier))


def one_upload_alone(forger):
    return forger.uploaded_by("bank-2")


def without_one_upload(forger):
    """The sum less one member's masked upload."""
    return (forger.residues() + PRIME_COLUMN - forger.uploaded_by("bank-2")) % PRIME_COLUMN


def almost_keyless(forger):
    """(Delta * m, 0) but for one residue: it decrypts under any key."""
    residues = np.zeros_like(forger.residues())
    quotient = PRIMES[0] * PRIMES[1] // PLAIN_MODULUS * 7
    residues[:, 0, 0], residues[:, 0, 1] = quotient % PRIMES[0], quotient % PRIMES[1]
    residues[:, 1, 0, 0] = 1
    return residues


def own_key(forger):
    return SealingKey.generate().encrypt(np.ones((forger.count, POLY_MODULUS_DEGREE), dtype=np.uint64))


FORGERIES = [
    scaled,
    shifted,
    flipped_bit,
    other_sum,
    added_up,
    one_upload_alone,
    without_one_upload,
    almost_keyless,
    own_key,
]


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.__name__)
def test_a4_a_forged_sum_ends_the_epoch_at_the_node_for_ever_and_looks_like_any_other(given, forgery):
    def attack(forger):
        sealed = forger.edited(ciphertexts=pack(forgery(forger)))
        before = forger.store.run(DEFAULT_RUN_ID)
        with pytest.raises(OpeningRefused) as refusal:
            forger.hand(sealed)
        assert str(refusal.value) == str(OpeningRefused())
        for restart in (False, True):
            if restart:
                forger.consortium.restart_node(VICTIM)
            for again in (sealed, forger.genuine):
                with pytest.raises(MessageRefused, match=ENDED):
                    forger.hand(again)
            for action, message in (
                ("seeds", runs_pb2.SeedsRequest(run_id=DEFAULT_RUN_ID, k=K, survivors=MEMBERS)),
                ("shares", runs_pb2.SharesRequest(run_id=DEFAULT_RUN_ID, k=K, survivors=MEMBERS)),
            ):
                with pytest.raises(MessageRefused, match=ENDED):
                    forger.consortium.nodes[VICTIM].handle(action, message.SerializeToString())
        after = forger.store.run(DEFAULT_RUN_ID)
        assert (after.phase, after.next_k, after.previous) == ("ended", K, before.previous)
        assert after.state == after.memory == forger.store.blob(DEFAULT_RUN_ID, "upload") == b""
        assert [e for _, _, e, _ in forger.store.journal_entries()].count("opening refused") == 1

    consortium, failure = given(attack)
    assert isinstance(failure, RunFailed)
    assert f"{VICTIM} refused sum {K + 1} (MessageRefused)" in str(failure)
    assert {store.run(DEFAULT_RUN_ID).phase for store in consortium.node_stores.values()} == {"ended"}
    assert not any(event.event == "released" for event in consortium.events())


def test_a4_one_ciphertext_is_opened_per_sum_and_an_older_one_is_passed_over(given):
    """After the genuine sum, another one under the same number is not looked at: the node is past it."""

    def attack(forger):
        first = forger.hand(forger.genuine)
        before = forger.store.run(DEFAULT_RUN_ID)
        for sealed in (forger.genuine, forger.edited(ciphertexts=pack(scaled(forger))), b"anything"):
            assert forger.hand(sealed) == first
        assert forger.store.run(DEFAULT_RUN_ID) == before

    _, outcome = given(attack)
    assert set(outcome.released.signatures) == set(MEMBERS)


def test_a7_a_sum_for_other_survivors_than_this_node_gave_shares_for_is_refused(found, short_run):
    """The genuine ciphertext under another list of survivors, at five members of which four are enough."""
    tried = []

    def relay(member, action, body, deliver):
        request = runs_pb2.ContributeRequest.FromString(body) if action == "contribute" else None
        if request is not None and request.k == K + 1:
            sealed = pb.SealedSum.FromString(request.openings[-1].sealed_sum)
            gone = next(m for m in sealed.survivors if m != member)
            sealed.survivors.remove(gone)
            request.openings[-1].sealed_sum = sealed.SerializeToString(deterministic=True)
            with pytest.raises(SurvivorSetRefused, match="gave its shares for"):
                deliver(request.SerializeToString())
            tried.append(member)
        return deliver(body)

    consortium = found(5, relay)
    consortium.run(short_run)
    assert len(tried) == 5


def test_a10_a_sum_of_another_epoch_is_refused(found, short_run):
    old, tried = {}, []

    def relay(member, action, body, deliver):
        request = runs_pb2.ContributeRequest.FromString(body) if action == "contribute" else None
        if request is not None and request.openings:
            opening = request.openings[-1]
            if request.run_id == "run-00000001":
                old[opening.k] = opening.sealed_sum
            else:
                genuine = opening.sealed_sum
                relabelled = pb.SealedSum.FromString(genuine)
                relabelled.ciphertexts = pb.SealedSum.FromString(old[opening.k]).ciphertexts
                opening.sealed_sum = old[opening.k]
                with pytest.raises(WrongEpoch):
                    deliver(request.SerializeToString())
                if opening.k == K and member == MEMBERS[-1]:
                    opening.sealed_sum = relabelled.SerializeToString(deterministic=True)
                    with pytest.raises(OpeningRefused):
                        deliver(request.SerializeToString())
                tried.append(opening.k)
        return deliver(body)

    consortium = found(3, relay)
    consortium.run(short_run, run_id="run-00000001")
    with pytest.raises(RunFailed, match=ENDED):
        consortium.run(short_run, run_id="run-00000002")
    assert tried == [0] * 3 + [1] * 3 + [2] * 3
