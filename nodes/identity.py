"""A member's keys: the Ed25519 identity of the agreement, and the EC P-256 key of its TLS certificate.

The certificate request carries the identity's signature over the TLS key, so that the operator can check, without
a phone call, that the request comes from the member that the agreement names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, NameOID

from policies.key_files import (
    create_identity_key,
    identity_key_text,
    load_identity_key,
    load_tls_key,
    make_private_folder,
    private_pem,
    write_private,
)
from policies.tls_binding import sign_tls_key

IDENTITY_FILE = "identity.pem"
TLS_KEY_FILE = "tls.pem"


@dataclass(frozen=True, eq=False)
class NodeIdentity:
    """Both private keys of a member; never printed."""

    identity_key: Ed25519PrivateKey
    tls_key: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return f"NodeIdentity({self.public_text})"

    @property
    def public_text(self) -> str:
        """What goes into the agreement: `ed25519:<base64>`."""
        return identity_key_text(self.identity_key.public_key())


def create_or_load_identity(folder: Path) -> NodeIdentity:
    """The keys in a folder of mode 0700; those that are not there yet are made.

    Raises:
        SettingsRefused: The folder or a key in it is open to other users, or is no such key.
    """
    make_private_folder(folder)
    identity_path, tls_path = folder / IDENTITY_FILE, folder / TLS_KEY_FILE
    identity_key = load_identity_key(identity_path) if identity_path.exists() else create_identity_key(identity_path)
    if not tls_path.exists():
        write_private(tls_path, private_pem(ec.generate_private_key(ec.SECP256R1())))
    return NodeIdentity(identity_key, load_tls_key(tls_path))


def load_identity(identity_key_path: Path, tls_key_path: Path) -> NodeIdentity:
    """Both keys from the files that the settings name.

    Raises:
        SettingsRefused: A file is absent, open to other users, or holds another kind of key.
    """
    return NodeIdentity(load_identity_key(identity_key_path), load_tls_key(tls_key_path))


def certificate_request(identity: NodeIdentity, member_id: str) -> bytes:
    """A certificate signing request (RFC 2986) in PEM for the member's TLS key.

    Args:
        identity: The member's keys.
        member_id: Its id in the agreement; becomes the common name.
    """
    binding = sign_tls_key(identity.identity_key, member_id, identity.tls_key.public_key())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, member_id)]))
        .add_attribute(AttributeOID.UNSTRUCTURED_NAME, binding)
        .sign(identity.tls_key, hashes.SHA256())
    )
    return request.public_bytes(Encoding.PEM)
