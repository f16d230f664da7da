"""PostgreSQL for real, where a server is named by TALLYSTICK_POSTGRES_URL."""

import os

import pytest
import sqlalchemy as sa

from nodes.sources import DataSourceError, SourceLimits, read_sql_rows

URL = os.environ.get("TALLYSTICK_POSTGRES_URL", "")
TABLE = "tallystick_source_test"

pytestmark = pytest.mark.skipif(not URL, reason="needs a PostgreSQL server: set TALLYSTICK_POSTGRES_URL to its URL")


@pytest.fixture
def table():
    engine = sa.create_engine(sa.make_url(URL).set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"drop table if exists {TABLE}")
        connection.exec_driver_sql(f"create table {TABLE} (id uuid, age int, income numeric(12, 2), note text)")
        connection.exec_driver_sql(
            f"insert into {TABLE} select gen_random_uuid(), 20 + i, i + 0.25, 'canary-7f3a' from generate_series(1, 30) i"
        )
    yield TABLE
    with engine.begin() as connection:
        connection.exec_driver_sql(f"drop table {TABLE}")


def test_postgresql_query_gives_typed_columns(table):
    frame = read_sql_rows(URL, f"select id, age, income, note from {table} where note like 'can%'")

    assert len(frame) == 30
    assert frame["age"].dtype == "int64"
    assert frame["income"].dtype == "float64"
    assert frame["id"].str.len().eq(36).all()


def test_postgresql_transaction_is_read_only_even_if_the_statement_check_were_not_there(table, monkeypatch):
    monkeypatch.setattr("nodes.sources.sql_query.check_one_select", str)

    for statement in (f"delete from {table}", f"with gone as (delete from {table} returning id) select * from gone"):
        with pytest.raises(DataSourceError):
            read_sql_rows(URL, statement)
    assert len(read_sql_rows(URL, f"select id from {table}")) == 30


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("select * from no_such_table", "one missing"),
        ("select no_such_column from {table}", "one missing"),
        ("select from where", "syntax error"),
        ("select note::int from {table}", "do not"),
        ("select nextval('absent')", "one missing"),
        ("select id from {table} where age > 100", "found none"),
        ("select 'x'::bytea as raw", "binary values"),
        ("select age as id, age as id from {table}", "different column names"),
        ("select pg_sleep(5)", "within 1 s"),
    ],
)
def test_postgresql_problem_gives_one_sentence_without_a_value(table, query, expected):
    with pytest.raises(DataSourceError, match=expected) as refused:
        read_sql_rows(URL, query.format(table=table), SourceLimits(query_timeout_s=1))
    assert "canary" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_postgresql_user_and_database_that_do_not_exist_are_told_apart_from_a_silent_server():
    address = sa.make_url(URL)
    for wrong in (address.set(database="no_such_database"), address.set(username="no_such_user", password="x-canary")):
        with pytest.raises(DataSourceError, match="the server accepts, found others") as refused:
            read_sql_rows(wrong.render_as_string(hide_password=False), "select 1")
        assert "canary" not in str(refused.value)
