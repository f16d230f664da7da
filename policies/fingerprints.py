"""Keyed tokens: entities by identifier, orders and invoices by at least five normalised fields (C8).

The key is the members', changes every quarter and never reaches the platform: its own list of customers or invoices
is then no dictionary for the tokens.
"""

from __future__ import annotations

import hmac
import unicodedata
from collections.abc import Mapping

MIN_FIELDS = 5


def entity_token(key: bytes, kind: str, identifier: str) -> bytes:
    """Token of an entity, 32 bytes.

    Args:
        key: 32 bytes.
        kind: Type of the identifier, e.g. "digits".
        identifier: In the normal form of its type (protos/private_set_intersection/identifiers.py); taken as it is,
            since what does not matter in a tax number distinguishes two mail addresses.
    """
    return _keyed(key, "entity", [(kind, identifier)])


def fingerprint(key: bytes, fields: Mapping[str, str]) -> bytes:
    """Token of an order or invoice, 32 bytes.

    Args:
        key: 32 bytes, the quarter's.
        fields: Name -> value as written; both parties' tax ids and the document number among them.

    Raises:
        ValueError: Fewer than five fields, or an empty one: a fingerprint of few fields can be guessed.
    """
    cleaned = sorted((name, normalise(value)) for name, value in fields.items())
    if len(cleaned) < MIN_FIELDS or not all(value for _, value in cleaned):
        raise ValueError(f"expected at least {MIN_FIELDS} fields, none of them empty, in a fingerprint")
    return _keyed(key, "fingerprint", cleaned)


def normalise(text: str) -> str:
    """Letters and digits alone, compatibility forms folded, upper case."""
    folded = unicodedata.normalize("NFKC", text).upper()
    return "".join(character for character in folded if character.isalnum())


def _keyed(key: bytes, domain: str, items: list[tuple[str, str]]) -> bytes:
    if len(key) != 32:  # SHA-256's own strength
        raise ValueError(f"expected a key of 32 bytes, found {len(key)}")
    text = bytearray()
    for part in (f"tallystick/{domain}/1", *(part for item in items for part in item)):
        encoded = part.encode()
        text += len(encoded).to_bytes(4, "little") + encoded
    return hmac.digest(key, bytes(text), "sha256")
