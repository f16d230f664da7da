"""Data-use grants, minimal: who signed, which entities, for what, by which roles, until when, and what was revoked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.message import DecodeError, Message

from policies.errors import UserError
from protos.scoring.v1 import scoring_pb2 as pb

TOKEN_BYTES = 32
_GRANT_DOMAIN = b"tallystick/grant/1\x00"
_REVOCATIONS_DOMAIN = b"tallystick/revocations/1\x00"

_Parsed = TypeVar("_Parsed", bound=Message)


class GrantRefused(UserError):
    """A grant that does not allow what was asked.

    Attributes:
        code: For programs; the sentence is for people.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class Grant:
    """A grant whose signature was checked.

    Attributes:
        grant_id: Names it in a revocation list.
        purposes: What the answer may be used for.
        roles: Roles that may answer; never members, since a name would say who knows the entity.
        not_before_s: Unix seconds.
        expires_s: Unix seconds.
        entities: Tokens it covers, joined, sorted.
        one_role_may_answer: Whether a total over one knowing member may be used (C6).
        issuer: Ed25519 public key, 32 bytes.
    """

    grant_id: str
    purposes: tuple[str, ...]
    roles: tuple[str, ...]
    not_before_s: int
    expires_s: int
    entities: bytes = field(repr=False)
    one_role_may_answer: bool
    issuer: bytes

    @cached_property
    def tokens(self) -> frozenset[bytes]:
        """Tokens it covers."""
        joined = self.entities
        return frozenset(joined[start : start + TOKEN_BYTES] for start in range(0, len(joined), TOKEN_BYTES))

    @classmethod
    def read(cls, signed: bytes, issuers: Collection[bytes]) -> Self:
        """Check a signed grant.

        Raises:
            GrantRefused: It is no grant, or not signed by one of `issuers`.
        """
        outer = _parsed(pb.SignedGrant, signed)
        _verify(outer.body, outer.issuer, outer.signature, issuers, _GRANT_DOMAIN, "grant")
        body = _parsed(pb.Grant, outer.body)
        return cls(
            body.grant_id,
            tuple(body.purposes),
            tuple(body.roles),
            body.not_before_s,
            body.expires_s,
            body.entities,
            body.one_role_may_answer,
            outer.issuer,
        )

    def check(self, *, purpose: str, tokens: Sequence[bytes], now_s: float, skew_s: float) -> None:
        """Return if it allows this use now.

        Raises:
            GrantRefused: Another purpose, an entity it does not cover, too early, or expired.
        """
        if purpose not in self.purposes:
            raise GrantRefused("purpose", "expected a purpose that the grant names, found another; ask for a new grant")
        if now_s + skew_s < self.not_before_s or now_s > self.expires_s:
            raise GrantRefused("grant_expired", "expected a grant that is valid now, found one that is not; renew it")
        covered = self.tokens
        if not all(token in covered for token in tokens):
            raise GrantRefused("grant_entity", "expected entities that the grant covers, found another among them")


def issue_grant(
    key: Ed25519PrivateKey,
    *,
    grant_id: str,
    purposes: Sequence[str],
    roles: Sequence[str],
    not_before_s: int,
    expires_s: int,
    tokens: Collection[bytes],
    one_role_may_answer: bool = False,
) -> bytes:
    """Sign a grant."""
    if any(len(token) != TOKEN_BYTES for token in tokens):
        raise ValueError(f"expected entity tokens of {TOKEN_BYTES} bytes")
    body = pb.Grant(
        grant_id=grant_id,
        purposes=purposes,
        roles=roles,
        not_before_s=not_before_s,
        expires_s=expires_s,
        entities=b"".join(sorted(tokens)),
        one_role_may_answer=one_role_may_answer,
    ).SerializeToString(deterministic=True)
    return pb.SignedGrant(
        body=body, issuer=key.public_key().public_bytes_raw(), signature=key.sign(_GRANT_DOMAIN + body)
    ).SerializeToString(deterministic=True)


@dataclass(frozen=True)
class Revocations:
    """One issuer's list of grants that are void.

    Attributes:
        version: Only a higher one replaces another: an old list cannot bring a grant back.
        grant_ids: Void grants.
        issuer: Whose grants it speaks of.
    """

    version: int
    grant_ids: frozenset[str]
    issuer: bytes

    @classmethod
    def read(cls, signed: bytes, issuers: Collection[bytes]) -> Self:
        """Check a signed list.

        Raises:
            GrantRefused: It is no list, or not signed by one of `issuers`.
        """
        outer = _parsed(pb.SignedRevocations, signed)
        _verify(outer.body, outer.issuer, outer.signature, issuers, _REVOCATIONS_DOMAIN, "revocation list")
        body = _parsed(pb.Revocations, outer.body)
        return cls(body.version, frozenset(body.grant_ids), outer.issuer)


def issue_revocations(key: Ed25519PrivateKey, version: int, grant_ids: Collection[str]) -> bytes:
    """Sign a revocation list."""
    body = pb.Revocations(version=version, grant_ids=sorted(grant_ids)).SerializeToString(deterministic=True)
    return pb.SignedRevocations(
        body=body, issuer=key.public_key().public_bytes_raw(), signature=key.sign(_REVOCATIONS_DOMAIN + body)
    ).SerializeToString(deterministic=True)


def _verify(body: bytes, issuer: bytes, signature: bytes, issuers: Collection[bytes], domain: bytes, what: str) -> None:
    if issuer not in issuers:
        raise GrantRefused("grant_issuer", f"expected a {what} of an issuer that this policy names, found another")
    try:
        Ed25519PublicKey.from_public_bytes(issuer).verify(signature, domain + body)
    except (InvalidSignature, ValueError) as error:
        raise GrantRefused(
            "grant_signature", f"expected a {what} with its issuer's signature, found another"
        ) from error


def _parsed(kind: type[_Parsed], data: bytes) -> _Parsed:
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise GrantRefused("grant", "expected a signed grant or revocation list, found bytes that are none") from error
    return message
