"""Data sets by the names that the command line and scenario files use."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from simulations.datasets.data_set import DataSet
from simulations.datasets.german import load_german
from simulations.datasets.gmsc import NUM_ROWS, load_gmsc
from simulations.datasets.lending_club import load_lending_club
from simulations.datasets.locations import DataSetUnavailable
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
