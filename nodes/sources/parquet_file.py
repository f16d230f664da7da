"""Parquet: numbers, text, booleans and dates; nothing nested, nothing binary.

The file's own statements about itself are not believed: rows are unpacked in small batches, and the limits are
checked after each, since a few kilobytes of dictionary-encoded text can unpack to any size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from nodes.sources.errors import DataSourceError
from nodes.sources.files import (
    check_column_names,
    check_ordinary_file,
    too_large_in_memory,
    too_many_rows,
    unreadable,
)
from nodes.sources.limits import DEFAULT_LIMITS, SourceLimits
from policies.closed_model import shown_path

_BATCH_ROWS: Final = 8_192
_MAX_FOOTER_STRING_BYTES: Final = 10 << 20
_MAX_FOOTER_ENTRIES: Final = 1_000_000
_MAGIC: Final = b"PAR1"
_ENCRYPTED_MAGIC: Final = b"PARE"
_SIMPLE_TYPES: Final = (
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_date,
    pa.types.is_timestamp,
    pa.types.is_null,
)


def read_parquet_rows(path: Path, limits: SourceLimits = DEFAULT_LIMITS) -> pd.DataFrame:
    """Read a Parquet file.

    Args:
        path: The file.
        limits: Bounds of size.

    Returns:
        The rows. Whole numbers stay whole (pandas' `Int64` where some are missing), so that an id of 17 digits does
        not pass through a float. An index that pandas stored is an ordinary column.

    Raises:
        DataSourceError: The file is absent, not Parquet, damaged, too large, or has columns of another kind.
    """
    where = shown_path(path)
    check_ordinary_file(path, limits)
    try:
        stream = path.open("rb")
    except OSError as problem:
        raise unreadable(path, problem) from None
    with stream:
        start = stream.read(len(_MAGIC))
        if start == _ENCRYPTED_MAGIC:
            raise DataSourceError(f"{where}: expected a plain Parquet file, found an encrypted one; decrypt it first.")
        if start != _MAGIC:
            raise DataSourceError(f"{where}: expected a Parquet file, found another format; check its kind and path.")
        try:
            table = _unpack(stream, where, limits)
        except (pa.ArrowException, OSError, ValueError):  # arrow reports a damaged page as any of the three
            raise DataSourceError(
                f"{where}: expected a readable Parquet file, found a damaged or unsupported one; export it again."
            ) from None
    if table.num_rows == 0:
        raise DataSourceError(f"{where}: expected rows, found none; export the file again.")
    return _to_frame(table)


def _unpack(stream: BinaryIO, where: str, limits: SourceLimits) -> pa.Table:
    """All rows, validated, and never more than the limits in memory."""
    file = pq.ParquetFile(
        stream,
        page_checksum_verification=True,
        thrift_string_size_limit=_MAX_FOOTER_STRING_BYTES,
        thrift_container_size_limit=_MAX_FOOTER_ENTRIES,
    )
    schema = file.schema_arrow
    names = [name.strip() for name in schema.names]
    if not names:
        raise DataSourceError(f"{where}: expected columns, found none; export the file again.")
    check_column_names(names, where, limits)
    _check_types(schema, where)
    if file.metadata.num_rows > limits.max_rows:
        raise too_many_rows(where, limits)
    batches: list[pa.RecordBatch] = []
    num_rows = num_bytes = 0
    for batch in file.iter_batches(batch_size=_BATCH_ROWS):
        batch.validate(full=True)  # arrow takes text pages as UTF-8 without looking
        num_rows += batch.num_rows
        num_bytes += batch.nbytes
        if num_rows > limits.max_rows:
            raise too_many_rows(where, limits)
        if num_bytes > limits.max_frame_bytes:
            raise too_large_in_memory(where, limits)
        batches.append(batch)
    return pa.Table.from_batches(batches, schema).rename_columns(names)


def _check_types(schema: pa.Schema, where: str) -> None:
    """Refuse columns that no feature contract can name."""
    for position, field in enumerate(schema, start=1):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if not any(is_kind(kind) for is_kind in _SIMPLE_TYPES):
            raise DataSourceError(
                f"{where}: expected columns of numbers, text, booleans or dates, found {_spelled(kind)} at column"
                f" {position}; leave that column out."
            )


def _spelled(kind: pa.DataType) -> str:
    if pa.types.is_nested(kind):
        return "a nested type"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "binary values"
    return "another type"


def _to_frame(table: pa.Table) -> pd.DataFrame:
    """Columns as pandas keeps them best: decimals as floats, text as `str`, whole numbers whole."""
    columns: dict[str, pd.Series[Any]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)  # noqa: PLW2901 - the same column in a plainer type
            kind = column.type
        if pa.types.is_decimal(kind) or pa.types.is_float16(kind):
            column = column.cast(pa.float64())  # noqa: PLW2901
        whole = pa.types.is_integer(kind) and column.null_count > 0
        columns[name] = (
            column.cast(pa.int64()).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
            if whole and kind != pa.uint64()
            else column.to_pandas()
        )
    return pd.DataFrame(columns)
