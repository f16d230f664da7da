"""The member's side of a sum: contribute (S1), reveal (S2a, S2b), open (S3).

Every function takes the epoch's state and the node's memory and returns the new memory with the message. The caller
stores the memory (and an upload) on disk before the message leaves, and answers a repeated request from the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from protos.sealed_sum import ciphertext, shamir, tags
from protos.sealed_sum import sealed_sum_pb2 as pb
from protos.sealed_sum.canonical import encode as encode_canonical
from protos.sealed_sum.dealing import Ready
from protos.sealed_sum.epoch import EpochView
from protos.sealed_sum.errors import (
    CohortRefused,
    HeaderMismatch,
    MalformedMessage,
    OpeningRefused,
    SeedAndShareRefused,
    ShareInvalid,
    StaleSum,
    SurvivorSetRefused,
    WrongEpoch,
)
from protos.sealed_sum.header import SumHeader
from protos.sealed_sum.keys import AEAD_TAG_BYTES, NONCE_BYTES, agree, derive, seal, unseal
from protos.sealed_sum.layout import Layout, OpenedSum, decode, encode
from protos.sealed_sum.masking import mask_total, pairwise_seed
from protos.sealed_sum.memory import EpochMemory
from protos.sealed_sum.parameters import CIPHERTEXT_BYTES, DATA_SLOTS, PLAIN_MODULUS, POLY_MODULUS_DEGREE
from protos.sealed_sum.secret import AeadKey, MaskSeed, SeedSalt
from protos.sealed_sum.wire import OVERHEAD_BYTES, ROSTER_BYTES, expect_length, expect_roster, parse, sign

UPLOAD, SEEDS, SHARES = "upload", "seeds", "shares"
SEALED_SHARE_BYTES = shamir.SHARE_BYTES + AEAD_TAG_BYTES
ENCRYPTED_SHARE_BYTES = SEALED_SHARE_BYTES + NONCE_BYTES + 64


@dataclass(frozen=True)
class Contribution:
    """S1. Store both parts before sending; a resend sends these very bytes (A8).

    Attributes:
        memory: The node's memory, with the sum number used.
        upload: The signed message.
    """

    memory: EpochMemory
    upload: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """For the node's own disk."""
        memory = pb.StoredMemory.FromString(self.memory.to_bytes())
        return pb.StoredContribution(memory=memory, upload=self.upload).SerializeToString(deterministic=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Load what `to_bytes` stored."""
        stored = parse(pb.StoredContribution, data, len(data))
        return cls(EpochMemory.from_bytes(stored.memory.SerializeToString(deterministic=True)), stored.upload)


@dataclass(frozen=True)
class Answer:
    """S2a or S2b: store `memory`, then send `message`."""

    memory: EpochMemory
    message: bytes = field(repr=False)


@dataclass(frozen=True)
class Opening:
    """S3: the opened sum.

    Attributes:
        memory: To be stored.
        opened: The exact sum.
        survivors: Whose sum it is, checked by the roster slots.
        left_out: Whether this node contributed and was still left out: raise an alarm (A7 iv).
    """

    memory: EpochMemory
    opened: OpenedSum
    survivors: tuple[str, ...]
    left_out: bool


def remember(state: Ready, *, allow_roster_change: bool = False) -> EpochMemory:
    """The empty memory of a new epoch; `allow_roster_change` is the agreement's flag."""
    return EpochMemory(state.epoch_id, allow_roster_change)


def contribute(
    state: Ready,
    memory: EpochMemory,
    header: SumHeader,
    layout: Layout,
    values: Mapping[str, NDArray[np.float64]],
    rng: Callable[[int], bytes],
) -> Contribution:
    """S1: mask and seal this member's values, share the self-mask seed among the peers.

    Args:
        state: The epoch.
        memory: The node's memory.
        header: The sum; built by the node itself.
        layout: Fields of the sum.
        values: One array per field, shape (field.length,).
        rng: Cryptographic randomness.

    Raises:
        ValueOutOfRange: A value leaves its field's public range.
        StaleSum: The sum number was used before; resend the stored upload instead.
        HeaderMismatch: The header is for another layout.
        EpochEnded, WrongEpoch: No sum is possible in this epoch.
    """
    memory.require_fresh(header)
    _require_layout(header, layout)
    h_k = header.digest()
    cohort_size = len(state.cohort)
    count = layout.num_ciphertexts(cohort_size)
    data = np.zeros(count * DATA_SLOTS, dtype=np.uint64)
    slots = encode(layout, values, cohort_size)
    data[: slots.size] = slots
    tagged = tags.append(state.keyed.tag_key, state.epoch_id, h_k, state.member, data.reshape(count, DATA_SLOTS))
    seed, salt = MaskSeed(rng(MaskSeed.LENGTH)), SeedSalt(rng(SeedSalt.LENGTH))
    pairwise = [(peer, _pairwise(state, header.k, h_k, peer)) for peer in state.peers]
    # The mask covers the tag slots too: a single member's tags would be a hash of its input.
    mask = mask_total(state.member, seed, pairwise, count * POLY_MODULUS_DEGREE)
    masked = (tagged.reshape(-1) + mask) % np.uint64(PLAIN_MODULUS)
    residues = state.keyed.sealing_key.encrypt(masked.reshape(count, POLY_MODULUS_DEGREE))
    body = pb.Upload(
        member=state.member,
        epoch_id=state.epoch_id,
        k=header.k,
        header_digest=h_k,
        ciphertexts=ciphertext.pack(residues),
        seed_commitment=commit_seed(seed.raw + salt.raw),
        shares=_encrypt_shares(state, header.k, h_k, seed, salt, rng),
    )
    upload = sign(state.identity, UPLOAD, body)
    return Contribution(memory.begin(header, hashlib.sha256(upload).digest(), state.cohort), upload)


def resend(memory: EpochMemory, upload: bytes) -> bytes:
    """Check that a stored upload is the one of the current sum, and give it back unchanged (A8).

    Raises:
        StaleSum: There is no current sum, or the stored upload is not its.
    """
    current = memory.current
    if current is None or hashlib.sha256(upload).digest() != current.upload_digest:
        raise StaleSum(expected="whose stored upload is unchanged", got=current.header.k if current else -1)
    return upload


def reveal_seeds(
    state: Ready, memory: EpochMemory, header: SumHeader, survivors: Collection[str], dropped: Collection[str]
) -> Answer:
    """S2a: give the pairwise seeds, of this sum alone, with the dropped members. Opens nothing.

    Raises:
        SeedAndShareRefused: A share of a dropped member's seed was given before.
        SurvivorSetRefused: Nobody dropped, a set that grew, or S2b was answered already.
        CohortRefused, StaleSum, HeaderMismatch, EpochEnded, WrongEpoch: See `EpochMemory.ask`.
    """
    current = memory.current
    answered = frozenset(current.survivors) if current is not None and current.share_reply else frozenset()
    both = answered & frozenset(dropped) - {state.member}
    if both and header.k == memory.last_k:
        raise SeedAndShareRefused(peers=both)
    current = memory.ask(state, header, survivors, dropped)
    if current.share_reply and not frozenset(dropped) <= current.seeds_revealed_for:
        # The very seeds given before may be asked for again: a coordinator that was killed has lost them.
        raise SurvivorSetRefused("expected no new seed request after the shares were given, found one; start a new sum")
    if not dropped:
        raise SurvivorSetRefused("expected dropped members in a seed request, found none; ask for shares instead")
    h_k = header.digest()
    body = pb.SeedReply(
        member=state.member,
        epoch_id=state.epoch_id,
        k=header.k,
        header_digest=h_k,
        survivors=sorted(survivors),
        seeds=[pb.RevealedSeed(peer=peer, seed=_pairwise(state, header.k, h_k, peer).raw) for peer in sorted(dropped)],
    )
    now = replace(
        current,
        survivors=tuple(sorted(survivors)),
        seeds_revealed_for=current.seeds_revealed_for | frozenset(dropped),
    )
    return Answer(replace(memory, current=now), sign(state.identity, SEEDS, body))


def reveal_shares(
    state: Ready,
    memory: EpochMemory,
    header: SumHeader,
    survivors: Collection[str],
    dropped: Collection[str],
    encrypted_shares: Mapping[str, bytes],
) -> Answer:
    """S2b: give this member's shares of the survivors' self-mask seeds. Once, for one U; that opens the sum.

    Args:
        state: The epoch.
        memory: The node's memory.
        header: The sum.
        survivors: U.
        dropped: D.
        encrypted_shares: Owner -> the share the owner encrypted to this member, for every other survivor.

    Raises:
        SurvivorSetRefused: Another U than before: in this sum, for this input (A7), or one that grew.
        SeedAndShareRefused: A survivor's pairwise seed was given before.
        ShareInvalid: A share is missing or does not decrypt.
        CohortRefused, StaleSum, HeaderMismatch, EpochEnded, WrongEpoch: See `EpochMemory.ask`.
    """
    current = memory.ask(state, header, survivors, dropped)
    roster = tuple(sorted(survivors))
    if current.share_reply:
        if roster != current.survivors:
            raise SurvivorSetRefused("expected the survivors of the answer already given, found others; one U a sum")
        return Answer(memory, current.share_reply)
    memory.require_one_roster(header, survivors)
    h_k = header.digest()
    shares = []
    # Never about this member's own seed: it holds no share of it, and gives none (A1).
    for owner in sorted(set(survivors) - {state.member}):
        if owner not in encrypted_shares:
            raise ShareInvalid(f"expected {owner}'s encrypted share in the request, found none")
        share = _decrypt_share(state, header.k, h_k, owner, encrypted_shares[owner])
        shares.append(pb.RevealedShare(owner=owner, share=share))
    body = pb.ShareReply(
        member=state.member,
        epoch_id=state.epoch_id,
        k=header.k,
        header_digest=h_k,
        survivors=roster,
        shares=shares,
    )
    message = sign(state.identity, SHARES, body)
    now = replace(current, survivors=roster, share_reply=message)
    return Answer(replace(memory.record_roster(header, survivors), current=now), message)


def open_sum(state: Ready, memory: EpochMemory, header: SumHeader, layout: Layout, message: bytes) -> Opening:
    """S3: decrypt the sum, check that it is the sum of the named survivors, decode it.

    One ciphertext is opened per sum number; the same bytes may be opened again after a crash. A member that did
    not contribute, or was dropped, opens too and stays in step.

    Raises:
        OpeningRefused: It is not that sum. The epoch is over: store `error.memory` before anything else (A4).
        MalformedMessage: The message is not a sealed sum; nothing was decrypted.
        StaleSum: Another ciphertext was opened under this number, or a later sum was begun.
        SurvivorSetRefused: It is for other survivors than this node answered for.
        CohortRefused: Too few survivors, or strangers among them.
        HeaderMismatch, EpochEnded, WrongEpoch: It belongs elsewhere.
    """
    memory.require_open(header)
    _require_layout(header, layout)
    count = layout.num_ciphertexts(len(state.cohort))
    body = parse(pb.SealedSum, message, count * CIPHERTEXT_BYTES + ROSTER_BYTES + OVERHEAD_BYTES)
    if body.epoch_id != state.epoch_id:
        raise WrongEpoch("expected a sealed sum of this key epoch, found one of another")
    if (body.k, body.header_digest) != (header.k, header.digest()):
        raise HeaderMismatch(f"expected the sealed sum of this node's header {header.k}, found another's")
    survivors = expect_roster(body.survivors, "survivors")
    _require_openable(state, memory, header, survivors, hashlib.sha256(message).digest())
    residues = ciphertext.unpack(body.ciphertexts, count)
    slots = state.keyed.sealing_key.decrypt(residues)
    current = memory.current
    contributed = current is not None and current.header.k == header.k
    ended = replace(memory, ended=True)
    if not tags.fit(state.keyed.tag_key, state.epoch_id, body.header_digest, survivors, slots):
        raise OpeningRefused(ended)
    try:
        opened = decode(layout, slots[:, :DATA_SLOTS].reshape(-1), len(state.cohort), len(survivors))
    except OpeningRefused as error:
        raise OpeningRefused(ended) from error
    now = replace(
        memory.record_roster(header, survivors),
        last_k=max(memory.last_k, header.k),
        opened_k=header.k,
        opened_digest=hashlib.sha256(message).digest(),
    )
    return Opening(now, opened, survivors, contributed and state.member not in survivors)


def commit_seed(secret: bytes) -> bytes:
    """SHA-256(b_i | salt): lets the coordinator check a rebuilt seed and learn nothing before (A12)."""
    return hashlib.sha256(secret).digest()


def _require_openable(
    state: Ready, memory: EpochMemory, header: SumHeader, survivors: tuple[str, ...], message_digest: bytes
) -> None:
    """Everything about a sealed sum that is refused before it is decrypted."""
    if not set(survivors) <= set(state.cohort) or len(survivors) < state.bounds.min_survivors:
        raise CohortRefused(
            f"expected at least {state.bounds.min_survivors} survivors of the cohort, found {len(survivors)}"
        )
    if header.k < memory.last_k or header.k < memory.opened_k:
        raise StaleSum(expected=f"of at least {max(memory.last_k, memory.opened_k)}", got=header.k)
    if header.k == memory.opened_k and message_digest != memory.opened_digest:
        raise StaleSum(expected="that was not opened with another ciphertext", got=header.k)
    current = memory.current
    if current is not None and current.header.k == header.k:
        if current.header.digest() != header.digest():
            raise HeaderMismatch(f"expected the header this node contributed to in sum {header.k}, found another")
        if current.share_reply and current.survivors != survivors:
            raise SurvivorSetRefused("expected the survivors this node gave its shares for, found others")
    memory.require_one_roster(header, survivors)


def _require_layout(header: SumHeader, layout: Layout) -> None:
    if header.layout_digest != layout.digest():
        raise HeaderMismatch("expected the layout that the header names, found another")


def _pairwise(state: Ready, k: int, h_k: bytes, peer: str) -> MaskSeed:
    announced = state.keyed.joined.announced
    return pairwise_seed(
        announced.masking_secret,
        state.view.announcements[peer].masking_public_key,
        member=state.member,
        peer=peer,
        agreement_hash=announced.agreement_hash,
        epoch_id=state.epoch_id,
        k=k,
        header_digest=h_k,
    )


def _share_key(state: Ready, k: int, h_k: bytes, sender: str, recipient: str) -> tuple[AeadKey, bytes]:
    """The key of one share, used once, and the data it is bound to (A12)."""
    other = recipient if sender == state.member else sender
    view: EpochView = state.view
    info = encode_canonical("sum/share-key", view.epoch_id, k, h_k, sender, recipient)
    shared = agree(state.keyed.joined.announced.sealing_secret, view.announcements[other].sealing_public_key, other)
    return derive(shared, AeadKey, salt=view.agreement_hash, info=info), info


def _encrypt_shares(
    state: Ready, k: int, h_k: bytes, seed: MaskSeed, salt: SeedSalt, rng: Callable[[int], bytes]
) -> list[pb.EncryptedShare]:
    points = {peer: state.view.point(peer) for peer in state.peers}
    shares = shamir.split(seed.raw + salt.raw, state.bounds.shamir_threshold, list(points.values()), rng)
    out = []
    for peer, point in points.items():
        key, associated = _share_key(state, k, h_k, state.member, peer)
        nonce = rng(NONCE_BYTES)
        sealed = seal(key, nonce, shares[point], associated)
        out.append(pb.EncryptedShare(recipient=peer, nonce=nonce, sealed_share=sealed))
    return out


def _decrypt_share(state: Ready, k: int, h_k: bytes, owner: str, message: bytes) -> bytes:
    body = parse(pb.EncryptedShare, message, ENCRYPTED_SHARE_BYTES)
    if body.recipient != state.member:
        raise MalformedMessage(f"expected a share for {state.member}, found one for another member")
    expect_length(body.sealed_share, SEALED_SHARE_BYTES, "sealed share")
    key, associated = _share_key(state, k, h_k, owner, state.member)
    share = unseal(key, expect_length(body.nonce, NONCE_BYTES, "nonce"), body.sealed_share, associated, owner)
    shamir.parse_share(share)
    return share
