"""Elements of the intersection: Curve25519 u-coordinates, raised to a secret scalar by X25519 (RFC 7748).

A keyed hash is used as a u-coordinate as it is, on the curve or on its twist: both groups have prime order times a
cofactor, and the clamped scalar is a multiple of it. Which of the two an element lies on stays visible (one bit of
the keyed hash, useless without the members' key; PROTOCOLS rule B9).

One exchange takes some 30 microseconds and holds the interpreter's lock: threads gain nothing (measured), so a pair
of members works at the same time in two processes, and a member in one.
"""

from __future__ import annotations

import hashlib

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from numpy.typing import NDArray

from protos.private_set_intersection.errors import MalformedElement, WeakElement
from protos.sealed_sum.secret import SecretBytes

ELEMENT_BYTES = 32
DIGEST_BYTES = 16
"""Raised elements are compared, and returned, as truncated hashes: 10^12 pairs collide with probability 2^-88."""

ElementArray = NDArray[np.uint8]
"""Elements, (n, 32), one u-coordinate in little endian a row."""


class BlindingScalar(SecretBytes):
    """X25519 scalar of one member in one session; a second session with it would link the two."""


def raise_elements(scalar: BlindingScalar, elements: ElementArray) -> ElementArray:
    """X25519 of every element, (n, 32) to (n, 32).

    Raises:
        WeakElement: Some results are all zeros.
    """
    public, exchange = X25519PublicKey.from_public_bytes, X25519PrivateKey.from_private_bytes(scalar.raw).exchange
    given = elements.tobytes()
    raised = bytearray(len(given))
    weak = 0
    for start in range(0, len(given), ELEMENT_BYTES):
        end = start + ELEMENT_BYTES
        try:
            raised[start:end] = exchange(public(given[start:end]))
        except ValueError:  # the library refuses an all-zero result
            weak += 1
    if weak:
        raise WeakElement(count=weak)
    return np.frombuffer(raised, dtype=np.uint8).reshape(-1, ELEMENT_BYTES)


def parse_elements(data: bytes, count: int) -> ElementArray:
    """Read a chunk of received elements, (count, 32).

    Raises:
        MalformedElement: Another number of them, or an encoding that no exchange produces.
    """
    if len(data) != count * ELEMENT_BYTES:
        raise MalformedElement(f"expected {count} elements of {ELEMENT_BYTES} bytes, found {len(data)} bytes")
    elements = np.frombuffer(data, dtype=np.uint8).reshape(-1, ELEMENT_BYTES)
    top = elements[:, 31]
    above_prime = (top == 0x7F) & (elements[:, 1:31] == 0xFF).all(axis=1) & (elements[:, 0] >= 0xED)
    bad = int(((top >= 0x80) | above_prime).sum())
    if bad:
        raise MalformedElement(f"expected u-coordinates below 2^255 - 19, found {bad} that are not; refuse the session")
    return elements


def digests(session: bytes, raised: ElementArray) -> bytes:
    """Truncated SHA-256 of each twice-raised element, bound to the session: 16 bytes an element."""
    start = hashlib.sha256(b"tallystick/alignment/digest/1" + session)
    data = raised.tobytes()
    out = bytearray()
    for offset in range(0, len(data), ELEMENT_BYTES):
        one = start.copy()
        one.update(data[offset : offset + ELEMENT_BYTES])
        out += one.digest()[:DIGEST_BYTES]
    return bytes(out)
