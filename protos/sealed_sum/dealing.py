"""E2: a dealer, chosen by the epoch's hash, gives every member the same sealing key and tag key.

The keys protect the sum from a coordinator that has no member, and nothing else: inputs rest on the masks.
Parameters are pinned, keys travel alone, and nobody starts a sum before all members have signed that they hold the
same keys (A11). Encryption is symmetric, so there is no public key; what is confirmed is a hash of both secrets.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from protos.sealed_sum import sealed_sum_pb2 as pb
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.canonical import digest, encode
from protos.sealed_sum.ciphertext import KEY_BYTES, SealingKey
from protos.sealed_sum.epoch import EpochView, Joined
from protos.sealed_sum.errors import CohortRefused, DealRefused, WrongEpoch
from protos.sealed_sum.keys import AEAD_TAG_BYTES, NONCE_BYTES, SigningKey, agree, derive, seal, unseal
from protos.sealed_sum.masking import expand
from protos.sealed_sum.parameters import POLY_MODULUS_DEGREE
from protos.sealed_sum.secret import AeadKey, MaskSeed, TagKey
from protos.sealed_sum.wire import DIGEST_BYTES, OVERHEAD_BYTES, expect_length, open_signed, parse, sign, split_signed

DEAL, CONFIRM = "deal", "confirm"
_KEYS_BYTES = KEY_BYTES + TagKey.LENGTH
_DEAL_BYTES = _KEYS_BYTES + AEAD_TAG_BYTES + OVERHEAD_BYTES


@dataclass(frozen=True)
class Keyed:
    """A member that holds the epoch's keys but does not know yet whether everybody holds the same."""

    joined: Joined
    attempt: int
    dealer: str
    sealing_key: SealingKey = field(repr=False)
    tag_key: TagKey = field(repr=False)

    @property
    def commitment(self) -> bytes:
        """What every member signs about its keys, 32 bytes; equal exactly if both keys are."""
        body = encode(
            "deal/commitment",
            self.joined.epoch_id,
            self.attempt,
            self.dealer,
            hashlib.sha256(self.sealing_key.to_bytes()).digest(),
        )
        return hmac.digest(self.tag_key.raw, body, "sha256")

    def to_bytes(self) -> bytes:
        """For the node's own disk; holds the epoch's keys."""
        return pb.StoredKeyed(
            joined=self.joined.stored(),
            attempt=self.attempt,
            dealer=self.dealer,
            sealing_key=self.sealing_key.to_bytes(),
            tag_key=self.tag_key.raw,
        ).SerializeToString(deterministic=True)

    @classmethod
    def from_bytes(cls, data: bytes, identity: SigningKey) -> Self:
        """Load what `to_bytes` stored."""
        stored = parse(pb.StoredKeyed, data, len(data))
        return cls(
            Joined.from_stored(stored.joined, identity),
            stored.attempt,
            stored.dealer,
            SealingKey.from_bytes(stored.sealing_key),
            TagKey(stored.tag_key),
        )


@dataclass(frozen=True)
class Dealt:
    """What a dealer has after dealing.

    Attributes:
        keyed: The dealer's own state.
        messages: One signed and encrypted message for each other member.
        confirmation: The dealer's own signed confirmation.
    """

    keyed: Keyed
    messages: dict[str, bytes] = field(repr=False)
    confirmation: bytes


