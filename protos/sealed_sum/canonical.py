"""One byte string for one meaning: length-prefixed, domain-separated encodings for hashes, keys and signatures."""

from __future__ import annotations

import hashlib

PROTOCOL = "tallystick/sealed-sum/1"
_U64_MAX = (1 << 64) - 1


def encode(domain: str, *parts: bytes | str | int) -> bytes:
    """Encode `parts` under a domain so that no other call can give the same bytes.

    Every item, the domain first, is an 8-byte little-endian length and its bytes. Text is UTF-8, an integer is
    8 bytes little endian. A domain fixes the number and the types of its parts, so types need no mark.

    Args:
        domain: What the bytes are for, e.g. "sum/pairwise-seed".
        *parts: The values bound.

    Raises:
        ValueError: An integer does not fit into 64 unsigned bits.
    """
    out = bytearray()
    for part in (f"{PROTOCOL}/{domain}", *parts):
        if isinstance(part, str):
            item = part.encode()
        elif isinstance(part, int):
            if not 0 <= part <= _U64_MAX:
                raise ValueError(f"expected an integer in [0, 2^64) in the encoding of {domain}, found {part}")
            item = part.to_bytes(8, "little")
        else:
            item = part
        out += len(item).to_bytes(8, "little")
        out += item
    return bytes(out)


def digest(domain: str, *parts: bytes | str | int) -> bytes:
    """SHA-256 of the canonical encoding, 32 bytes."""
    return hashlib.sha256(encode(domain, *parts)).digest()
