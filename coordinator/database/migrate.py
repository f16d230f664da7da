"""Bring a database to the schema of this release, and refuse to work with any other.

The migrations are packaged (`migrations/versions/`); alembic runs them, each in a transaction of its own.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL, Engine

from coordinator.database.connection import POSTGRESQL, reading_engine, refusal, shown_url, writing_engine
from coordinator.database.errors import DatabaseRefused

_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_ALEMBIC: Final = threading.Lock()  # alembic keeps its context in a module
_MIGRATION_LOCK: Final = 0x7A11_1571
COMMAND: Final = "tallystick coordinator migrate"


def newest_revision() -> str:
    """The schema that this release reads and writes."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def current_revision(connection: sa.Connection) -> str | None:
    """The schema that the database has; None for a database without any."""
    return MigrationContext.configure(connection).get_current_revision()


def migrate(url: URL) -> tuple[str | None, str]:
    """Upgrade a database to this release's schema; a new one gets it whole.

    Returns:
        The revision before and the one after.

    Raises:
        DatabaseRefused: The database is newer than this release, or cannot be opened.
    """
    engine = writing_engine(url)
    try:
        with engine.connect() as connection:
            before = current_revision(connection)
            _refuse_newer(url, before)
            connection.rollback()
            with _sole_migration(connection):
                _upgrade(connection)
            return before, newest_revision()
    except sa.exc.DBAPIError as problem:
        raise refusal(url, problem) from None
    finally:
        engine.dispose()


def open_existing(url: URL) -> Engine:
    """An engine for reads of a database that is there, with this release's schema; nothing is made or changed.

    Raises:
        DatabaseRefused: It is not there, or has another schema.
    """
    if url.get_backend_name() != POSTGRESQL and not Path(str(url.database)).is_file():
        raise DatabaseRefused(f"{shown_url(url)}: expected the decisions' database, found no file; correct the path.")
    engine = reading_engine(url)
    try:
        with engine.connect() as connection:
            found = current_revision(connection)
        if found is None:
            raise DatabaseRefused(f"{shown_url(url)}: expected the decisions' database, found another one.")
        _refuse_newer(url, found)
        if found != newest_revision():
            raise _older(url, found)
    except sa.exc.DBAPIError as problem:
        engine.dispose()
        raise refusal(url, problem) from None
    except DatabaseRefused:
        engine.dispose()
        raise
    return engine


def require_schema(engine: Engine, url: URL) -> None:
    """Check a database at start: an empty one gets the schema, one of another release is refused.

    Raises:
        DatabaseRefused: It has another schema, or cannot be opened.
    """
    try:
        with engine.connect() as connection:
            if _revision_and_tables(connection)[0] == newest_revision():
                return
            with _sole_migration(connection):  # and look again: another process may have been at it
                found, tables = _revision_and_tables(connection)
                if found is None and not tables:
                    _upgrade(connection)
                    found = newest_revision()
    except sa.exc.DBAPIError as problem:
        raise refusal(url, problem) from None
    if found == newest_revision():
        return
    _refuse_newer(url, found)
    if found is not None:
        raise _older(url, found)
    raise DatabaseRefused(
        f"{shown_url(url)}: expected the decisions' database or an empty one, found other tables"
        f" ({', '.join(sorted(tables)[:3])}); give a database of its own."
    )


def _revision_and_tables(connection: sa.Connection) -> tuple[str | None, list[str]]:
    found = current_revision(connection), sa.inspect(connection).get_table_names()
    connection.rollback()
    return found


def _older(url: URL, found: str) -> DatabaseRefused:
    return DatabaseRefused(
        f"{shown_url(url)}: expected schema {newest_revision()}, found the older {found}; stop what uses the database,"
        f" make a backup, and run `{COMMAND}`."
    )


def _refuse_newer(url: URL, found: str | None) -> None:
    script = ScriptDirectory.from_config(_config())
    if found is not None and found not in {revision.revision for revision in script.walk_revisions()}:
        raise DatabaseRefused(
            f"{shown_url(url)}: expected a schema up to {newest_revision()}, found {found[:40]!r} of a newer release;"
            " run that release."
        )


def _upgrade(connection: sa.Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def _sole_migration(connection: sa.Connection) -> Iterator[None]:
    """Of several that start at once, one brings the schema up and the others find it done."""
    with _ALEMBIC, _sole_process(connection):
        yield


@contextmanager
def _sole_process(connection: sa.Connection) -> Iterator[None]:
    # Alembic looks at the schema before its transaction begins: the lock must be held before that.
    if connection.dialect.name == POSTGRESQL:
        connection.execute(sa.select(sa.func.pg_advisory_lock(_MIGRATION_LOCK)))
        connection.commit()
        try:
            yield
        finally:
            connection.rollback()
            connection.execute(sa.select(sa.func.pg_advisory_unlock(_MIGRATION_LOCK)))
            connection.commit()
        return
    # A file beside the database: to close the database's own would let go of SQLite's locks on it.
    lock = os.open(f"{connection.engine.url.database}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config
