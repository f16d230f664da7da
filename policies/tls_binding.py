"""The link between a member's two keys: its identity signs its TLS key. Both ends know the form of it."""

from __future__ import annotations

import base64
import binascii

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_DOMAIN = b"tallystick/v1/tls-key"


def sign_tls_key(identity_key: Ed25519PrivateKey, member_id: str, tls_key: EllipticCurvePublicKey) -> bytes:
    """Base64 of the identity's signature over domain, member id and the TLS key (SubjectPublicKeyInfo, DER)."""
    return base64.b64encode(identity_key.sign(_message(member_id, tls_key)))


def tls_key_is_bound(identity_key: bytes, member_id: str, tls_key: EllipticCurvePublicKey, binding: bytes) -> bool:
    """Whether the owner of an identity key vouched for this TLS key as that member's.

    Args:
        identity_key: Raw Ed25519 public key from the agreement.
        member_id: Whose key it is said to be.
        tls_key: The TLS key.
        binding: What `sign_tls_key` returned, as received.
    """
    try:
        signature = base64.b64decode(binding, validate=True)
        Ed25519PublicKey.from_public_bytes(identity_key).verify(signature, _message(member_id, tls_key))
    except (binascii.Error, ValueError, InvalidSignature):
        return False
    return True


def _message(member_id: str, tls_key: EllipticCurvePublicKey) -> bytes:
    # Member ids hold no NUL (policies.agreement.MemberId), so the parts cannot be shifted against each other.
    key = tls_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return b"\x00".join((_DOMAIN, member_id.encode("utf-8"), key))
