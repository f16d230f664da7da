"""Grants, tokens, fingerprints, tables of partial scores and evidence: the pure parts of federated scoring."""

import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.score_slots import ScoreSlots, partial_scores
from nodes.scoring_tables import EntityTable
from nodes.settings_template import scoring_policy_toml
from policies.errors import GuardRefused
from policies.fingerprints import entity_token, fingerprint, normalise
from policies.grants import Grant, GrantRefused, Revocations, issue_grant, issue_revocations
from policies.scoring_policy import load_scoring_policy
from policies.token_key import TokenKey
from protos.scoring.v1 import scoring_pb2 as pb
from protos.sealed_sum.bounds import Bounds
from simulations.masked_consortium import MaskedConsortium

KEY = bytes(range(32))
INVOICE = {
    "seller": "DE 811 128 135",
    "buyer": "FR-40303265045",
    "number": "RE/2026/17",
    "date": "2026-11-02",
    "amount": "1,200.00",
}


def tokens(count):
    return [entity_token(KEY, "tax-id", str(i)) for i in range(count)]


# ---- tokens and fingerprints ----


def test_c8_fingerprint_does_not_depend_on_how_fields_are_written_or_ordered():
    other = {name: value.lower().replace(" ", "").replace("-", "/") for name, value in reversed(INVOICE.items())}

    assert fingerprint(KEY, INVOICE) == fingerprint(KEY, other)


@pytest.mark.parametrize("field", INVOICE)
def test_c8_fingerprint_depends_on_every_field(field):
    assert fingerprint(KEY, INVOICE) != fingerprint(KEY, INVOICE | {field: "other"})


def test_c8_fingerprint_depends_on_the_quarters_key():
    assert fingerprint(KEY, INVOICE) != fingerprint(bytes(32), INVOICE)


@pytest.mark.parametrize("fields", [dict(list(INVOICE.items())[:4]), INVOICE | {"date": " - "}], ids=["four", "empty"])
def test_c8_fingerprint_of_few_or_empty_fields_is_refused(fields):
    with pytest.raises(ValueError, match="at least 5 fields"):
        fingerprint(KEY, fields)


def test_fields_cannot_be_shifted_into_one_another():
    moved = INVOICE | {"seller": INVOICE["seller"] + "F", "buyer": "R40303265045"}

    assert fingerprint(KEY, INVOICE) != fingerprint(KEY, moved)


def test_entity_tokens_differ_by_kind_and_key():
    made = {entity_token(KEY, "tax-id", "7"), entity_token(KEY, "shop-id", "7"), entity_token(bytes(32), "tax-id", "7")}

    assert len(made) == 3
    assert normalise("de 81-1 é") == "DE811É"


# ---- grants ----


def grant(key, **changes):
    made = {
        "grant_id": "g",
        "purposes": ["credit-decision"],
        "roles": ["bank"],
        "not_before_s": 100,
        "expires_s": 200,
        "tokens": tokens(2),
    }
    return issue_grant(key, **(made | changes))


def test_grant_allows_what_it_says_and_nothing_else():
    key = Ed25519PrivateKey.generate()
    read = Grant.read(grant(key), [key.public_key().public_bytes_raw()])
    fine = {"purpose": "credit-decision", "tokens": tokens(2), "now_s": 150.0, "skew_s": 5.0}
    read.check(**fine)
    for changes, code in (
        ({"purpose": "marketing"}, "purpose"),
        ({"tokens": tokens(3)}, "grant_entity"),
        ({"now_s": 90.0}, "grant_expired"),
        ({"now_s": 201.0}, "grant_expired"),
    ):
        with pytest.raises(GrantRefused) as refused:
            read.check(**(fine | changes))
        assert refused.value.code == code


def reach(**changes):
    return Grant.claimed(grant(Ed25519PrivateKey.generate(), **changes)).reach


def test_grants_have_one_reach_where_the_same_roles_may_answer():
    roles = {"roles": ["bank", "payment"]}
    assert reach(**roles) == reach(roles=["payment", "bank"], grant_id="h", tokens=tokens(3), expires_s=300)
    assert reach(**roles) != reach()
    assert reach(roles=["bankpayment"]) != reach(**roles)


def test_grants_that_name_who_answers_have_a_reach_of_their_own():
    """Tags are read under the grant's id and at their places: copied into another grant they name nobody."""
    key = TokenKey(bytes(range(32)))
    named = {"roles": ["bank", "payment"], "answering": {"bank": "bank-1"}, "token_key": key}
    body = pb.Grant.FromString(pb.SignedGrant.FromString(grant(Ed25519PrivateKey.generate(), **named)).body)

    def copied(**changes):
        made = pb.Grant.FromString(body.SerializeToString())
        for name, value in changes.items():
            made.ClearField(name)
            made.MergeFrom(pb.Grant(**{name: value}))
        return Grant.claimed(pb.SignedGrant(body=made.SerializeToString()).SerializeToString()).reach

    reaches = [
        reach(roles=["bank", "payment"]),
        copied(),
        copied(grant_id="h"),
        copied(roles=["payment", "bank"]),
        copied(entities=b"".join(reversed(tokens(2)))),
    ]
    assert len(set(reaches)) == len(reaches)
    assert copied() == copied(expires_s=300)


def test_grant_of_another_issuer_or_with_a_changed_byte_is_refused():
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    signed, issuers = grant(key), [key.public_key().public_bytes_raw()]
    with pytest.raises(GrantRefused):
        Grant.read(grant(other), issuers)
    for place in range(len(signed)):
        changed = bytearray(signed)
        changed[place] ^= 1
        with pytest.raises(GrantRefused):
            Grant.read(bytes(changed), issuers)


