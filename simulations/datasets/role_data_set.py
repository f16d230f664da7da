"""A data set whose roles hold rows of their own: other columns, and not always the same entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import pandas as pd

from policies.agreement import Feature
from simulations.datasets.data_set import ID_COLUMN, DataSet


@dataclass(frozen=True)
class Label:
    """What one role knows and a task predicts.

    Attributes:
        role: Who knows it.
        column: Where it stands in that role's rows: 0, 1 (bad), or nothing where the outcome is not known.
        horizon_months: How far ahead it looks.
    """

    role: str
    column: str
    horizon_months: int


@dataclass(frozen=True, eq=False)
class RoleDataSet:
    """Rows by role, and what their columns are.

    Attributes:
        name: Short name, as on the command line.
        frames: Each role's rows: `id_column` (text, unique), its features, and the labels that it knows. Which entities
            two roles have in common is a matter of their ids.
        features: The contract, each feature under the role that holds it.
        labels: By task.
        id_column: Column of the entity ids.
    """

    name: str
    frames: Mapping[str, pd.DataFrame]
    features: tuple[Feature, ...]
    labels: Mapping[str, Label]
    id_column: str = ID_COLUMN

    def __post_init__(self) -> None:
        for role, frame in self.frames.items():
            wanted = [self.id_column, *self.columns_of(role), *self.labels_of(role)]
            if sorted(frame.columns) != sorted(wanted):
                raise ValueError(f"{self.name}: expected the rows of {role} to have the columns {wanted} and no others")
            if not frame[self.id_column].is_unique:
                raise ValueError(f"{self.name}: expected every entity once in the rows of {role}")
        holders = {feature.role for feature in self.features} | {label.role for label in self.labels.values()}
        if not self.labels or not holders <= self.frames.keys():
            raise ValueError(f"{self.name}: expected a label, and rows of every role that holds a feature or a label")

    @classmethod
    def of(
        cls, data_set: DataSet, roles: Mapping[str, Sequence[str]] | None = None, *, task: str, label_role: str
    ) -> Self:
        """One table, its columns given to roles that all know every entity.

        Args:
            data_set: The table.
            roles: Features by role; those of the data set by default. Columns that no role has are left out.
            task: What the label is for.
            label_role: Who knows it.
        """
        roles = data_set.roles if roles is None else roles
        by_name = {feature.name: feature for feature in data_set.features}
        frames = {}
        for role, names in roles.items():
            known = [data_set.id_column, *names, *([data_set.label] if role == label_role else [])]
            frames[role] = data_set.frame[known]
        return cls(
            data_set.name,
            frames,
            tuple(by_name[name].model_copy(update={"role": role}) for role, names in roles.items() for name in names),
            {task: Label(label_role, data_set.label, data_set.horizon_months)},
            data_set.id_column,
        )

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles, in order."""
        return tuple(self.frames)

    @property
    def first_label(self) -> Label:
        """The label of the first task; the role that knows it stands in the middle of every deal."""
        return next(iter(self.labels.values()))

    def columns_of(self, role: str) -> list[str]:
        """Names of a role's features, in order."""
        return [feature.name for feature in self.features if feature.role == role]

    def labels_of(self, role: str) -> list[str]:
        """Columns of the labels that a role knows."""
        return [label.column for label in self.labels.values() if label.role == role]

    def with_known_outcomes(self) -> Self:
        """The rows that members train on: a role that knows labels keeps the entities for which it knows all of them.

        A source is a query that its owner writes. A label holder asks for settled cases; that it knows others too is
        no error in them, and the node's contract check would take it for one.
        """
        frames = {
            role: frame.dropna(subset=self.labels_of(role)).reset_index(drop=True)
            for role, frame in self.frames.items()
        }
        return replace(self, frames=frames)

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The same rows under other ids.

        Args:
            names: New id by old one, all different; ids that are not in it stay.
        """
        frames = {
            role: frame.assign(**{self.id_column: frame[self.id_column].map(lambda name: names.get(name, name))})
            for role, frame in self.frames.items()
        }
        return replace(self, frames=frames)

    def with_rows(self, entities: Sequence[str]) -> Self:
        """The rows of some entities alone, in every role.

        Args:
            entities: Their ids.
        """
        kept = set(entities)
        frames = {
            role: frame[frame[self.id_column].isin(kept)].reset_index(drop=True) for role, frame in self.frames.items()
        }
        return replace(self, frames=frames)
