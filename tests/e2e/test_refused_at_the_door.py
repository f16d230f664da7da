"""Nodes that must not take part: each is refused with one clear sentence, a non-zero exit code and no traceback."""

import datetime as dt
import re
import shutil
import socket
import ssl
import threading
import tomllib
from contextlib import closing

import pytest
import tomli_w
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.certificates import admit, create_authority
from nodes.fleet import FleetConnection, FleetError, run_node
from nodes.identity import certificate_request, create_or_load_identity
from nodes.service import fleet_connection
from nodes.settings import load_node_settings

pytestmark = pytest.mark.acceptance

MEMBER = "bank-a"
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def fleet(launch):
    """A coordinator that listens; its nodes are what the tests spoil."""
    fleet = launch(3, start=False)
    fleet.start("coordinator")
    fleet.processes.wait_for("coordinator", "^listening", deadline_s=PATIENCE_S)
    return fleet


@pytest.fixture
def spoilt(fleet, tmp_path):
    """A copy of one member's folder, agreement and CA certificate, to be spoilt."""
    parties = fleet.consortium.folder
    shutil.copytree(parties / MEMBER, tmp_path / MEMBER)
    (tmp_path / "coordinator" / "keys").mkdir(parents=True)
    shutil.copy(parties / "coordinator" / "keys" / "consortium-ca.crt", tmp_path / "coordinator" / "keys")
    for file in parties.glob("agreement*"):
        shutil.copy(file, tmp_path)
    return tmp_path


@pytest.fixture
def refused(fleet, spoilt, request):
    """Runs the spoilt node under its supervisor and returns what it says; it must end by itself."""

    def run():
        name = re.sub(r"\W+", "-", request.node.name)
        settings = spoilt / MEMBER / "node.toml"
        process = fleet.processes.start(name, "node", "run", "--restart", "--settings", str(settings))
        fleet.until(lambda: process.exit_code is not None, deadline_s=PATIENCE_S, waiting_for="a refusal")
        assert process.exit_code == 1
        assert "Traceback" not in process.text()
        *others, sentence = process.text().splitlines()
        assert sentence.startswith("Error: ")
        assert all("rows in use" in line for line in others)
        return sentence

    return run


def foreign_authority():
    return create_authority("another consortium", dt.datetime.now(dt.UTC))


def write_foreign_certificate(fleet, spoilt, authority):
    """The member's own request, granted by another consortium's authority."""
    identity = create_or_load_identity(spoilt / MEMBER / "keys")
    request = certificate_request(identity, MEMBER)
    _, certificate = admit(authority, fleet.consortium.agreement, request, dt.datetime.now(dt.UTC))
    (spoilt / MEMBER / "keys" / f"{MEMBER}.crt").write_bytes(certificate)


def write_foreign_authority(spoilt, authority):
    path = spoilt / "coordinator" / "keys" / "consortium-ca.crt"
    path.write_bytes(authority.certificate.public_bytes(Encoding.PEM))


def test_node_without_a_certificate_is_refused(spoilt, refused):
    (spoilt / MEMBER / "keys" / f"{MEMBER}.crt").unlink()
    assert f"{MEMBER}.crt" in refused()


def test_node_with_a_certificate_of_another_authority_refuses_to_start(fleet, spoilt, refused):
    write_foreign_certificate(fleet, spoilt, foreign_authority())
    assert "expected a certificate of the consortium's authority, found one of another" in refused()


def test_node_of_another_consortium_is_refused(fleet, spoilt, refused):
    authority = foreign_authority()
    write_foreign_certificate(fleet, spoilt, authority)
    write_foreign_authority(spoilt, authority)
    assert "is not signed by the CA file of this node's settings" in refused()


def test_node_whose_key_was_not_admitted_is_refused(fleet, spoilt, refused):
    admitted = fleet.consortium.folder / "coordinator" / "members" / f"{MEMBER}.crt"
    kept = admitted.read_bytes()
    admitted.unlink()
    try:
        assert "has not admitted the key of this node's certificate" in refused()
    finally:
        admitted.write_bytes(kept)


def test_node_with_an_agreement_that_somebody_did_not_sign_is_refused(spoilt, refused):
    (signatures,) = spoilt.glob("agreement*.json")
    text = signatures.read_text()
    assert "bank-b" in text
    signatures.write_text(text.replace("bank-b", "bank-x"))
    sentence = refused()
    assert "bank-b" in sentence
    assert "sign" in sentence


def test_node_without_any_signature_under_its_agreement_is_refused(spoilt, refused):
    (signatures,) = spoilt.glob("agreement*.json")
    signatures.unlink()
    assert "sign" in refused()


def test_node_with_an_agreement_changed_after_it_was_signed_is_refused(spoilt, refused):
    path = spoilt / "agreement.toml"
    changed = tomllib.loads(path.read_text())
    changed["privacy"]["min_cell_count"] = 1
    path.write_text(tomli_w.dumps(changed))
    assert "sign" in refused()


def test_node_without_a_policy_does_not_take_part(spoilt, refused):
    (spoilt / MEMBER / "policy.toml").unlink()
    assert "policy.toml" in refused()


def test_coordinator_itself_refuses_a_foreign_certificate_that_a_node_would_not_check(fleet, spoilt):
    write_foreign_certificate(fleet, spoilt, foreign_authority())
    connection: FleetConnection = fleet_connection(load_node_settings(spoilt / MEMBER / "node.toml"))
    with pytest.raises(FleetError, match="refused this node's certificate"):
        run_node(connection, lambda _action, _body: b"", threading.Event())


def test_coordinator_itself_says_nothing_to_a_connection_without_a_certificate(spoilt):
    settings = load_node_settings(spoilt / MEMBER / "node.toml")
    host, _, port = settings.coordinator.address.rpartition(":")

    def first_byte(context):
        with (
            closing(socket.create_connection((host, int(port)), timeout=PATIENCE_S)) as plain,
            closing(context.wrap_socket(plain, server_hostname=host)) as tls,
        ):
            try:
                tls.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return tls.recv(1)
            except (ssl.SSLError, ConnectionError):  # with TLS 1.3 a refusal comes after the client's handshake
                return b""

    nobody = ssl.create_default_context(cafile=settings.coordinator.ca_certificate_path)
    member = ssl.create_default_context(cafile=settings.coordinator.ca_certificate_path)
    member.load_cert_chain(settings.tls.certificate_path, settings.tls.key_path)
    assert first_byte(nobody) == b""
    assert first_byte(member) == b"H"
