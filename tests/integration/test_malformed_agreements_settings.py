"""Malformed settings, policies, keys and certificate requests, each through the command line: one clear sentence.

The agreements themselves are in `test_malformed_agreements.py`.
"""

import copy
import datetime as dt

import pytest
import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, NameOID

from coordinator.certificates import admit, load_authority
from nodes.identity import certificate_request, create_or_load_identity
from policies.agreement import load_agreement
from policies.key_files import load_identity_key, private_pem
from policies.presets import example_agreement
from policies.signatures import sign_agreement
from policies.tls_binding import sign_tls_key
from tallystick.__main__ import main

MEMBERS = ("bank-a", "bank-b", "bank-c")
NODE = {
    "format": "tallystick-node/1",
    "member_id": "bank-a",
    "agreement_path": "../agreement.toml",
    "policy_path": "policy.toml",
    "state_dir": "state",
    "identity_key_path": "keys/identity.pem",
    "log_level": "info",
    "coordinator": {"address": "localhost:8443", "ca_certificate_path": "keys/consortium-ca.crt"},
    "tls": {"certificate_path": "keys/bank-a.crt", "key_path": "keys/tls.pem"},
    "source": {"kind": "csv", "path": "rows.csv"},
}
SQL = {"kind": "sql", "query": "select * from loans"}
COORDINATOR = {
    "format": "tallystick-coordinator/1",
    "agreement_path": "../agreement.toml",
    "state_dir": "state",
    "identity_key_path": "keys/identity.pem",
    "listen_host": "127.0.0.1",
    "fleet_port": 0,
    "members_dir": "members",
    "tls": {
        "certificate_path": "keys/server.crt",
        "key_path": "keys/server.pem",
        "ca_certificate_path": "keys/consortium-ca.crt",
    },
}
POLICY = {
    "format": "tallystick-node-policy/1",
    "tasks": ["credit"],
    "purposes": ["credit-model-training"],
    "methods": ["newton"],
    "min_cohort": 3,
    "max_rounds": 20,
}
SECRET = "hunter2"


@pytest.fixture(scope="module")
def consortium(tmp_path_factory):
    """A coordinator and one node that lack nothing; tests damage a single file at a time, and put it back."""
    root = tmp_path_factory.mktemp("consortium")
    assert main(["coordinator", "init", "--folder", str(root / "co"), "--host", "localhost", "--port", "0"]) == 0
    keys = {}
    for member in MEMBERS:
        assert main(["node", "init", "--member", member, "--folder", str(root / member)]) == 0
        keys[member] = load_identity_key(root / member / "keys" / "identity.pem")
    operator = load_identity_key(root / "co" / "keys" / "identity.pem")
    agreement = example_agreement(
        {member: key.public_key().public_bytes_raw() for member, key in keys.items()},
        coordinator_key=operator.public_key().public_bytes_raw(),
    )
    path = root / "agreement.toml"
    path.write_text(tomli_w.dumps(agreement.model_dump(mode="json")))
    for signer, key in [*keys.items(), ("coordinator", operator)]:
        sign_agreement(agreement, path, signer, key)
    (root / "co" / "coordinator.toml").write_text(tomli_w.dumps(COORDINATOR))
    (root / "bank-a" / "node.toml").write_text(tomli_w.dumps(NODE))
    (root / "bank-a" / "policy.toml").write_text(tomli_w.dumps(POLICY))
    assert main(["coordinator", "admit", str(root / "bank-a/bank-a.csr"), "--settings", _settings(root)]) == 0
    for source in ("co/members/bank-a.crt", "co/keys/consortium-ca.crt"):
        (root / "bank-a" / "keys" / source.rpartition("/")[2]).write_bytes((root / source).read_bytes())
    assert main(["node", "status", "--settings", str(root / "bank-a/node.toml")]) == 0
    return root


def _settings(root):
    return str(root / "co" / "coordinator.toml")


@pytest.fixture
def damaged(consortium, capsys):
    """Writes these bytes to one file, runs a verb, restores the file, and returns the one sentence."""

    def run(name, content, verb=("node", "run", "--settings", "bank-a/node.toml")):
        path = consortium / name
        before, mode = path.read_bytes(), path.stat().st_mode
        capsys.readouterr()
        try:
            path.write_bytes(content)
            code = main([str(consortium / word) if "/" in word else word for word in verb])
        finally:
            path.write_bytes(before)
            path.chmod(mode)
        return one_sentence(code, capsys)

    return run


def one_sentence(code, capsys):
    captured = capsys.readouterr()
    assert code in {1, 2}
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("Error: ")
    assert captured.err.endswith(".\n")
    assert captured.err.strip().isprintable()
    assert "Traceback" not in captured.err
    assert "a bug of its own" not in captured.err
    assert SECRET not in captured.err
    assert len(captured.err) < 900
    return captured.err


