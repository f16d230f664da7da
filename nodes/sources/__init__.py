"""Where a member's rows come from: a CSV file, a Parquet file, or one SELECT on a database.

Every loader returns a bounded pandas frame with unique column names, or raises `DataSourceError`, whose text is one
sentence that never repeats a value, a query or a password. What the columns *mean* is checked in `nodes.contract`.
"""

from __future__ import annotations

from nodes.sources.csv_file import read_csv_rows
from nodes.sources.errors import DataSourceError
from nodes.sources.limits import SourceLimits
from nodes.sources.loading import load_rows
from nodes.sources.parquet_file import read_parquet_rows
from nodes.sources.sql_query import read_sql_rows

__all__ = [
    "DataSourceError",
    "SourceLimits",
    "load_rows",
    "read_csv_rows",
    "read_parquet_rows",
    "read_sql_rows",
]
