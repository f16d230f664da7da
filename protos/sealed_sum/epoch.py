"""E1: members open a key epoch. Every node checks every announcement against the agreement.

An epoch's id is the hash of all announcements, each with a fresh nonce: old messages, another cohort or a second
set of keys give another id, and the id is in every later derivation and signature (A10).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

from protos.sealed_sum import sealed_sum_pb2 as pb
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.canonical import digest
from protos.sealed_sum.errors import CohortRefused, MalformedMessage, WrongEpoch
from protos.sealed_sum.keys import SigningKey, agree, public_key
from protos.sealed_sum.parameters import MAX_WEIGHT_LOG2
from protos.sealed_sum.secret import AgreementSecret
from protos.sealed_sum.wire import (
    DIGEST_BYTES,
    OVERHEAD_BYTES,
    expect_length,
    expect_member,
    expect_text,
    open_signed,
    parse,
    sign,
    split_signed,
)

ANNOUNCE = "announce"


@dataclass(frozen=True)
class Announcement:
    """A validated E1 message."""

    member: str
    agreement_hash: bytes
    run_id: str
    nonce: bytes
    masking_public_key: bytes
    sealing_public_key: bytes
    weight_log2: int


@dataclass(frozen=True)
class Announced:
    """A member that has announced its epoch keys."""

    member: str
    agreement_hash: bytes
    run_id: str
    message: bytes
    identity: SigningKey = field(repr=False)
    masking_secret: AgreementSecret = field(repr=False)
    sealing_secret: AgreementSecret = field(repr=False)

    def to_bytes(self) -> bytes:
        """For the node's own disk; holds this epoch's private keys, not the identity key."""
        return self.stored().SerializeToString(deterministic=True)

    def stored(self) -> pb.StoredAnnounced:
        """The stored message, for states that contain this one."""
        return pb.StoredAnnounced(
            announcement=self.message,
            masking_secret=self.masking_secret.raw,
            sealing_secret=self.sealing_secret.raw,
        )

    @classmethod
    def from_bytes(cls, data: bytes, identity: SigningKey) -> Self:
        """Load what `to_bytes` stored."""
        return cls.from_stored(parse(pb.StoredAnnounced, data, len(data)), identity)

    @classmethod
    def from_stored(cls, stored: pb.StoredAnnounced, identity: SigningKey) -> Self:
        """Load from the stored message."""
        own = _read(stored.announcement)
        return cls(
            own.member,
            own.agreement_hash,
            own.run_id,
            stored.announcement,
            identity,
            AgreementSecret(stored.masking_secret),
            AgreementSecret(stored.sealing_secret),
        )


@dataclass(frozen=True)
class EpochView:
    """What everybody, the coordinator included, knows of an epoch.

    Attributes:
        epoch_id: 32 bytes.
        agreement_hash: 32 bytes.
        run_id: The run.
        cohort: Member ids, sorted.
        announcements: By member.
        identity_keys: Ed25519 public keys by member, from the agreement.
        bounds: n, c, u, T.
        messages: The signed E1 messages, in cohort order.
    """

    epoch_id: bytes
    agreement_hash: bytes
    run_id: str
    cohort: tuple[str, ...]
    announcements: Mapping[str, Announcement]
    identity_keys: Mapping[str, bytes]
    bounds: Bounds
    messages: tuple[bytes, ...]

    @property
    def weights(self) -> dict[str, int]:
        """Public weight of each member, a power of two (A7 ii)."""
        return {member: 1 << self.announcements[member].weight_log2 for member in self.cohort}

    @cached_property
    def points(self) -> dict[str, int]:
        """Each member's Shamir coordinate: its place in the cohort, from 1."""
        return {member: place for place, member in enumerate(self.cohort, start=1)}

    def point(self, member: str) -> int:
        """A member's Shamir coordinate."""
        return self.points[member]


@dataclass(frozen=True)
class Joined:
    """A member that has checked the whole cohort."""

    view: EpochView
    announced: Announced = field(repr=False)

    @property
    def member(self) -> str:
        """This member's id."""
        return self.announced.member

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

    @property
    def peers(self) -> tuple[str, ...]:
        """All other members, sorted."""
        return tuple(member for member in self.cohort if member != self.member)

    def to_bytes(self) -> bytes:
        """For the node's own disk."""
        return self.stored().SerializeToString(deterministic=True)

    def stored(self) -> pb.StoredJoined:
        """The stored message, for states that contain this one."""
        bounds = self.bounds
        return pb.StoredJoined(
            announced=self.announced.stored(),
            announcements=self.view.messages,
            identity_keys=[pb.NamedKey(member=m, key=self.view.identity_keys[m]) for m in self.cohort],
            bounds=pb.StoredBounds(
                cohort=bounds.cohort,
                max_colluders=bounds.max_colluders,
                min_survivors=bounds.min_survivors,
                shamir_threshold=bounds.shamir_threshold,
            ),
        )

    @classmethod
    def from_bytes(cls, data: bytes, identity: SigningKey) -> Self:
        """Load what `to_bytes` stored, checking it again."""
        return cls.from_stored(parse(pb.StoredJoined, data, len(data)), identity)

    @classmethod
    def from_stored(cls, stored: pb.StoredJoined, identity: SigningKey) -> Self:
        """Load from the stored message."""
        announced = Announced.from_stored(stored.announced, identity)
        keys = {named.member: named.key for named in stored.identity_keys}
        b = stored.bounds
        bounds = Bounds(b.cohort, b.max_colluders, b.min_survivors, b.shamir_threshold)
        view = observe(stored.announcements, keys, announced.agreement_hash, announced.run_id, bounds)
        return cls(view, announced)


