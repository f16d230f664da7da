"""Which vertical runs a node's guard lets it take part in."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policies.errors import GuardRefused
from policies.guard import check_vertical
from policies.proposal import MethodSettings, RunProposal
from simulations.in_process_vertical import PURPOSE, willing_policy
from simulations.roles import LABEL_ROLE, TASK, agreement_of_roles

POLICY = willing_policy((TASK,))


def agreement(counts, **privacy):
    roles = {f"{role}-{place}": role for role, count in counts.items() for place in "abcdefg"[:count]}
    keys = {m: Ed25519PrivateKey.generate().public_key().public_bytes_raw() for m in [*roles, "operator"]}
    found = agreement_of_roles(roles, keys, keys["operator"])
    terms = found.privacy.model_copy(update=privacy)
    return found.model_copy(update={"privacy": terms})


def proposal(terms, passes=5, without=()):
    return RunProposal(
        run_id="vertical-00000001",
        agreement_hash="0" * 64,
        task=TASK,
        purpose=PURPOSE,
        cohort=tuple(sorted(member.id for member in terms.members if member.id not in without)),
        settings=MethodSettings(method="vertical", passes=passes),
        nonce="0" * 64,
    )


@pytest.mark.parametrize("counts", [(1, 1, 1), (3, 1, 1), (1, 3, 3), (3, 3, 3), (4, 5, 3)])
def test_one_member_a_role_or_at_least_three_are_accepted(counts):
    terms = agreement(dict(zip((LABEL_ROLE, "payment", "logistics"), counts, strict=True)))
    check_vertical(POLICY, terms, proposal(terms))


@pytest.mark.parametrize("counts", [(2, 1, 1), (1, 2, 1), (3, 3, 2)])
def test_a9_b6_a_role_of_two_is_refused(counts):
    terms = agreement(dict(zip((LABEL_ROLE, "payment", "logistics"), counts, strict=True)))
    with pytest.raises(GuardRefused, match="or at least 3"):
        check_vertical(POLICY, terms, proposal(terms))


def test_a_role_without_a_member_in_the_run_is_refused_when_it_holds_the_label():
    terms = agreement({LABEL_ROLE: 1, "payment": 3, "logistics": 1})
    with pytest.raises(GuardRefused, match="found 0"):
        check_vertical(POLICY, terms, proposal(terms, without=("bank-a",)))


def test_b5_a_label_holder_sees_one_partners_scores_only_by_the_agreements_flag():
    terms = agreement({LABEL_ROLE: 3, "payment": 1})
    with pytest.raises(GuardRefused, match="at least 2 feature holders"):
        check_vertical(POLICY, terms, proposal(terms))
    shown = agreement({LABEL_ROLE: 3, "payment": 1}, partial_scores_visible_to_label_holder=True)
    check_vertical(POLICY, shown, proposal(shown))


def test_more_passes_than_the_owner_allows_rounds_are_refused():
    terms = agreement({LABEL_ROLE: 1, "payment": 1, "logistics": 1})
    with pytest.raises(GuardRefused, match="at most 4 passes"):
        check_vertical(POLICY.model_copy(update={"max_rounds": 4}), terms, proposal(terms))


def test_a_vertical_model_is_never_released_to_the_platform():
    terms = agreement({LABEL_ROLE: 1, "payment": 1, "logistics": 1})
    released = terms.model_copy(update={"release": terms.release.model_copy(update={"policy": "platform"})})
    with pytest.raises(GuardRefused, match="stay with their roles"):
        check_vertical(POLICY, released, proposal(released))
