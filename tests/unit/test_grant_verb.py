"""`tallystick grant`: keys, grants, revocations, and what is refused."""

import json
import stat

import pytest
import tomli_w

from nodes.entity_tokens import EntityTokens
from policies.grant_files import read_grant, read_revocations
from policies.token_key import load_token_key
from protos.sealed_sum.keys import SigningKey
from simulations.roles import agreement_of_roles
from tallystick.__main__ import main

ROLES = {"bank-a": "bank", "bank-b": "bank", "payment-a": "payment", "logistics-a": "logistics"}
PURPOSE = "credit-model-training"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with an agreement, keys and identifiers, in which the verbs run."""
    monkeypatch.chdir(tmp_path)
    keys = {member: SigningKey.from_bytes(bytes([n]) * 32).public_bytes for n, member in enumerate(sorted(ROLES), 1)}
    agreement = agreement_of_roles(ROLES, keys, SigningKey.from_bytes(bytes([9]) * 32).public_bytes, id_type="code")
    (tmp_path / "agreement.toml").write_text(tomli_w.dumps(agreement.model_dump(mode="json")))
    (tmp_path / "ids.txt").write_text("GB 001\ngb-002\n\nGB001\n")
    assert main(["grant", "new-key", "--token", "token.key", "--issuer", "issuer.pem"]) == 0
    return tmp_path


def issue(*more, out="g.grant", rows="ids.txt"):
    fixed = ["--agreement", "agreement.toml", "--in", rows, "--purpose", PURPOSE, "--out", out]
    return main(["grant", "issue", *fixed, "--issuer-key", "issuer.pem", "--token-key", "token.key", *more])


def revoke(*names):
    return main(["grant", "revoke", *names, "--issuer-key", "issuer.pem", "--list", "void.revocations"])


def only_sentence(capsys):
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("verb", ["new-key", "issue", "revoke", "show"])
def test_help_of_every_verb_gives_an_example(capsys, verb):
    assert main(["grant", verb, "--help"]) == 0
    assert f"Example: tallystick grant {verb}" in " ".join(capsys.readouterr().out.split())


def test_new_keys_are_private_and_never_shown_or_overwritten(place, capsys):
    assert main(["grant", "new-key", "--token", "new.key", "--issuer", "new.pem"]) == 0
    out = capsys.readouterr().out
    assert stat.S_IMODE((place / "new.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((place / "new.pem").stat().st_mode) == 0o600
    assert (place / "new.key").read_text().strip() not in out
    assert load_token_key(place / "new.key").check_value in out
    assert main(["grant", "new-key", "--token", "token.key"]) == 1
    assert "never overwritten" in only_sentence(capsys)


def test_issued_grant_covers_the_tokens_of_every_identifier_once(place, capsys):
    capsys.readouterr()
    assert issue("--days", "30", "--id", "seller-7", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    grant = read_grant(place / "g.grant")
    tokens = EntityTokens(load_token_key(place / "token.key"), "code").of(["gb001", "GB-002"])

    assert grant.places.keys() == set(tokens)
    assert facts["entities"] == 2
    assert facts["repeated"] == 1
    assert facts["grant"] == grant.grant_id == "seller-7"
    assert grant.roles == ("bank", "logistics", "payment")
    assert grant.expires_s - grant.not_before_s == 30 * 86_400


def test_c10_grant_names_who_answers_and_only_the_token_key_reads_it(place):
    assert issue("--answers", "bank=bank-b") == 0
    grant, key = read_grant(place / "g.grant"), load_token_key(place / "token.key")
    tokens = list(grant.places)

    assert b"bank-b" not in (place / "g.grant").read_bytes()
    assert grant.answered_by("bank", "bank-b", tokens, key) == [True, True]
    assert grant.answered_by("bank", "bank-a", tokens, key) == [False, False]
    assert grant.answered_by("payment", "payment-a", tokens, key) == [True, True]


def test_identifiers_of_a_csv_are_taken_from_the_named_column(place):
    (place / "rows.csv").write_text("seller,x\nGB 7,1\nGB 8,2\n")
    assert issue("--id-column", "seller", rows="rows.csv") == 0
    tokens = EntityTokens(load_token_key(place / "token.key"), "code").of(["GB7", "GB8"])
    assert read_grant(place / "g.grant").places.keys() == set(tokens)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--purpose", "marketing"], "expected a purpose of the agreement (credit-model-training)"),
        (["--role", "insurer"], "expected a role of the agreement"),
        (["--answers", "bank=payment-a"], "expected role=member"),
        (["--answers", "bank"], "expected role=member"),
        (["--days", "0"], "'--days'"),
    ],
)
def test_wrong_option_is_one_sentence_and_nothing_is_written(place, capsys, more, sentence):
    capsys.readouterr()
    assert issue(*more) == 2
    assert sentence in only_sentence(capsys)
    assert not (place / "g.grant").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"GB 1\n???\n", "found 1 that are none (the first is number 2)"),
        (b"\n", "expected 1 to 100000 different entities, found 0"),
        (b"\xff\n", "expected identifiers in UTF-8"),
    ],
)
def test_identifiers_that_are_none_are_refused_without_being_shown(place, capsys, content, sentence):
    (place / "ids.txt").write_bytes(content)
    capsys.readouterr()
    assert issue() == 1
    err = only_sentence(capsys)
    assert sentence in err
    assert "???" not in err


def test_token_key_that_others_can_read_is_refused(place, capsys):
    (place / "token.key").chmod(0o640)
    capsys.readouterr()
    assert issue() == 1
    assert "chmod 0600" in only_sentence(capsys)


def test_token_key_of_another_form_is_refused_without_being_shown(place, capsys):
    (place / "token.key").write_text("f" * 63)
    capsys.readouterr()
    assert issue() == 1
    err = only_sentence(capsys)
    assert "64 hexadecimal digits" in err
    assert "ffff" not in err


def test_revocation_list_grows_by_versions_and_shows_a_grant_as_revoked(place, capsys):
    assert issue("--id", "one") == issue("--id", "two", out="h.grant") == 0
    assert revoke("one") == revoke("h.grant", "three") == 0
    _, listed = read_revocations(place / "void.revocations")
    assert (listed.version, listed.grant_ids) == (2, {"one", "two", "three"})

    capsys.readouterr()
    assert main(["grant", "show", "g.grant", "--list", "void.revocations", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["revoked"] is True
    assert shown["purposes"] == [PURPOSE]
    assert main(["grant", "show", "void.revocations"]) == 0
    assert "version" in capsys.readouterr().out


def test_list_of_another_issuer_is_neither_continued_nor_overwritten(place, capsys):
    assert revoke("one") == 0
    before = (place / "void.revocations").read_bytes()
    assert main(["grant", "new-key", "--issuer", "other.pem"]) == 0
    capsys.readouterr()
    options = ["--issuer-key", "other.pem", "--list", "void.revocations"]
    assert main(["grant", "revoke", "two", *options]) == 1
    assert "issuer" in only_sentence(capsys)
    assert (place / "void.revocations").read_bytes() == before


@pytest.mark.parametrize("place_of_byte", [0, 40, -1])
def test_changed_grant_is_not_shown(place, capsys, place_of_byte):
    assert issue() == 0
    content = bytearray((place / "g.grant").read_bytes())
    content[place_of_byte] ^= 1
    (place / "g.grant").write_bytes(bytes(content))
    capsys.readouterr()
    assert main(["grant", "show", "g.grant"]) == 1
    assert "g.grant: expected" in only_sentence(capsys)
