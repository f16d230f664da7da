"""Which members of a run align their entities with which: a function of agreement and proposal, the same everywhere."""

from __future__ import annotations

import itertools

from policies.agreement import Agreement
from policies.proposal import RunProposal
from protos.private_set_intersection.channel import Pair


def alignment_pairs(agreement: Agreement, proposal: RunProposal) -> tuple[Pair, ...]:
    """Every label holder of each task with every member that brings features of another role; then pairs in a role.

    Pairs in a role exist in vertical runs alone. One member of a role answers for an entity (rule C10): where two know
    it, the first by id does, and the other one, which learns of it in this pair, stays silent about it. Only the two
    of them learn that they share it.

    Args:
        agreement: Roles and features.
        proposal: Tasks and cohort.
    """
    across = (
        Pair(label_holder, feature_holder)
        for task in proposal.tasks
        for label_holder in members_of_role(agreement, proposal, agreement.task(task).label_role)
        for feature_holder in feature_holders(agreement, proposal, task)
    )
    within: list[Pair] = []
    if proposal.settings.method == "vertical":
        roles = sorted({agreement.member(member).role for member in proposal.cohort})
        within = [
            Pair(first, second)
            for role in roles
            if agreement.features_of(role)
            for first, second in itertools.combinations(members_of_role(agreement, proposal, role), 2)
        ]
    return tuple(dict.fromkeys((*across, *within)))


def members_of_role(agreement: Agreement, proposal: RunProposal, role: str) -> tuple[str, ...]:
    """Members of the cohort with a role, sorted."""
    return tuple(member for member in proposal.cohort if agreement.member(member).role == role)


def feature_holders(agreement: Agreement, proposal: RunProposal, task: str) -> tuple[str, ...]:
    """Members of the cohort that bring features of another role than the task's label, sorted."""
    label_role = agreement.task(task).label_role
    roles = {feature.role for feature in agreement.features} - {label_role}
    return tuple(member for member in proposal.cohort if agreement.member(member).role in roles)
