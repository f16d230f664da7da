"""`tallystick serve` as a process: it answers over HTTP and over TLS, and stops when told."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).parents[3]


@pytest.fixture
def certificate(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "api.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "api.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return tmp_path / "api.crt", tmp_path / "api.key"


@pytest.mark.parametrize("with_tls", [False, True], ids=["http", "tls"])
def test_served_model_answers_until_it_is_told_to_stop(model_path, applicant, certificate, with_tls):
    chain, key = certificate
    arguments = ["serve", "--model", str(model_path.parent), "--port", "0"]
    if with_tls:
        arguments += ["--certificate", str(chain), "--key", str(key)]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "tallystick", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    ) as server:
        try:
            found = next(filter(None, (re.search(r"Serving on (https?://\S+)", line) for line in server.stdout)))
            context = ssl.create_default_context(cafile=chain)
            with httpx.Client(base_url=found[1], verify=context, trust_env=False) as client:
                health = client.get("/healthz")
                score = client.post("/v1/scores", json={"features": applicant})
        finally:
            server.send_signal(signal.SIGINT)
            server.stdout.read()

    assert found[1].startswith("https" if with_tls else "http:")
    assert health.json()["model_version"] == score.json()["model_version"]
    assert "server" not in health.headers
    assert server.returncode == 0


def serve(*arguments):
    return subprocess.run(
        [sys.executable, "-P", "-m", "tallystick", "serve", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )


def test_certificate_without_its_key_is_a_usage_error(model_path, certificate):
    done = serve("--model", model_path, "--certificate", certificate[0])

    assert done.returncode == 2
    assert "--certificate and --key go together" in done.stderr
    assert "Traceback" not in done.stderr


def test_key_that_does_not_fit_or_port_that_is_taken_is_one_sentence(model_path, certificate):
    chain, _ = certificate
    wrong_key = serve("--model", model_path, "--certificate", chain, "--key", chain)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wrong_port = serve("--model", model_path, "--port", taken.getsockname()[1])

    for done, says in ((wrong_key, "its own private key"), (wrong_port, "choose another with --host or --port")):
        assert done.returncode == 1
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
