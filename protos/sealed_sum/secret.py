"""Bytes that must not leak by accident: no repr, no equality, no pickle."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, NoReturn, Self


@dataclass(frozen=True, eq=False)
class SecretBytes:
    """A secret of fixed length; `raw` is read only where it is used or stored."""

    LENGTH: ClassVar[int] = 32
    raw: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.raw) != self.LENGTH:
            raise ValueError(f"expected {self.LENGTH} bytes for a {type(self).__name__}, found {len(self.raw)}")

    def matches(self, other: Self) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.raw, other.raw)

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is not compared with ==; use matches()")

    __hash__ = object.__hash__

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is not pickled or copied; store it with the state it belongs to")


class MaskSeed(SecretBytes):
    """Seed of one mask. It expands once: a seed is never used for a second sum."""


class SeedSalt(SecretBytes):
    """Salt of a self-mask seed's commitment; without it the commitment would be a dictionary entry."""


class SharedSecret(SecretBytes):
    """Output of an X25519 exchange; only ever input to HKDF."""


class AgreementSecret(SecretBytes):
    """An X25519 private key of one epoch."""

    @cached_property
    def agreed(self) -> dict[bytes, SharedSecret]:
        """Results of its exchanges by peer's public key: one exchange a peer and epoch, not several a sum.

        They live as long as the key itself, and are worth no more than the key to whoever could read them.
        """
        return {}


class AeadKey(SecretBytes):
    """A ChaCha20-Poly1305 key for one message from one member to one other."""


class TagKey(SecretBytes):
    """K_e: keys roster slots, linear tags and model reports; all members hold it, the coordinator never."""
