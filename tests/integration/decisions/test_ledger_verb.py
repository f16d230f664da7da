"""`tallystick ledger` and `tallystick coordinator migrate` as their users type them."""

import json

import pytest
import sqlalchemy as sa
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.database.connection import parse_url, writing_engine
from coordinator.decisions.store import DecisionStore
from coordinator.ledger.checkpoints import Checkpointer
from coordinator.settings import load_coordinator_settings
from policies.key_files import load_identity_key
from policies.ledger_keys import ledger_keys
from policies.presets import example_agreement
from policies.signatures import sign_agreement
from protos.ledger.checkpoints import cosign
from tallystick.__main__ import main

IDENTITIES = {
    name: Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    for number, name in enumerate(("bank-a", "bank-b", "bank-c"), start=1)
}


@pytest.fixture
def settings(tmp_path, capsys, make_decision):
    """coordinator.toml of a consortium whose ledger has five decisions, witnessed by two of three members."""
    folder = tmp_path / "co"
    assert main(["coordinator", "init", "--folder", str(folder), "--host", "localhost"]) == 0
    operator = load_identity_key(folder / "keys" / "identity.pem")
    agreement = example_agreement(
        {name: key.public_key().public_bytes_raw() for name, key in IDENTITIES.items()},
        coordinator_key=operator.public_key().public_bytes_raw(),
    )
    path = folder / "agreement.toml"
    path.write_text(tomli_w.dumps(agreement.model_dump(mode="json")))
    for signer, key in {**IDENTITIES, "coordinator": operator}.items():
        sign_agreement(agreement, path, signer, key)
    loaded = load_coordinator_settings(folder / "coordinator.toml")
    keys = ledger_keys(agreement)
    store = DecisionStore.open(loaded.database_url, origin=keys.origin)
    store.commit_blocking(lambda writes: writes.add_tenant("acme", "Acme"))
    records = [make_decision(store, number) for number in range(5)]
    store.commit_blocking(lambda writes: [writes.add_decision(one) for one in records])
    signed = Checkpointer(store, operator, loaded.state_dir).newest()

    def witnessed(writes):
        writes.keep_checkpoint(signed.checkpoint.size, signed.checkpoint.root, signed.note.encode())
        for name in ("bank-a", "bank-b"):
            line = cosign(signed.note.text, 1_795_600_000, keys.witnesses[name], IDENTITIES[name])
            writes.keep_cosignature(signed.checkpoint.size, name, line.encode())

    store.commit_blocking(witnessed)
    store.commit_blocking(lambda writes: writes.add_decision(make_decision(store, 9)))
    store.close()
    capsys.readouterr()
    return folder / "coordinator.toml"


