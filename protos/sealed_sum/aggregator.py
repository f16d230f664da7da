"""The coordinator's side of a sum: collect, let the survivors reveal, unmask. It holds no key and sees no value.

    Collecting --close--> RevealingSeeds --finalise--> RevealingShares --finish--> the sealed sum

Each state is frozen and each message gives a new state. A refused message changes nothing: the caller logs the
error and goes on without that member.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Self, TypeVar

import numpy as np

from protos.sealed_sum import ciphertext, shamir
from protos.sealed_sum import sealed_sum_pb2 as pb
from protos.sealed_sum.bounds import require_survivors
from protos.sealed_sum.ciphertext import Residues
from protos.sealed_sum.epoch import EpochView
from protos.sealed_sum.errors import (
    CohortRefused,
    ConflictingMessage,
    HeaderMismatch,
    IncompleteAnswers,
    MalformedMessage,
    WrongEpoch,
)
from protos.sealed_sum.keys import NONCE_BYTES
from protos.sealed_sum.masking import mask_total
from protos.sealed_sum.member import ENCRYPTED_SHARE_BYTES, SEALED_SHARE_BYTES, SEEDS, SHARES, UPLOAD, commit_seed
from protos.sealed_sum.parameters import CIPHERTEXT_BYTES, MAX_CIPHERTEXTS, PLAIN_MODULUS, POLY_MODULUS_DEGREE
from protos.sealed_sum.secret import MaskSeed
from protos.sealed_sum.wire import DIGEST_BYTES, OVERHEAD_BYTES, ROSTER_BYTES, expect_length, open_signed

_Reply = TypeVar("_Reply", pb.SeedReply, pb.ShareReply)
_REVEALED_BYTES = shamir.SHARE_BYTES + 64


@dataclass(frozen=True)
class Received:
    """One member's validated upload.

    Attributes:
        message: As received, to recognise a resend.
        ciphertexts: Packed, to take them out of the sum should the member drop.
        seed_commitment: SHA-256(b_i | salt).
        shares: Recipient -> the share encrypted to it.
    """

    message: bytes = field(repr=False)
    ciphertexts: bytes = field(repr=False)
    seed_commitment: bytes
    shares: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True)
class Collecting:
    """S1: uploads arrive.

    Attributes:
        view: The epoch as the coordinator checked it (`epoch.observe`).
        k: Sum number.
        num_ciphertexts: Ciphertexts of every upload.
        header_digest: h_k as the first upload stated it, empty before.
        received: By member.
        total: Plain sums of the residues so far, not reduced.
    """

    view: EpochView
    k: int
    num_ciphertexts: int
    header_digest: bytes = b""
    received: Mapping[str, Received] = field(default_factory=dict)
    total: Residues | None = field(default=None, repr=False)

    @classmethod
    def start(cls, view: EpochView, k: int, num_ciphertexts: int) -> Self:
        """Begin sum k with uploads of a known size."""
        if not 0 < num_ciphertexts <= MAX_CIPHERTEXTS:
            raise ValueError(f"expected 1 to {MAX_CIPHERTEXTS} ciphertexts, found {num_ciphertexts}")
        return cls(view, k, num_ciphertexts)

    @property
    def missing(self) -> tuple[str, ...]:
        """Members that have not uploaded."""
        return tuple(member for member in self.view.cohort if member not in self.received)

    @property
    def enough(self) -> bool:
        """Whether the sum could go on with the members that have uploaded."""
        return len(self.received) >= self.view.bounds.min_survivors

    def receive(self, member: str, upload: bytes) -> Collecting:
        """Check an upload and add it; a resend of the same bytes changes nothing.

        Raises:
            BadSignature, MalformedMessage, MalformedCiphertext, WrongEpoch: It is not `member`'s upload to this sum.
            HeaderMismatch: It was made for another header than the uploads before it.
            ConflictingMessage: The member sent other bytes before (A8).
            CohortRefused: The member is not of the cohort.
        """
        view = self.view
        if member not in view.identity_keys:
            raise CohortRefused(f"expected an upload of a cohort member, found one of {member}")
        known = self.received.get(member)
        if known is not None:
            if known.message != upload:
                raise ConflictingMessage(member=member, message=UPLOAD)
            return self
        limit = self.num_ciphertexts * CIPHERTEXT_BYTES + len(view.cohort) * ENCRYPTED_SHARE_BYTES + OVERHEAD_BYTES
        body = open_signed(
            pb.Upload, upload, limit, domain=UPLOAD, member=member, identity_key=view.identity_keys[member]
        )
        _require_sum(body, view, member, self.k)
        # It cannot be checked here, only compared: the coordinator does not know what goes into it.
        expect_length(body.header_digest, DIGEST_BYTES, "header digest")
        if self.header_digest and body.header_digest != self.header_digest:
            raise HeaderMismatch(
                f"expected the header that the other members named in sum {self.k}, found {member} with another; "
                "the members do not mean the same sum"
            )
        residues = ciphertext.unpack(body.ciphertexts, self.num_ciphertexts)
        received = Received(
            upload,
            body.ciphertexts,
            expect_length(body.seed_commitment, DIGEST_BYTES, "seed commitment"),
            _read_shares(body, view, member),
        )
        return replace(
            self,
            header_digest=body.header_digest,
            received={**self.received, member: received},
            total=residues if self.total is None else self.total + residues,
        )

    def close(self) -> RevealingSeeds:
        """End S1: whoever has uploaded survives.

        Raises:
            CohortRefused: Fewer than u uploads; the sum is given up and nothing was revealed.
        """
        survivors = tuple(member for member in self.view.cohort if member in self.received)
        require_survivors(survivors, self.view.bounds)
        return RevealingSeeds(self, survivors)


@dataclass(frozen=True)
class RevealingSeeds:
    """S2a: survivors give the pairwise seeds with the dropped. With nobody dropped there is nothing to ask.

    Attributes:
        collected: The uploads.
        survivors: U so far, sorted; only shrinks.
        seeds: Member -> dropped peer -> seed.
        messages: Member -> reply as received.
    """

    collected: Collecting
    survivors: tuple[str, ...]
    seeds: Mapping[str, Mapping[str, MaskSeed]] = field(default_factory=dict, repr=False)
    messages: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def dropped(self) -> tuple[str, ...]:
        """D, sorted."""
        return tuple(member for member in self.collected.view.cohort if member not in self.survivors)

    @property
    def missing(self) -> tuple[str, ...]:
        """Survivors that still have to give seeds; empty if nobody dropped."""
        return tuple(m for m in self.survivors if m not in self.seeds) if self.dropped else ()

    def receive(self, member: str, reply: bytes) -> RevealingSeeds:
        """Check and keep a survivor's seeds.

        Raises:
            BadSignature, MalformedMessage, WrongEpoch, HeaderMismatch: It is not `member`'s reply to this request.
            CohortRefused: The member is not a survivor.
        """
        if self.messages.get(member) == reply:
            return self
        body = _read_reply(pb.SeedReply, reply, self.collected, self.survivors, member, SEEDS)
        peers = tuple(revealed.peer for revealed in body.seeds)
        if peers != self.dropped:
            raise MalformedMessage(f"expected seeds with {len(self.dropped)} dropped members, found other peers")
        seeds = {r.peer: MaskSeed(expect_length(r.seed, MaskSeed.LENGTH, "seed")) for r in body.seeds}
        return replace(self, seeds={**self.seeds, member: seeds}, messages={**self.messages, member: reply})

    def drop(self, members: Collection[str]) -> RevealingSeeds:
        """Move silent survivors to the dropped; everybody left is then asked again, for the larger D.

        Raises:
            CohortRefused: Fewer than u would be left; the sum is given up and nothing was opened.
        """
        survivors = tuple(member for member in self.survivors if member not in members)
        require_survivors(survivors, self.collected.view.bounds)
        if survivors == self.survivors:
            return self
        return RevealingSeeds(self.collected, survivors)

    def finalise(self) -> RevealingShares:
        """Freeze U.

        Raises:
            IncompleteAnswers: A survivor has not given its seeds.
        """
        if self.missing:
            raise IncompleteAnswers(f"expected seeds of every survivor, found none of {', '.join(self.missing)}")
        return RevealingShares(self)


@dataclass(frozen=True)
class RevealingShares:
    """S2b: survivors give shares of each other's self-mask seeds, for the final U."""

    closed: RevealingSeeds
    shares: Mapping[str, Mapping[str, int]] = field(default_factory=dict, repr=False)  # answering -> owner -> y

    @property
    def survivors(self) -> tuple[str, ...]:
        """The final U, sorted."""
        return self.closed.survivors

    @property
    def dropped(self) -> tuple[str, ...]:
        """The final D, sorted."""
        return self.closed.dropped

    @property
    def missing(self) -> tuple[str, ...]:
        """Survivors that have not answered."""
        return tuple(member for member in self.survivors if member not in self.shares)

    @property
    def enough(self) -> bool:
        """Whether every survivor's seed has T shares. Any T + 1 answers are enough: nobody answers about itself."""
        threshold = self.closed.collected.view.bounds.shamir_threshold
        return all(sum(owner in given for given in self.shares.values()) >= threshold for owner in self.survivors)

    def encrypted_shares_for(self, member: str) -> dict[str, bytes]:
        """Owner -> the share it encrypted to `member`, for the S2b request."""
        received = self.closed.collected.received
        return {owner: received[owner].shares[member] for owner in self.survivors if owner != member}

    def receive(self, member: str, reply: bytes) -> RevealingShares:
        """Check and keep a survivor's shares.

        Raises:
            BadSignature, MalformedMessage, WrongEpoch, HeaderMismatch: It is not `member`'s reply to this request.
            ShareInvalid: A share is not a field element.
            CohortRefused: The member is not a survivor.
        """
        body = _read_reply(pb.ShareReply, reply, self.closed.collected, self.survivors, member, SHARES)
        owners = tuple(revealed.owner for revealed in body.shares)
        if owners != tuple(owner for owner in self.survivors if owner != member):
            raise MalformedMessage("expected one share of every other survivor's seed, found others")
        given = {revealed.owner: shamir.parse_share(revealed.share) for revealed in body.shares}
        return replace(self, shares={**self.shares, member: given})

    def finish(self) -> bytes:
        """Rebuild the masks, subtract them, give the sealed sum for the members.

        Raises:
            IncompleteAnswers: Some seed has fewer than T shares.
            ShareInvalid: No subset of the shares rebuilds what a survivor committed to (A12).
        """
        if not self.enough:
            raise IncompleteAnswers(f"expected enough shares of every survivor, found none of {self.missing}")
        collected = self.closed.collected
        count = collected.num_ciphertexts
        mask = np.zeros(count * POLY_MODULUS_DEGREE, dtype=np.uint64)
        for owner in self.survivors:
            # The self mask, and what is left of the pairwise masks with members that are not in the sum.
            dangling = self.closed.seeds.get(owner, {}).items()
            mask += mask_total(owner, self._rebuild(owner), dangling, mask.size)
        mask %= np.uint64(PLAIN_MODULUS)
        sealed = ciphertext.subtract_plain(self._survivors_total(), mask.reshape(count, POLY_MODULUS_DEGREE))
        return pb.SealedSum(
            epoch_id=collected.view.epoch_id,
            k=collected.k,
            header_digest=collected.header_digest,
            survivors=self.survivors,
            ciphertexts=ciphertext.pack(sealed),
        ).SerializeToString(deterministic=True)

    def _survivors_total(self) -> Residues:
        collected = self.closed.collected
        if collected.total is None:
            raise IncompleteAnswers("expected uploads in the sum, found none")
        total = collected.total.copy()
        for member, received in collected.received.items():
            if member not in self.survivors:
                total -= ciphertext.unpack(received.ciphertexts, collected.num_ciphertexts)
        return ciphertext.reduce_sum(total)

    def _rebuild(self, owner: str) -> MaskSeed:
        collected = self.closed.collected
        view, commitment = collected.view, collected.received[owner].seed_commitment
        shares = {view.point(m): given[owner] for m, given in self.shares.items() if owner in given}
        secret = shamir.rebuild(
            shares,
            view.bounds.shamir_threshold,
            lambda candidate: hmac.compare_digest(commit_seed(candidate), commitment),
            owner,
        )
        return MaskSeed(secret[: MaskSeed.LENGTH])


