"""Signing, key agreement, key derivation and encryption between members, each with its domain stated.

Ed25519 (RFC 8032), X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), ChaCha20-Poly1305 (RFC 8439).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Self, TypeVar

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protos.sealed_sum.canonical import encode
from protos.sealed_sum.errors import BadSignature, ShareInvalid, WeakKey
from protos.sealed_sum.secret import AeadKey, AgreementSecret, SecretBytes, SharedSecret

SIGNATURE_BYTES = 64
NONCE_BYTES = 12
AEAD_TAG_BYTES = 16

_Derived = TypeVar("_Derived", bound=SecretBytes)


@dataclass(frozen=True, eq=False)
class SigningKey:
    """A member's Ed25519 identity key; its public half stands in the agreement."""

    private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Load the 32-byte private key."""
        return cls(Ed25519PrivateKey.from_private_bytes(raw))

    @property
    def public_bytes(self) -> bytes:
        """The 32-byte public key."""
        return self.private.public_key().public_bytes_raw()

    def sign(self, message: str, body: bytes) -> bytes:
        """Sign SHA-256(body) under the message's domain, 64 bytes."""
        return self.private.sign(encode(f"signature/{message}", hashlib.sha256(body).digest()))


def verify(identity_key: bytes, member: str, message: str, body: bytes, signature: bytes) -> None:
    """Check a member's signature over a message.

    Args:
        identity_key: The member's 32-byte Ed25519 public key from the agreement.
        member: Its id, for the error.
        message: The message's domain, e.g. "upload".
        body: The bytes as received.
        signature: 64 bytes.

    Raises:
        BadSignature: The signature is not valid.
    """
    try:
        Ed25519PublicKey.from_public_bytes(identity_key).verify(
            signature, encode(f"signature/{message}", hashlib.sha256(body).digest())
        )
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(member=member, message=message) from error


def public_key(secret: AgreementSecret) -> bytes:
    """The X25519 public key, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(secret.raw).public_key().public_bytes_raw()


def agree(secret: AgreementSecret, peer_public_key: bytes, peer: str) -> SharedSecret:
    """X25519 with a peer.

    Raises:
        WeakKey: The result is all zeros: the peer's key has small order (RFC 7748, section 6.1).
    """
    known = secret.agreed.get(peer_public_key)
    if known is not None:
        return known
    try:
        shared = X25519PrivateKey.from_private_bytes(secret.raw).exchange(
            X25519PublicKey.from_public_bytes(peer_public_key)
        )
    except ValueError as error:  # the library refuses an all-zero result
        raise WeakKey(
            f"expected an X25519 key of full order from {peer}, found one that agrees on zeros; refuse that member"
        ) from error
    return secret.agreed.setdefault(peer_public_key, SharedSecret(shared))


def derive(shared: SecretBytes, kind: type[_Derived], *, salt: bytes, info: bytes) -> _Derived:
    """HKDF-SHA256 to a secret of the named kind."""
    return kind(HKDF(algorithm=SHA256(), length=kind.LENGTH, salt=salt, info=info).derive(shared.raw))


def seal(key: AeadKey, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """ChaCha20-Poly1305 encryption; `nonce` is fresh although the key is already one message's alone."""
    return ChaCha20Poly1305(key.raw).encrypt(nonce, plaintext, associated)


def unseal(key: AeadKey, nonce: bytes, sealed: bytes, associated: bytes, sender: str) -> bytes:
    """ChaCha20-Poly1305 decryption.

    Raises:
        ShareInvalid: The ciphertext was not made by `sender` for exactly this purpose.
    """
    try:
        return ChaCha20Poly1305(key.raw).decrypt(nonce, sealed, associated)
    except InvalidTag as error:
        raise ShareInvalid(
            f"expected a message encrypted by {sender} for this epoch, sum and recipient, found one that does not "
            "authenticate; it was altered or belongs elsewhere"
        ) from error