@pytest.fixture
def run(capsys):
    """Run the program: `run(*arguments)` -> (exit code, stdout, stderr)."""

    def one(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return one


@pytest.fixture
def exported(settings, run, tmp_path):
    file = tmp_path / "ledger.jsonl"
    assert run("ledger", "export", file, "--settings", settings)[0] == 0
    return file


def agreement_of(settings):
    return settings.with_name("agreement.toml")


def test_an_export_is_written_and_verified_offline(settings, exported, run):
    code, out, err = run("ledger", "verify", exported, "--agreement", agreement_of(settings))

    assert (code, err) == (0, "")
    assert "entries       6: 6 decision" in out
    assert "co-signed     5 entries, by bank-a, bank-b" in out
    assert "Every entry is what was signed." in out


def test_an_export_alone_says_that_its_keys_are_its_own(exported, run):
    code, out, _ = run("ledger", "verify", exported)

    assert code == 0
    assert "the file's own: give --agreement" in out


def test_an_altered_export_fails_with_the_entry_named(settings, exported, run):
    exported.write_bytes(exported.read_bytes().replace(b'"entry":3,', b'"entry":4,'))

    code, out, err = run("ledger", "verify", exported, "--agreement", agreement_of(settings))

    assert (code, out) == (1, "")
    assert "line 5, entry 3: expected entry 3, found 4" in err
    assert err.count("\n") == 1


def test_the_number_of_witnesses_can_be_demanded(settings, exported, run):
    assert run("ledger", "verify", exported, "--witnesses", 2)[0] == 0
    code, _, err = run("ledger", "verify", exported, "--witnesses", 3)
    assert (code, "3 members have co-signed, found 2 (bank-a, bank-b)" in err) == (1, True)
    code, _, err = run("ledger", "verify", "--settings", settings, "--witnesses", 3)
    assert (code, "found 2" in err) == (1, True)


def test_verify_writes_its_result_as_json(settings, exported, run):
    _, out, _ = run("ledger", "verify", exported, "--agreement", agreement_of(settings), "--json")
    report = json.loads(out)
    assert (report["entries"], report["cosigned_entries"], report["keys"]) == (6, 5, "agreement")
    assert sorted(report["witnesses"]) == ["bank-a", "bank-b"]

    _, out, _ = run("ledger", "verify", "--settings", settings, "--json")
    report = json.loads(out)
    assert (report["entries"], report["rows"], report["findings"], report["signatures"]) == (6, 6, [], "checked")


def test_stored_decisions_are_verified_and_an_altered_one_named(settings, run):
    code, out, _ = run("ledger", "verify", "--settings", settings)
    assert code == 0
    assert "Every stored decision is what the ledger says." in out
    loaded = load_coordinator_settings(settings)
    engine = writing_engine(parse_url(loaded.database_url))
    with engine.begin() as connection:
        connection.execute(sa.text("update decisions set amount = '1.00' where entry in (2, 4)"))
        victim = connection.execute(sa.text("select id from decisions where entry = 2")).scalar_one()
    engine.dispose()

    code, out, err = run("ledger", "verify", "--settings", settings)
    assert code == 1
    assert f"entry 2, decision {victim}: expected what the ledger commits to" in err
    assert "also          entry 4" in out
    code, out, err = run("ledger", "verify", "--database", loaded.database_url, "--json")
    assert code == 1
    assert [found["entry"] for found in json.loads(out)["findings"]] == [2, 4]


def test_a_database_without_an_agreement_is_checked_in_itself_and_says_so(settings, run):
    url = load_coordinator_settings(settings).database_url

    code, out, _ = run("ledger", "verify", "--database", url)
    assert (code, "signatures    not checked" in out) == (0, True)
    code, out, _ = run("ledger", "verify", "--database", url, "--agreement", agreement_of(settings))
    assert (code, "not checked" in out) == (0, False)


def test_the_ledger_is_shown(settings, run):
    _, out, _ = run("ledger", "show", "--settings", settings, "--last", 2)
    lines = out.splitlines()
    assert lines[1].split() == ["entries", "6"]
    assert [line.split()[0] for line in lines[3:]] == ["4", "5"]

    _, out, _ = run("ledger", "show", "--settings", settings, "--entry", 3, "--json")
    shown = json.loads(out)
    assert (shown["size"], [one["entry"] for one in shown["entries"]]) == (6, [3])
    assert run("ledger", "show", "--settings", settings, "--entry", 6)[0] == 1


def test_a_decision_is_proved_to_whoever_has_the_agreement(settings, run, tmp_path):
    loaded = load_coordinator_settings(settings)
    engine = writing_engine(parse_url(loaded.database_url))
    with engine.connect() as connection:
        decision = connection.execute(sa.text("select id from decisions where entry = 1")).scalar_one()
    engine.dispose()
    file = tmp_path / "proof.json"

    assert run("ledger", "proof", decision, "--settings", settings, "--out", file)[0] == 0
    code, out, err = run("ledger", "verify", file, "--agreement", agreement_of(settings), "--witnesses", 2)
    assert (code, err) == (0, "")
    assert f"decision      {decision}: approved" in out
    assert "entry         1 of 5: decision" in out

    file.write_text(file.read_text().replace("120000.50", "120000.51"))
    code, _, err = run("ledger", "verify", file, "--agreement", agreement_of(settings))
    assert (code, "found another" in err) == (1, True)
    code, out, _ = run("ledger", "proof", 5, "--settings", settings)
    assert "decision" not in json.loads(out)
    assert run("ledger", "proof", "dec-none", "--settings", settings)[0] == 1
    assert run("ledger", "verify", file)[0] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["ledger", "verify"], 2, "give a FILE, or --settings or --database"),
        (["ledger", "verify", "nowhere.jsonl"], 1, "cannot be read"),
        (["ledger", "verify", "--database", "sqlite:///nowhere.sqlite"], 1, "found no file"),
        (["ledger", "verify", "--database", "oracle://x"], 1, "expected sqlite:///PATH"),
        (["ledger", "show", "--settings", "nowhere.toml"], 1, "found nothing"),
    ],
)
def test_a_users_mistake_is_one_sentence(run, tmp_path, monkeypatch, arguments, code, expected):
    monkeypatch.chdir(tmp_path)

    found, _, err = run(*arguments)

    assert found == code
    assert expected in err
    assert err.count("\n") == 1


def test_an_export_that_cannot_be_finished_leaves_no_half_of_a_file(settings, run, tmp_path):
    engine = writing_engine(parse_url(load_coordinator_settings(settings).database_url))
    with engine.begin() as connection:
        connection.exec_driver_sql("drop trigger ledger_entries_no_update")
        connection.exec_driver_sql("update ledger_entries set body = '{}' where entry = 4")
    engine.dispose()

    code, _, err = run("ledger", "export", tmp_path / "ledger.jsonl", "--settings", settings)

    assert (code, "found a change behind entry 3" in err) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["co"]


def test_migrate_says_what_it_did_and_that_nothing_is_left_to_do(run, tmp_path):
    url = f"sqlite:///{tmp_path / 'new.sqlite'}"

    assert "schema none -> 0002." in run("coordinator", "migrate", "--database", url)[1]
    assert "has schema 0002 already." in run("coordinator", "migrate", "--database", url)[1]


def test_a_password_in_the_settings_is_refused_and_not_repeated(settings, run):
    settings.write_text('decisions_database_url = "postgresql://me:hunter2@db/x"\n' + settings.read_text())

    code, _, err = run("ledger", "show", "--settings", settings)

    assert (code, "PGPASSFILE" in err, "hunter2" in err) == (1, True, False)
