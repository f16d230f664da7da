import sqlite3
from contextlib import closing

import pytest
from pydantic import SecretStr

from nodes.settings import OpenedSqlSource
from nodes.sources import DataSourceError, SourceLimits, load_rows, read_sql_rows
from nodes.sources.statement import check_one_select


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "bank.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table loans (id text, age integer, income real, note)")
        connection.executemany(
            "insert into loans values (?, ?, ?, ?)",
            [("0007", 41, 1.5, 1), ("0008", None, None, "two"), ("0009", 43, 2.5, None)],
        )
    return path


def url(path):
    return f"sqlite:///{path}"


def num_loans(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("select count(*) from loans").fetchone()[0]


def test_query_gives_typed_columns(database):
    frame = read_sql_rows(url(database), "select id, age, income, note from loans order by id;")

    assert frame["id"].tolist() == ["0007", "0008", "0009"]
    assert str(frame["age"].dtype) == "Int64"
    assert frame["income"].dtype == "float64"
    assert frame["note"].tolist()[:2] == ["1", "two"]


def test_percent_signs_and_colons_in_a_query_mean_nothing_special(database):
    frame = read_sql_rows(url(database), "select id, ':age' as note from loans where id like '000%'")

    assert frame["note"].tolist() == [":age"] * 3


def test_settings_source_hides_its_url_and_is_loaded(database):
    source = OpenedSqlSource(SecretStr(url(database)), "select id from loans")

    assert len(load_rows(source)) == 3
    assert "bank.db" not in repr(source)


@pytest.mark.parametrize(
    "query",
    [
        "select 1",
        "SELECT 1 ;  -- the end",
        "with adults as (select 1 as x) select x from adults",
        "/* why */ select 'a; delete from loans' as note",
        'select "update" from loans',
        "(select 1)",
        "select replace(note, 'a', 'b'), updated_at from loans",
        "select $$insert; into$$",
    ],
)
def test_reading_statements_are_accepted(query):
    assert check_one_select(query) == query.strip()


@pytest.mark.parametrize(
    "query",
    [
        "delete from loans",
        "select 1; delete from loans",
        "select 1; select 2",
        "with gone as (delete from loans returning *) select * from gone",
        "select * into copy_of_loans from loans",
        "select * from loans for update",
        "update loans set age = 0",
        "pragma table_info(loans)",
        "attach 'other.db' as other",
        "explain select 1",
        "values (1)",
        "table loans",
        "",
        " ; ; ",
        "-- select 1",
        "select 'never closed",
        "select 1 /* never closed",
        "1 select",
        "vacuum",
        "selection",
        "select 1\x00",
        "select " + "1 + " * 40_000 + "1",
    ],
)
def test_anything_but_one_reading_statement_is_refused(query):
    with pytest.raises(DataSourceError):
        check_one_select(query)


@pytest.mark.parametrize(
    "query",
    [
        "select load_extension('evil')",
        "select * from pragma_table_info('loans')",
        "select writefile('x', 'y')",
    ],
)
def test_sqlite_refuses_statements_that_do_more_than_read_tables(database, query):
    with pytest.raises(DataSourceError):
        read_sql_rows(url(database), query)


def test_connection_is_read_only_even_if_the_statement_check_were_not_there(database, monkeypatch):
    monkeypatch.setattr("nodes.sources.sql_query.check_one_select", str)

    for statement in ("delete from loans", "drop table loans", "attach ':memory:' as other", "pragma query_only = 0"):
        with pytest.raises(DataSourceError):
            read_sql_rows(url(database), statement)
    assert num_loans(database) == 3


def test_missing_sqlite_file_is_not_created(tmp_path):
    with pytest.raises(DataSourceError, match="found nothing"):
        read_sql_rows(url(tmp_path / "absent.db"), "select 1")
    assert list(tmp_path.iterdir()) == []


def test_rows_beyond_the_limit_are_refused(database):
    with pytest.raises(DataSourceError, match="at most 2 rows"):
        read_sql_rows(url(database), "select id from loans", SourceLimits(max_rows=2))


def test_endless_query_is_stopped_at_the_time_limit(database):
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"

    with pytest.raises(DataSourceError, match="an answer within 0 s"):
        read_sql_rows(url(database), endless, SourceLimits(query_timeout_s=0))


def test_password_is_never_printed_when_the_server_does_not_answer():
    with pytest.raises(DataSourceError) as refused:
        read_sql_rows("postgresql://reader:hunter2-secret@127.0.0.1:1/loans?sslpassword=other-secret", "select 1")
    assert "hunter2" not in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "found none; check host, port and network" in str(refused.value)


def test_error_of_the_driver_does_not_ride_along(database):
    with pytest.raises(DataSourceError) as refused:
        read_sql_rows(url(database), 'select "no such value" from loans where absent = 1')
    assert refused.value.__suppress_context__
    assert refused.value.__cause__ is None


def test_whole_numbers_too_large_for_a_float_stay_distinct_beside_fractions(database):
    query = "select 9007199254740993 as id union all select 0.5 union all select 9007199254740992"

    assert read_sql_rows(url(database), query)["id"].nunique() == 3
