"""Whose grants count: a list of identity keys, as owners write it into their policies."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from policies.agreement import parse_identity_key


def _keys(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        parse_identity_key(text)
    return texts


Issuers = Annotated[tuple[str, ...], Field(max_length=100), AfterValidator(_keys)]
"""Identity keys (`ed25519:...`); an empty list names nobody."""


def raw_keys(issuers: Issuers) -> frozenset[bytes]:
    """The public keys, 32 bytes each."""
    return frozenset(parse_identity_key(text) for text in issuers)
