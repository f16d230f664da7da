"""The gateway's side of a masked sum: collect, let the survivors reveal, open the total.

    Collecting --close--> Revealing --(S2a until it is stable)--> --open_total--> the total modulo 2^64

The states check every message against the epoch before they keep it; a refused message changes nothing.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

import numpy as np

from protos.masked_sum import masked_sum_pb2 as pb
from protos.masked_sum import sharing
from protos.masked_sum.masking import Vector, add_pairwise, commitment, expand, self_mask
from protos.masked_sum.member import SEALED_SHARE_BYTES
from protos.masked_sum.request import Request
from protos.sealed_sum.bounds import require_survivors
from protos.sealed_sum.epoch import EpochView
from protos.sealed_sum.errors import (
    CohortRefused,
    ConflictingMessage,
    HeaderMismatch,
    IncompleteAnswers,
    MalformedMessage,
)
from protos.sealed_sum.secret import MaskSeed
from protos.sealed_sum.wire import DIGEST_BYTES, OVERHEAD_BYTES, ROSTER_BYTES, expect_length, parse


@dataclass(frozen=True)
class Received:
    """One member's validated upload.

    Attributes:
        vector: Masked, shape (n_slots,).
        seed_commitment: Commitment to b_i.
        shares: Encrypted shares, one for each peer in the cohort's order, joined.
    """

    vector: Vector = field(repr=False)
    seed_commitment: bytes
    shares: bytes = field(repr=False)


@dataclass
class Collecting:
    """S1: uploads arrive.

    Attributes:
        view: The epoch as the gateway checked it.
        request: What was asked.
        received: By member.
    """

    view: EpochView
    request: Request
    received: dict[str, Received] = field(default_factory=dict)

    def receive(self, member: str, upload: bytes) -> None:
        """Check an upload and keep it.

        Raises:
            MalformedMessage: It is not an upload of the request's length.
            HeaderMismatch: It was made for another request.
            ConflictingMessage: The member has uploaded before.
            CohortRefused: The member is not of the cohort.
        """
        if member not in self.view.identity_keys:
            raise CohortRefused(f"expected an upload of a cohort member, found one of {member}")
        if member in self.received:
            raise ConflictingMessage(member=member, message="upload")
        vector_bytes, share_bytes = 8 * self.request.num_slots, SEALED_SHARE_BYTES * (len(self.view.cohort) - 1)
        body = parse(pb.Upload, upload, vector_bytes + share_bytes + OVERHEAD_BYTES)
        if body.request_digest != self.request.digest:
            raise HeaderMismatch(f"expected {member}'s upload to this request, found one to another")
        expect_length(body.vector, vector_bytes, "masked vector")
        expect_length(body.shares, share_bytes, "encrypted shares")
        expect_length(body.seed_commitment, DIGEST_BYTES, "seed commitment")
        self.received[member] = Received(np.frombuffer(body.vector, dtype="<u8"), body.seed_commitment, body.shares)

    def sealed_share(self, owner: str, recipient: str) -> bytes:
        """The share of an owner's seed that it encrypted to another member."""
        points = self.view.points
        # Nobody shares with itself: recipients after the owner are one place further to the front.
        place = points[recipient] - 1 - (points[owner] < points[recipient])
        return self.received[owner].shares[place * SEALED_SHARE_BYTES : (place + 1) * SEALED_SHARE_BYTES]

    def close(self) -> Revealing:
        """End S1 with whoever has uploaded.

        Raises:
            CohortRefused: Too few have: nothing may be opened.
        """
        require_survivors(self.received, self.view.bounds)
        return Revealing(self, tuple(sorted(self.received)))


