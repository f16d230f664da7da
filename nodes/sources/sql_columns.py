"""From what database drivers return to typed columns."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pandas as pd

from nodes.sources.errors import DataSourceError

_INT64: Final = range(-(2**63), 2**63)
_EXACT_IN_FLOAT: Final = 9_007_199_254_740_992  # 2^53


def column_of(values: Sequence[Any], where: str, position: int) -> pd.Series[Any]:
    """One column of a query's result.

    SQLite columns have no type: a column may hold numbers in some rows and text in others. Such a column becomes
    text, and the feature contract counts what is not a number.

    Args:
        values: One value per row, None where there is none.
        where: Name of the database, for the message.
        position: Position of the column, from 1.

    Returns:
        Whole numbers as int64 (`Int64` if some are missing), other numbers as float64, all else as text.

    Raises:
        DataSourceError: The column holds binary values.
    """
    kinds = {type(value) for value in values} - {type(None)}
    if kinds & {bytes, bytearray, memoryview}:
        raise DataSourceError(
            f"{where}: expected columns of numbers or text, found binary values in column {position} of the query;"
            " leave it out."
        )
    if kinds <= {int, bool} and all(value is None or value in _INT64 for value in values):
        has_missing = None in values
        return pd.Series(values, dtype="Int64" if has_missing else "int64")
    if kinds <= {int, bool, float, Decimal} and not _too_large_for_float(values):
        return pd.Series(np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64))
    return pd.Series([None if value is None else str(value) for value in values], dtype="str")


def _too_large_for_float(values: Sequence[Any]) -> bool:
    """Whole numbers beyond 2^53 are ids; as floats, neighbours would become one."""
    for value in values:
        if isinstance(value, Decimal) and value.is_finite() and abs(value) > _EXACT_IN_FLOAT:
            return True
        if isinstance(value, int) and abs(value) > _EXACT_IN_FLOAT:
            return True
    return False
