"""The consortium's own certificate authority: one server certificate, and a client certificate for each member.

Nothing else is trusted on the members' listener. A member's certificate names it by its id in the agreement (common
name), and is issued only on a request whose TLS key the member's identity key vouched for.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, NameOID

from policies.agreement import Agreement
from policies.closed_model import read_bounded, shown, shown_path
from policies.errors import SettingsRefused, UserError
from policies.key_files import load_tls_key, private_pem, write_private
from policies.tls_binding import tls_key_is_bound

AUTHORITY_VALIDITY = dt.timedelta(days=3650)
LEAF_VALIDITY = dt.timedelta(days=365)
_CLOCK_SKEW = dt.timedelta(minutes=5)


class RequestRefused(UserError):
    """A certificate request that is malformed, or not from a member of the agreement."""


@dataclass(frozen=True, eq=False)
class Authority:
    """The consortium's certificate authority; the key never leaves the operator."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return f"Authority({self.certificate.subject.rfc4514_string()})"


def create_authority(name: str, now: dt.datetime) -> Authority:
    """A new authority, valid for ten years, that may sign leaf certificates only.

    Args:
        name: Common name, at most 64 characters of it are used (RFC 5280, ub-common-name).
        now: The time, with a time zone.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    certificate = (
        _builder(subject, subject, key.public_key(), now, AUTHORITY_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def write_authority(authority: Authority, folder: Path) -> None:
    """Write `consortium-ca.crt` and `consortium-ca.pem` (key) into a private folder.

    Raises:
        SettingsRefused: The key file exists already.
    """
    write_private(folder / "consortium-ca.pem", private_pem(authority.key))
    (folder / "consortium-ca.crt").write_bytes(authority.certificate.public_bytes(Encoding.PEM))


def load_authority(certificate_path: Path, key_path: Path) -> Authority:
    """Read an authority's certificate and key, and check that they belong together.

    Raises:
        SettingsRefused: A file is absent, open to other users, or they do not match.
    """
    key = load_tls_key(key_path)
    try:
        certificate = x509.load_pem_x509_certificate(read_bounded(certificate_path, SettingsRefused))
    except ValueError:
        certificate = None
    if certificate is None or certificate.public_key() != key.public_key():
        raise SettingsRefused(
            f"{shown_path(certificate_path)}: expected the certificate of the key {shown_path(key_path)}, found"
            " something else; give the two files that `tallystick coordinator init` made together."
        )
    return Authority(certificate, key)


def create_server_certificate(authority: Authority, hosts: Sequence[str], now: dt.datetime, folder: Path) -> None:
    """Make `server.pem` (key) and `server.crt` in a private folder, valid for a year.

    Args:
        authority: Who signs.
        hosts: Host names and IP addresses at which members reach the coordinator; at least one.
        now: The time, with a time zone.
        folder: Where both files are written.

    Raises:
        SettingsRefused: No host, or the files exist already.
    """
    if not hosts:
        raise SettingsRefused("expected at least one host for the server certificate, found none; give --host.")
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
    certificate = (
        _leaf(authority, hosts[0][:64], key.public_key(), now, ExtendedKeyUsageOID.SERVER_AUTH)
        .add_extension(names, critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    write_private(folder / "server.pem", private_pem(key))
    (folder / "server.crt").write_bytes(certificate.public_bytes(Encoding.PEM))


def admit(authority: Authority, agreement: Agreement, request_pem: bytes, now: dt.datetime) -> tuple[str, bytes]:
    """Issue a member's client certificate, valid for a year.

    1. The request is well formed and signed by the key that it names, an EC P-256 key.
    2. Its common name is a member of the agreement.
    3. That member's identity key vouched for the TLS key.

    Args:
        authority: Who signs.
        agreement: The agreement, whose signatures the caller has verified.
        request_pem: What `tallystick node init` wrote, as received.
        now: The time, with a time zone.

    Returns:
        The member's id and the certificate in PEM.

    Raises:
        RequestRefused: The first of the three that does not hold.
    """
    request, tls_key = _parse_request(request_pem)
    names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    member_id = str(names[0].value) if len(names) == 1 and len(list(request.subject)) == 1 else ""
    member = next((member for member in agreement.members if member.id == member_id), None)
    if member is None:
        raise RequestRefused(
            f"expected a request for a member of the agreement, found one for {shown(member_id)};"
            " add the member to a new agreement first, or ask it for the right request."
        )
    if not tls_key_is_bound(member.identity_key_bytes, member_id, tls_key, _binding(request)):
        raise RequestRefused(
            f"expected a request signed by the identity key that the agreement states for {member_id!r}, found one"
            " without that signature; ask the member for the request that its `tallystick node init` wrote."
        )
    certificate = _leaf(authority, member_id, tls_key, now, ExtendedKeyUsageOID.CLIENT_AUTH).sign(
        authority.key, hashes.SHA256()
    )
    return member_id, certificate.public_bytes(Encoding.PEM)


def create_client_certificate(authority: Authority, name: str, now: dt.datetime, folder: Path) -> None:
    """Make `<name>.pem` (key) and `<name>.crt` in a private folder, valid for a year, for a service that asks scores.

    Args:
        authority: Who signs.
        name: The requester that the nodes' budgets count.
        now: The time, with a time zone.
        folder: Where both files are written.

    Raises:
        SettingsRefused: The files exist already.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _leaf(authority, name, key.public_key(), now, ExtendedKeyUsageOID.CLIENT_AUTH).sign(
        authority.key, hashes.SHA256()
    )
    write_private(folder / f"{name}.pem", private_pem(key))
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))


def _parse_request(request_pem: bytes) -> tuple[x509.CertificateSigningRequest, ec.EllipticCurvePublicKey]:
    try:
        request = x509.load_pem_x509_csr(request_pem)
        key = request.public_key()
        sound = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise RequestRefused(
            "expected a certificate request in PEM, found something else;"
            " ask the member for the .csr file that its `tallystick node init` wrote."
        ) from None
    if not sound or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RequestRefused(
            "expected a request for an EC P-256 key, signed by it, found another kind of key or a wrong signature;"
            " ask the member for the .csr file that its `tallystick node init` wrote."
        )
    return request, key


def _binding(request: x509.CertificateSigningRequest) -> bytes:
    try:
        return request.attributes.get_attribute_for_oid(AttributeOID.UNSTRUCTURED_NAME).value
    except (x509.AttributeNotFound, ValueError):
        return b""


def _leaf(
    authority: Authority, name: str, key: ec.EllipticCurvePublicKey, now: dt.datetime, usage: x509.ObjectIdentifier
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = authority.certificate
    return (
        _builder(subject, issuer.subject, key, now, LEAF_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    validity: dt.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + validity)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
