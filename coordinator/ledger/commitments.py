"""Keyed hashes: what the ledger says about a record that only its holders may see."""

from __future__ import annotations

import hmac
from typing import Final

SALT_BYTES: Final = 32


def commitment(salt: bytes, what: str, value: bytes) -> str:
    """HMAC-SHA256 of a value under a record's salt, 64 hexadecimal digits.

    Binding (SHA-256 is collision-resistant) and, while the salt is secret, hiding: a tenant's name or an amount
    could be guessed from a plain hash.

    Args:
        salt: 32 random bytes, one salt a record and what belongs to it.
        what: Which value of the record; equal values of different kinds have different hashes.
        value: The bytes.

    Raises:
        ValueError: The salt has another length.
    """
    if len(salt) != SALT_BYTES:
        raise ValueError(f"expected a salt of {SALT_BYTES} bytes, found {len(salt)}")
    return hmac.digest(salt, what.encode("ascii") + b"\x00" + value, "sha256").hex()
