"""Data sets by the names that the command line and scenario files use."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from simulations.datasets import gmsc, uci_default
from simulations.datasets.data_set import DataSet
from simulations.datasets.german import load_german
from simulations.datasets.gmsc import NUM_ROWS, load_gmsc
from simulations.datasets.lending_club import load_lending_club
from simulations.datasets.locations import DataSetUnavailable
from simulations.datasets.olist import load_olist
from simulations.datasets.role_data_set import RoleDataSet
from simulations.datasets.uci_default import load_uci_default

SYNTHETIC_SEED: Final = 20_260


def _load_synthetic(environ: Mapping[str, str]) -> DataSet:
    from simulations.population import synthetic_population  # noqa: PLC0415 - it imports this package's data_set

    del environ
    return synthetic_population(NUM_ROWS, SYNTHETIC_SEED)


_LOADERS: Final[Mapping[str, Callable[[Mapping[str, str]], DataSet]]] = MappingProxyType(
    {
        "gmsc": load_gmsc,
        "synthetic": _load_synthetic,
        "uci_default": load_uci_default,
        "lending_club": load_lending_club,
        "german": load_german,
    }
)

DATA_SETS: Final = tuple(_LOADERS)
"""Names that `load_data_set` knows."""

CREDIT_TASK: Final = "credit"
_CREDIT_ROLES: Final[Mapping[tuple[str, int], Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {
        ("uci_default", 2): uci_default.ROLES,
        ("uci_default", 3): uci_default.ROLES_OF_THREE,
        ("gmsc", 3): gmsc.ROLES_OF_THREE,
        ("synthetic", 3): gmsc.ROLES_OF_THREE,  # the same contract
    }
)
OLIST: Final = ("olist", 3)

ROLE_DATA_SETS: Final = (*_CREDIT_ROLES, OLIST)
"""(data set, roles) that `load_role_data_set` knows."""


def load_data_set(name: str, *, environ: Mapping[str, str] | None = None) -> DataSet:
    """Load a data set by name.

    Args:
        name: One of `DATA_SETS`.
        environ: Where folders are looked up; the process environment by default.

    Raises:
        DataSetUnavailable: There is no data set of that name, or it cannot be had here.
    """
    loader = _LOADERS.get(name)
    if loader is None:
        raise DataSetUnavailable(f"expected a data set ({', '.join(DATA_SETS)}), found {name!r}; choose one of them.")
    return loader(os.environ if environ is None else environ)


def load_role_data_set(name: str, num_roles: int, *, environ: Mapping[str, str] | None = None) -> RoleDataSet:
    """Load a data set whose columns several roles hold; banks know the label of the task `credit`.

    Args:
        name: With `num_roles`, one of `ROLE_DATA_SETS`.
        num_roles: Among how many roles its columns are divided.
        environ: Where folders are looked up; the process environment by default.

    Raises:
        DataSetUnavailable: There is no such division, or the data set cannot be had here.
    """
    if (name, num_roles) == OLIST:
        return load_olist(os.environ if environ is None else environ)
    roles = _CREDIT_ROLES.get((name, num_roles))
    if roles is None:
        known = ", ".join(f"{known} of {number}" for known, number in ROLE_DATA_SETS)
        raise DataSetUnavailable(
            f"expected a data set divided among roles ({known}), found {name!r} of {num_roles}; choose one of them."
        )
    return RoleDataSet.of(load_data_set(name, environ=environ), roles, task=CREDIT_TASK, label_role="bank")
