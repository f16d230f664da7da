"""From the `[source]` table of a node's settings to a frame."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import pandas as pd
from pydantic import SecretStr

from nodes.sources.csv_file import read_csv_rows
from nodes.sources.errors import DataSourceError
from nodes.sources.limits import DEFAULT_LIMITS, SourceLimits
from nodes.sources.parquet_file import read_parquet_rows
from nodes.sources.sql_query import read_sql_rows


@runtime_checkable
class FileSource(Protocol):
    """What `CsvSource` and `ParquetSource` of the node's settings have in common."""

    @property
    def kind(self) -> str:
        """`csv` or `parquet`."""

    @property
    def path(self) -> Path:
        """The file."""


@runtime_checkable
class QuerySource(Protocol):
    """What `SqlSource` of the node's settings has."""

    @property
    def kind(self) -> str:
        """`sql`."""

    @property
    def url(self) -> str | SecretStr:
        """SQLAlchemy URL of the database; it may hold a password."""

    @property
    def query(self) -> str:
        """One SELECT."""


def load_rows(source: FileSource | QuerySource, limits: SourceLimits = DEFAULT_LIMITS) -> pd.DataFrame:
    """Read all rows of a data source.

    Args:
        source: The source as the node's settings describe it.
        limits: Bounds of size and time.

    Returns:
        A frame of one row per record. Columns of a CSV file are text; those of Parquet and SQL have the type they
        have there. Missing values are missing in pandas' sense.

    Raises:
        DataSourceError: The source cannot be read, with the reason in one sentence.
    """
    if isinstance(source, QuerySource) and source.kind == "sql":
        url = source.url.get_secret_value() if isinstance(source.url, SecretStr) else source.url
        return read_sql_rows(url, source.query, limits)
    if isinstance(source, FileSource) and source.kind == "csv":
        return read_csv_rows(Path(source.path), limits)
    if isinstance(source, FileSource) and source.kind == "parquet":
        return read_parquet_rows(Path(source.path), limits)
    raise DataSourceError(
        "The data source must be of kind csv, parquet or sql; correct [source] in the node's settings."
    )
