"""A consortium of several roles that know the same sellers: its agreement, for simulations, benchmarks and tests."""

from __future__ import annotations

from collections.abc import Mapping

from policies.agreement import (
    Agreement,
    CoordinatorTerms,
    EntityTerms,
    Feature,
    Member,
    ModelTerms,
    ReleaseTerms,
    Task,
    format_identity_key,
)
from policies.presets import smallest_privacy_terms
from protos.private_set_intersection.identifiers import IdentifierType

LABEL_ROLE = "bank"
TASK = "credit"
PURPOSE = "credit-model-training"
ID_COLUMN = "seller_id"


def agreement_of_roles(
    roles: Mapping[str, str],
    keys: Mapping[str, bytes],
    coordinator_key: bytes,
    *,
    id_type: IdentifierType = "text",
    roles_without_features: frozenset[str] = frozenset(),
) -> Agreement:
    """An agreement whose banks hold the label, with one feature a role.

    Args:
        roles: Role by member id; one of them is "bank".
        keys: Raw Ed25519 public key by member id.
        coordinator_key: The operator's.
        id_type: How members write the sellers' ids.
        roles_without_features: Roles that bring nothing, and so align with nobody.
    """
    return Agreement(
        format="tallystick-agreement/1",
        name="Several roles, one seller",
        coordinator=CoordinatorTerms(identity_key=format_identity_key(coordinator_key)),
        entities=EntityTerms(id_column=ID_COLUMN, id_type=id_type, holdout_key=bytes(range(32)).hex()),
        members=tuple(
            Member(id=member, role=role, identity_key=format_identity_key(keys[member]))
            for member, role in sorted(roles.items())
        ),
        features=tuple(_feature(role) for role in sorted(set(roles.values()) - roles_without_features)),
        tasks=(Task(name=TASK, label="defaulted", label_role=LABEL_ROLE, horizon_months=12, purposes=(PURPOSE,)),),
        model=ModelTerms(tower="additive", ridge=1.0, smoothness=0.5),
        privacy=smallest_privacy_terms(len(roles)),
        release=ReleaseTerms(policy="members"),
    )


def _feature(role: str) -> Feature:
    return Feature(
        role=role,
        name=f"{role.replace('-', '_')}_volume",
        type="number",
        unit="orders per month",
        low=0.0,
        high=1e6,
        monotone="none",
        reason_code=f"{role.replace('-', '_').upper()}_VOLUME",
        missing_allowed=False,
    )
