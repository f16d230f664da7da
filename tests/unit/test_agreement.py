"""The agreement: what it hashes, what it refuses, and the bounds it gives to cohorts."""

import json

import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from policies.agreement import (
    Agreement,
    PrivacyTerms,
    agreement_hash,
    canonical_json,
    format_identity_key,
    load_agreement,
    parse_agreement,
    parse_identity_key,
)
from policies.errors import AgreementRefused, UserError
from policies.presets import GMSC_COLUMNS, example_agreement, gmsc_features, smallest_privacy_terms
from protos.sealed_sum.bounds import Bounds


def _public(number):
    return Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big")).public_key().public_bytes_raw()


def _agreement(num_members=5, **terms):
    members = {f"bank-{number:03}": _public(number) for number in range(1, num_members + 1)}
    return example_agreement(members, coordinator_key=_public(10_000), **terms)


def test_hash_does_not_see_comments_white_space_or_the_order_of_keys(tmp_path):
    agreement = _agreement()
    data = agreement.model_dump(mode="json")
    reordered = {key: data[key] for key in reversed(data)}
    text = "# a comment\n\n" + tomli_w.dumps(reordered).replace(" = ", "   =  ")
    path = tmp_path / "agreement.toml"
    path.write_text(text)
    assert agreement_hash(load_agreement(path)) == agreement_hash(agreement)


def test_hash_sees_every_value(tmp_path):
    data = _agreement().model_dump(mode="json")
    changes = [
        ("name", lambda d: d.update(name="Another")),
        ("holdout", lambda d: d["entities"].update(holdout_percent=31)),
        ("order of members", lambda d: d["members"].reverse()),
        ("range", lambda d: d["features"][1].update(high=121.0)),
        ("purpose", lambda d: d["tasks"][0]["purposes"].append("fraud-model-training")),
        ("bins", lambda d: d["model"].update(bins=9)),
        ("cells", lambda d: d["privacy"].update(min_cell_count=11)),
        ("release", lambda d: d["release"].update(policy="members")),
    ]
    hashes = {agreement_hash(Agreement.model_validate_json(json.dumps(data)))}
    for _, change in changes:
        changed = json.loads(json.dumps(data))
        change(changed)
        hashes.add(agreement_hash(Agreement.model_validate_json(json.dumps(changed))))
    assert len(hashes) == len(changes) + 1


def test_hash_is_the_sha256_of_the_documented_canonical_json():
    """A golden value: a change of it is a change of the format and needs a new format name."""
    agreement = _agreement(3)
    assert json.loads(canonical_json(agreement)) == agreement.model_dump(mode="json")
    assert agreement_hash(agreement).hex() == "805514550753d110dd83bd6dd93fad9670f90db69cc3a9f3e7c9a7aa77a50c48"


def test_default_left_out_and_default_written_out_are_the_same_agreement():
    data = _agreement().model_dump(mode="json")
    del data["model"]["bins"]
    del data["privacy"]["max_colluders"]
    assert agreement_hash(Agreement.model_validate_json(json.dumps(data))) == agreement_hash(_agreement())


def test_agreement_is_frozen_all_the_way_down():
    agreement = _agreement()
    with pytest.raises(ValidationError, match="frozen"):
        agreement.privacy.min_cohort = 1
    assert isinstance(agreement.members, tuple)
    assert isinstance(agreement.tasks[0].purposes, tuple)


def test_lookups_name_what_is_known():
    agreement = _agreement(3)
    assert [member.id for member in agreement.members_of("bank")] == ["bank-001", "bank-002", "bank-003"]
    assert agreement.members_of("payment") == ()
    assert len(agreement.features_of("bank")) == 10
    assert agreement.task("credit").horizon_months == 24
    with pytest.raises(AgreementRefused, match="credit"):
        agreement.task("fraud")
    with pytest.raises(AgreementRefused, match="bank-001"):
        agreement.member("bank-z")


