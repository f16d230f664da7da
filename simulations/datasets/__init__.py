"""Real and synthetic data sets with the feature contract under which a consortium shares them."""

from __future__ import annotations

from simulations.datasets.data_set import DataSet
from simulations.datasets.loading import DATA_SETS, ROLE_DATA_SETS, load_data_set, load_role_data_set
from simulations.datasets.locations import DataSetUnavailable
from simulations.datasets.role_data_set import Label, RoleDataSet

__all__ = [
    "DATA_SETS",
    "ROLE_DATA_SETS",
    "DataSet",
    "DataSetUnavailable",
    "Label",
    "RoleDataSet",
    "load_data_set",
    "load_role_data_set",
]
