"""LendingClub sample of the R package modeldata (MIT): 9,857 loans, 21 features, dealt by US state.

The published file has no id; a loan's row number becomes one. Ordered text (grade, years employed) becomes its rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd

from policies.agreement import Feature
from simulations.datasets.data_set import ID_COLUMN, DataSet, integer, number
from simulations.datasets.locations import required_shared_file

NAME: Final = "lending_club"
LABEL: Final = "bad"
HORIZON_MONTHS: Final = 36
STATE_COLUMN: Final = "state"
"""Two-letter US state: not a feature, it deals loans to members."""

_FILE: Final = "lending_club/lending_club_modeldata.parquet"
_SHA256: Final = "30082a6917a92186e5fde5777f93759f28696ff49b3983b50b3bb6fae22495dd"
_AMOUNT: Final = 100_000_000

_PROFILE: Final[tuple[Feature, ...]] = (
    number("annual_inc", "USD per year", 0, _AMOUNT),
    integer("emp_length", "years, 10 for more", 0, 10, missing_allowed=True),
    integer("verification_status", "0 none, 1 source, 2 income", 0, 2),
    number("funded_amnt", "USD", 0, 1_000_000),
    integer("term", "months", 1, 600),
    number("int_rate", "percent per year", 0, 100),
    integer("sub_grade", "rank from A1", 1, 35),
)
_BUREAU: Final[tuple[Feature, ...]] = (
    integer("delinq_2yrs", "count", 0, 100),
    integer("inq_last_6mths", "count", 0, 100),
    number("revol_util", "percent", 0, 1_000),
    integer("acc_now_delinq", "count", 0, 100),
    integer("open_il_6m", "count", 0, 200),
    integer("open_il_12m", "count", 0, 200),
    integer("open_il_24m", "count", 0, 200),
    number("total_bal_il", "USD", 0, _AMOUNT),
    number("all_util", "percent", 0, 1_000),
    integer("inq_fi", "count", 0, 200),
    integer("inq_last_12m", "count", 0, 200),
    number("delinq_amnt", "USD", 0, _AMOUNT),
    integer("num_il_tl", "count", 0, 500),
    number("total_il_high_credit_limit", "USD", 0, _AMOUNT),
)
FEATURES: Final = (*_PROFILE, *_BUREAU)
ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "bank": tuple(feature.name for feature in _PROFILE),
    "payment": tuple(feature.name for feature in _BUREAU),
}

_VERIFICATION: Final = {"Not_Verified": 0, "Source_Verified": 1, "Verified": 2}
_GRADES: Final = {f"{letter}{step}": 5 * rank + step for rank, letter in enumerate("ABCDEFG") for step in range(1, 6)}
_EMPLOYMENT: Final = {
    "emp_unk": np.nan,
    "emp_lt_1": 0.0,
    **{f"emp_{years}": float(years) for years in range(1, 10)},
    "emp_ge_10": 10.0,
}


def load_lending_club(environ: Mapping[str, str]) -> DataSet:
    """Load the data set from the shared folder.

    Args:
        environ: The process environment (folders).

    Raises:
        DataSetUnavailable: It is not there.
    """
    published = pd.read_parquet(required_shared_file(NAME, _FILE, _SHA256, environ))
    ranked = published.assign(
        term=published["term"].str.removeprefix("term_").astype("int64"),
        verification_status=published["verification_status"].map(_VERIFICATION),
        sub_grade=published["sub_grade"].map(_GRADES),
        emp_length=published["emp_length"].map(_EMPLOYMENT),
    )
    frame = pd.DataFrame({ID_COLUMN: [f"loan-{number:05d}" for number in range(1, len(published) + 1)]})
    for feature in FEATURES:
        frame[feature.name] = ranked[feature.name].to_numpy()
    frame[STATE_COLUMN] = published["addr_state"].to_numpy()
    frame[LABEL] = (published["Class"] == "bad").to_numpy(dtype="int8")
    return DataSet(NAME, frame, LABEL, HORIZON_MONTHS, FEATURES, ROLES)
