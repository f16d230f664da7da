"""`agreement new` writes what `agreement show` reads, and a placeholder that nobody can overlook."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policies.agreement import ModelTerms, format_identity_key, parse_agreement
from policies.agreement_template import AgreementDraft, read_features, render_agreement
from policies.errors import AgreementRefused
from policies.presets import gmsc_features, gmsc_task, smallest_privacy_terms

NAMES = ("bank-a", "bank-b", "bank-c", "coordinator")
KEYS = {name: format_identity_key(Ed25519PrivateKey.generate().public_key().public_bytes_raw()) for name in NAMES}


def _draft(**changes):
    parts = {
        "name": 'A "quoted" name with \\ and ü',
        "members": [(name, "bank") for name in NAMES[:3]],
        "identity_keys": KEYS,
        "features": gmsc_features(),
        "tasks": (gmsc_task(),),
        "model": ModelTerms(tower="additive", ridge=1e-3, smoothness=1e-5),
        "privacy": smallest_privacy_terms(3),
        "release_policy": "members",
        "id_column": "id",
        "holdout_key": bytes(32),
    }
    return AgreementDraft(**parts | changes)


def test_rendered_draft_is_the_agreement_that_was_asked_for(tmp_path):
    draft = _draft()
    agreement = parse_agreement(render_agreement(draft).encode(), tmp_path)
    assert agreement.name == draft.name
    assert agreement.features == draft.features
    assert agreement.tasks == draft.tasks
    assert agreement.model == draft.model
    assert agreement.privacy == draft.privacy
    assert {member.id: member.identity_key for member in agreement.members} == {k: KEYS[k] for k in NAMES[:3]}


def test_draft_without_a_key_is_refused_until_the_placeholder_is_replaced(tmp_path):
    draft = _draft(identity_keys={name: KEYS[name] for name in NAMES if name != "bank-b"})
    text = render_agreement(draft)
    assert draft.missing_keys == ("bank-b",)
    with pytest.raises(AgreementRefused, match=r"members\[2\].identity_key"):
        parse_agreement(text.encode(), tmp_path)
    complete = text.replace("ed25519:REPLACE-WITH-THE-KEY-THAT-INIT-PRINTED", KEYS["bank-b"])
    assert parse_agreement(complete.encode(), tmp_path).member("bank-b").identity_key == KEYS["bank-b"]


def test_draft_that_does_not_hold_together_is_refused_before_it_is_written():
    with pytest.raises(AgreementRefused, match="privacy"):
        render_agreement(_draft(privacy=smallest_privacy_terms(3, max_colluders=2)))


def test_text_of_a_draft_cannot_smuggle_in_a_table(tmp_path):
    name = 'x"\n[release]\npolicy = "platform"'
    with pytest.raises(AgreementRefused, match="name: expected one line"):
        render_agreement(_draft(name=name))


def test_feature_contract_is_read_from_csv_as_a_spreadsheet_writes_it(tmp_path):
    path = tmp_path / "contract.csv"
    path.write_bytes(
        b"\xef\xbb\xbfrole,name,type,unit,low,high,monotone,reason_code,missing_allowed\r\n"
        b"bank,age,integer,years,0,120,none,AGE,FALSE\r\n"
        b'bank,income,number,"USD, monthly",0,1e7,decreasing,INCOME,true\r\n'
    )
    age, income = read_features(path)
    assert (age.name, age.high, age.missing_allowed) == ("age", 120.0, False)
    assert (income.unit, income.monotone, income.missing_allowed) == ("USD, monthly", "decreasing", True)
