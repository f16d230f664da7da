"""What members release: canonical, signed, and accepted only when enough of them agree."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from coordinator.releases import ReleaseDisagrees, ReleaseForeign, ReleaseTooFewSigners, accept_release
from policies.release import (
    OpenedSumRecord,
    Quality,
    ReleasedTable,
    ReleaseRefused,
    SignedRelease,
    sign_artefact,
    sign_progress,
    sign_release,
    verify_artefact,
    verify_progress,
    verify_release,
)


def public(key):
    return key.public_key().public_bytes_raw()


@pytest.fixture
def accept(make_table, keys):
    table = make_table()

    def call(replies, **changes):
        arguments = {
            "agreement_hash": bytes.fromhex(table.agreement_hash),
            "epoch_id": bytes.fromhex(table.epoch_id),
            "run_id": table.run_id,
            "cohort": table.cohort,
            "identity_keys": {member: public(key) for member, key in keys.items()},
            "min_signers": 3,
        }
        return accept_release(replies, **(arguments | changes))

    return call


@pytest.fixture
def replies(make_table, keys):
    return {member: sign_release(make_table(), key) for member, key in keys.items()}


def test_table_that_all_sign_is_accepted_with_every_signature(accept, replies, make_table, keys):
    released = accept(replies)

    assert released.table == make_table()
    assert set(released.signatures) == set(keys)
    document = json.loads(released.to_json())
    assert document["table"]["run_id"] == "run-0001"
    assert sorted(document["signatures"]) == sorted(keys)


def test_three_of_five_signers_are_enough_and_two_are_not(accept, replies):
    three = {member: replies[member] for member in ("bank-a", "bank-b", "bank-c")}
    assert set(accept(three).signatures) == set(three)

    del three["bank-c"]
    with pytest.raises(ReleaseTooFewSigners, match=r"at least 3 members, found 2 \(bank-a, bank-b\)"):
        accept(three)


def test_nobody_is_never_enough(accept):
    with pytest.raises(ReleaseTooFewSigners):
        accept({}, min_signers=0)


def test_unsigned_table_is_refused_naming_its_sender(accept, replies):
    replies["bank-b"] = replace(replies["bank-b"], signature=bytes(64))

    with pytest.raises(ReleaseRefused, match="signed by bank-b"):
        accept(replies)


def test_signature_of_another_member_is_refused(accept, replies):
    replies["bank-b"] = replies["bank-a"]

    with pytest.raises(ReleaseRefused, match="bank-b"):
        accept(replies)


def test_signature_does_not_cover_a_changed_figure(accept, replies):
    honest = replies["bank-a"]
    replies["bank-a"] = replace(honest, released=honest.released.replace(b"0.8612", b"0.9612"))

    with pytest.raises(ReleaseRefused, match="bank-a"):
        accept(replies)


def test_members_that_disagree_are_named_with_what_differs(accept, replies, make_table, keys):
    other = make_table(quality=Quality(auc=0.9, ks=0.6, gini=0.8, brier=0.04))
    replies["bank-d"] = sign_release(other, keys["bank-d"])

    with pytest.raises(ReleaseDisagrees, match=r"different ones came from bank-d \(in: quality\)"):
        accept(replies)


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("agreement_hash", "11" * 32, "agreement"),
        ("epoch_id", "22" * 32, "key epoch"),
        ("run_id", "another-run", "run"),
    ],
)
def test_table_of_another_context_is_foreign(accept, replies, make_table, keys, field, value, what):
    replies["bank-c"] = sign_release(make_table(**{field: value}), keys["bank-c"])

    with pytest.raises(ReleaseForeign, match=rf"{what}.*bank-c"):
        accept(replies)


def test_table_of_a_smaller_cohort_is_foreign(accept, make_table, keys):
    small = make_table().cohort[:4]
    table = make_table(cohort=small, weights_log2={}, sums=())
    replies = {member: sign_release(table, keys[member]) for member in small}

    with pytest.raises(ReleaseForeign, match="cohort"):
        accept(replies)


def test_stranger_cannot_release(accept, replies):
    replies["mallory"] = replies["bank-a"]

    with pytest.raises(ReleaseForeign, match="mallory"):
        accept(replies)


def test_last_bits_of_a_float_are_no_disagreement(make_table):
    one = make_table(quality=Quality(auc=0.1 + 0.2, ks=0.5, gini=-0.0, brier=0.1))
    other = make_table(quality=Quality(auc=0.3, ks=0.5, gini=0.0, brier=0.1))

    assert one.canonical() == other.canonical()


def test_table_survives_its_canonical_form(make_table):
    table = make_table()

    assert ReleasedTable.from_canonical(table.canonical()) == table
    assert table.digest() == ReleasedTable.from_canonical(table.canonical()).digest()


def test_table_that_is_not_canonical_is_refused(make_table):
    spaced = json.dumps(json.loads(make_table().canonical())).encode()

    with pytest.raises(ReleaseRefused, match="canonical"):
        ReleasedTable.from_canonical(spaced)


@pytest.mark.parametrize(
    "changes",
    [
        {"cohort": ("bank-b", "bank-a")},
        {"cohort": ("bank-a", "bank-a")},
        {"weights_log2": {"mallory": 1}},
        {"weights_log2": {"bank-a": 64}},
        {"agreement_hash": "AB" * 32},
        {"run_id": "../../etc"},
        {"surprise": 1},
    ],
)
def test_table_that_speaks_of_others_or_out_of_range_cannot_be_built(make_table, changes):
    with pytest.raises(ValidationError):
        make_table(**changes)


def test_sums_are_in_order_and_nobody_is_both_survivor_and_dropped(make_table):
    sums = make_table().sums
    with pytest.raises(ValidationError, match="ascending"):
        make_table(sums=sums[::-1])
    with pytest.raises(ValidationError, match="both as survivor and as dropped"):
        OpenedSumRecord(
            k=1, purpose="x", input_class="step", survivors=("bank-a",), dropped=("bank-a",), chain="ab" * 32
        )


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_table_or_a_sentence(data):
    with pytest.raises(ReleaseRefused) as refused:
        ReleasedTable.from_canonical(data)

    assert "\n" not in str(refused.value)


def test_signatures_are_not_exchangeable_between_kinds(keys):
    key = keys["bank-a"]
    artefact = sign_artefact("run-0001", b"model", key)
    verify_artefact("run-0001", b"model", artefact, "bank-a", public(key))

    with pytest.raises(ReleaseRefused):
        verify_progress("run-0001", 1, b"model", artefact, "bank-a", public(key))
    with pytest.raises(ReleaseRefused):
        verify_artefact("run-0002", b"model", artefact, "bank-a", public(key))
    with pytest.raises(ReleaseRefused):
        verify_release(SignedRelease(b"model", artefact), "bank-a", public(key))
    progress = sign_progress("run-0001", 1, b"{}", key)
    verify_progress("run-0001", 1, b"{}", progress, "bank-a", public(key))
    with pytest.raises(ReleaseRefused):
        verify_progress("run-0001", 2, b"{}", progress, "bank-a", public(key))


def test_key_of_the_wrong_length_is_one_sentence(replies):
    with pytest.raises(ReleaseRefused, match="does not verify"):
        verify_release(replies["bank-a"], "bank-a", b"short")
