"""E1 and E2: rules A10, A11, A12 (weak keys), A7 ii (weights)."""

import os

import numpy as np
import pytest

from protos.sealed_sum import dealing
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.ciphertext import KEY_BYTES, SealingKey
from protos.sealed_sum.dealing import accept_deal, deal, dealer_order, model_report, ready
from protos.sealed_sum.epoch import Announced, Joined, announce, join, observe
from protos.sealed_sum.errors import (
    BadSignature,
    CohortRefused,
    DealRefused,
    MalformedMessage,
    ShareInvalid,
    WeakKey,
    WrongEpoch,
)
from protos.sealed_sum.keys import SigningKey, agree
from protos.sealed_sum.sealed_sum_pb2 import Announcement, Confirmation, Signed
from protos.sealed_sum.secret import AgreementSecret
from protos.sealed_sum.wire import sign

AGREEMENT, RUN, NAMES = bytes([1] * 32), "run-1", ("bank-a", "bank-b", "bank-c")
BOUNDS = Bounds.smallest(3, 1)


class Epoch:
    """E1 of three members."""

    def __init__(self, agreement=AGREEMENT, run=RUN, identities=None):
        self.identities = identities or {name: SigningKey.from_bytes(os.urandom(32)) for name in NAMES}
        self.keys = {name: key.public_bytes for name, key in self.identities.items()}
        self.announced, self.messages = {}, {}
        for weight, name in enumerate(NAMES):
            made = announce(self.identities[name], name, agreement, run, weight, os.urandom)
            self.announced[name], self.messages[name] = made

    def join(self, name, messages=None, **changes):
        messages = list(self.messages.values()) if messages is None else messages
        return join(self.announced[name], messages, changes.get("keys", self.keys), changes.get("bounds", BOUNDS))

    def joined(self):
        return {name: self.join(name) for name in NAMES}


@pytest.fixture(scope="module")
def epoch():
    return Epoch()


@pytest.fixture(scope="module")
def dealt(epoch):
    joined = epoch.joined()
    dealer = dealer_order(joined["bank-a"].epoch_id, NAMES)[0]
    return joined, dealer, deal(joined[dealer], os.urandom)


def resigned(epoch, name, kind, domain, message, **changes):
    """A member's own message, changed and signed again by that member."""
    body = kind.FromString(Signed.FromString(message).body)
    for key, value in changes.items():
        setattr(body, key, value)
    return sign(epoch.identities[name], domain, body)


def test_every_member_and_the_coordinator_see_the_same_epoch(epoch):
    joined = epoch.joined()
    view = observe(list(reversed(epoch.messages.values())), epoch.keys, AGREEMENT, RUN, BOUNDS)

    assert {state.epoch_id for state in joined.values()} == {view.epoch_id}
    assert view.cohort == NAMES


def test_a7_weights_are_public_powers_of_two_fixed_in_the_announcement(epoch):
    assert epoch.join("bank-a").weights == {"bank-a": 1, "bank-b": 2, "bank-c": 4}
    with pytest.raises(ValueError, match="weight_log2"):
        announce(epoch.identities["bank-a"], "bank-a", AGREEMENT, RUN, 41, os.urandom)
    heavy = resigned(epoch, "bank-b", Announcement, "announce", epoch.messages["bank-b"], weight_log2=41)
    with pytest.raises(MalformedMessage, match="weight_log2"):
        epoch.join("bank-a", [epoch.messages["bank-a"], heavy, epoch.messages["bank-c"]])


def test_a10_an_announcement_of_an_earlier_epoch_makes_another_epoch(epoch):
    again = Epoch(identities=epoch.identities)
    replayed = [again.messages["bank-a"], again.messages["bank-b"], epoch.messages["bank-c"]]

    assert again.join("bank-a").epoch_id != again.join("bank-a", replayed).epoch_id
    with pytest.raises(WrongEpoch, match="own announcement"):
        again.join("bank-c", replayed)


def test_a10_member_refuses_a_cohort_without_its_own_announcement_verbatim(epoch):
    other = announce(epoch.identities["bank-a"], "bank-a", AGREEMENT, RUN, 0, os.urandom)[1]
    with pytest.raises(WrongEpoch, match="own announcement"):
        epoch.join("bank-a", [other, epoch.messages["bank-b"], epoch.messages["bank-c"]])


@pytest.mark.parametrize(("agreement", "run"), [(bytes(32), RUN), (AGREEMENT, "run-2")])
def test_a10_member_refuses_announcements_for_another_agreement_or_run(epoch, agreement, run):
    foreign = Epoch(agreement, run, epoch.identities)
    with pytest.raises(WrongEpoch, match="agreement and run"):
        epoch.join("bank-a", [epoch.messages["bank-a"], foreign.messages["bank-b"], epoch.messages["bank-c"]])