@dataclass(frozen=True)
class Ready:
    """A member that may take part in sums: everybody holds the same keys. Lasts for the epoch."""

    keyed: Keyed

    @property
    def view(self) -> EpochView:
        """The public part of the epoch."""
        return self.keyed.joined.view

    @property
    def identity(self) -> SigningKey:
        """The member's identity key."""
        return self.keyed.joined.announced.identity

    @property
    def member(self) -> str:
        """This member's id."""
        return self.keyed.joined.member

    @property
    def peers(self) -> tuple[str, ...]:
        """All other members, sorted."""
        return self.keyed.joined.peers

    @property
    def epoch_id(self) -> bytes:
        """The epoch's id, 32 bytes."""
        return self.view.epoch_id

    @property
    def cohort(self) -> tuple[str, ...]:
        """Member ids, sorted."""
        return self.view.cohort

    @property
    def weights(self) -> dict[str, int]:
        """Public weight of each member, a power of two."""
        return self.view.weights

    @property
    def bounds(self) -> Bounds:
        """n, c, u, T."""
        return self.view.bounds

    def to_bytes(self) -> bytes:
        """For the node's own disk; holds the epoch's keys. Delete it when the epoch ends."""
        return self.keyed.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes, identity: SigningKey) -> Self:
        """Load what `to_bytes` stored."""
        return cls(Keyed.from_bytes(data, identity))


def dealer_order(epoch_id: bytes, cohort: Sequence[str]) -> tuple[str, ...]:
    """Who deals, and who after it when it stays silent: by hash, so that nobody chooses (A11)."""
    return tuple(sorted(cohort, key=lambda member: digest("deal/order", epoch_id, member)))


def deal(state: Joined, rng: Callable[[int], bytes], attempt: int = 0) -> Dealt:
    """E2, dealer: make the keys and encrypt them to each other member.

    Args:
        state: The dealer's state; store the result before sending anything of it.
        rng: Cryptographic randomness.
        attempt: Place in the dealer order, 0 unless earlier dealers missed their deadline.

    Raises:
        DealRefused: This member is not the dealer of this attempt.
    """
    _require_dealer(state, state.member, attempt)
    keyed = Keyed(state, attempt, state.member, SealingKey.generate(), TagKey(rng(TagKey.LENGTH)))
    _self_test(keyed)
    secret = keyed.sealing_key.to_bytes() + keyed.tag_key.raw
    messages = {}
    for peer in state.peers:
        key, associated = _deal_key(state, state.member, peer, attempt, other=peer)
        nonce = rng(NONCE_BYTES)
        body = pb.Deal(
            epoch_id=state.epoch_id,
            attempt=attempt,
            dealer=state.member,
            recipient=peer,
            nonce=nonce,
            sealed_keys=seal(key, nonce, secret, associated),
        )
        messages[peer] = sign(state.announced.identity, DEAL, body)
    return Dealt(keyed, messages, _confirm(keyed))


def accept_deal(state: Joined, message: bytes, dealer: str, attempt: int = 0) -> tuple[Keyed, bytes]:
    """E2, everybody else: take the dealt keys, test them, and confirm which keys they are.

    Args:
        state: This member's state.
        message: The dealer's message to this member.
        dealer: Who dealt.
        attempt: Place in the dealer order.

    Returns:
        The state to store, and the signed confirmation.

    Raises:
        BadSignature: The message is not the dealer's.
        DealRefused: Not this attempt's dealer, or keys that fail the self-test.
        ShareInvalid: The message was not encrypted to this member for this epoch.
        WrongEpoch: The message is of another epoch, attempt or recipient.
    """
    _require_dealer(state, dealer, attempt)
    body = open_signed(
        pb.Deal,
        message,
        _DEAL_BYTES,
        domain=DEAL,
        member=dealer,
        identity_key=state.view.identity_keys[dealer],
    )
    if (body.epoch_id, body.attempt, body.dealer, body.recipient) != (state.epoch_id, attempt, dealer, state.member):
        raise WrongEpoch(f"expected keys dealt by {dealer} to {state.member} in this epoch, found others")
    key, associated = _deal_key(state, dealer, state.member, attempt, other=dealer)
    nonce = expect_length(body.nonce, NONCE_BYTES, "nonce")
    expect_length(body.sealed_keys, _KEYS_BYTES + AEAD_TAG_BYTES, "dealt keys")
    secret = unseal(key, nonce, body.sealed_keys, associated, dealer)
    keyed = Keyed(state, attempt, dealer, SealingKey.from_bytes(secret[:KEY_BYTES]), TagKey(secret[KEY_BYTES:]))
    _self_test(keyed)
    return keyed, _confirm(keyed)


