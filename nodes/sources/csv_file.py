"""CSV: UTF-8, comma-separated, one header line, quotes as in RFC 4180.

Everything is read as text. A parser that guesses types turns the id `000123` into a number, and quotes the offending
value in its error when the guess fails.
"""

from __future__ import annotations

import codecs
import csv
import io
from pathlib import Path
from typing import BinaryIO, Final

import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv

from nodes.sources.errors import DataSourceError
from nodes.sources.files import (
    check_column_names,
    check_ordinary_file,
    known_format,
    too_large_in_memory,
    too_many_rows,
    unreadable,
)
from nodes.sources.limits import DEFAULT_LIMITS, SourceLimits
from policies.closed_model import shown_path

_SCAN_BYTES: Final = 1 << 20
_MAX_LINE_BYTES: Final = 4 << 20
_OTHER_SEPARATORS: Final = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}

MISSING_WORDS: Final = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None")
"""What stands for "no value" in a CSV field."""


def read_csv_rows(path: Path, limits: SourceLimits = DEFAULT_LIMITS) -> pd.DataFrame:
    """Read a CSV file, every column as text.

    The plan: (1) an ordinary file of bounded size; (2) UTF-8 throughout, quotes in pairs, a bounded number of lines;
    (3) a header of usable names; (4) every row with as many fields as the header.

    Args:
        path: The file.
        limits: Bounds of size.

    Returns:
        The rows; fields that are empty or say that there is no value (`MISSING_WORDS`) are missing.

    Raises:
        DataSourceError: Any of the four is not so.
    """
    where = shown_path(path)
    size = check_ordinary_file(path, limits)  # 1
    try:
        with path.open("rb") as stream:
            _scan(stream, where, limits)  # 2
            stream.seek(0)
            raw_names = _header(stream, where, limits)  # 3
            stream.seek(0)
            table = _parse(stream, raw_names, where, size)  # 4
    except OSError as problem:
        raise unreadable(path, problem) from None
    if table.num_rows == 0:
        raise DataSourceError(f"{where}: expected rows, found a header alone; export the file again.")
    if table.num_rows > limits.max_rows:
        raise too_many_rows(where, limits)
    if table.nbytes > limits.max_frame_bytes:
        raise too_large_in_memory(where, limits)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _scan(stream: BinaryIO, where: str, limits: SourceLimits) -> None:
    """Read the file once for what the parser would pass over, or report with the row in its text."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    num_lines = num_quotes = offset = 0
    while block := stream.read(_SCAN_BYTES):
        if offset == 0 and (found := known_format(block)) is not None:
            raise DataSourceError(f"{where}: expected CSV text, found {found}; export the rows as CSV in UTF-8.")
        if b"\x00" in block:
            raise DataSourceError(
                f"{where}: expected CSV text, found a NUL byte after line {num_lines + 1}; export the rows as UTF-8."
            )
        try:
            decoder.decode(block)
        except UnicodeDecodeError:
            raise _not_utf8(where) from None
        num_lines += block.count(b"\n")
        num_quotes += block.count(b'"')
        offset += len(block)
        if num_lines > limits.max_rows + 1:
            raise too_many_rows(where, limits)
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise _not_utf8(where) from None
    if num_quotes % 2:  # an open quote swallows every row that follows it, without an error
        raise DataSourceError(
            f"{where}: expected quote characters in pairs, found one that is never closed;"
            ' write "" for a quote in a field.'
        )


def _header(stream: BinaryIO, where: str, limits: SourceLimits) -> list[str]:
    """The column names, checked, and as they stand in the file."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        raw_names = next(csv.reader(text, strict=True), [])
    except csv.Error:
        raise DataSourceError(
            f"{where}: expected a line of column names, found something else; check that this is the right file."
        ) from None
    finally:
        text.detach()  # the wrapper would close the stream
    names = [name.strip() for name in raw_names]
    if not any(names):
        raise DataSourceError(f"{where}: expected column names in the first line, found an empty one; add a header.")
    if len(names) == 1:
        for separator, spelled in _OTHER_SEPARATORS.items():
            if separator in names[0]:
                raise DataSourceError(
                    f"{where}: expected fields separated by commas, found {spelled}; export the file with commas."
                )
    check_column_names(names, where, limits)
    return raw_names


def _parse(stream: BinaryIO, raw_names: list[str], where: str, size: int) -> pa.Table:
    """All rows as text.

    Args:
        stream: The file, at its start.
        raw_names: The checked header; its width is what each row must have.
        where: Name of the file.
        size: Its length in bytes.
    """
    ragged: list[arrow_csv.InvalidRow] = []
    num_ragged = 0

    def count_ragged(row: arrow_csv.InvalidRow) -> str:
        nonlocal num_ragged
        num_ragged += 1
        if not ragged:
            ragged.append(row)
        return "skip"

    try:
        table = arrow_csv.read_csv(
            stream,
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=min(max(size, 1024), _MAX_LINE_BYTES)),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=count_ragged),
            convert_options=arrow_csv.ConvertOptions(
                column_types={name: pa.string() for name in raw_names},
                null_values=list(MISSING_WORDS),
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid:
        raise DataSourceError(
            f"{where}: expected rows of comma-separated fields of at most {_MAX_LINE_BYTES:,} bytes,"
            " found something else; export the file again."
        ) from None
    if ragged:
        first = ragged[0]
        at_line = f", the first at row {first.number}" if first.number else ""
        raise DataSourceError(
            f"{where}: expected {first.expected_columns} fields in every row, found another number in"
            f" {num_ragged:,} row(s){at_line}; quote fields that hold commas and export the file again."
        )
    if table.column_names != raw_names:
        raise DataSourceError(
            f"{where}: expected {len(raw_names)} columns as in the header, found others; export it again."
        )
    return table.rename_columns([name.strip() for name in raw_names])


def _not_utf8(where: str) -> DataSourceError:
    return DataSourceError(
        f"{where}: expected UTF-8 text, found another encoding; export or convert the file to UTF-8."
    )
