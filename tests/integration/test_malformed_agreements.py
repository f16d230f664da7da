"""Malformed agreements and signature files, each through the command line: one clear sentence, never a traceback."""

import copy
import json

import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policies.presets import example_agreement
from policies.signatures import sign_agreement, signatures_path
from tallystick.__main__ import main


def _key(number):
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


MEMBERS = {f"bank-{letter}": _key(number) for number, letter in enumerate("abcde", start=1)}
AGREEMENT = example_agreement(
    {member: key.public_key().public_bytes_raw() for member, key in MEMBERS.items()},
    coordinator_key=_key(9).public_key().public_bytes_raw(),
)
GOOD = AGREEMENT.model_dump(mode="json")
GOOD_TEXT = tomli_w.dumps(GOOD)
REQUIRED = {
    "": ("format", "name", "coordinator", "entities", "members", "features", "tasks", "model", "privacy", "release"),
    "coordinator": ("identity_key",),
    "entities": ("id_column", "holdout_key"),
    "members.0": ("id", "role", "identity_key"),
    "features.3": (
        "role",
        "name",
        "type",
        "unit",
        "low",
        "high",
        "monotone",
        "reason_code",
        "missing_allowed",
    ),
    "tasks.0": ("name", "label", "label_role", "horizon_months", "purposes"),
    "model": ("tower", "ridge", "smoothness"),
    "privacy": ("min_cohort", "min_survivors", "shamir_threshold"),
    "release": ("policy",),
}
TABLES = [table for table in REQUIRED if table]


def _walk(data, path):
    for part in filter(None, path.split(".")):
        data = data[int(part)] if part.isdigit() else data[part]
    return data


def _changed(path, value):
    """The good agreement with one value replaced (or removed, for `...`)."""
    data = copy.deepcopy(GOOD)
    table, _, key = path.rpartition(".")
    parent = _walk(data, table)
    key = int(key) if key.isdigit() else key
    if value is ...:
        del parent[key]
    else:
        parent[key] = value
    return tomli_w.dumps(data).encode()


def _wrong_type(value):
    if isinstance(value, bool):
        return "yes"
    if isinstance(value, int | float):
        return "12"
    if isinstance(value, str):
        return 5
    return "not a table"