@given(st.integers(3, 40), st.integers(0, 6))
def test_bounds_are_accepted_exactly_when_the_protocol_accepts_them(num_members, max_colluders):
    privacy = smallest_privacy_terms(num_members, max_colluders)
    if max(3, max_colluders + 2) <= num_members:
        bounds = _agreement(num_members, privacy=privacy).bounds(num_members)
        assert (bounds.min_survivors, bounds.shamir_threshold) == (privacy.min_survivors, privacy.shamir_threshold)
    else:
        with pytest.raises(ValidationError, match="privacy"):
            _agreement(num_members, privacy=privacy)


@pytest.mark.parametrize(
    ("num_members", "colluders", "survivors", "threshold"),
    [(4, 1, 3, 2), (5, 1, 4, 2), (5, 2, 4, 3), (4, 1, 3, 3), (5, 2, 4, 4), (3, 1, 2, 1), (3, 2, 3, 2)],
)
def test_parameters_that_open_one_member_are_refused(num_members, colluders, survivors, threshold):
    """The broken triples of PROTOCOLS section 0."""
    with pytest.raises(ValidationError):
        _agreement(
            num_members,
            privacy=PrivacyTerms(
                min_cohort=3, max_colluders=colluders, min_survivors=survivors, shamir_threshold=threshold
            ),
        )


@given(st.integers(3, 30), st.integers(0, 3), st.data())
def test_smaller_cohort_never_tolerates_more_than_the_agreement_does(num_members, max_colluders, data):
    if num_members < max_colluders + 2:
        return
    smallest = smallest_privacy_terms(num_members, max_colluders)
    survivors = data.draw(st.integers(smallest.min_survivors, num_members))
    privacy = PrivacyTerms(
        min_cohort=3, max_colluders=max_colluders, min_survivors=survivors, shamir_threshold=survivors - 1
    )
    agreement = _agreement(num_members, privacy=privacy)
    cohort_size = data.draw(st.integers(3, num_members))
    if cohort_size < max_colluders + 2:
        with pytest.raises(AgreementRefused, match="collud"):
            agreement.bounds(cohort_size)
        return
    bounds = agreement.bounds(cohort_size)
    assert cohort_size - bounds.min_survivors <= num_members - survivors
    assert bounds.min_survivors >= Bounds.smallest(cohort_size, max_colluders).min_survivors


@pytest.mark.parametrize("cohort_size", [-1, 0, 1, 2, 6])
def test_cohort_below_the_floor_or_above_the_membership_is_refused(cohort_size):
    with pytest.raises(AgreementRefused, match="3 to 5 members"):
        _agreement(5).bounds(cohort_size)


@given(st.integers(1, 2**64))
def test_identity_key_survives_its_text_form(number):
    assert parse_identity_key(format_identity_key(_public(number))) == _public(number)


@pytest.mark.parametrize(
    "key",
    [
        "00" * 32,
        "01" + "00" * 31,
        "01" + "00" * 30 + "80",
        "ec" + "ff" * 30 + "7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ],
)
def test_identity_key_for_which_anybody_can_sign_is_refused(key):
    with pytest.raises(ValueError, match="anybody can sign"):
        parse_identity_key(format_identity_key(bytes.fromhex(key)))


@given(st.binary(max_size=300))
def test_bytes_that_are_no_agreement_are_always_refused_in_one_sentence(tmp_path_factory, content):
    with pytest.raises(UserError) as refused:
        parse_agreement(content, tmp_path_factory.getbasetemp() / "agreement.toml")
    assert str(refused.value).isprintable()


def test_preset_names_every_column_of_the_published_file_once():
    names = {feature.name for feature in gmsc_features()}
    assert len(GMSC_COLUMNS) == len(set(GMSC_COLUMNS.values())) == 12
    assert names == set(GMSC_COLUMNS.values()) - {"entity_id", "serious_delinquency"}
    assert len({feature.reason_code for feature in gmsc_features()}) == 10
