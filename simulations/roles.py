"""Consortia of several roles that know the same sellers: their agreements, and how they are founded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from nodes.identity import NodeIdentity
from policies.agreement import (
    Agreement,
    CoordinatorTerms,
    EntityTerms,
    Feature,
    Member,
    ModelTerms,
    PrivacyTerms,
    ReleaseTerms,
    Task,
    format_identity_key,
)
from policies.presets import smallest_privacy_terms
from protos.private_set_intersection.identifiers import IdentifierType
from simulations.consortium import HOLDOUT_KEY, OPERATOR, PURPOSE, TASK, Consortium, ScoringPlan, found_consortium
from simulations.datasets.data_set import number
from simulations.dealing import SourceKind, write_rows
from simulations.role_dealing import DealtRoles

__all__ = [
    "ID_COLUMN",
    "KINDS",
    "LABEL_ROLE",
    "METHODS",
    "MODEL",
    "PURPOSE",
    "TASK",
    "agreement_of",
    "agreement_of_roles",
    "found_dealt",
    "found_roles",
]

LABEL_ROLE = "bank"
ID_COLUMN = "seller_id"
ID_TYPE: Final[IdentifierType] = "text"
MODEL: Final = ModelTerms(tower="additive", bins=8, ridge=1.0, smoothness=20.0)
METHODS: Final = ("alignment", "vertical")
KINDS: Final[tuple[SourceKind, ...]] = ("csv", "parquet", "sql")


def agreement_of(
    dealt: DealtRoles,
    keys: Mapping[str, bytes],
    coordinator_key: bytes,
    *,
    model: ModelTerms = MODEL,
    privacy: PrivacyTerms | None = None,
    purposes: Sequence[str] = (PURPOSE,),
    witnesses: Sequence[str] = (),
) -> Agreement:
    """What members sign that bring the columns of their role: features and labels as the data have them.

    Args:
        dealt: Who has which rows.
        keys: Raw Ed25519 public key by member id, the witnesses' among them.
        coordinator_key: The operator's.
        model: Form of the towers.
        privacy: Bounds; the smallest safe ones for the number of members when None.
        purposes: Of every task.
        witnesses: Members that bring nothing and take part in key epochs, because no agreement has fewer than three.
    """
    data = dealt.data
    roles = {**dealt.role_of, **dict.fromkeys(witnesses, "witness")}
    return Agreement(
        format="tallystick-agreement/1",
        name=f"{data.name} consortium",
        coordinator=CoordinatorTerms(identity_key=format_identity_key(coordinator_key)),
        entities=EntityTerms(id_column=data.id_column, id_type=ID_TYPE, holdout_key=HOLDOUT_KEY.hex()),
        members=tuple(
            Member(id=member, role=roles[member], identity_key=format_identity_key(keys[member]))
            for member in sorted(roles)
        ),
        features=data.features,
        tasks=tuple(
            Task(
                name=task,
                label=label.column,
                label_role=label.role,
                horizon_months=label.horizon_months,
                purposes=tuple(purposes),
            )
            for task, label in data.labels.items()
        ),
        model=model,
        privacy=smallest_privacy_terms(len(roles)) if privacy is None else privacy,
        release=ReleaseTerms(policy="members"),
    )


def found_dealt(
    folder: Path,
    dealt: DealtRoles,
    *,
    fleet_port: int,
    model: ModelTerms = MODEL,
    privacy: PrivacyTerms | None = None,
    kinds: Sequence[SourceKind] = KINDS,
    methods: Sequence[str] = METHODS,
    node_policy: Mapping[str, Any] | None = None,
    witnesses: Sequence[str] = (),
    step_deadline_s: float = 60.0,
    scoring: ScoringPlan | None = None,
) -> Consortium:
    """Found a consortium whose members hold other columns of partly the same entities.

    Args:
        folder: Empty or absent.
        dealt: Who has which rows.
        fleet_port: Where the coordinator listens.
        model: Form of the towers.
        privacy: Bounds; the smallest safe ones for the number of members when None.
        kinds: Data source of each member in turn.
        methods: What every node's policy allows.
        node_policy: More of every node's policy.
        witnesses: See `agreement_of`.
        step_deadline_s: How long a step waits for silent members.
        scoring: How scores are answered; not at all when None.
    """
    purposes = (PURPOSE, *(scoring.purposes if scoring is not None else ()))

    def draft(keys: Mapping[str, bytes], operator: bytes) -> Agreement:
        return agreement_of(dealt, keys, operator, model=model, privacy=privacy, purposes=purposes, witnesses=witnesses)

    id_column = dealt.data.id_column
    frames = {**dealt.rows, **{name: _rows_of_a_witness(id_column) for name in witnesses}}
    return found_consortium(
        folder,
        sorted(frames),
        draft,
        fleet_port=fleet_port,
        methods=methods,
        sources={
            member: write_rows(frames[member], folder / member, "rows", kinds[place % len(kinds)])
            for place, member in enumerate(sorted(frames))
        },
        node_policy=node_policy,
        step_deadline_s=step_deadline_s,
        scoring=scoring,
    )


def agreement_of_roles(
    roles: Mapping[str, str],
    keys: Mapping[str, bytes],
    coordinator_key: bytes,
    *,
    id_type: IdentifierType = "text",
    roles_without_features: frozenset[str] = frozenset(),
) -> Agreement:
    """An agreement whose banks hold the label, with one feature a role: for alignments, which look at ids alone.

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
        entities=EntityTerms(id_column=ID_COLUMN, id_type=id_type, holdout_key=HOLDOUT_KEY.hex()),
        members=tuple(
            Member(id=member, role=role, identity_key=format_identity_key(keys[member]))
            for member, role in sorted(roles.items())
        ),
        features=tuple(_volume(role) for role in sorted(set(roles.values()) - roles_without_features)),
        tasks=(Task(name=TASK, label="defaulted", label_role=LABEL_ROLE, horizon_months=12, purposes=(PURPOSE,)),),
        model=ModelTerms(tower="additive", ridge=1.0, smoothness=0.5),
        privacy=smallest_privacy_terms(len(roles)),
        release=ReleaseTerms(policy="members"),
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
    """A consortium that aligns, on disk, under the agreement of `agreement_of_roles`.

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

    def draft(keys: Mapping[str, bytes], operator: bytes) -> Agreement:
        return agreement_of_roles(roles, keys, operator, id_type=id_type, roles_without_features=roles_without_features)

    consortium = found_consortium(
        folder, sorted(roles), draft, fleet_port=fleet_port, methods=("alignment",), sources=sources
    )
    return consortium, consortium.identity(OPERATOR)


def _rows_of_a_witness(id_column: str) -> pd.DataFrame:
    """A source must have a row; nobody else has this one, and no feature goes with it."""
    return pd.DataFrame({id_column: ["nobody"]})


def _volume(role: str) -> Feature:
    name = f"{role.replace('-', '_')}_volume"
    return number(name, "orders per month", 0.0, 1e6).model_copy(update={"role": role})