def test_member_refuses_an_announcement_that_its_member_did_not_sign(epoch):
    forged = resigned(epoch, "bank-c", Announcement, "announce", epoch.messages["bank-b"])
    with pytest.raises(BadSignature, match="bank-b"):
        epoch.join("bank-a", [epoch.messages["bank-a"], forged, epoch.messages["bank-c"]])


def test_member_refuses_a_signature_made_for_another_kind_of_message(epoch):
    crossed = resigned(epoch, "bank-b", Announcement, "upload", epoch.messages["bank-b"])
    with pytest.raises(BadSignature):
        epoch.join("bank-a", [epoch.messages["bank-a"], crossed, epoch.messages["bank-c"]])


def test_member_refuses_strangers_doubles_and_other_cohort_sizes(epoch):
    messages = list(epoch.messages.values())
    stranger = announce(SigningKey.from_bytes(os.urandom(32)), "bank-z", AGREEMENT, RUN, 0, os.urandom)[1]
    for wrong in ([*messages[:2], stranger], [*messages[:2], messages[1]], messages[:2], [*messages, stranger]):
        with pytest.raises(CohortRefused):
            epoch.join("bank-a", wrong)


@pytest.mark.parametrize("name", ["A", "bank_a", "", "x" * 40, "bank a"])
def test_member_refuses_ids_outside_the_alphabet(epoch, name):
    odd = resigned(epoch, "bank-b", Announcement, "announce", epoch.messages["bank-b"], member=name)
    with pytest.raises(MalformedMessage):
        epoch.join("bank-a", [epoch.messages["bank-a"], odd, epoch.messages["bank-c"]])