def _changed(good, path, value):
    data = copy.deepcopy(good)
    table, _, key = path.rpartition(".")
    parent = data[table] if table else data
    if value is ...:
        del parent[key]
    else:
        parent[key] = value
    return tomli_w.dumps(data).encode()


def _leaves(good, optional=()):
    return [
        path
        for key, value in good.items()
        for path in ([f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key])
        if path not in optional
    ]


@pytest.mark.parametrize("leaf", [*_leaves(NODE, optional=("log_level",)), "coordinator", "tls", "source"])
def test_node_settings_without_a_required_key_are_refused_by_its_name(damaged, leaf):
    sentence = damaged("bank-a/node.toml", _changed(NODE, leaf, ...))
    assert leaf.rpartition(".")[2] in sentence
    assert "missing" in sentence


@pytest.mark.parametrize("leaf", [*_leaves(NODE), "coordinator", "tls", "source"])
@pytest.mark.parametrize("value", [7, ["x"], True], ids=["number", "list", "truth"])
def test_node_settings_with_a_value_of_the_wrong_type_are_refused_by_its_name(damaged, leaf, value):
    assert leaf.rpartition(".")[2] in damaged("bank-a/node.toml", _changed(NODE, leaf, value))


NODE_VALUES = [
    ("member_id", "Bank A"),
    ("member_id", "bank-z"),
    ("format", "tallystick-node/0"),
    ("log_level", "loud"),
    ("password", SECRET),
    ("source.password", SECRET),
    ("coordinator.address", "localhost"),
    ("coordinator.address", "localhost:0"),
    ("coordinator.address", "localhost:65536"),
    ("coordinator.address", "localhost:-1"),
    ("coordinator.address", "localhost:８４４３"),
    ("coordinator.address", "https://localhost:8443"),
    ("coordinator.address", f"me:{SECRET}@localhost:8443"),
    ("coordinator.address", "::1:8443"),
    ("coordinator.address", "[::1]"),
    ("coordinator.address", "[localhost]:8443"),
    ("coordinator.address", "two words:8443"),
    ("coordinator.address", ":8443"),
    ("coordinator.address", "x" * 400 + ":1"),
    ("agreement_path", "absent.toml"),
    ("agreement_path", "state"),
    ("agreement_path", "a\x00b"),
    ("policy_path", "absent.toml"),
    ("policy_path", "keys"),
    ("identity_key_path", "absent.pem"),
    ("identity_key_path", "keys/tls.pem"),
    ("identity_key_path", "keys/bank-a.crt"),
    ("identity_key_path", "../bank-b/keys/identity.pem"),
    ("identity_key_path", "\x1b[31m"),
    ("tls.key_path", "keys/identity.pem"),
    ("tls.key_path", "../bank-b/keys/tls.pem"),
    ("tls.certificate_path", "absent.crt"),
    ("tls.certificate_path", "keys/identity.pem"),
    ("tls.certificate_path", "keys/consortium-ca.crt"),
    ("coordinator.ca_certificate_path", "absent.crt"),
    ("coordinator.ca_certificate_path", "keys/bank-a.crt"),
    ("state_dir", "rows\n"),
    ("source", {"kind": "excel", "path": "rows.xlsx"}),
    ("source", {"path": "rows.csv"}),
    ("source", {"kind": "csv"}),
    ("source", {"kind": "csv", "path": "rows.csv", "query": "select 1"}),
    ("source", {"kind": "parquet", "path": 5}),
    ("source", {"kind": "sql"}),
    ("source", SQL),
    ("source", SQL | {"query": "", "url_env": "URL"}),
    ("source", SQL | {"url": "sqlite:///a.db", "url_env": "URL"}),
    ("source", SQL | {"url_env": "not a variable"}),
    ("source", SQL | {"url_env": 5}),
    ("source", SQL | {"url": 5}),
    ("source", SQL | {"url": f"postgresql://me:{SECRET}@db/loans"}),
    ("source", SQL | {"url": f"postgresql://db/loans?password={SECRET}"}),
    ("source", SQL | {"url": f"postgresql://me:{SECRET}@[db/loans"}),
    ("source", SQL | {"url": [SECRET]}),
]


@pytest.mark.parametrize(("leaf", "value"), NODE_VALUES)
def test_node_settings_with_an_impossible_value_are_refused(damaged, leaf, value):
    damaged("bank-a/node.toml", _changed(NODE, leaf, value))