def test_revocation_list_is_no_grant_and_the_reverse():
    key = Ed25519PrivateKey.generate()
    issuers = [key.public_key().public_bytes_raw()]
    with pytest.raises(GrantRefused):
        Revocations.read(grant(key), issuers)
    with pytest.raises(GrantRefused):
        Grant.read(issue_revocations(key, 1, ["g"]), issuers)
    assert Revocations.read(issue_revocations(key, 3, ["g", "h"]), issuers).grant_ids == {"g", "h"}


def test_node_without_a_scoring_policy_answers_none(tmp_path):
    with pytest.raises(GuardRefused, match="no score"):
        load_scoring_policy(tmp_path / "scoring.toml")


@pytest.mark.parametrize("issuers", ['["ed25519:AAAA"]', '["x"]'])
def test_issuer_of_a_scoring_policy_that_is_no_key_is_one_sentence(tmp_path, issuers):
    path = tmp_path / "scoring.toml"
    path.write_text(f'format = "tallystick-scoring-policy/1"\ntasks = []\npurposes = []\ngrant_issuers = {issuers}\n')
    path.chmod(0o600)
    with pytest.raises(GuardRefused, match="grant_issuers"):
        load_scoring_policy(path)


def test_template_of_a_scoring_policy_allows_nobodys_grants(tmp_path):
    path = tmp_path / "scoring.toml"
    path.write_text(scoring_policy_toml(None))
    path.chmod(0o600)
    policy = load_scoring_policy(path)

    assert policy.tasks == policy.purposes == policy.grant_issuers == ()
    assert policy.issuer_keys == frozenset()


# ---- tables ----


def test_c9_partial_score_is_rounded_to_64ths_and_votes_for_the_two_worst_terms():
    layout = ScoreSlots(("A", "B", "C", "D"))
    contributions = np.array([[0.5, -0.1, 0.3, 0.2], [-1.0, -1.0, -1.0, 0.01], [0.0, 0.0, 0.0, 0.0]])

    slots = partial_scores(contributions, ("A", "B", "C", "D"), layout)

    assert slots.tolist() == [
        [58, 1, 1, 0, 1, 0],  # 0.9 log-odds = 57.6 / 64
        [-191, 1, 0, 0, 0, 1],
        [0, 1, 0, 0, 0, 0],
    ]


def test_features_that_share_a_reason_code_vote_together():
    layout = ScoreSlots(("A", "B", "C"))

    slots = partial_scores(np.array([[0.2, 0.2, 0.3, 0.35]]), ("A", "A", "B", "C"), layout)

    assert slots[0, layout.votes].tolist() == [1, 0, 1]


def test_unknown_entities_and_other_roles_get_zeros():
    layout = ScoreSlots(("A",))
    known = tokens(2)
    table = EntityTable.of(layout, known, np.array([[5, 1, 1], [-7, 1, 0]]))

    asked = [known[1], bytes(32), known[0]]
    assert table.vector(asked, answers=True).view(np.int64).tolist() == [-7, 1, 0, 0, 0, 0, 5, 1, 1]
    assert not table.vector(asked, answers=False).any()


def test_table_survives_its_file(tmp_path):
    layout = ScoreSlots(("A",), ("paid",))
    table = EntityTable.of(layout, tokens(3), np.arange(12).reshape(3, 4))
    table.save(tmp_path / "table.npz")
    read = EntityTable.load(tmp_path / "table.npz")

    assert read.layout == layout
    assert read.rows == table.rows
    assert np.array_equal(read.slots, table.slots)


# ---- evidence ----

EVIDENCE = ScoreSlots(evidence=("paid", "shipped", "pledged"), scores=False)


def test_c7_evidence_is_zero_or_a_fresh_random_number_and_never_a_count():
    table = EntityTable.of(EVIDENCE, tokens(1), np.array([[1, 0, 1]]))
    drawn = [table.vector(tokens(1), answers=True).tolist() for _ in range(50)]

    assert all(one == 0 for _, one, _ in drawn)
    assert len({paid for paid, _, _ in drawn}) == 50
    assert len({pledged for _, _, pledged in drawn}) == 50
    assert all(paid and pledged for paid, _, pledged in drawn)


def test_c7_a_drawn_zero_still_counts_as_evidence():
    table = EntityTable.of(EVIDENCE, tokens(1), np.array([[1, 0, 1]]))

    assert table.vector(tokens(1), answers=True, rng=bytes).tolist() == [2**64 - 1, 0, 2**64 - 1]


@pytest.mark.parametrize("holders", [0, 1, 2, 5])
def test_c7_sum_says_financed_or_not_and_not_by_how_many(holders):
    """Double financing and three-way match: the sum over members is zero if and only if nobody has the evidence."""
    consortium = MaskedConsortium.found(Bounds(5, 1, 4, 3))
    invoice = fingerprint(KEY, INVOICE)
    request = consortium.request(entities=invoice, slots=EVIDENCE.width)
    values = {}
    for place, member in enumerate(consortium.view.cohort):
        has = np.array([[1, int(place == 0), int(place < holders)]])
        values[member] = EntityTable.of(EVIDENCE, [invoice], has).vector([invoice], answers=True, rng=os.urandom)

    total = consortium.open(request, values)

    assert (total[EVIDENCE.evidence_at] != 0).tolist() == [True, True, holders > 0]
    assert total[2] not in range(1, 6)


def test_digest_of_the_layout_depends_on_every_name_and_its_place():
    layouts = [
        ScoreSlots(("A", "B")),
        ScoreSlots(("B", "A")),
        ScoreSlots(("A",), ("B",)),
        ScoreSlots(("A", "B"), scores=False),
    ]
    assert len({layout.digest for layout in layouts}) == 4