@pytest.mark.parametrize(
    "point",
    [bytes(32), b"\x01" + bytes(31), bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")],
    ids=["zero", "one", "order 8"],
)
@pytest.mark.parametrize("key", ["masking_public_key", "sealing_public_key"])
def test_a12_member_refuses_public_keys_of_small_order(epoch, key, point):
    with pytest.raises(WeakKey):
        agree(AgreementSecret(os.urandom(32)), point, "bank-b")
    weak = resigned(epoch, "bank-b", Announcement, "announce", epoch.messages["bank-b"], **{key: point})
    with pytest.raises(WeakKey, match="bank-b"):
        epoch.join("bank-a", [epoch.messages["bank-a"], weak, epoch.messages["bank-c"]])


def test_section_0_member_refuses_a_cohort_other_than_its_bounds(epoch):
    with pytest.raises(CohortRefused, match="4 members"):
        epoch.join("bank-a", bounds=Bounds.smallest(4, 1))


def test_e4_announced_and_joined_survive_the_disk_without_the_identity_key(epoch):
    state = epoch.announced["bank-a"]
    identity = epoch.identities["bank-a"]
    joined = epoch.join("bank-a")

    assert Announced.from_bytes(state.to_bytes(), identity).message == state.message
    assert Joined.from_bytes(joined.to_bytes(), identity).view == joined.view
    assert identity.private.private_bytes_raw() not in joined.to_bytes()


# ---- E2 ----


def everybody(dealt):
    joined, dealer, made = dealt
    keyed, confirmations = {dealer: made.keyed}, {dealer: made.confirmation}
    for name, message in made.messages.items():
        keyed[name], confirmations[name] = accept_deal(joined[name], message, dealer)
    return keyed, confirmations


def test_all_members_are_ready_with_the_same_keys(dealt):
    keyed, confirmations = everybody(dealt)
    states = [ready(keyed[name], list(confirmations.values())) for name in NAMES]
    slots = np.arange(4096, dtype=np.uint64).reshape(1, -1)

    sealed = states[0].keyed.sealing_key.encrypt(slots)

    assert all(np.array_equal(state.keyed.sealing_key.decrypt(sealed), slots) for state in states)
    assert len({model_report(state, bytes(32), 4) for state in states}) == 1


def test_a11_the_dealer_follows_from_the_epoch_and_no_other_member_deals(dealt):
    joined, dealer, made = dealt
    other = next(name for name in NAMES if name != dealer)

    assert sorted(dealer_order(joined[dealer].epoch_id, NAMES)) == list(NAMES)
    with pytest.raises(DealRefused, match="dealer of attempt 0"):
        deal(joined[other], os.urandom)
    with pytest.raises(DealRefused, match="dealer of attempt 0"):
        accept_deal(joined[other], made.messages[other], other)
    with pytest.raises(DealRefused):
        deal(joined[other], os.urandom, attempt=7)


def test_a11_the_next_dealer_deals_after_a_deadline_and_earlier_keys_do_not_mix(dealt):
    joined, dealer, _ = dealt
    second = dealer_order(joined[dealer].epoch_id, NAMES)[1]
    made = deal(joined[second], os.urandom, attempt=1)
    _, confirmations = everybody(dealt)

    keyed, confirmation = accept_deal(joined[dealer], made.messages[dealer], second, attempt=1)

    with pytest.raises(DealRefused, match="same keys"):
        ready(
            keyed, [confirmation, made.confirmation, confirmations[next(n for n in NAMES if n not in {dealer, second})]]
        )


def test_a11_members_refuse_a_dealer_that_gave_them_different_keys(dealt):
    joined, dealer, _ = dealt
    first, second = deal(joined[dealer], os.urandom), deal(joined[dealer], os.urandom)
    one, two = sorted(first.messages)
    keyed, confirmation = accept_deal(joined[one], first.messages[one], dealer)
    _, other = accept_deal(joined[two], second.messages[two], dealer)

    with pytest.raises(DealRefused, match=f"found {two}|found {dealer}"):
        ready(keyed, [confirmation, other, first.confirmation])


def test_a11_member_refuses_keys_that_do_not_decrypt_what_they_encrypt(dealt, monkeypatch):
    joined, dealer, made = dealt
    other = next(iter(made.messages))
    # Symmetric BFV decrypts under any key it encrypted under; what fails is a library that lost a slot.
    decrypt = SealingKey.decrypt
    monkeypatch.setattr(SealingKey, "decrypt", lambda key, residues: np.roll(decrypt(key, residues), 1))

    with pytest.raises(DealRefused, match="decrypt what they encrypt"):
        accept_deal(joined[other], made.messages[other], dealer)


def test_a11_member_refuses_a_key_that_is_no_key():
    good = SealingKey.generate().to_bytes()
    for raw in (b"", good[:-1], good + b"\x00", bytes(KEY_BYTES), b"\xff" * KEY_BYTES):
        with pytest.raises(DealRefused, match="sealing key"):
            SealingKey.from_bytes(raw)


def test_a11_member_refuses_a_deal_for_another_member_epoch_or_dealer(dealt):
    joined, dealer, made = dealt
    one, two = sorted(made.messages)

    with pytest.raises(WrongEpoch):
        accept_deal(joined[one], made.messages[two], dealer)
    with pytest.raises(BadSignature):
        accept_deal(joined[one], made.messages[one][:-1] + bytes([made.messages[one][-1] ^ 1]), dealer)
    foreign = Epoch().joined()
    order = dealer_order(foreign["bank-a"].epoch_id, NAMES)
    with pytest.raises((BadSignature, DealRefused)):
        accept_deal(foreign[order[1]], made.messages[one], order[0])


def test_a12_dealt_keys_are_bound_to_their_recipient(epoch, dealt):
    joined, dealer, made = dealt
    one, two = sorted(made.messages)
    body = dealing.pb.Deal.FromString(Signed.FromString(made.messages[two]).body)
    body.recipient = one
    redirected = sign(epoch.identities[dealer], "deal", body)

    with pytest.raises(ShareInvalid, match="authenticate"):
        accept_deal(joined[one], redirected, dealer)


def test_a11_nobody_starts_without_every_confirmation(epoch, dealt):
    keyed, confirmations = everybody(dealt)
    messages = list(confirmations.values())
    forged = resigned(epoch, "bank-a", Confirmation, "confirm", confirmations["bank-b"])
    elsewhere = resigned(epoch, "bank-b", Confirmation, "confirm", confirmations["bank-b"], epoch_id=bytes(32))

    for wrong in (messages[:2], [*messages[:2], messages[0]]):
        with pytest.raises(CohortRefused):
            ready(keyed["bank-a"], wrong)
    with pytest.raises(BadSignature):
        ready(keyed["bank-a"], [confirmations["bank-a"], forged, confirmations["bank-c"]])
    with pytest.raises(WrongEpoch):
        ready(keyed["bank-a"], [confirmations["bank-a"], elsewhere, confirmations["bank-c"]])


def test_a4_model_reports_cannot_be_guessed_without_the_tag_key(dealt):
    keyed, confirmations = everybody(dealt)
    state = ready(keyed["bank-a"], list(confirmations.values()))
    report = model_report(state, bytes(32), 1)

    assert len(report) == 32
    assert report != model_report(state, bytes(32), 2)
    assert report != model_report(state, bytes([1] * 32), 1)
    joined, dealer, _ = dealt
    keyed, confirmations = everybody((joined, dealer, deal(joined[dealer], os.urandom)))
    assert report != model_report(ready(keyed["bank-a"], list(confirmations.values())), bytes(32), 1)
