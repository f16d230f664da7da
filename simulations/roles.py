"""A consortium of several roles that know the same sellers: its agreement, for simulations, benchmarks and tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tomli_w
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from nodes.identity import NodeIdentity, create_or_load_identity
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
from policies.signatures import sign_agreement
from protos.private_set_intersection.identifiers import IdentifierType
from simulations.consortium import Consortium, set_up_coordinator, set_up_node

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


def found_roles(
    folder: Path,
    roles: Mapping[str, str],
    sources: Mapping[str, Mapping[str, str]],
    *,
    fleet_port: int,
    id_type: IdentifierType = "text",
    roles_without_features: frozenset[str] = frozenset(),
) -> tuple[Consortium, NodeIdentity]:
    """A consortium of several roles on disk, as its members and its operator would each set it up.

    Args:
        folder: Empty or absent.
        roles: Role by member id.
        sources: `[source]` of each member's settings; paths are meant from its folder.
        fleet_port: Where the coordinator listens.
        id_type: How members write the sellers' ids.
        roles_without_features: Roles that bring nothing.

    Returns:
        Where everything lies, and the operator's identity.
    """
    identities = {member: create_or_load_identity(folder / member / "keys") for member in roles}
    operator = create_or_load_identity(folder / "coordinator" / "keys")
    keys = {member: _public(identity) for member, identity in identities.items()}
    agreement = agreement_of_roles(
        roles, keys, _public(operator), id_type=id_type, roles_without_features=roles_without_features
    )
    consortium = Consortium(folder, agreement, tuple(sorted(roles)))
    consortium.agreement_path.write_text(tomli_w.dumps(agreement.model_dump(mode="json")))
    for signer, identity in {**identities, "coordinator": operator}.items():
        sign_agreement(agreement, consortium.agreement_path, signer, identity.identity_key)
    authority = set_up_coordinator(consortium, fleet_port, 60.0)
    for member, identity in identities.items():
        set_up_node(
            consortium,
            member,
            identity,
            authority,
            source=sources[member],
            fleet_port=fleet_port,
            methods=("alignment",),
        )
    return consortium, operator


def _public(identity: NodeIdentity) -> bytes:
    return identity.identity_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
