"""The guard fails closed: what the owner did not allow is refused, and so is everything without a policy."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policies.errors import AgreementRefused, GuardRefused
from policies.guard import NodePolicy, check_proposal, load_policy
from policies.presets import example_agreement

AGREEMENT = example_agreement(
    {f"bank-{letter}": Ed25519PrivateKey.generate().public_key().public_bytes_raw() for letter in "abcde"},
    coordinator_key=Ed25519PrivateKey.generate().public_key().public_bytes_raw(),
)
COHORT = tuple(f"bank-{letter}" for letter in "abcde")
POLICY = NodePolicy(
    format="tallystick-node-policy/1",
    tasks=("credit",),
    purposes=("credit-model-training",),
    methods=("newton", "fedavg"),
    min_cohort=4,
    max_rounds=20,
)
PROPOSAL = {
    "member": "bank-a",
    "task": "credit",
    "purpose": "credit-model-training",
    "method": "newton",
    "cohort": COHORT,
    "rounds": 8,
    "sealed": True,
}


def test_guard_accepts_what_owner_and_agreement_allow():
    check_proposal(POLICY, AGREEMENT, **PROPOSAL)
    check_proposal(POLICY, AGREEMENT, **PROPOSAL | {"cohort": COHORT[:4], "rounds": 20})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"purpose": "marketing"}, "purpose that the agreement for task 'credit' allows"),
        ({"method": "fedprox"}, "method that this node's policy allows"),
        ({"method": ""}, "method"),
        ({"cohort": COHORT[:3]}, "at least 4"),
        ({"cohort": COHORT[1:]}, "this node"),
        ({"cohort": (*COHORT[:4], "bank-a")}, "once"),
        ({"cohort": ()}, "this node"),
        ({"rounds": 21}, "1 to 20 rounds"),
        ({"rounds": 0}, "1 to 20 rounds"),
        ({"rounds": -1}, "1 to 20 rounds"),
        ({"sealed": False}, "sealed"),
    ],
)
def test_guard_refuses_what_the_owner_did_not_allow(change, reason):
    with pytest.raises(GuardRefused, match=reason):
        check_proposal(POLICY, AGREEMENT, **PROPOSAL | change)


@pytest.mark.parametrize("change", [{"task": "fraud"}, {"cohort": (*COHORT, "bank-z")}])
def test_guard_refuses_what_the_agreement_does_not_know(change):
    with pytest.raises(AgreementRefused):
        check_proposal(POLICY, AGREEMENT, **PROPOSAL | change)


@pytest.mark.parametrize("allowed", ["tasks", "purposes", "methods"])
def test_empty_list_allows_nothing(allowed):
    with pytest.raises(GuardRefused, match=r"\(none\)"):
        check_proposal(POLICY.model_copy(update={allowed: ()}), AGREEMENT, **PROPOSAL)


def test_cohort_that_the_agreement_forbids_is_refused_even_if_the_owner_would_allow_it():
    wide = AGREEMENT.model_copy(update={"privacy": AGREEMENT.privacy.model_copy(update={"min_cohort": 5})})
    with pytest.raises(AgreementRefused, match="cohort"):
        check_proposal(POLICY, wide, **PROPOSAL | {"cohort": COHORT[:4]})


def test_owner_may_allow_sums_without_sealing_only_by_saying_so():
    check_proposal(POLICY.model_copy(update={"require_sealing": False}), AGREEMENT, **PROPOSAL | {"sealed": False})


def test_node_without_a_policy_file_takes_part_in_nothing(tmp_path):
    with pytest.raises(GuardRefused, match="without a policy the node takes part in nothing"):
        load_policy(tmp_path / "policy.toml")


def test_policy_that_every_user_can_change_is_refused(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text("")
    path.chmod(0o666)
    with pytest.raises(GuardRefused, match="chmod o-w"):
        load_policy(path)


def test_policy_is_sealed_and_unattended_cosigning_is_off_by_default():
    assert POLICY.require_sealing
    assert not POLICY.auto_cosign