GOOD_NODE = tomli_w.dumps(NODE).encode()
FILES = {
    "empty": b"",
    "binary": bytes(range(256)),
    "byte-order mark": b"\xef\xbb\xbf" + GOOD_NODE,
    "utf-16": GOOD_NODE.decode().encode("utf-16"),
    "2 MiB": GOOD_NODE + b"#" * (2 << 20),
    "cut": GOOD_NODE[: len(GOOD_NODE) // 2],
    "deep": b"x = " + b"[" * 100_000,
    "endless key": b".".join([b"a"] * 100_000) + b" = 1",
    "a key twice": GOOD_NODE + b'\n[tls]\nkey_path = "x"\n',
    "xml": b"<settings/>",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
@pytest.mark.parametrize(
    ("name", "verb"),
    [
        ("bank-a/node.toml", ("node", "run", "--settings", "bank-a/node.toml")),
        ("bank-a/node.toml", ("node", "status", "--settings", "bank-a/node.toml")),
        ("bank-a/policy.toml", ("node", "run", "--settings", "bank-a/node.toml")),
        ("co/coordinator.toml", ("coordinator", "run", "--settings", "co/coordinator.toml")),
        ("co/coordinator.toml", ("coordinator", "admit", "bank-a/bank-a.csr", "--settings", "co/coordinator.toml")),
    ],
    ids=["node run", "node status", "policy", "coordinator run", "coordinator admit"],
)
def test_settings_file_that_is_none_is_refused_by_its_name(damaged, name, verb, content):
    assert name in damaged(name, content, verb)


@pytest.mark.parametrize("leaf", _leaves(POLICY))
def test_policy_without_a_required_key_is_refused_by_its_name(damaged, leaf):
    assert leaf in damaged("bank-a/policy.toml", _changed(POLICY, leaf, ...))


@pytest.mark.parametrize(
    ("leaf", "value"),
    [
        ("tasks", "credit"),
        ("tasks", ["Credit"]),
        ("purposes", [5]),
        ("methods", ["sgd"]),
        ("min_cohort", 2),
        ("min_cohort", "3"),
        ("min_cohort", 3.0),
        ("max_rounds", 0),
        ("max_rounds", -5),
        ("require_sealing", "no"),
        ("require_sealing", 0),
        ("auto_cosign", 1),
        ("allow_everything", True),
    ],
)
def test_policy_with_an_impossible_value_is_refused(damaged, leaf, value):
    assert leaf in damaged("bank-a/policy.toml", _changed(POLICY, leaf, value))


RUN_COORDINATOR = ("coordinator", "run", "--settings", "co/coordinator.toml")


@pytest.mark.parametrize("leaf", [*_leaves(COORDINATOR), "tls"])
def test_coordinator_settings_without_a_required_key_are_refused_by_its_name(damaged, leaf):
    content = _changed(COORDINATOR, leaf, ...)
    assert leaf.rpartition(".")[2] in damaged("co/coordinator.toml", content, RUN_COORDINATOR)


@pytest.mark.parametrize(
    ("leaf", "value"),
    [
        ("listen_host", "localhost:8443"),
        ("listen_host", "a host"),
        ("listen_host", ""),
        ("fleet_port", -1),
        ("fleet_port", 65536),
        ("fleet_port", "8443"),
        ("fleet_port", 8443.5),
        ("step_deadline_s", 0),
        ("step_deadline_s", -60.0),
        ("step_deadline_s", float("inf")),
        ("step_deadline_s", "60s"),
        ("step_deadline_ms", 60000),
        ("mlflow_tracking_uri", f"postgresql://me:{SECRET}@db/mlflow"),
        ("mlflow_tracking_uri", ""),
        ("identity_key_path", "keys/server.pem"),
        ("identity_key_path", "../bank-a/keys/identity.pem"),
        ("agreement_path", "absent.toml"),
        ("tls.key_path", "keys/server.crt"),
        ("tls.certificate_path", "absent.crt"),
        ("tls.ca_certificate_path", "absent.crt"),
    ],
)
def test_coordinator_settings_with_an_impossible_value_are_refused(damaged, leaf, value):
    damaged("co/coordinator.toml", _changed(COORDINATOR, leaf, value), RUN_COORDINATOR)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"junk",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        bytes(range(256)),
        b"x" * (2 << 20),
    ],
    ids=["empty", "text", "broken pem", "binary", "2 MiB"],
)
@pytest.mark.parametrize("key", ["identity.pem", "tls.pem"])
def test_key_file_that_is_none_is_refused_by_its_name(damaged, key, content):
    assert key in damaged(f"bank-a/keys/{key}", content)