def ready(state: Keyed, confirmations: Sequence[bytes]) -> Ready:
    """Start summing once every member has signed that it holds these keys.

    Args:
        state: This member's keys.
        confirmations: The signed confirmations of the whole cohort.

    Raises:
        CohortRefused: A confirmation is missing, repeated or from outside.
        BadSignature: One is not signed by the member it names.
        DealRefused: A member holds other keys, or keys of another attempt.
        WrongEpoch: One belongs to another epoch.
    """
    view = state.joined.view
    if len(confirmations) != len(view.cohort):
        raise CohortRefused(f"expected confirmations of {len(view.cohort)} members, found {len(confirmations)}")
    seen = set()
    for message in confirmations:
        member = parse(pb.Confirmation, split_signed(message, OVERHEAD_BYTES).body, OVERHEAD_BYTES).member
        if member not in view.identity_keys or member in seen:
            raise CohortRefused("expected one confirmation of each member, found a repeated or unknown one")
        seen.add(member)
        body = open_signed(
            pb.Confirmation,
            message,
            OVERHEAD_BYTES,
            domain=CONFIRM,
            member=member,
            identity_key=view.identity_keys[member],
        )
        if body.epoch_id != view.epoch_id:
            raise WrongEpoch(f"expected {member}'s confirmation for this epoch, found one for another")
        expect_length(body.key_commitment, DIGEST_BYTES, "key commitment")
        same_deal = (body.attempt, body.dealer) == (state.attempt, state.dealer)
        if not same_deal or not hmac.compare_digest(body.key_commitment, state.commitment):
            raise DealRefused(f"expected every member to hold the same keys, found {member} with others; deal again")
    return Ready(state)


def model_report(state: Ready, model_digest: bytes, k: int) -> bytes:
    """What a node reports about its model after sum k, 32 bytes, equal at nodes with equal models.

    Keyed: the coordinator, which knows much of what goes into a model, must not be able to test guesses (A4).
    """
    body = encode("model-report", state.epoch_id, k, expect_length(model_digest, DIGEST_BYTES, "model digest"))
    return hmac.digest(state.keyed.tag_key.raw, body, "sha256")


def _require_dealer(state: Joined, dealer: str, attempt: int) -> None:
    order = dealer_order(state.epoch_id, state.cohort)
    if not 0 <= attempt < len(order) or order[attempt] != dealer:
        raise DealRefused(f"expected the dealer of attempt {attempt} by the epoch's hash, found {dealer}")


def _deal_key(state: Joined, dealer: str, recipient: str, attempt: int, *, other: str) -> tuple[AeadKey, bytes]:
    """The key of one deal message and the data it is bound to."""
    info = encode("deal/key", state.epoch_id, attempt, dealer, recipient)
    shared = agree(state.announced.sealing_secret, state.view.announcements[other].sealing_public_key, other)
    return derive(shared, AeadKey, salt=state.view.agreement_hash, info=info), info


def _confirm(keyed: Keyed) -> bytes:
    joined = keyed.joined
    body = pb.Confirmation(
        epoch_id=joined.epoch_id,
        attempt=keyed.attempt,
        dealer=keyed.dealer,
        member=joined.member,
        key_commitment=keyed.commitment,
    )
    return sign(joined.announced.identity, CONFIRM, body)


def _self_test(keyed: Keyed) -> None:
    """Dec(Enc(r)) = r on every slot, or the keys are refused."""
    seed = derive(keyed.tag_key, MaskSeed, salt=keyed.joined.epoch_id, info=encode("deal/self-test"))
    slots = expand(seed, POLY_MODULUS_DEGREE).reshape(1, -1)
    if not np.array_equal(keyed.sealing_key.decrypt(keyed.sealing_key.encrypt(slots)), slots):
        raise DealRefused("expected keys that decrypt what they encrypt, found others; the next dealer must deal")