LEAVES = [f"{table}.{key}".strip(".") for table, keys in REQUIRED.items() for key in keys]
OPTIONAL_LEAVES = [
    "entities.holdout_percent",
    "model.bins",
    "model.hidden_units",
    "model.pdo_points",
    "model.base_points",
    "model.base_odds",
    "privacy.max_colluders",
    "privacy.min_cell_count",
    "privacy.min_rows_per_column",
    "privacy.allow_roster_change",
]
SMALL_ORDER_KEY = "ed25519:" + "A" * 43 + "="
BAD_VALUES = [
    ("format", "tallystick-agreement/2"),
    ("name", ""),
    ("name", "two\nlines"),
    ("name", "x" * 500),
    ("coordinator.identity_key", GOOD["members"][0]["identity_key"]),
    ("coordinator.identity_key", "rsa:AAAA"),
    ("members.1.id", "bank-a"),
    ("members.1.id", "Bank B"),
    ("members.1.id", "b"),
    ("members.1.id", "coordinator"),
    ("members.1.id", "bank-" + "b" * 60),
    ("members.1.id", "bank-b\n"),
    ("members.1.id", "bánk"),
    ("members.1.role", ""),
    ("members.1.identity_key", GOOD["members"][0]["identity_key"]),
    ("members.1.identity_key", "ed25519:"),
    ("members.1.identity_key", "ed25519:not base64!"),
    ("members.1.identity_key", "ed25519:" + "QUJD"),
    ("members.1.identity_key", GOOD["members"][1]["identity_key"] + "\n"),
    ("members.1.identity_key", GOOD["members"][1]["identity_key"].rstrip("=")),
    ("members.1.identity_key", SMALL_ORDER_KEY),
    ("members", GOOD["members"][:2]),
    ("members", []),
    ("members", [1, 2, 3]),
    ("features", []),
    ("features.0.role", "insurer"),
    ("features.0.name", GOOD["features"][1]["name"]),
    ("features.0.name", "Age"),
    ("features.0.name", "serious_delinquency"),
    ("features.0.name", "entity_id"),
    ("features.0.type", "text"),
    ("features.0.low", 1e6),
    ("features.0.low", float("nan")),
    ("features.0.high", float("inf")),
    ("features.0.high", 10**400),
    ("features.0.monotone", "up"),
    ("features.0.reason_code", "lower case"),
    ("features.0.unit", ""),
    ("features.1.low", 0.5),
    ("tasks", []),
    ("tasks.0.label_role", "insurer"),
    ("tasks.0.label", "age"),
    ("tasks.0.label", "entity_id"),
    ("tasks.0.horizon_months", 0),
    ("tasks.0.horizon_months", -12),
    ("tasks.0.horizon_months", 12.5),
    ("tasks.0.purposes", []),
    ("tasks.0.purposes", ["a", "a"]),
    ("tasks.0.purposes", ["Any Purpose"]),
    ("tasks", [GOOD["tasks"][0], GOOD["tasks"][0]]),
    ("model.tower", "forest"),
    ("model.tower", "neural"),
    ("model.hidden_units", [32]),
    ("model.hidden_units", [0]),
    ("model.bins", 1),
    ("model.ridge", -1.0),
    ("model.pdo_points", 0.0),
    ("model.base_odds", -50.0),
    ("privacy.min_cohort", 2),
    ("privacy.min_cohort", 6),
    ("privacy.min_cohort", -3),
    ("privacy.max_colluders", -1),
    ("privacy.max_colluders", 4),
    ("privacy.min_survivors", 3),
    ("privacy.min_survivors", 6),
    ("privacy.min_survivors", 2**70),
    ("privacy.shamir_threshold", 1),
    ("privacy.shamir_threshold", 2),
    ("privacy.shamir_threshold", 4),
    ("privacy.shamir_threshold", 0),
    ("privacy.min_cell_count", 0),
    ("privacy.min_rows_per_column", -50),
    ("release.policy", "everybody"),
    ("entities.holdout_percent", 0),
    ("entities.holdout_percent", 100),
    ("entities.holdout_key", "00"),
    ("entities.holdout_key", "Z" * 64),
    ("entities.id_column", "age"),
]

