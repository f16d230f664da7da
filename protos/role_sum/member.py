"""Sums of whole numbers among the members of one role: every one of them learns the sum, nobody learns a term.

The members of a role share a tower, so they need sums over all of them: histograms, curvature, gradients. Each adds
one-time pairwise masks modulo 2^64 (Bonawitz et al., eprint 2017/281) to its vector and sends the result to each
other member, encrypted to it: neither the relay nor another role sees even the sum.

The roster is fixed: a sum takes all members or is never opened, and no seed is ever revealed. That is why there are no
self-masks here: they protect the upload of a member whose pairwise seeds were given away because it seemed gone, and
here nothing is given away. Views that differ (another session, number, purpose, length, or another total before)
derive different seeds, and then nothing cancels (A3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from protos.masked_sum.masking import add_pairwise
from protos.role_sum.errors import PartRefused, RoleTooSmall, ValueTooLarge
from protos.role_sum.role_sum_pb2 import RoleSumPart
from protos.sealed_sum.canonical import digest, encode
from protos.sealed_sum.dealing import Ready
from protos.sealed_sum.errors import CohortRefused, MalformedMessage, ShareInvalid
from protos.sealed_sum.keys import AEAD_TAG_BYTES, NONCE_BYTES, agree, derive, seal, unseal
from protos.sealed_sum.secret import AeadKey, MaskSeed
from protos.sealed_sum.wire import DIGEST_BYTES, OVERHEAD_BYTES, expect_length, open_signed, sign

PART = "role-sum"
MAX_LENGTH = 1 << 20
_HALF_RANGE = 1 << 62

Whole = NDArray[np.int64]
Words = NDArray[np.uint64]


@dataclass(frozen=True)
class RoleSum:
    """A member's end of the sums of one role in one session, between two sums.

    Attributes:
        ready: The key epoch.
        members: The role's members in the run, sorted, this one among them.
        session: What the sums belong to, 32 bytes; fresh for every attempt at a run.
        number: Of the next sum.
        chain: Hash of all totals so far, 32 bytes.
    """

    ready: Ready
    members: tuple[str, ...]
    session: bytes
    number: int = 0
    chain: bytes = field(default=bytes(DIGEST_BYTES))

    def __post_init__(self) -> None:
        member, bounds = self.ready.member, self.ready.bounds
        if list(self.members) != sorted(set(self.members)) or member not in self.members:
            raise CohortRefused("expected the role's members sorted, this one among them, found others")
        if not set(self.members) <= set(self.ready.cohort):
            raise CohortRefused("expected members of this key epoch's cohort, found another")
        if 1 < len(self.members) < bounds.max_colluders + 2:
            raise RoleTooSmall(
                f"expected one member of the role or at least {bounds.max_colluders + 2}, found {len(self.members)}; "
                "two would each subtract themselves from the role's sums (rule A9): propose the run with one of them, "
                "or with more"
            )
        expect_length(self.session, DIGEST_BYTES, "session")

    @property
    def peers(self) -> tuple[str, ...]:
        """The role's other members."""
        return tuple(member for member in self.members if member != self.ready.member)

    def contribute(
        self, purpose: str, vector: Whole, rng: Callable[[int], bytes]
    ) -> tuple[OpenRoleSum, dict[str, bytes]]:
        """Mask this member's vector for the next sum; keep the state and resend the same bytes.

        Args:
            purpose: What the numbers are; bound into the masks.
            vector: Whole numbers, shape (n,).
            rng: Cryptographic randomness.

        Returns:
            The open sum, and one message for each peer.

        Raises:
            ValueTooLarge: A term is so large that a sum of such terms could wrap.
        """
        limit = _HALF_RANGE // len(self.members)
        if not 0 < vector.size <= MAX_LENGTH or vector.dtype != np.int64:
            raise ValueTooLarge(f"expected 1 to {MAX_LENGTH} whole numbers, found {vector.size} of {vector.dtype}")
        if int(vector.max()) > limit or int(vector.min()) < -limit:
            raise ValueTooLarge(f"expected terms within +-{limit} for {purpose}, found a larger one; check the data")
        words = vector.view(np.uint64).copy()
        seeds = [(peer, self._seed(peer, purpose, vector.size)) for peer in self.peers]
        add_pairwise(words, self.ready.member, seeds)
        body = words.astype("<u8").tobytes()
        parts = {peer: self._part(peer, body, rng) for peer in self.peers}
        return OpenRoleSum(self, purpose, words), parts

    def _seed(self, peer: str, purpose: str, length: int) -> MaskSeed:
        first, second = sorted((self.ready.member, peer))
        info = encode("role-sum/seed", self.session, self.number, purpose, length, self.chain, first, second)
        announced = self.ready.keyed.joined.announced
        shared = agree(announced.masking_secret, self.ready.view.announcements[peer].masking_public_key, peer)
        return derive(shared, MaskSeed, salt=self.ready.view.agreement_hash, info=info)

    def _part(self, peer: str, body: bytes, rng: Callable[[int], bytes]) -> bytes:
        key, associated = self._key(self.ready.member, peer)
        nonce = rng(NONCE_BYTES)
        return sign(
            self.ready.identity,
            PART,
            RoleSumPart(
                session=self.session,
                number=self.number,
                sender=self.ready.member,
                recipient=peer,
                nonce=nonce,
                sealed=seal(key, nonce, body, associated),
            ),
        )

    def _key(self, sender: str, recipient: str) -> tuple[AeadKey, bytes]:
        """The key of one message and the data that it is bound to."""
        peer = recipient if sender == self.ready.member else sender
        announced = self.ready.keyed.joined.announced
        shared = agree(announced.sealing_secret, self.ready.view.announcements[peer].sealing_public_key, peer)
        info = encode("role-sum/part", self.session, self.number, sender, recipient)
        return derive(shared, AeadKey, salt=self.ready.view.agreement_hash, info=info), info

    def _received(self, peer: str, message: bytes, length: int) -> Words:
        size = 8 * length + AEAD_TAG_BYTES
        try:
            part = open_signed(
                RoleSumPart,
                message,
                size + OVERHEAD_BYTES,
                domain=PART,
                member=peer,
                identity_key=self.ready.view.identity_keys[peer],
            )
        except MalformedMessage as error:
            raise PartRefused(str(error)) from error
        found = (part.session, part.number, part.sender, part.recipient, len(part.sealed))
        if found != (self.session, self.number, peer, self.ready.member, size):
            raise PartRefused(
                f"expected {peer}'s part of sum {self.number} of this session for {self.ready.member}, {length} "
                "numbers long, found another; the members compute differently, or the relay mixes them up"
            )
        key, associated = self._key(peer, self.ready.member)
        try:
            nonce = expect_length(part.nonce, NONCE_BYTES, "nonce")
            body = unseal(key, nonce, part.sealed, associated, peer)
        except (ShareInvalid, MalformedMessage) as error:
            raise PartRefused(str(error)) from error
        return np.frombuffer(body, dtype="<u8").astype(np.uint64)


@dataclass(frozen=True, eq=False)
class OpenRoleSum:
    """A sum to which this member has contributed and whose other parts are due."""

    before: RoleSum
    purpose: str
    own: Words = field(repr=False)

    def total(self, parts: Mapping[str, bytes]) -> tuple[RoleSum, Whole]:
        """Open the sum from the other members' parts.

        Args:
            parts: Member id -> message, of every peer.

        Returns:
            The state before the next sum, and the sum, shape (n,).

        Raises:
            PartRefused: One is missing, or is not the part that is due.
            BadSignature: One is not signed by its member.
        """
        if set(parts) != set(self.before.peers):
            raise PartRefused("expected one part of every other member of the role, found others")
        words = self.own.copy()
        for peer, message in parts.items():
            words += self.before._received(peer, message, self.own.size)  # noqa: SLF001 - the other half of one type
        total = words.view(np.int64)
        chain = digest("role-sum/chain", self.before.chain, self.purpose, total.astype("<i8").tobytes())
        return replace(self.before, number=self.before.number + 1, chain=chain), total
