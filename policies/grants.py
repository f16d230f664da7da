"""Data-use grants: who signed, which entities, for what, by whom, until when; and what was revoked."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Self, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.message import DecodeError, Message

from policies.errors import UserError
from policies.token_key import TokenKey
from protos.scoring.v1 import scoring_pb2 as pb
from protos.sealed_sum.canonical import encode

TOKEN_BYTES = 32
ANSWERER_BYTES = 16
_WHOEVER_KNOWS = bytes(ANSWERER_BYTES)
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
        answerers: Tags of the members that answer (C10), entity by entity, role by role; empty when none is named.
    """

    grant_id: str
    purposes: tuple[str, ...]
    roles: tuple[str, ...]
    not_before_s: int
    expires_s: int
    entities: bytes = field(repr=False)
    one_role_may_answer: bool
    issuer: bytes
    answerers: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        count, rest = divmod(len(self.entities), TOKEN_BYTES)
        if rest or len(self.answerers) not in {0, count * len(self.roles) * ANSWERER_BYTES}:
            raise GrantRefused(
                "grant", "expected a grant with whole tokens and one tag an entity and role, found another"
            )

    @cached_property
    def places(self) -> dict[bytes, int]:
        """Tokens it covers, with their places."""
        joined = self.entities
        return {
            joined[start : start + TOKEN_BYTES]: start // TOKEN_BYTES for start in range(0, len(joined), TOKEN_BYTES)
        }

    @cached_property
    def reach(self) -> bytes:
        """Whom it lets answer, 32 bytes: totals under two grants of one reach are sums over the same members (C2).

        Roles alone count where no member is named. Tags of named members mean something under this grant's id and at
        their places alone, so the same tags in another grant are another reach.
        """
        named: tuple[bytes | str, ...] = ()
        if self.answerers:
            named = (self.grant_id, *self.roles, self.entities, self.answerers)
        return hashlib.sha256(encode("grant/reach", *sorted(set(self.roles)), *named)).digest()

    @classmethod
    def read(cls, signed: bytes, issuers: Collection[bytes]) -> Self:
        """Check a signed grant.

        Raises:
            GrantRefused: It is no grant, or not signed by one of `issuers`.
        """
        outer = _parsed(pb.SignedGrant, signed)
        _verify(outer.body, outer.issuer, outer.signature, issuers, _GRANT_DOMAIN, "grant")
        return cls._of(outer)

    @classmethod
    def claimed(cls, signed: bytes) -> Self:
        """What a grant says of itself, its signature not checked: for whoever carries it to those that check it.

        Raises:
            GrantRefused: It is no grant.
        """
        return cls._of(_parsed(pb.SignedGrant, signed))

    @classmethod
    def _of(cls, outer: pb.SignedGrant) -> Self:
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
            body.answerers,
        )

    def answered_by(self, role: str, member: str, tokens: Sequence[bytes], key: TokenKey | None) -> bool | list[bool]:
        """Whether a member answers for entities, all of them alike or one by one (C10).

        One member of a role answers for an entity, so that two banks that know one seller are not added twice.

        Args:
            role: The member's role.
            member: Its id.
            tokens: Entities that the grant covers.
            key: The members' token key; needed where the grant names who answers.

        Raises:
            GrantRefused: The grant names who answers, and this member has no key to read it with.
        """
        if role not in self.roles:
            return False
        if not self.answerers:
            return True
        if key is None:
            raise GrantRefused(
                "grant_answerers",
                "expected the members' token key at this node, since the grant names who answers, found none; "
                "put token_key_path into the scoring table of node.toml",
            )
        first, step = self.roles.index(role) * ANSWERER_BYTES, len(self.roles) * ANSWERER_BYTES
        named = []
        for token in tokens:
            start = self.places[token] * step + first
            tag = self.answerers[start : start + ANSWERER_BYTES]
            named.append(tag in {_WHOEVER_KNOWS, _answerer_tag(key, self.grant_id, role, member, token)})
        return named

    def check(self, *, purpose: str, tokens: Sequence[bytes], now_s: float, skew_s: float) -> None:
        """Return if it allows this use now.

        Raises:
            GrantRefused: Another purpose, an entity it does not cover, too early, or expired.
        """
        if purpose not in self.purposes:
            raise GrantRefused("purpose", "expected a purpose that the grant names, found another; ask for a new grant")
        if now_s + skew_s < self.not_before_s or now_s > self.expires_s:
            raise GrantRefused("grant_expired", "expected a grant that is valid now, found one that is not; renew it")
        covered = self.places
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
    answering: Mapping[str, str] | None = None,
    token_key: TokenKey | None = None,
) -> bytes:
    """Sign a grant.

    Args:
        key: The issuer's.
        grant_id: Names it in a revocation list.
        purposes: What an answer may be used for.
        roles: Roles that may answer.
        not_before_s: Unix seconds.
        expires_s: Unix seconds.
        tokens: Entities, 32 bytes each.
        one_role_may_answer: Whether a total over one knowing member may be used (C6).
        answering: Role -> the one member of it that answers for these entities (C10); of the other roles whoever
            knows them. The platform cannot read it.
        token_key: Needed with `answering`.
    """
    if any(len(token) != TOKEN_BYTES for token in tokens):
        raise ValueError(f"expected entity tokens of {TOKEN_BYTES} bytes")
    if answering and (token_key is None or not answering.keys() <= set(roles)):
        raise ValueError("expected a token key, and members of the grant's roles, to name who answers")
    answerers = bytearray()
    for token in sorted(tokens) if answering else ():
        for role in roles:
            member = (answering or {}).get(role)
            answerers += (
                _answerer_tag(token_key, grant_id, role, member, token)
                if member is not None and token_key is not None
                else _WHOEVER_KNOWS
            )
    body = pb.Grant(
        grant_id=grant_id,
        purposes=purposes,
        roles=roles,
        not_before_s=not_before_s,
        expires_s=expires_s,
        entities=b"".join(sorted(tokens)),
        one_role_may_answer=one_role_may_answer,
        answerers=bytes(answerers),
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


def issuer_of(signed: bytes) -> bytes:
    """Who a signed grant or revocation list says signed it; believed only once the signature was checked.

    Raises:
        GrantRefused: It is neither.
    """
    return bytes(_parsed(pb.SignedGrant, signed).issuer)  # both have the issuer in the same field


def _answerer_tag(key: TokenKey, grant_id: str, role: str, member: str, token: bytes) -> bytes:
    """What only holders of the token key can read: that this member answers for the entity under this grant."""
    text = encode("grant/answerer", grant_id, role, member, token)
    return hmac.digest(key.raw, text, "sha256")[:ANSWERER_BYTES]


@lru_cache(maxsize=64)
def _public_key(issuer: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(issuer)


def _verify(body: bytes, issuer: bytes, signature: bytes, issuers: Collection[bytes], domain: bytes, what: str) -> None:
    if issuer not in issuers:
        raise GrantRefused("grant_issuer", f"expected a {what} of an issuer that this policy names, found another")
    try:
        _public_key(issuer).verify(signature, domain + body)
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
