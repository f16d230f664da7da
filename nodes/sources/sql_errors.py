"""What went wrong in a database, in one sentence of our own.

A driver's text is never repeated: it quotes the statement, addresses, and values (`invalid input syntax for type
integer: "..."`). Only its codes are read.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Final

from sqlalchemy import exc

from nodes.sources.limits import SourceLimits

# PostgreSQL, appendix A of its manual; a key of two characters stands for the whole class of errors.
_BY_SQLSTATE: Final = {
    "42P01": "expected the tables that the query names, found one missing; correct the query",
    "42703": "expected the columns that the query names, found one missing; correct the query",
    "42601": "expected a valid SELECT, found a syntax error; correct the query",
    "42501": "expected an account that may read the tables of the query, found one that may not; grant it SELECT",
    "3D000": "expected an existing database, found none of that name; correct the URL",
    "28P01": "expected the right user and password, found others; correct the URL",
    "28": "expected a user that may connect, found one that is refused; correct the URL or the server's rules",
    "25006": "expected a query that only reads, found one that writes; change it",
    "57014": "{too_long}",
    "55P03": "{too_long}",
    "53": "expected a server with room for this query, found it out of connections, memory or disk; try again later",
    "42": "expected a valid SELECT, found one that the database refuses; try it in the database's own client",
    "22": "expected values that fit the expressions of the query, found some that do not; correct its casts",
    "08": "{unreachable}",
    "57": "{unreachable}",
}
_BY_SQLITE_NAME: Final = {
    "SQLITE_NOTADB": "expected an SQLite file, found another format or an encrypted one; check the path",
    "SQLITE_CORRUPT": "expected a sound SQLite file, found a damaged one; restore it from a copy",
    "SQLITE_BUSY": "expected a database that can be read, found it locked by another program; try again",
    "SQLITE_LOCKED": "expected a database that can be read, found it locked by another program; try again",
    "SQLITE_CANTOPEN": "cannot be opened; check the path and its permissions",
    "SQLITE_AUTH": "expected a query that only reads tables, found one that does more; change it",
    "SQLITE_READONLY": "expected a query that only reads, found one that writes; change it",
    "SQLITE_INTERRUPT": "{too_long}",
    "SQLITE_TOOBIG": "expected values of bounded size, found one that is too large; leave that column out",
}
_SQLITE_MISSING: Final = re.compile(r"no such (table|column|function)\b")
_REFUSED: Final = "expected a user, password and database that the server accepts, found others; correct the URL"
_OTHERWISE: Final = "expected the query to run, found that the database refuses it; try it in the database's own client"


def sentence_for(problem: exc.SQLAlchemyError | sqlite3.Error, where: str, limits: SourceLimits) -> str:
    """One sentence for an error of SQLAlchemy or of a driver.

    Args:
        problem: What was raised.
        where: Name of the database, the start of the sentence.
        limits: For the time limit that the sentence may name.
    """
    original = problem.orig if isinstance(problem, exc.DBAPIError) else problem
    text = _sqlite_text(original) if isinstance(original, sqlite3.Error) else _postgresql_text(original)
    text = text.format(
        too_long=f"expected an answer within {limits.query_timeout_s} s, found none; simplify the query",
        unreachable="expected a database server that answers, found none; check host, port and network",
    )
    return f"{where}: {text}."


def _sqlite_text(problem: sqlite3.Error) -> str:
    name: str = getattr(problem, "sqlite_errorname", "") or ""
    base = "_".join(name.split("_")[:2])  # SQLITE_CANTOPEN_ISDIR is a SQLITE_CANTOPEN
    if base in _BY_SQLITE_NAME:
        return _BY_SQLITE_NAME[base]
    message = str(problem)  # read, never shown: a double-quoted value counts as a column name
    missing = _SQLITE_MISSING.match(message)
    if missing:
        return f"expected every {missing[1]} that the query names, found one missing; correct the query"
    if "syntax error" in message or "incomplete input" in message:
        return "expected a valid SELECT, found a syntax error; correct the query"
    if "decode to UTF-8" in message:
        return "expected text in UTF-8, found a column in another encoding; convert it or leave it out"
    return _OTHERWISE


def _postgresql_text(problem: BaseException | None) -> str:
    state: str | None = getattr(problem, "sqlstate", None)
    if state is None and problem is None:
        return _OTHERWISE
    if state is None:  # the driver drops the server's code while it connects; FATAL is left in every language
        return _REFUSED if "FATAL:" in str(problem) else "{unreachable}"
    return _BY_SQLSTATE.get(state) or _BY_SQLSTATE.get(state[:2]) or _OTHERWISE
