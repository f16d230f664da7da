"""Statlog German credit (UCI, CC BY 4.0): 1,000 applicants, 20 features; small enough for smoke tests.

Codes such as `A34` become their number within the attribute (4). The published file has no id; the row number is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pandas as pd

from policies.agreement import Feature
from simulations.datasets.data_set import ID_COLUMN, DataSet, integer
from simulations.datasets.locations import required_shared_file

NAME: Final = "german"
LABEL: Final = "bad"
HORIZON_MONTHS: Final = 12

_FILE: Final = "german/german.parquet"
_SHA256: Final = "d11536c1fa2133c896a2cfbfc287f74ca440da4df8cc6560749e609edd142ea8"

# Attribute -> what its codes start with, as in the documentation of the data set (attribute 4, purpose: A40 .. A410).
_CODED: Final[Mapping[str, str]] = {
    "checking_status": "A1",
    "credit_history": "A3",
    "purpose": "A4",
    "savings": "A6",
    "employment": "A7",
    "personal_status": "A9",
    "other_parties": "A10",
    "property": "A12",
    "other_payment_plans": "A14",
    "housing": "A15",
    "job": "A17",
    "telephone": "A19",
    "foreign_worker": "A20",
}
FEATURES: Final[tuple[Feature, ...]] = (
    *(integer(name, "code", 0, 10) for name in _CODED),
    integer("duration", "months", 0, 120),
    integer("credit_amount", "DEM", 0, 100_000),
    integer("installment_rate", "code", 0, 10),
    integer("residence_since", "code", 0, 10),
    integer("age", "years", 0, 120),
    integer("existing_credits", "count", 0, 20),
    integer("num_dependents", "persons", 0, 20),
)
ROLES: Final[Mapping[str, tuple[str, ...]]] = {"bank": tuple(feature.name for feature in FEATURES)}


def load_german(environ: Mapping[str, str]) -> DataSet:
    """Load the data set from the shared folder.

    Args:
        environ: The process environment (folders).

    Raises:
        DataSetUnavailable: It is not there.
    """
    published = pd.read_parquet(required_shared_file(NAME, _FILE, _SHA256, environ))
    frame = pd.DataFrame({ID_COLUMN: [f"german-{number:04d}" for number in range(1, len(published) + 1)]})
    for feature in FEATURES:
        column = published[feature.name]
        prefix = _CODED.get(feature.name)
        numbers = column if prefix is None else column.str.removeprefix(prefix).astype("int64")
        frame[feature.name] = numbers.to_numpy()
    frame[LABEL] = published[LABEL].to_numpy(dtype="int8")
    return DataSet(NAME, frame, LABEL, HORIZON_MONTHS, FEATURES, ROLES)
