"""Which members of a run align their entities with which: a function of agreement and proposal, the same everywhere."""

from __future__ import annotations

from policies.agreement import Agreement
from policies.proposal import RunProposal
from protos.private_set_intersection.channel import Pair


def alignment_pairs(agreement: Agreement, proposal: RunProposal) -> tuple[Pair, ...]:
    """Every label holder of the run's task with every member of the cohort that brings features of another role.

    Args:
        agreement: Roles and features.
        proposal: Task and cohort.
    """
    label_role = agreement.task(proposal.task).label_role
    roles_with_features = {feature.role for feature in agreement.features} - {label_role}
    role_of = {member.id: member.role for member in agreement.members}
    return tuple(
        Pair(label_holder, feature_holder)
        for label_holder in proposal.cohort
        if role_of[label_holder] == label_role
        for feature_holder in proposal.cohort
        if role_of[feature_holder] in roles_with_features
    )