FILES = {
    "empty": b"",
    "white space": b"\n\n  \n",
    "binary": bytes(range(256)) * 8,
    "byte-order mark": b"\xef\xbb\xbf" + GOOD_TEXT.encode(),
    "utf-16": GOOD_TEXT.encode("utf-16"),
    "latin-1": GOOD_TEXT.replace("Give Me", "Gib Möhre").encode("latin-1"),
    "null bytes": GOOD_TEXT.encode().replace(b"bank", b"ba\x00k", 1),
    "2 MiB": GOOD_TEXT.encode() + b"# padding\n" * 200_000,
    "cut in a string": GOOD_TEXT.encode()[:40],
    "cut at a quarter": GOOD_TEXT.encode()[: len(GOOD_TEXT) // 4],
    "cut in the middle": GOOD_TEXT.encode()[: len(GOOD_TEXT) // 2],
    "cut near the end": GOOD_TEXT.encode()[:-60],
    "json instead": json.dumps(GOOD).encode(),
    "a list": b"[1, 2, 3]",
    "a key twice": GOOD_TEXT.encode() + b'\n[release]\npolicy = "platform"\n',
    "deep lists": b"x = " + b"[" * 200_000,
    "closed deep lists": b"x = " + b"[" * 300 + b"]" * 300,
    "an endless dotted key": b".".join([b"a"] * 100_000) + b" = 1",
    "an endless quoted dotted key": b".".join([b'"a"'] * 50_000) + b" = 1",
    "a number of 5,000 digits": b"x = " + b"9" * 5_000,
    "a date": b"format = 2026-11-23",
    "a control character in a key": b'"a\\u001b[31m" = 1\n' + GOOD_TEXT.encode(),
    "an unknown key of many lines": b'"a\\nb" = 1\n' + GOOD_TEXT.encode(),
    "a python pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtin\x94.",
}


@pytest.fixture
def refused(tmp_path, capsys):
    """Runs `agreement show` on these bytes and returns the one sentence that it prints."""

    def run(content, *, name="agreement.toml", verb="show"):
        path = tmp_path / name
        path.write_bytes(content)
        code = main(["agreement", verb, str(path)])
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
    assert "pydantic" not in captured.err
    assert len(captured.err) < 900
    return captured.err


def test_the_agreement_that_all_cases_start_from_is_good(tmp_path, capsys):
    path = tmp_path / "agreement.toml"
    path.write_text(GOOD_TEXT)
    assert main(["agreement", "show", str(path)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("leaf", LEAVES)
def test_agreement_without_a_required_key_is_refused_by_its_name(refused, leaf):
    sentence = refused(_changed(leaf, ...))
    assert leaf.rpartition(".")[2] in sentence
    assert "missing" in sentence


@pytest.mark.parametrize("leaf", [*LEAVES, *OPTIONAL_LEAVES])
def test_agreement_with_a_value_of_the_wrong_type_is_refused_by_its_name(refused, leaf):
    sentence = refused(_changed(leaf, _wrong_type(_walk(GOOD, leaf))))
    assert leaf.rpartition(".")[2] in sentence
    assert "expected" in sentence


@pytest.mark.parametrize("table", TABLES)
def test_agreement_with_an_unknown_key_is_refused_without_repeating_its_value(refused, table):
    sentence = refused(_changed(f"{table}.password", "hunter2"))
    assert "password" in sentence
    assert "hunter2" not in sentence


@pytest.mark.parametrize(("leaf", "value"), BAD_VALUES)
def test_agreement_with_an_impossible_value_is_refused(refused, leaf, value):
    refused(_changed(leaf, value))


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_agreement_file_that_is_no_agreement_is_refused(refused, content):
    assert "agreement.toml" in refused(content)


@pytest.mark.parametrize("verb", ["show", "verify", "sign"])
def test_agreement_that_is_absent_or_a_folder_is_refused(tmp_path, capsys, verb):
    more = ["--key", str(tmp_path / "identity.pem")] if verb == "sign" else []
    for path in (tmp_path, tmp_path / "absent.toml", tmp_path / ("x" * 300), tmp_path / "a\nb.toml"):
        one_sentence(main(["agreement", verb, str(path), *more]), capsys)


SIGNATURE_FILES = {
    "empty": b"",
    "not json": b"bank-a: signature",
    "a list": b"[]",
    "numbers": b'{"bank-a": 5}',
    "nested": b'{"bank-a": {"signature": "AAAA"}}',
    "deep": b"[" * 200_000,
    "binary": bytes(range(256)),
    "2 MiB": b" " * (2 << 20),
    "a signer twice": b'{"bank-a": "AAAA", "bank-a": "BBBB"}',
    "a huge number": b"9" * 5_000,
}


@pytest.mark.parametrize("content", SIGNATURE_FILES.values(), ids=SIGNATURE_FILES)
def test_signature_file_that_is_none_is_refused(tmp_path, capsys, content):
    path = tmp_path / "agreement.toml"
    path.write_text(GOOD_TEXT)
    signatures_path(path).write_bytes(content)
    sentence = one_sentence(main(["agreement", "verify", str(path)]), capsys)
    assert "agreement.signatures.json" in sentence


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("", "wrong signature of bank-b"),
        ("AAAA", "wrong signature of bank-b"),
        ("not base64 ä", "wrong signature of bank-b"),
        ("A" * 86 + "==", "wrong signature of bank-b"),
        ("A" * 100_000, "wrong signature of bank-b"),
        (None, "no signature of bank-b"),
    ],
)
def test_signature_that_does_not_verify_is_named(tmp_path, capsys, entry, problem):
    path = _signed(tmp_path)
    entries = json.loads(signatures_path(path).read_text())
    if entry is None:
        del entries["bank-b"]
    else:
        entries["bank-b"] = entry
    signatures_path(path).write_text(json.dumps(entries))
    sentence = one_sentence(main(["agreement", "verify", str(path)]), capsys)
    assert problem in sentence
    assert "bank-a" not in sentence


def test_signature_of_a_stranger_is_named(tmp_path, capsys):
    path = _signed(tmp_path)
    entries = json.loads(signatures_path(path).read_text())
    signatures_path(path).write_text(json.dumps(entries | {"bank-z\n\x1b[31m": entries["bank-a"]}))
    assert "bank-z" in one_sentence(main(["agreement", "verify", str(path)]), capsys)


def _signed(folder):
    path = folder / "agreement.toml"
    path.write_text(GOOD_TEXT)
    for signer, key in [*MEMBERS.items(), ("coordinator", _key(9))]:
        sign_agreement(AGREEMENT, path, signer, key)
    return path


BAD_OPTIONS = {
    "no members": ["--example", "gmsc"],
    "two members": ["--members", "bank-a:bank,bank-b:bank", "--example", "gmsc"],
    "a member without a role": ["--members", "bank-a,bank-b,bank-c", "--example", "gmsc"],
    "a member twice": ["--members", "bank-a:bank,bank-a:bank,bank-c:bank", "--example", "gmsc"],
    "a role in capitals": ["--members", "bank-a:Bank,bank-b:Bank,bank-c:Bank", "--example", "gmsc"],
    "no contract": ["--members", "bank-a:bank,bank-b:bank,bank-c:bank"],
    "an unknown example": ["--members", "bank-a:bank,bank-b:bank,bank-c:bank", "--example", "kaggle"],
    "a key of nobody": [
        "--members", "bank-a:bank,bank-b:bank,bank-c:bank", "--example", "gmsc", "--key", "bank-z=ed25519:AAAA",
    ],
    "a broken key": [
        "--members", "bank-a:bank,bank-b:bank,bank-c:bank", "--example", "gmsc", "--key", "bank-a=AAAA",
    ],
    "too many colluders": [
        "--members", "bank-a:bank,bank-b:bank,bank-c:bank", "--example", "gmsc", "--max-colluders", "2",
    ],
    "a negative horizon": [
        "--members", "bank-a:bank,bank-b:bank,bank-c:bank", "--features", "contract.csv", "--horizon-months", "-1",
    ],
    "an absent contract": ["--members", "bank-a:bank,bank-b:bank,bank-c:bank", "--features", "absent.csv"],
    "a label role of nobody": [
        "--members", "bank-a:bank,bank-b:bank,bank-c:bank", "--example", "gmsc", "--label-role", "payment",
    ],
}  # fmt: skip


@pytest.mark.parametrize("options", BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_new_agreement_from_impossible_options_is_refused_and_nothing_is_written(
    tmp_path, capsys, monkeypatch, options
):
    monkeypatch.chdir(tmp_path)
    one_sentence(main(["agreement", "new", *options]), capsys)
    assert list(tmp_path.iterdir()) == []


HEADER = "role,name,type,unit,low,high,monotone,reason_code,missing_allowed\n"
CONTRACTS = {
    "empty": "",
    "another header": "name,role\n",
    "no feature": HEADER,
    "a short line": HEADER + "bank,age\n",
    "words for numbers": HEADER + "bank,age,integer,years,young,old,none,AGE,false\n",
    "low above high": HEADER + "bank,age,integer,years,120,0,none,AGE,false\n",
    "an unknown direction": HEADER + "bank,age,integer,years,0,120,down,AGE,false\n",
    "neither true nor false": HEADER + "bank,age,integer,years,0,120,none,AGE,perhaps\n",
    "an open quote": HEADER + '"bank,age,integer,years,0,120,none,AGE,false\n',
    "not finite": HEADER + "bank,age,number,years,0,inf,none,AGE,false\n",
}


@pytest.mark.parametrize("text", CONTRACTS.values(), ids=CONTRACTS)
def test_feature_contract_that_is_malformed_is_refused(tmp_path, capsys, text):
    contract = tmp_path / "contract.csv"
    contract.write_text(text)
    members = "bank-a:bank,bank-b:bank,bank-c:bank"
    out = tmp_path / "agreement.toml"
    code = main(["agreement", "new", "--members", members, "--features", str(contract), "--out", str(out)])
    one_sentence(code, capsys)
    assert not out.exists()
