"""Signatures under an agreement: who signed, who did not, and what cannot be carried over."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policies.agreement import Agreement, agreement_hash
from policies.errors import AgreementRefused
from policies.presets import example_agreement
from policies.signatures import sign_agreement, signature_report, signatures_path, verify_signatures

KEYS = {name: Ed25519PrivateKey.generate() for name in ("bank-a", "bank-b", "bank-c", "coordinator")}
AGREEMENT = example_agreement(
    {name: key.public_key().public_bytes_raw() for name, key in KEYS.items() if name != "coordinator"},
    coordinator_key=KEYS["coordinator"].public_key().public_bytes_raw(),
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "agreement.toml"


def _sign_all(path, agreement=AGREEMENT):
    for signer, key in KEYS.items():
        sign_agreement(agreement, path, signer, key)


def test_agreement_signed_by_all_members_and_the_coordinator_verifies(path):
    _sign_all(path)
    verify_signatures(AGREEMENT, path)
    assert signature_report(AGREEMENT, path).valid == ("bank-a", "bank-b", "bank-c", "coordinator")


def test_agreement_nobody_signed_names_everybody(path):
    with pytest.raises(AgreementRefused, match="no signature of bank-a, bank-b, bank-c, coordinator"):
        verify_signatures(AGREEMENT, path)


@pytest.mark.parametrize("absent", list(KEYS))
def test_agreement_that_one_party_did_not_sign_names_it(path, absent):
    for signer in KEYS.keys() - {absent}:
        sign_agreement(AGREEMENT, path, signer, KEYS[signer])
    with pytest.raises(AgreementRefused, match=f"no signature of {absent};"):
        verify_signatures(AGREEMENT, path)


def test_signatures_of_an_earlier_version_do_not_hold_for_a_changed_one(path):
    _sign_all(path)
    changed = json.loads(AGREEMENT.model_dump_json())
    changed["privacy"]["min_cell_count"] = 1
    with pytest.raises(AgreementRefused, match="wrong signature of bank-a, bank-b, bank-c, coordinator"):
        verify_signatures(Agreement.model_validate_json(json.dumps(changed)), path)


def test_signature_of_one_member_does_not_hold_for_another(path):
    _sign_all(path)
    entries = json.loads(signatures_path(path).read_text())
    entries["bank-b"] = entries["bank-a"]
    signatures_path(path).write_text(json.dumps(entries))
    with pytest.raises(AgreementRefused, match="wrong signature of bank-b;"):
        verify_signatures(AGREEMENT, path)


def test_member_cannot_sign_with_another_members_key(path):
    with pytest.raises(AgreementRefused, match="expected the identity key that the agreement states for 'bank-a'"):
        sign_agreement(AGREEMENT, path, "bank-a", KEYS["bank-b"])
    assert not signatures_path(path).exists()


def test_stranger_cannot_sign(path):
    with pytest.raises(AgreementRefused, match="expected a member"):
        sign_agreement(AGREEMENT, path, "bank-z", Ed25519PrivateKey.generate())


def test_entry_of_a_stranger_is_refused_even_when_everybody_signed(path):
    _sign_all(path)
    entries = json.loads(signatures_path(path).read_text())
    signatures_path(path).write_text(json.dumps(entries | {"bank-z": entries["bank-a"]}))
    with pytest.raises(AgreementRefused, match="the unknown bank-z; remove"):
        verify_signatures(AGREEMENT, path)


def test_signing_twice_changes_nothing(path):
    _sign_all(path)
    before = signatures_path(path).read_text()
    _sign_all(path)
    assert signatures_path(path).read_text() == before


def test_signature_is_bound_to_its_domain(path):
    """A signature over the bare hash, as another protocol might ask a member for, is no signature of the agreement."""
    _sign_all(path)
    entries = json.loads(signatures_path(path).read_text())
    entries["bank-a"] = base64.b64encode(KEYS["bank-a"].sign(agreement_hash(AGREEMENT))).decode()
    signatures_path(path).write_text(json.dumps(entries))
    with pytest.raises(AgreementRefused, match="wrong signature of bank-a;"):
        verify_signatures(AGREEMENT, path)
