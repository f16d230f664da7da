"""SQL by URL and query: one SELECT on SQLite or PostgreSQL, over a connection that cannot write.

Three guards, each enough for an honest mistake: the statement is one SELECT (`nodes.sources.statement`); the connection
is read-only (SQLite: `mode=ro` and an authorizer; PostgreSQL: a READ ONLY transaction); the row and time limits.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from nodes.sources.errors import DataSourceError
from nodes.sources.files import check_column_names, check_ordinary_file, too_large_in_memory, too_many_rows
from nodes.sources.limits import DEFAULT_LIMITS, SourceLimits
from nodes.sources.sql_columns import column_of
from nodes.sources.sql_errors import sentence_for
from nodes.sources.statement import check_one_select

_FETCH_ROWS: Final = 10_000
_SQLITE_STEPS_BETWEEN_CHECKS: Final = 100_000
_MEAN_CELL_BYTES: Final = 56  # what a small Python number or string takes; the bound is on the order of magnitude
_FORMS: Final = "sqlite:////folder/file.db or postgresql://user@host/database"

# What SQLite may do while it compiles the statement. ATTACH, PRAGMA, writes and load_extension() are not here.
_ALLOWED_SQLITE_ACTIONS: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)


def read_sql_rows(url: str, query: str, limits: SourceLimits = DEFAULT_LIMITS) -> pd.DataFrame:
    """Run one SELECT and return all its rows.

    Args:
        url: SQLAlchemy URL of an SQLite file or a PostgreSQL database; its password is never printed.
        query: One SELECT, or WITH ... SELECT. Percent signs and colons mean nothing special.
        limits: Bounds of size and time.

    Returns:
        The rows, with the columns that the query names. Sort order is the database's own.

    Raises:
        DataSourceError: The URL, the statement or the connection is not acceptable, the query fails, or gives nothing.
    """
    statement = check_one_select(query)
    parsed = _parse_url(url)
    where = _shown_database(parsed)
    try:
        with (
            _connection(parsed, limits) as connection,
            connection.execution_options(
                stream_results=True, max_row_buffer=_FETCH_ROWS, no_parameters=True
            ).exec_driver_sql(statement) as result,
        ):
            names = [name.strip() for name in result.keys()]  # noqa: SIM118 - a result is not a mapping
            check_column_names(names, where, limits)
            rows = _fetch(result, len(names), where, limits)
    except (exc.SQLAlchemyError, sqlite3.Error) as problem:
        raise DataSourceError(sentence_for(problem, where, limits)) from None
    except ImportError:
        raise DataSourceError(
            f"{where}: expected the database's driver to be installed, found none; run `pip install psycopg[binary]`."
        ) from None
    if not rows:
        raise DataSourceError(f"{where}: expected rows from the query, found none; check its conditions.")
    values_by_column = zip(*rows, strict=True)
    return pd.DataFrame(
        {
            name: column_of(list(values), where, position)
            for position, (name, values) in enumerate(zip(names, values_by_column, strict=True), start=1)
        }
    )


def _parse_url(url: str) -> URL:
    """The URL, of one of the two databases that we know how to open read-only."""
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (exc.ArgumentError, ValueError):  # its text repeats the URL, password and all
        raise DataSourceError(f"The URL of the data source cannot be read; write it as {_FORMS}.") from None
    if backend == "postgres":
        raise DataSourceError(
            f"The URL of the data source starts with postgres:, expected postgresql:, as in {_FORMS}."
        )
    if backend not in {"sqlite", "postgresql"}:
        raise DataSourceError(
            f"The URL of the data source must name an SQLite or PostgreSQL database, and names another; write {_FORMS}."
        )
    if parsed.drivername not in {"sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg"}:
        raise DataSourceError(f"The URL of the data source names a driver that is not supported; write {_FORMS}.")
    return parsed


def _shown_database(url: URL) -> str:
    """Name of a database for messages: never the user, the password or the options of the URL."""
    if url.get_backend_name() == "sqlite":
        return f"SQLite database {_printable(url.database)}"
    port = f":{url.port}" if url.port else ""
    return f"PostgreSQL database {_printable(url.database)} at {_printable(url.host)}{port}"


def _printable(text: str | None) -> str:
    return "(none)" if not text else "".join(c if c.isprintable() else "?" for c in text)


@contextmanager
def _connection(url: URL, limits: SourceLimits) -> Iterator[sa.Connection]:
    """A read-only connection that closes with the block."""
    if url.get_backend_name() == "sqlite":
        engine = _sqlite_engine(url, limits)
    else:
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            poolclass=NullPool,
            hide_parameters=True,
            execution_options={"postgresql_readonly": True},
            connect_args={
                "connect_timeout": limits.connect_timeout_s,
                "application_name": "tallystick-node",
                "options": f"-c default_transaction_read_only=on -c statement_timeout={1000 * limits.query_timeout_s}",
            },
        )
    try:
        with engine.connect() as connection:
            driver = connection.connection.driver_connection
            if isinstance(driver, sqlite3.Connection):
                driver.set_authorizer(_authorize)  # only now: SQLAlchemy reads a PRAGMA when it connects
            yield connection
    finally:
        engine.dispose()


def _sqlite_engine(url: URL, limits: SourceLimits) -> sa.Engine:
    """An engine on an existing file; SQLite would create a missing one, and call it an empty database."""
    if not url.database or url.database == ":memory:":
        raise DataSourceError(f"The URL of the data source names no SQLite file; write it as {_FORMS}.")
    if url.query or url.database.startswith("file:"):
        raise DataSourceError(
            "The URL of the data source has options after its path, expected an SQLite file alone; remove them."
        )
    path = Path(url.database)
    check_ordinary_file(path, limits)
    deadline = time.monotonic() + limits.query_timeout_s

    def connect() -> sqlite3.Connection:
        address = f"file:{quote(str(path.absolute()))}?mode=ro"
        connection = sqlite3.connect(address, uri=True, timeout=limits.connect_timeout_s, check_same_thread=False)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _SQLITE_STEPS_BETWEEN_CHECKS)
        return connection

    return sa.create_engine("sqlite+pysqlite://", creator=connect, poolclass=NullPool, hide_parameters=True)


def _authorize(action: int, first: str | None, second: str | None, *_origin: str | None) -> int:
    """SQLite asks this for every thing that a statement would do."""
    del first
    if action == sqlite3.SQLITE_FUNCTION and second == "load_extension":
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _ALLOWED_SQLITE_ACTIONS else sqlite3.SQLITE_DENY


def _fetch(result: sa.CursorResult[Any], width: int, where: str, limits: SourceLimits) -> list[tuple[Any, ...]]:
    """All rows, never more than the limits."""
    rows: list[tuple[Any, ...]] = []
    while block := result.fetchmany(_FETCH_ROWS):
        rows.extend(tuple(row) for row in block)
        if len(rows) > limits.max_rows:
            raise too_many_rows(where, limits)
        if len(rows) * width * _MEAN_CELL_BYTES > limits.max_frame_bytes:
            raise too_large_in_memory(where, limits)
    return rows
