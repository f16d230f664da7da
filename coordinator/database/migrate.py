"""Bring a database to the schema of this release, and refuse to work with any other.

The migrations are packaged (`migrations/versions/`); alembic runs them, each in a transaction of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL, Engine

from coordinator.database.connection import POSTGRESQL, refusal, shown_url, writing_engine
from coordinator.database.errors import DatabaseRefused

_MIGRATIONS: Final = Path(__file__).with_name("migrations")
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
            _upgrade(connection)
            return before, newest_revision()
    except sa.exc.DBAPIError as problem:
        raise refusal(url, problem) from None
    finally:
        engine.dispose()


def require_schema(engine: Engine, url: URL) -> None:
    """Check a database at start: an empty one gets the schema, one of another release is refused.

    Raises:
        DatabaseRefused: It has another schema, or cannot be opened.
    """
    try:
        with engine.connect() as connection:
            found = current_revision(connection)
            tables = sa.inspect(connection).get_table_names()
            connection.rollback()
            if found == newest_revision():
                return
            _refuse_newer(url, found)
            if found is None and not tables:
                _upgrade(connection)
                return
    except sa.exc.DBAPIError as problem:
        raise refusal(url, problem) from None
    if found is None:
        raise DatabaseRefused(
            f"{shown_url(url)}: expected the decisions' database or an empty one, found other tables"
            f" ({', '.join(sorted(tables)[:3])}); give a database of its own."
        )
    raise DatabaseRefused(
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
    """Run what is missing; of several processes that start at once, one does and the others find it done."""
    config = _config()
    config.attributes["connection"] = connection
    on_a_server = connection.dialect.name == POSTGRESQL
    if on_a_server:
        connection.execute(sa.select(sa.func.pg_advisory_lock(_MIGRATION_LOCK)))
        connection.commit()
    try:
        command.upgrade(config, "head")  # on SQLite, "begin immediate" is the lock
    finally:
        if on_a_server:
            connection.rollback()
            connection.execute(sa.select(sa.func.pg_advisory_unlock(_MIGRATION_LOCK)))
            connection.commit()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config
