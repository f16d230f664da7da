"""The consortium's certificates, checked with another implementation: Python's own TLS (OpenSSL)."""

import datetime as dt
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coordinator.certificates import (
    RequestRefused,
    admit,
    create_authority,
    create_server_certificate,
    load_authority,
    write_authority,
)
from nodes.identity import NodeIdentity, certificate_request, create_or_load_identity
from policies.errors import SettingsRefused
from policies.presets import example_agreement

NOW = dt.datetime.now(dt.UTC)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Keys of three members, an agreement on them, an authority and a server certificate for localhost."""
    root = tmp_path_factory.mktemp("certificates")
    root.chmod(0o700)
    identities = {f"bank-{letter}": create_or_load_identity(root / f"bank-{letter}") for letter in "abc"}
    agreement = example_agreement(
        {name: one.identity_key.public_key().public_bytes_raw() for name, one in identities.items()},
        coordinator_key=Ed25519PrivateKey.generate().public_key().public_bytes_raw(),
    )
    authority = create_authority("Test consortium", NOW)
    write_authority(authority, root)
    create_server_certificate(authority, ["localhost", "127.0.0.1"], NOW, root)
    return root, identities, agreement, authority


def _admitted(world, member):
    _, identities, agreement, authority = world
    name, pem = admit(authority, agreement, certificate_request(identities[member], member), NOW)
    assert name == member
    return pem


def _handshake(server, client, host):
    """A TLS handshake in memory; returns what the server knows of its client."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server, server_hostname=host)
    for _ in range(4):
        for side in (client_side, server_side):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    server_side.do_handshake()
    return server_side.getpeercert()


def _contexts(world, certificate, key):
    root = world[0]
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(root / "server.crt", root / "server.pem")
    server.load_verify_locations(root / "consortium-ca.crt")
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(root / "consortium-ca.crt")
    for context in (server, client):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    if certificate is not None:
        client.load_cert_chain(certificate, key)
    return server, client


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_admitted_member_is_known_to_the_server_by_its_id(world, host):
    root = world[0]
    (root / "bank-a.crt").write_bytes(_admitted(world, "bank-a"))
    server, client = _contexts(world, root / "bank-a.crt", root / "bank-a" / "tls.pem")
    assert _handshake(server, client, host)["subject"] == ((("commonName", "bank-a"),),)


def test_client_without_a_certificate_is_refused(world):
    server, client = _contexts(world, None, None)
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        _handshake(server, client, "localhost")


def test_client_of_a_foreign_authority_is_refused(world, tmp_path):
    root, identities, agreement, _ = world
    foreign = create_authority("Test consortium", NOW)
    request = certificate_request(identities["bank-a"], "bank-a")
    (tmp_path / "bank-a.crt").write_bytes(admit(foreign, agreement, request, NOW)[1])
    server, client = _contexts(world, tmp_path / "bank-a.crt", root / "bank-a" / "tls.pem")
    with pytest.raises(ssl.SSLError):
        _handshake(server, client, "localhost")


def test_member_certificate_cannot_serve_and_server_certificate_cannot_dial(world):
    root = world[0]
    (root / "bank-b.crt").write_bytes(_admitted(world, "bank-b"))
    server, client = _contexts(world, root / "server.crt", root / "server.pem")
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        _handshake(server, client, "localhost")
    server, client = _contexts(world, root / "bank-b.crt", root / "bank-b" / "tls.pem")
    server.load_cert_chain(root / "bank-b.crt", root / "bank-b" / "tls.pem")
    client.check_hostname = False
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        _handshake(server, client, "localhost")


def test_server_is_refused_under_another_host_name(world):
    root = world[0]
    (root / "bank-c.crt").write_bytes(_admitted(world, "bank-c"))
    server, client = _contexts(world, root / "bank-c.crt", root / "bank-c" / "tls.pem")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        _handshake(server, client, "evil.example")


def test_member_certificate_says_what_it_is_for_and_ends_within_a_year(world):
    certificate = x509.load_pem_x509_certificate(_admitted(world, "bank-a"))
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["bank-a"]
    assert certificate.not_valid_after_utc - NOW < dt.timedelta(days=366)
    assert certificate.not_valid_before_utc < NOW


def test_request_under_another_members_name_is_refused(world):
    _, identities, agreement, authority = world
    with pytest.raises(RequestRefused, match="signed by the identity key that the agreement states for 'bank-b'"):
        admit(authority, agreement, certificate_request(identities["bank-a"], "bank-b"), NOW)


def test_stolen_identity_signature_does_not_vouch_for_another_tls_key(world):
    """Mallory copies the signature out of bank-a's public request into a request for her own TLS key."""
    _, identities, agreement, authority = world
    mallory = NodeIdentity(Ed25519PrivateKey.generate(), identities["bank-c"].tls_key)
    with pytest.raises(RequestRefused, match="identity key"):
        admit(authority, agreement, certificate_request(mallory, "bank-a"), NOW)


def test_request_of_a_bank_outside_the_agreement_is_refused(world):
    _, identities, agreement, authority = world
    with pytest.raises(RequestRefused, match="member of the agreement, found one for 'bank-z'"):
        admit(authority, agreement, certificate_request(identities["bank-a"], "bank-z"), NOW)


def test_authority_is_loaded_only_with_its_own_key(world, tmp_path):
    root = world[0]
    write_authority(create_authority("Another", NOW), tmp_path)
    assert load_authority(root / "consortium-ca.crt", root / "consortium-ca.pem").certificate == world[3].certificate
    with pytest.raises(SettingsRefused, match="expected the certificate of the key"):
        load_authority(root / "consortium-ca.crt", tmp_path / "consortium-ca.pem")


def test_keys_do_not_show_when_printed(world):
    shown = repr(world[1]["bank-a"]) + str(world[3])
    assert "PRIVATE" not in shown
    assert "object at" not in shown


def test_keys_are_made_once(world):
    root, identities, _, _ = world
    assert create_or_load_identity(root / "bank-a").public_text == identities["bank-a"].public_text
