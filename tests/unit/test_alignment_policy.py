"""Who aligns with whom, and what the owner of a node lets the two sets be."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from nodes.program import horizontal_settings
from policies.alignment import alignment_pairs
from policies.guard import alignment_limits
from policies.proposal import MethodSettings, ProposalRefused, RunProposal
from protos.private_set_intersection.channel import Pair
from protos.private_set_intersection.errors import SetSizeRefused
from simulations.in_process_alignment import ALIGNING_POLICY
from simulations.roles import PURPOSE, TASK, agreement_of_roles

ROLES = {"bank-a": "bank", "bank-b": "bank", "payment-a": "payment", "logistics-a": "logistics"}


def key():
    return Ed25519PrivateKey.generate().public_key().public_bytes_raw()


def agreement(**changes):
    return agreement_of_roles(ROLES, {member: key() for member in ROLES}, key(), **changes)


def proposal(cohort, method="alignment"):
    return RunProposal(
        run_id="align-00000001",
        agreement_hash="0" * 64,
        task=TASK,
        purpose=PURPOSE,
        cohort=tuple(sorted(cohort)),
        settings=MethodSettings(method=method),
        nonce="0" * 64,
    )


def test_every_label_holder_of_the_cohort_aligns_with_every_member_of_another_role():
    assert alignment_pairs(agreement(), proposal(ROLES)) == (
        Pair("bank-a", "logistics-a"),
        Pair("bank-a", "payment-a"),
        Pair("bank-b", "logistics-a"),
        Pair("bank-b", "payment-a"),
    )


def test_members_outside_the_cohort_and_roles_without_features_align_with_nobody():
    assert alignment_pairs(agreement(), proposal({"bank-a", "payment-a"})) == (Pair("bank-a", "payment-a"),)
    without = agreement(roles_without_features=frozenset({"payment"}))
    assert alignment_pairs(without, proposal({"bank-a", "payment-a"})) == ()
    assert alignment_pairs(agreement(), proposal({"bank-a", "bank-b"})) == ()


@pytest.mark.parametrize(("method", "across"), [("alignment", True), ("newton", False), ("fedavg", False)])
def test_only_an_alignment_takes_members_without_the_label(method, across):
    assert proposal(ROLES, method).across_roles is across


def test_an_alignment_has_no_settings_of_a_training():
    with pytest.raises(ProposalRefused, match="training method"):
        horizontal_settings(agreement(), MethodSettings(method="alignment"))


@pytest.mark.parametrize(("own", "peer"), [(1, 1), (2_000_000, 100_000), (50, 1000)])
def test_b9_sets_within_the_owners_limits_pass(own, peer):
    alignment_limits(ALIGNING_POLICY).check(own, peer)


@pytest.mark.parametrize(
    ("own", "peer"), [(0, 1), (1, 0), (2_000_001, 2_000_000), (100_000, 2_000_001), (50, 1001), (1001, 50)]
)
def test_b9_sets_outside_the_owners_limits_are_refused(own, peer):
    with pytest.raises(SetSizeRefused):
        alignment_limits(ALIGNING_POLICY).check(own, peer)


def test_the_agreement_states_how_identifiers_are_written():
    assert agreement(id_type="digits").entities.id_type == "digits"
    with pytest.raises(ValidationError):
        agreement(id_type="passport")
