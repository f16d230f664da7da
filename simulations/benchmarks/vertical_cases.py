"""What `bench vertical` measures: data sets divided among parties, and the consortia that hold them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from policies.presets import smallest_privacy_terms
from simulations.consortium import HOLDOUT_KEY, Consortium
from simulations.datasets import RoleDataSet, load_data_set, load_role_data_set
from simulations.datasets.loading import CREDIT_TASK
from simulations.role_dealing import (
    DealtRoles,
    deal_roles,
    members_by_role,
    stratified_holdout,
    with_holdout,
)
from simulations.roles import ID_TYPE, MODEL, found_dealt

HOLDOUT_PERCENT: Final = 30
SPLIT_SEED, DEAL_SEED = 7, 7
WITNESS: Final = "witness-a"
"""Takes part in the key epoch of two parties, because no agreement has fewer than three members; it brings nothing."""
_LABEL_ROLE: Final = "bank"


@dataclass(frozen=True)
class Case:
    """One consortium to measure.

    Attributes:
        data: Name of the data set.
        roles: Among how many roles its columns are divided.
        members_per_role: Members that share a role's rows.
        rows: Entities, drawn at random; all of them when None.
        features: Features in all, the first ones of each role; all of them when None.
    """

    data: str
    roles: int
    members_per_role: int = 1
    rows: int | None = None
    features: int | None = None

    @property
    def parties(self) -> int:
        """Members that hold columns or labels."""
        return self.roles * self.members_per_role


UCI_OF_TWO, UCI_OF_THREE = Case("uci_default", 2), Case("uci_default", 3)
GMSC_OF_THREE, OLIST_OF_THREE = Case("gmsc", 3), Case("olist", 3)
CASES: Final = (UCI_OF_TWO, UCI_OF_THREE, GMSC_OF_THREE, OLIST_OF_THREE)
"""With published figures to compare with: the split is theirs, stratified and with their seed, where they state one."""

BY_ROWS: Final = (*(Case("gmsc", 3, rows=rows) for rows in (5_000, 20_000, 80_000)), GMSC_OF_THREE)
BY_FEATURES: Final = (*(Case("uci_default", 3, features=features) for features in (6, 12, 18)), UCI_OF_THREE)
BY_PARTIES: Final = (UCI_OF_TWO, UCI_OF_THREE, Case("uci_default", 6), Case("uci_default", 9))
BY_MEMBERS: Final = (GMSC_OF_THREE, Case("gmsc", 3, members_per_role=3))
"""Each row of these differs from the others in one thing; whole sets are among the cases above, and run once."""


def rows_of(case: Case, environ: Mapping[str, str] = os.environ) -> DealtRoles:
    """Who has which rows.

    Args:
        case: What to measure.
        environ: Where data sets are looked up.

    Raises:
        DataSetUnavailable: The data set is not here.
    """
    data = _divided(case, environ)
    if case.features is not None:
        data = _with_fewer_features(data, case.features)
    if case.rows is not None:
        data = data.with_rows(_drawn(data, case.rows))
    if len(data.labels) == 1:
        task = next(iter(data.labels))
        held = stratified_holdout(data, task, share=HOLDOUT_PERCENT / 100, seed=SPLIT_SEED)
        data = with_holdout(data, held, key=HOLDOUT_KEY, percent=HOLDOUT_PERCENT, id_type=ID_TYPE)
    else:
        # Two labels have no split in common that is stratified for both: the keyed hash alone decides.
        data = data.with_known_outcomes()
    return deal_roles(data, members_by_role(data.roles, case.members_per_role), seed=DEAL_SEED, overlap=1.0)


def found_case(
    folder: Path,
    case: Case,
    dealt: DealtRoles,
    *,
    fleet_port: int,
    node_policy: Mapping[str, Any] | None = None,
) -> Consortium:
    """Found the consortium of a case.

    Two parties are a bilateral run: its agreement says that the label holder sees the other's partial scores.

    Args:
        folder: Empty or absent.
        case: What to measure.
        dealt: See `rows_of`.
        fleet_port: Where the coordinator listens.
        node_policy: More of every node's policy.
    """
    bilateral = case.parties == 2
    witnesses = (WITNESS,) if bilateral else ()
    privacy = smallest_privacy_terms(case.parties + len(witnesses))
    return found_dealt(
        folder,
        dealt,
        fleet_port=fleet_port,
        model=MODEL,
        privacy=privacy.model_copy(update={"partial_scores_visible_to_label_holder": bilateral}),
        kinds=("parquet",),
        node_policy=node_policy,
        witnesses=witnesses,
    )


def _divided(case: Case, environ: Mapping[str, str]) -> RoleDataSet:
    if case.roles <= 3:
        return load_role_data_set(case.data, case.roles, environ=environ)
    data_set = load_data_set(case.data, environ=environ)
    three = load_role_data_set(case.data, 3, environ=environ)
    others = [name for role in three.roles if role != _LABEL_ROLE for name in three.columns_of(role)]
    roles = {_LABEL_ROLE: tuple(three.columns_of(_LABEL_ROLE))} | {
        f"holder-{place}": tuple(part.tolist())
        for place, part in enumerate(np.array_split(np.array(others, dtype=object), case.roles - 1), 1)
    }
    return RoleDataSet.of(data_set, roles, task=CREDIT_TASK, label_role=_LABEL_ROLE)


def _with_fewer_features(data: RoleDataSet, features: int) -> RoleDataSet:
    """The first features of each role, as many from each as its share of all of them, and at least one."""
    total = len(data.features)
    kept = [
        name
        for role in data.roles
        for name in data.columns_of(role)[: max(1, round(features * len(data.columns_of(role)) / total))]
    ]
    dropped = {feature.name for feature in data.features} - set(kept)
    return RoleDataSet(
        data.name,
        {
            role: frame.drop(columns=[name for name in data.columns_of(role) if name in dropped])
            for role, frame in data.frames.items()
        },
        tuple(feature for feature in data.features if feature.name not in dropped),
        data.labels,
        data.id_column,
    )


def _drawn(data: RoleDataSet, rows: int) -> Sequence[str]:
    ids = data.frames[data.first_label.role][data.id_column].to_numpy()
    drawn: list[str] = np.random.default_rng(DEAL_SEED).permutation(ids)[:rows].tolist()  # nothing secret
    return drawn