def announce(
    identity: SigningKey,
    member: str,
    agreement_hash: bytes,
    run_id: str,
    weight_log2: int,
    rng: Callable[[int], bytes],
) -> tuple[Announced, bytes]:
    """E1: draw this epoch's keys and announce them.

    Args:
        identity: The member's identity key.
        member: Its id in the agreement.
        agreement_hash: SHA-256 of the agreement, 32 bytes.
        run_id: The run the epoch is for.
        weight_log2: Public weight of the member as a power of two, 0 to 40 (A7 ii).
        rng: Cryptographic randomness.

    Returns:
        The state to store, and the signed message for the coordinator to relay.
    """
    if not 0 <= weight_log2 <= MAX_WEIGHT_LOG2:
        raise ValueError(f"expected weight_log2 between 0 and {MAX_WEIGHT_LOG2}, found {weight_log2}")
    masking, sealing = AgreementSecret(rng(32)), AgreementSecret(rng(32))
    message = sign(
        identity,
        ANNOUNCE,
        pb.Announcement(
            member=expect_member(member),
            agreement_hash=expect_length(agreement_hash, DIGEST_BYTES, "agreement hash"),
            run_id=expect_text(run_id, "run id"),
            nonce=rng(32),
            masking_public_key=public_key(masking),
            sealing_public_key=public_key(sealing),
            weight_log2=weight_log2,
        ),
    )
    return Announced(member, agreement_hash, run_id, message, identity, masking, sealing), message


def join(
    state: Announced, announcements: Sequence[bytes], identity_keys: Mapping[str, bytes], bounds: Bounds
) -> Joined:
    """Check the announced cohort; nothing secret has been used yet.

    Args:
        state: This member's announcement.
        announcements: The signed messages of the whole cohort, this member's own verbatim among them.
        identity_keys: Ed25519 public keys of the agreement's members.
        bounds: n, c, u, T of the agreement for this cohort.

    Raises:
        BadSignature: An announcement is not signed by the member it names.
        WrongEpoch: One is for another agreement or run, or this member's own is missing or replaced.
        CohortRefused: Unknown or repeated members, or not as many as `bounds` says.
        WeakKey: A public key has small order.
    """
    if state.message not in announcements:
        raise WrongEpoch(
            f"expected {state.member}'s own announcement unchanged among the cohort's, found it missing or replaced; "
            "start a new epoch"
        )
    view = observe(announcements, identity_keys, state.agreement_hash, state.run_id, bounds)
    for peer in view.cohort:
        if peer != state.member:
            # Both keys are tried now, so that a weak one is refused before anything is derived from it.
            agree(state.masking_secret, view.announcements[peer].masking_public_key, peer)
            agree(state.sealing_secret, view.announcements[peer].sealing_public_key, peer)
    return Joined(view, state)


def observe(
    announcements: Sequence[bytes],
    identity_keys: Mapping[str, bytes],
    agreement_hash: bytes,
    run_id: str,
    bounds: Bounds,
) -> EpochView:
    """Check a cohort's announcements from outside, as the coordinator does; same errors as `join`."""
    if len(announcements) != bounds.cohort:
        raise CohortRefused(f"expected announcements of {bounds.cohort} members, found {len(announcements)}")
    read: dict[str, Announcement] = {}
    messages: dict[str, bytes] = {}
    for message in announcements:
        announcement = _read(message)
        member = announcement.member
        if member not in identity_keys:
            raise CohortRefused(f"expected members of the agreement, found an announcement of {member}")
        if member in read:
            raise CohortRefused(f"expected one announcement a member, found two of {member}")
        open_signed(
            pb.Announcement,
            message,
            OVERHEAD_BYTES,
            domain=ANNOUNCE,
            member=member,
            identity_key=identity_keys[member],
        )
        if announcement.agreement_hash != agreement_hash or announcement.run_id != run_id:
            raise WrongEpoch(f"expected {member}'s announcement for this agreement and run, found one for another")
        read[member], messages[member] = announcement, message
    cohort = tuple(sorted(read))
    ordered = tuple(messages[member] for member in cohort)
    epoch_id = digest("epoch", agreement_hash, run_id, *ordered)
    keys = {member: identity_keys[member] for member in cohort}
    return EpochView(epoch_id, agreement_hash, run_id, cohort, read, keys, bounds, ordered)


def _read(message: bytes) -> Announcement:
    """Parse an announcement without checking its signature."""
    body = parse(pb.Announcement, split_signed(message, OVERHEAD_BYTES).body, OVERHEAD_BYTES)
    if body.weight_log2 > MAX_WEIGHT_LOG2:
        raise MalformedMessage(f"expected weight_log2 of at most {MAX_WEIGHT_LOG2}, found {body.weight_log2}")
    return Announcement(
        member=expect_member(body.member),
        agreement_hash=expect_length(body.agreement_hash, DIGEST_BYTES, "agreement hash"),
        run_id=expect_text(body.run_id, "run id"),
        nonce=expect_length(body.nonce, DIGEST_BYTES, "nonce"),
        masking_public_key=expect_length(body.masking_public_key, 32, "masking key"),
        sealing_public_key=expect_length(body.sealing_public_key, 32, "sealing key"),
        weight_log2=body.weight_log2,
    )
