"""Default of credit card clients (Taiwan 2005; UCI, CC BY 4.0): 30,000 clients, 23 features, default next month."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pandas as pd

from policies.agreement import Feature
from simulations.datasets.data_set import ID_COLUMN, DataSet, integer, number
from simulations.datasets.locations import required_shared_file

NAME: Final = "uci_default"
LABEL: Final = "default_next_month"
HORIZON_MONTHS: Final = 1

_FILE: Final = "uci_default/uci_default.parquet"
_SHA256: Final = "6bc6842693ff09744d6fa8ed2d80323b51f2b3e53fb31a2a0a61fa194d8f9651"
_STATUSES: Final = ("pay_0", "pay_2", "pay_3", "pay_4", "pay_5", "pay_6")  # there is no pay_1 in the published file
_BILLS: Final = tuple(f"bill_amt{month}" for month in range(1, 7))
_PAYMENTS: Final = tuple(f"pay_amt{month}" for month in range(1, 7))

FEATURES: Final[tuple[Feature, ...]] = (
    number("limit_bal", "TWD", 0, 2_000_000),
    integer("sex", "code", 0, 9),
    integer("education", "code", 0, 9),
    integer("marriage", "code", 0, 9),
    integer("age", "years", 0, 120),
    *(integer(name, "months late, -2 no use, -1 paid", -2, 9) for name in _STATUSES),
    *(number(name, "TWD", -1_000_000, 5_000_000) for name in _BILLS),
    *(number(name, "TWD", 0, 5_000_000) for name in _PAYMENTS),
)

ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "bank": ("limit_bal", "sex", "education", "marriage", "age", *_STATUSES),
    "payment": (*_BILLS, *_PAYMENTS),
}
"""Two parties, as published with other frameworks' benchmarks."""

ROLES_OF_THREE: Final[Mapping[str, tuple[str, ...]]] = {
    "bank": ("limit_bal", "sex", "education", "marriage", "age"),
    "payment": _STATUSES,
    "logistics": (*_BILLS, *_PAYMENTS),
}
"""Three parties; logistics stands in for whoever would see amounts."""


def load_uci_default(environ: Mapping[str, str]) -> DataSet:
    """Load the data set from the shared folder.

    Args:
        environ: The process environment (folders).

    Raises:
        DataSetUnavailable: It is not there.
    """
    published = pd.read_parquet(required_shared_file(NAME, _FILE, _SHA256, environ))
    frame = pd.DataFrame({ID_COLUMN: [f"uci-{number:05d}" for number in published["ID"]]})
    for feature in FEATURES:
        frame[feature.name] = published[feature.name.upper()].to_numpy()
    frame[LABEL] = published[LABEL].to_numpy(dtype="int8")
    return DataSet(NAME, frame, LABEL, HORIZON_MONTHS, FEATURES, ROLES)