def _require_sum(body: pb.Upload | pb.SeedReply | pb.ShareReply, view: EpochView, member: str, k: int) -> None:
    if body.member != member:
        raise MalformedMessage(f"expected a message of {member}, found one that names another member")
    if (body.epoch_id, body.k) != (view.epoch_id, k):
        raise WrongEpoch(f"expected {member}'s message for sum {k} of this epoch, found one for another")


def _read_reply(
    kind: type[_Reply], reply: bytes, collected: Collecting, survivors: tuple[str, ...], member: str, domain: str
) -> _Reply:
    view = collected.view
    if member not in survivors:
        raise CohortRefused(f"expected an answer of a survivor, found one of {member}")
    limit = 2 * ROSTER_BYTES + len(view.cohort) * _REVEALED_BYTES + OVERHEAD_BYTES
    body = open_signed(kind, reply, limit, domain=domain, member=member, identity_key=view.identity_keys[member])
    _require_sum(body, view, member, collected.k)
    if body.header_digest != collected.header_digest:
        raise HeaderMismatch(f"expected {member}'s answer for the header of its upload, found another")
    if tuple(body.survivors) != survivors:
        raise MalformedMessage(f"expected {member}'s answer for the survivors it was asked about, found others")
    return body


def _read_shares(body: pb.Upload, view: EpochView, member: str) -> dict[str, bytes]:
    expected = [peer for peer in view.cohort if peer != member]
    if [share.recipient for share in body.shares] != expected:
        raise MalformedMessage(f"expected {member}'s shares for every other member and no one else, found others")
    for share in body.shares:
        expect_length(share.nonce, NONCE_BYTES, "nonce")
        expect_length(share.sealed_share, SEALED_SHARE_BYTES, "sealed share")
    return {share.recipient: share.SerializeToString(deterministic=True) for share in body.shares}