@dataclass
class Revealing:
    """S2: the survivors reveal.

    Attributes:
        collected: S1.
        survivors: U; only shrinks.
        seeds: Member -> (dropped peer -> s_ij), as the members gave them.
        shares: Member -> its shares of the survivors' seeds (not its own), in order, joined.
        final: Whether shares were asked for: U is frozen.
    """

    collected: Collecting
    survivors: tuple[str, ...]
    seeds: dict[str, dict[str, MaskSeed]] = field(default_factory=dict, repr=False)
    shares: dict[str, bytes] = field(default_factory=dict, repr=False)
    final: bool = False

    @property
    def dropped(self) -> tuple[str, ...]:
        """D: members of the cohort that are not in U."""
        return tuple(member for member in self.collected.view.cohort if member not in self.survivors)

    @property
    def needs_seeds(self) -> tuple[str, ...]:
        """Survivors that have not given the seeds of all dropped members; empty when S2b may begin."""
        dropped = frozenset(self.dropped)
        return tuple(m for m in self.survivors if not dropped <= self.seeds.get(m, {}).keys())

    def drop(self, members: frozenset[str]) -> None:
        """Members that fell silent in S2a leave U.

        Raises:
            CohortRefused: Too few are left, or U is frozen already.
        """
        if self.final:
            raise CohortRefused("expected no change of the survivors after shares were asked for, found one")
        left = tuple(member for member in self.survivors if member not in members)
        require_survivors(left, self.collected.view.bounds)
        self.survivors = left

    def seed_request(self) -> bytes:
        """S2a, the same for every survivor."""
        return pb.Reveal(request_digest=self.collected.request.digest, survivors=self.survivors).SerializeToString(
            deterministic=True
        )

    def receive_seeds(self, member: str, reply: bytes) -> None:
        """Keep a member's seeds.

        Raises:
            MalformedMessage, HeaderMismatch, CohortRefused: It is not that answer.
        """
        dropped = self.dropped
        body = parse(pb.SeedReply, reply, ROSTER_BYTES + 32 * len(dropped) + OVERHEAD_BYTES)
        self._require_answer(member, body.request_digest, tuple(body.survivors))
        expect_length(body.seeds, 32 * len(dropped), "pairwise seeds")
        self.seeds[member] = {
            peer: MaskSeed(body.seeds[32 * place : 32 * place + 32]) for place, peer in enumerate(dropped)
        }

    def share_request(self, member: str) -> bytes:
        """S2b for one survivor; freezes U.

        Raises:
            IncompleteAnswers: Seeds of dropped members are missing.
        """
        if self.needs_seeds:
            raise IncompleteAnswers("expected every survivor's seeds with the dropped members before shares")
        self.final = True
        sealed_share = self.collected.sealed_share
        shares = b"".join(sealed_share(owner, member) for owner in self.survivors if owner != member)
        return pb.Reveal(
            request_digest=self.collected.request.digest, survivors=self.survivors, shares=shares
        ).SerializeToString(deterministic=True)

    def receive_shares(self, member: str, reply: bytes) -> None:
        """Keep a member's shares.

        Raises:
            MalformedMessage, HeaderMismatch, CohortRefused, ShareInvalid: It is not that answer.
        """
        num_owners = len(self.survivors) - 1
        body = parse(pb.ShareReply, reply, ROSTER_BYTES + sharing.SHARE_BYTES * num_owners + OVERHEAD_BYTES)
        self._require_answer(member, body.request_digest, tuple(body.survivors))
        self.shares[member] = expect_length(body.shares, sharing.SHARE_BYTES * num_owners, "shares")

    @property
    def enough(self) -> bool:
        """Whether every survivor's seed has a threshold of shares."""
        threshold, given = self.collected.view.bounds.shamir_threshold, self.shares
        if len(given) < threshold:
            return False
        return len(given) > threshold or all(len(given) - (owner in given) >= threshold for owner in self.survivors)

    def open_total(self) -> Vector:
        """Rebuild the self masks, take every mask off, and give the total modulo 2^64, shape (n_slots,).

        Raises:
            IncompleteAnswers: Fewer shares than the threshold.
            ShareInvalid: No subset of the shares rebuilds a seed that was committed to.
        """
        if not self.final or not self.enough:
            raise IncompleteAnswers("expected a threshold of shares of every survivor's seed, found fewer")
        collected = self.collected
        total = np.zeros(collected.request.num_slots, dtype=np.uint64)
        for member in self.survivors:
            total += collected.received[member].vector
            total -= expand(self_mask(self._rebuild(member)), total.size)
        dangling = np.zeros_like(total)
        for member in self.survivors:
            add_pairwise(dangling, member, ((peer, self.seeds[member][peer]) for peer in self.dropped))
        total -= dangling
        return total

    def _rebuild(self, owner: str) -> MaskSeed:
        collected, h = self.collected, self.collected.request.digest
        points, expected = collected.view.points, collected.received[owner].seed_commitment
        owner_place, shares = self.survivors.index(owner), {}
        for place, member in enumerate(self.survivors):
            given = self.shares.get(member)
            if given is not None and member != owner:
                start = (owner_place - (place < owner_place)) * sharing.SHARE_BYTES
                shares[points[member]] = given[start : start + sharing.SHARE_BYTES]
        secret = sharing.rebuild(
            shares,
            collected.view.bounds.shamir_threshold,
            lambda candidate: hmac.compare_digest(commitment(candidate, h), expected),
            owner,
        )
        return MaskSeed(secret)

    def _require_answer(self, member: str, request_digest: bytes, survivors: tuple[str, ...]) -> None:
        if member not in self.survivors:
            raise CohortRefused(f"expected an answer of a survivor, found one of {member}")
        if request_digest != self.collected.request.digest:
            raise HeaderMismatch(f"expected {member}'s answer to this request, found one to another")
        if survivors != self.survivors:
            raise MalformedMessage(f"expected {member}'s answer for the survivors it was asked about, found others")
