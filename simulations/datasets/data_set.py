"""A data set as every demo, benchmark and test sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import pandas as pd

from policies.agreement import Feature

ID_COLUMN: Final = "entity_id"


@dataclass(frozen=True, eq=False)
class DataSet:
    """Rows, and what their columns are.

    Attributes:
        name: Short name, as on the command line.
        frame: One row per borrower: `id_column` (text, unique), one column per feature, `label` (int8, 1 is bad), and
            possibly columns that only deal rows to members (a state).
        label: Column of the label.
        horizon_months: How far ahead the label looks.
        features: The contract of all features under one role, for horizontal consortia.
        roles: Features by role, for consortia in which roles hold different columns of the same borrowers.
        id_column: Column of the entity ids.
    """

    name: str
    frame: pd.DataFrame
    label: str
    horizon_months: int
    features: tuple[Feature, ...]
    roles: Mapping[str, tuple[str, ...]]
    id_column: str = ID_COLUMN

    def features_of_one_role(self, role: str) -> tuple[Feature, ...]:
        """All features as the contract of one role (horizontal)."""
        return tuple(feature.model_copy(update={"role": role}) for feature in self.features)

    def features_by_role(self) -> tuple[Feature, ...]:
        """Each feature under the role that holds it (vertical)."""
        by_name = {feature.name: feature for feature in self.features}
        return tuple(
            by_name[name].model_copy(update={"role": role}) for role, names in self.roles.items() for name in names
        )


def number(name: str, unit: str, low: float, high: float, *, missing_allowed: bool = False) -> Feature:
    """A feature of real values in the contract of role `bank`; its reason code is its name in capitals."""
    return _feature(name, "number", unit, low, high, missing_allowed=missing_allowed)


def integer(name: str, unit: str, low: int, high: int, *, missing_allowed: bool = False) -> Feature:
    """A feature of whole numbers in the contract of role `bank`; its reason code is its name in capitals."""
    return _feature(name, "integer", unit, low, high, missing_allowed=missing_allowed)


def _feature(
    name: str, kind: Literal["number", "integer"], unit: str, low: float, high: float, *, missing_allowed: bool
) -> Feature:
    return Feature(
        role="bank",
        name=name,
        type=kind,
        unit=unit,
        low=float(low),
        high=float(high),
        monotone="none",
        reason_code=name.upper(),
        missing_allowed=missing_allowed,
    )
