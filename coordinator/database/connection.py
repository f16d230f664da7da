"""Engines for SQLite and PostgreSQL that keep what they acknowledged, and the sentence for a server that is not there.

SQLite: write-ahead log, `synchronous = full` (a commit returns when the log is on the disk), foreign keys checked.
PostgreSQL: `synchronous_commit = on` whatever the server's default is.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine
from sqlalchemy.pool import ConnectionPoolEntry

from coordinator.database.errors import DatabaseRefused
from policies.closed_model import one_line, shown_path

SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"
_BUSY_S: Final = 30.0
_READERS: Final = 8
_STATEMENT_TIMEOUT_MS: Final = 60_000


def parse_url(text: str) -> URL:
    """A database URL: `sqlite:///path` or `postgresql://user@host/database` (psycopg).

    Raises:
        DatabaseRefused: It is neither.
    """
    expected = "expected sqlite:///PATH or postgresql://USER@HOST/DATABASE"
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError:
        raise DatabaseRefused(f"The database URL: {expected}, found something that is no URL; correct it.") from None
    backend = url.get_backend_name()
    if backend == POSTGRESQL:
        return url.set(drivername="postgresql+psycopg")
    if backend != SQLITE:
        raise DatabaseRefused(f"The database URL: {expected}, found {one_line(backend)[:40]!r}; correct it.")
    if not url.database or url.database == ":memory:":
        raise DatabaseRefused(f"The database URL: {expected}, found no path; a decision must outlive the process.")
    return url.set(drivername="sqlite+pysqlite")


def shown_url(url: URL) -> str:
    """The URL as it may be printed."""
    return one_line(url.render_as_string(hide_password=True))


def writing_engine(url: URL, *, survives_power_cut: bool = True) -> Engine:
    """An engine whose transactions may write; on SQLite each takes the write lock at once.

    Args:
        url: As `parse_url` gives it.
        survives_power_cut: Whether a commit waits for the disk. False is for simulations in one process.
    """
    return _engine(url, begin="begin immediate", pool_size=1, survives_power_cut=survives_power_cut)


def reading_engine(url: URL) -> Engine:
    """An engine for reads, beside the writer: all reads of a transaction see one state."""
    engine = _engine(url, begin="begin", pool_size=_READERS, survives_power_cut=True)
    if url.get_backend_name() == POSTGRESQL:
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return engine


def _engine(url: URL, *, begin: str, pool_size: int, survives_power_cut: bool) -> Engine:
    if url.get_backend_name() == POSTGRESQL:
        mode = "on" if survives_power_cut else "off"
        try:
            engine = sa.create_engine(
                url, pool_size=pool_size, max_overflow=0, pool_pre_ping=True, connect_args={"connect_timeout": 10}
            )
        except ImportError:
            raise DatabaseRefused(
                f"{shown_url(url)}: expected the PostgreSQL driver psycopg, found none installed;"
                " install Tallystick with its extra 'postgresql'."
            ) from None

        @event.listens_for(engine, "connect")
        def _settle(connection: Any, record: ConnectionPoolEntry) -> None:
            del record
            connection.autocommit = True
            connection.execute(f"set synchronous_commit = {mode}")
            connection.execute(f"set statement_timeout = {_STATEMENT_TIMEOUT_MS}")
            connection.autocommit = False

        return engine
    _make_private(Path(str(url.database)))
    engine = sa.create_engine(
        url,
        poolclass=sa.QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        connect_args={"timeout": _BUSY_S, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _settle_sqlite(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
        del record
        connection.isolation_level = None  # transactions begin where the listener below says
        connection.execute("pragma journal_mode = wal")
        connection.execute(f"pragma synchronous = {'full' if survives_power_cut else 'off'}")
        connection.execute("pragma foreign_keys = on")

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _make_private(path: Path) -> None:
    """An SQLite file is made with mode 0600, in a folder of mode 0700 where the folder is new."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError as problem:
        raise DatabaseRefused(
            f"{shown_path(path)}: expected a place for the decisions' database, found one that cannot be written"
            f" ({problem.strerror}); correct the database URL or the permissions."
        ) from None


def refusal(url: URL, problem: sa.exc.DBAPIError) -> DatabaseRefused:
    """The one sentence for a database that cannot be opened."""
    first_line = one_line(str(problem.orig).partition("\n")[0])[:200]
    return DatabaseRefused(
        f"{shown_url(url)}: expected the decisions' database, found none that answers ({first_line});"
        " check the URL, the server and its permissions."
    )
