"""Reading and writing messages: length first, then signature, then a strict parse, then frozen types."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from protos.sealed_sum.errors import MalformedMessage
from protos.sealed_sum.keys import SIGNATURE_BYTES, SigningKey, verify
from protos.sealed_sum.parameters import MAX_COHORT
from protos.sealed_sum.sealed_sum_pb2 import Signed

DIGEST_BYTES = 32
MAX_ID_CHARACTERS = 31
MAX_TEXT_CHARACTERS = 128
# Room for ids, numbers, hashes and protobuf's own bytes around a message's payload.
OVERHEAD_BYTES = 1024
ROSTER_BYTES = MAX_COHORT * (MAX_ID_CHARACTERS + 4)
_MEMBER_ID = re.compile(r"[a-z][a-z0-9-]{1,30}")

_Message = TypeVar("_Message", bound=Message)


def parse(kind: type[_Message], data: bytes, max_bytes: int) -> _Message:
    """Parse a received message strictly.

    Args:
        kind: The generated message class.
        data: The bytes received.
        max_bytes: Longest message that can be right; checked before anything is parsed.

    Raises:
        MalformedMessage: Too long, not protobuf, unknown fields, or not in the one canonical encoding.
    """
    name = kind.DESCRIPTOR.name
    if len(data) > max_bytes:
        raise MalformedMessage(f"expected a {name} message of at most {max_bytes} bytes, found {len(data)}")
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise MalformedMessage(f"expected a {name} message, found bytes that are none") from error
    # Dropping unknown fields and writing again gives the same bytes only if there was nothing else in them.
    message.DiscardUnknownFields()
    if message.SerializeToString(deterministic=True) != data:
        raise MalformedMessage(f"expected a {name} message in canonical form, found unknown or repeated fields")
    return message


def sign(identity: SigningKey, domain: str, message: Message) -> bytes:
    """Serialise and sign."""
    body = message.SerializeToString(deterministic=True)
    return Signed(body=body, signature=identity.sign(domain, body)).SerializeToString(deterministic=True)


def split_signed(data: bytes, max_bytes: int) -> Signed:
    """Parse the outer message without checking the signature; only to see whose it claims to be."""
    signed = parse(Signed, data, max_bytes + SIGNATURE_BYTES + 16)
    expect_length(signed.signature, SIGNATURE_BYTES, "signature")
    return signed


def open_signed(
    kind: type[_Message], data: bytes, max_bytes: int, *, domain: str, member: str, identity_key: bytes
) -> _Message:
    """Check a message's signature, then parse it.

    Raises:
        BadSignature: It is not signed by `member`.
        MalformedMessage: It is not the message it should be.
    """
    signed = split_signed(data, max_bytes)
    verify(identity_key, member, domain, signed.body, signed.signature)
    return parse(kind, signed.body, max_bytes)


def expect_length(value: bytes, length: int, what: str) -> bytes:
    """Return `value` if it has the one right length."""
    if len(value) != length:
        raise MalformedMessage(f"expected {length} bytes of {what}, found {len(value)}")
    return value


def expect_member(value: str) -> str:
    """Return `value` if it is a well-formed member id."""
    if _MEMBER_ID.fullmatch(value) is None:
        raise MalformedMessage("expected a member id of 2 to 31 lower-case letters, digits and hyphens, found another")
    return value


def expect_text(value: str, what: str) -> str:
    """Return `value` if it is a short, non-empty text."""
    if not 0 < len(value) <= MAX_TEXT_CHARACTERS:
        raise MalformedMessage(f"expected 1 to {MAX_TEXT_CHARACTERS} characters of {what}, found {len(value)}")
    return value


def expect_roster(names: Iterable[str], what: str) -> tuple[str, ...]:
    """Return member ids as a tuple if they are sorted and different."""
    roster = tuple(names)
    if list(roster) != sorted(set(roster)):
        raise MalformedMessage(f"expected {what} sorted and without repetition, found another order")
    return roster
