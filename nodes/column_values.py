"""Numbers and entity ids out of a column of any type, by fixed rules that do not depend on the other rows.

A CSV file brings text, Parquet and SQL bring types; the same value must become the same number from all three.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nodes.sources.csv_file import MISSING_WORDS

MAX_ID_CHARACTERS: Final = 128
_EXACT_IN_FLOAT: Final = 9_007_199_254_740_992  # 2^53: beyond it a float may be a rounded id

# What counts as a number in text. Thousands separators, hexadecimal and "1_000" do not: each has two readings.
_NUMBER: Final = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_INFINITE: Final = r"^[+-]?(?i:inf|infinity)$"


@dataclass(frozen=True, eq=False)
class Numbers:
    """One column as numbers.

    Attributes:
        as_float: Shape (rows,), float64; nan where the value is missing or not a number, may be infinite.
        missing: Shape (rows,); no value.
        not_numeric: Shape (rows,); a value that is not a number.
    """

    as_float: NDArray[np.float64]
    missing: NDArray[np.bool_]
    not_numeric: NDArray[np.bool_]


def numbers_of(column: pd.Series[Any]) -> Numbers:
    """A column as numbers; text is read as decimal numbers with a point, booleans as 0 and 1.

    Args:
        column: Any column of a loaded frame.
    """
    missing = column.isna().to_numpy(dtype=bool)
    nowhere = np.zeros(len(column), dtype=bool)
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        if pd.api.types.is_complex_dtype(column.dtype):
            return Numbers(np.full(len(column), np.nan), missing, ~missing)
        return Numbers(column.to_numpy(dtype=np.float64, na_value=np.nan), missing, nowhere)
    if pd.api.types.is_datetime64_any_dtype(column.dtype) or pd.api.types.is_timedelta64_dtype(column.dtype):
        return Numbers(np.full(len(column), np.nan), missing, ~missing)
    return _numbers_of_text(column, missing)


def _numbers_of_text(column: pd.Series[Any], missing: NDArray[np.bool_]) -> Numbers:
    texts = pc.utf8_trim_whitespace(_text_array(column, missing))
    empty = pc.or_(pc.is_null(texts), pc.is_in(texts, value_set=pa.array(MISSING_WORDS, texts.type)))
    is_number = pc.fill_null(pc.match_substring_regex(texts, _NUMBER), False)
    is_infinite = pc.fill_null(pc.match_substring_regex(texts, _INFINITE), False)
    readable = pc.or_(is_number, is_infinite)
    numbers = pc.cast(pc.if_else(readable, texts, pa.scalar(None, texts.type)), pa.float64())
    missing_mask: NDArray[np.bool_] = empty.to_numpy(zero_copy_only=False)
    readable_mask: NDArray[np.bool_] = readable.to_numpy(zero_copy_only=False)
    return Numbers(
        as_float=pc.fill_null(numbers, np.nan).to_numpy(zero_copy_only=False).astype(np.float64),
        missing=missing_mask,
        not_numeric=~missing_mask & ~readable_mask,
    )


def _text_array(column: pd.Series[Any], missing: NDArray[np.bool_]) -> pa.Array:
    """The column as arrow text, without a detour through Python objects where it is text already."""
    if isinstance(column.dtype, pd.StringDtype):
        array = pa.array(column, from_pandas=True)
        return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    objects = column.astype(object).to_numpy()
    return pa.array(
        [None if absent else str(value) for value, absent in zip(objects, missing, strict=True)], pa.large_string()
    )


def ids_of(column: pd.Series[Any]) -> list[str | None]:
    """A column as entity ids, None where there is no well-formed one.

    Well-formed: 1 to `MAX_ID_CHARACTERS` printable characters without white space around them. Whole numbers are
    written in decimal, so that an integer column of one member and a text column of another give the same ids.

    Args:
        column: Any column of a loaded frame.
    """
    if pd.api.types.is_bool_dtype(column.dtype):
        return [None] * len(column)
    missing = column.isna().to_numpy(dtype=bool)
    objects = column.astype(object).to_numpy()
    return [None if absent else _well_formed(value) for value, absent in zip(objects, missing, strict=True)]


def _well_formed(value: Any) -> str | None:
    if isinstance(value, float):  # an integer column with a gap, on its way through a tool that has no such thing
        if not value.is_integer() or abs(value) >= _EXACT_IN_FLOAT:
            return None
        value = int(value)
    text = str(value)
    if not 0 < len(text) <= MAX_ID_CHARACTERS or text != text.strip() or not text.isprintable():
        return None
    return text