@pytest.mark.parametrize("content", [b"", b"junk", bytes(range(256))], ids=["empty", "text", "binary"])
@pytest.mark.parametrize("name", ["bank-a.crt", "consortium-ca.crt"])
def test_certificate_that_is_none_is_refused_by_its_name(damaged, name, content):
    assert name in damaged(f"bank-a/keys/{name}", content)


def test_certificate_of_a_foreign_authority_is_refused(damaged, consortium, tmp_path):
    assert main(["coordinator", "init", "--folder", str(tmp_path / "co"), "--host", "localhost"]) == 0
    foreign = (tmp_path / "co" / "keys" / "consortium-ca.crt").read_bytes()
    assert "authority" in damaged("bank-a/keys/consortium-ca.crt", foreign)


def test_certificate_that_has_ended_is_refused(damaged, consortium):
    keys = consortium / "co" / "keys"
    authority = load_authority(keys / "consortium-ca.crt", keys / "consortium-ca.pem")
    request = (consortium / "bank-a" / "bank-a.csr").read_bytes()
    long_ago = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    _, certificate = admit(authority, load_agreement(consortium / "agreement.toml"), request, long_ago)
    assert "2020-12-31" in damaged("bank-a/keys/bank-a.crt", certificate)


def _request(key, names, binding=None):
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    )
    if binding is not None:
        builder = builder.add_attribute(AttributeOID.UNSTRUCTURED_NAME, binding)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _tampered(request):
    """The request with the last byte of its signature changed."""
    der = bytearray(x509.load_pem_x509_csr(request).public_bytes(Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)


def _bad_requests(consortium, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    stranger = Ed25519PrivateKey.generate()
    own = create_or_load_identity(consortium / "bank-a" / "keys")
    good = certificate_request(own, "bank-a")
    return {
        "empty": b"",
        "junk": b"junk",
        "a certificate": (consortium / "co/members/bank-a.crt").read_bytes(),
        "a private key": private_pem(key),
        "2 MiB": good + b"\n" * (2 << 20),
        "a changed signature": _tampered(good),
        "no signature of an identity": _request(key, ["bank-a"]),
        "an identity's signature that is no base64": _request(key, ["bank-a"], b"not base64 !"),
        "a stranger's identity": _request(key, ["bank-a"], sign_tls_key(stranger, "bank-a", key.public_key())),
        "another member's identity": certificate_request(
            create_or_load_identity(consortium / "bank-b" / "keys"), "bank-a"
        ),
        "another TLS key": _request(
            key, ["bank-a"], sign_tls_key(own.identity_key, "bank-a", own.tls_key.public_key())
        ),
        "a member that is not in the agreement": certificate_request(create_or_load_identity(tmp_path / "k"), "bank-z"),
        "two names": _request(own.tls_key, ["bank-a", "bank-b"]),
        "no name": _request(own.tls_key, []),
        "the coordinator's name": _request(own.tls_key, ["coordinator"]),
        "a P-384 key": _request(ec.generate_private_key(ec.SECP384R1()), ["bank-a"]),
        "an RSA key": _request(rsa.generate_private_key(65537, 2048), ["bank-a"]),
    }


def test_certificate_request_that_is_not_a_members_own_is_refused(consortium, capsys, tmp_path):
    before = sorted(path.name for path in (consortium / "co/members").iterdir())
    capsys.readouterr()
    for name, content in _bad_requests(consortium, tmp_path).items():
        path = tmp_path / "request.csr"
        path.write_bytes(content)
        sentence = one_sentence(main(["coordinator", "admit", str(path), "--settings", _settings(consortium)]), capsys)
        assert "expected" in sentence, name
    assert sorted(path.name for path in (consortium / "co/members").iterdir()) == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
@pytest.mark.parametrize("key", ["identity.pem", "tls.pem"])
def test_key_that_others_can_read_is_refused_with_the_mode_to_set(consortium, capsys, key, mode):
    path = consortium / "bank-a" / "keys" / key
    capsys.readouterr()
    path.chmod(mode)
    try:
        sentence = one_sentence(main(["node", "run", "--settings", str(consortium / "bank-a/node.toml")]), capsys)
    finally:
        path.chmod(0o600)
    assert "0600" in sentence


@pytest.mark.parametrize(
    "options",
    [
        ["--member", "Bank A"],
        ["--member", ""],
        ["--member", "bank-a", "--coordinator", "nowhere"],
        ["--member", "bank-a", "--agreement", "absent.toml"],
        ["--member", "bank-a", "--source", "excel"],
        [],
    ],
)
def test_node_init_with_impossible_options_is_refused_and_writes_nothing(tmp_path, capsys, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    one_sentence(main(["node", "init", *options]), capsys)
    assert list(tmp_path.iterdir()) == []
