"""The schema of the decisions' database: made whole, brought up by a command, and refused when it is another's."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from coordinator.database.connection import parse_url, writing_engine
from coordinator.database.errors import DatabaseRefused
from coordinator.database.migrate import migrate, newest_revision, open_existing, require_schema
from coordinator.database.schema import Base
from coordinator.decisions.store import DecisionStore


@pytest.fixture
def engine(decisions_url):
    engine = writing_engine(parse_url(decisions_url))
    yield engine
    engine.dispose()


def test_the_migrations_make_exactly_the_tables_that_the_code_has(decisions_url, engine):
    migrate(parse_url(decisions_url))

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_twice_changes_nothing_the_second_time(decisions_url):
    url = parse_url(decisions_url)

    assert migrate(url) == (None, newest_revision())
    assert migrate(url) == (newest_revision(), newest_revision())


def test_an_empty_database_gets_its_tables_when_it_is_first_opened(decisions_url):
    DecisionStore.open(decisions_url, origin="tallystick-ledger/x").close()

    open_existing(parse_url(decisions_url)).dispose()


def test_several_processes_may_open_an_empty_database_at_once(decisions_url):
    program = (
        "import sys; from coordinator.decisions.store import DecisionStore;"
        "DecisionStore.open(sys.argv[1], origin='tallystick-ledger/x').close()"
    )

    starting = [
        subprocess.Popen([sys.executable, "-c", program, decisions_url], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]

    assert [(process.communicate()[1], process.returncode) for process in starting] == [("", 0)] * 3


def test_several_threads_may_open_an_empty_database_at_once(decisions_url):
    with ThreadPoolExecutor(4) as pool:
        opened = [pool.submit(DecisionStore.open, decisions_url, origin="tallystick-ledger/x") for _ in range(4)]
    for store in opened:
        store.result().close()


@pytest.mark.parametrize(("revision", "expected"), [("0000", "tallystick coordinator migrate"), ("9999", "newer")])
def test_another_schema_is_refused_in_one_sentence(decisions_url, engine, monkeypatch, revision, expected):
    migrate(parse_url(decisions_url))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"update alembic_version set version_num = '{revision}'")
    if revision == "0000":  # as if this release's migrations had an older one
        monkeypatch.setattr("coordinator.database.migrate._refuse_newer", lambda *_: None)

    for opened in (
        lambda: DecisionStore.open(decisions_url, origin="x/y"),
        lambda: open_existing(parse_url(decisions_url)),
    ):
        with pytest.raises(DatabaseRefused, match=expected) as refused:
            opened()
        assert "\n" not in str(refused.value)


def test_a_database_of_somebody_else_is_refused_and_left_alone(decisions_url, engine):
    with engine.begin() as connection:
        connection.exec_driver_sql("create table customers (id integer)")

    with pytest.raises(DatabaseRefused, match="found other tables"):
        require_schema(engine, parse_url(decisions_url))

    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["customers"]


def test_the_ledger_of_another_consortium_is_refused(decisions_url):
    DecisionStore.open(decisions_url, origin="tallystick-ledger/one").close()

    with pytest.raises(DatabaseRefused, match="another consortium"):
        DecisionStore.open(decisions_url, origin="tallystick-ledger/other")


def test_the_ledgers_rows_cannot_be_changed_by_mistake(decisions_url, engine):
    store = DecisionStore.open(decisions_url, origin="tallystick-ledger/one")
    store.close()
    with engine.begin() as connection:
        connection.exec_driver_sql("insert into ledger_entries values (0, 'x', '{}', 'y')")

    for statement in ("update ledger_entries set body = '[]'", "delete from ledger_entries"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
            connection.exec_driver_sql(statement)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql://root@localhost/x", "found 'mysql'"),
        ("not a url", "no URL"),
        ("sqlite://", "no path"),
        ("sqlite:///:memory:", "no path"),
        ("postgresql://tallystick@/no_such_database?host=/nonexistent", "none that answers"),
        ("sqlite:////proc/nowhere/decisions.sqlite", "cannot be written"),
    ],
)
def test_a_url_that_leads_nowhere_gives_one_sentence(url, expected):
    with pytest.raises(DatabaseRefused, match=expected) as refused:
        DecisionStore.open(url, origin="x/y")
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_database_gives_one_sentence(tmp_path):
    path = tmp_path / "decisions.sqlite"
    path.write_bytes(b"this is no database, and long enough to be read as one's header" * 20)

    with pytest.raises(DatabaseRefused, match="none that answers"):
        DecisionStore.open(f"sqlite:///{path}", origin="x/y")


def test_reading_a_database_that_is_not_there_makes_none(tmp_path):
    path = tmp_path / "decisions.sqlite"

    with pytest.raises(DatabaseRefused, match="found no file"):
        open_existing(parse_url(f"sqlite:///{path}"))
    assert not path.exists()


def test_a_missing_driver_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(DatabaseRefused, match="extra 'postgresql'"):
        DecisionStore.open("postgresql://me@/x", origin="x/y")
