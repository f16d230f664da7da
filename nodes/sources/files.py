"""What CSV and Parquet files have in common: they are ordinary files of bounded size, with usable column names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nodes.sources.errors import DataSourceError
from nodes.sources.limits import SourceLimits
from policies.closed_model import shown_path

_MAX_NAME_CHARACTERS = 128
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")

# First bytes of files that are often given by mistake, and what they are.
_KNOWN_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"PAR1", "a Parquet file"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"\x1f\x8b", "a gzip-compressed file"),
    (b"\x28\xb5\x2f\xfd", "a zstd-compressed file"),
    (b"BZh", "a bzip2-compressed file"),
    (b"\xfd7zXZ\x00", "an xz-compressed file"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"%PDF", "a PDF document"),
    (b"ARROW1", "an Arrow file"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)


def check_ordinary_file(path: Path, limits: SourceLimits) -> int:
    """Check that a path names a file that may be read whole.

    Args:
        path: The file.
        limits: Bounds of size.

    Returns:
        The size in bytes, more than 0.

    Raises:
        DataSourceError: It is absent, not an ordinary file (a device or pipe would never end), empty or too large.
    """
    where = shown_path(path)
    try:
        if not path.exists():
            raise DataSourceError(f"{where}: expected the file with this member's rows, found nothing; check its path.")
        if not path.is_file():
            found = "a folder" if path.is_dir() else "a device or pipe"
            raise DataSourceError(f"{where}: expected a file, found {found}; give the path of a file.")
        size = path.stat().st_size
    except (OSError, ValueError) as problem:  # ValueError: a NUL character in the path
        raise unreadable(path, problem) from None
    if size == 0:
        raise DataSourceError(f"{where}: expected rows, found an empty file; export it again.")
    if size > limits.max_file_bytes:
        raise DataSourceError(
            f"{where}: expected at most {limits.max_file_bytes:,} bytes, found {size:,}; export fewer rows or columns."
        )
    return size


def unreadable(path: Path, problem: OSError | ValueError) -> DataSourceError:
    """The error for a file that the operating system does not let us read."""
    reason = (problem.strerror if isinstance(problem, OSError) else None) or "the path is not valid"
    return DataSourceError(f"{shown_path(path)}: cannot be read ({reason}); check the path and its permissions.")


def known_format(first_bytes: bytes) -> str | None:
    """What a file is, judged by its first bytes, or None for what may well be text."""
    for magic, name in _KNOWN_FORMATS:
        if first_bytes.startswith(magic):
            return name
    return None


def check_column_names(names: Sequence[str], where: str, limits: SourceLimits) -> None:
    """Check that columns can be told apart by name.

    Columns are named by position in what is raised: when a file lacks its header, its first row of data stands where
    the names should, and must not be printed.

    Args:
        names: Column names, outer white space removed.
        where: Name of the source, the start of the sentence.
        limits: Bounds of size.

    Raises:
        DataSourceError: Too many columns, or a name that is empty, a number, too long, unprintable, or there twice.
    """
    if len(names) > limits.max_columns:
        raise DataSourceError(
            f"{where}: expected at most {limits.max_columns} columns, found {len(names)};"
            " keep those that the agreement names."
        )
    if all(_NUMBER.fullmatch(name) for name in names):
        raise DataSourceError(f"{where}: expected column names in the first line, found numbers; add a header line.")
    first_position: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        if not name:
            raise DataSourceError(
                f"{where}: expected a name for every column, found none for column {position}; add it."
            )
        if len(name) > _MAX_NAME_CHARACTERS or not name.isprintable():
            raise DataSourceError(
                f"{where}: expected column names of at most {_MAX_NAME_CHARACTERS} printable characters,"
                f" found another kind at column {position}; check that the first line is a header."
            )
        if name in first_position:
            raise DataSourceError(
                f"{where}: expected different column names, found the same one at columns"
                f" {first_position[name]} and {position}; rename or remove one."
            )
        first_position[name] = position


def too_many_rows(where: str, limits: SourceLimits) -> DataSourceError:
    """The error for a source of more rows than a node takes."""
    return DataSourceError(f"{where}: expected at most {limits.max_rows:,} rows, found more; select fewer.")


def too_large_in_memory(where: str, limits: SourceLimits) -> DataSourceError:
    """The error for a source that would fill the node's memory."""
    return DataSourceError(
        f"{where}: expected rows that take at most {limits.max_frame_bytes:,} bytes of memory, found more;"
        " select fewer rows or columns."
    )
