"""The scoring gateway's log of openings: whose sums they were, signed by the coordinator, each bound to the one before.

It holds no score and no entity. Members see in it whom the gateway named absent (C2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from google.protobuf.message import DecodeError

from policies.errors import UserError
from protos.scoring.v1 import scoring_pb2 as pb
from protos.sealed_sum.errors import BadSignature
from protos.sealed_sum.keys import SigningKey, verify

FIRST = bytes(32)
_DOMAIN = "scoring-disclosure"


class DisclosureRefused(UserError):
    """An entry that the coordinator did not sign, or that does not follow the one before."""


def sign_disclosure(identity: SigningKey, entry: pb.Disclosure) -> bytes:
    """Sign an entry: the bytes of a `SignedDisclosure`."""
    body = entry.SerializeToString(deterministic=True)
    return pb.SignedDisclosure(body=body, signature=identity.sign(_DOMAIN, body)).SerializeToString(deterministic=True)


def hash_of(signed: bytes) -> bytes:
    """By which the next entry names this one, 32 bytes."""
    return hashlib.sha256(signed).digest()


def peek_disclosure(signed: bytes) -> pb.Disclosure:
    """What an entry says, its signature not checked.

    Raises:
        DisclosureRefused: The bytes are no entry.
    """
    try:
        return pb.Disclosure.FromString(pb.SignedDisclosure.FromString(signed).body)
    except DecodeError as error:
        raise DisclosureRefused("expected an entry of the log of openings, found bytes that are none") from error


def read_disclosure(signed: bytes, coordinator_key: bytes) -> pb.Disclosure:
    """What an entry says, its signature checked.

    Raises:
        DisclosureRefused: It is no entry, or the coordinator did not sign it.
    """
    entry, outer = peek_disclosure(signed), pb.SignedDisclosure.FromString(signed)
    try:
        verify(coordinator_key, "the coordinator", _DOMAIN, outer.body, outer.signature)
    except BadSignature as error:
        raise DisclosureRefused(
            f"expected entry {entry.number} of the log of openings with the coordinator's signature, found another"
        ) from error
    return entry


def check_log(entries: Iterable[bytes], coordinator_key: bytes) -> int:
    """Check a whole log: signatures, numbers without a gap, each entry bound to the one before.

    Args:
        entries: Signed entries from the first.
        coordinator_key: Ed25519 public key, 32 bytes.

    Returns:
        How many there are.

    Raises:
        DisclosureRefused: The first entry that is not as it was written.
    """
    previous, count = FIRST, 0
    for count, signed in enumerate(entries, start=1):
        entry = read_disclosure(signed, coordinator_key)
        if entry.number != count or entry.previous != previous:
            raise DisclosureRefused(
                f"expected entry {count} of the log of openings bound to the one before, found entry {entry.number}"
                " bound to another; an entry was left out, added or moved"
            )
        previous = hash_of(signed)
    return count
