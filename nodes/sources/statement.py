"""One SELECT and nothing else: what a query may say.

This guards the owner of a database against a slip of the pen in the node's own settings. It reads the statement as a
list of words; it is no parser, and does not stand alone: the connection is opened read-only as well
(`nodes.sources.sql_query`), and the documentation asks for an account that may only read.
"""

from __future__ import annotations

import re
from typing import Final

from nodes.sources.errors import DataSourceError

_MAX_QUERY_CHARACTERS: Final = 65_536

# Everything in which a word or a semicolon means nothing. An opening that never closes runs to the end ("unclosed").
_QUOTED: Final = re.compile(
    r"""
    (?P<line_comment>--[^\n]*)
  | (?P<block_comment>/\*.*?\*/)
  | (?P<text>'(?:[^']|'')*')
  | (?P<name>"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\])
  | (?P<dollar_text>(?P<tag>\$(?:[A-Za-z_]\w*)?\$).*?(?P=tag))
  | (?P<unclosed>/\*|'|"|`)
    """,
    re.VERBOSE | re.DOTALL,
)
_WORD: Final = re.compile(r"[A-Za-z_]\w*")

# Words that no reading statement holds outside quotes. `with x as (delete ... returning *) select` starts harmlessly.
_WRITING_WORDS: Final = frozenset(
    {"insert", "update", "delete", "merge", "into", "truncate", "drop", "alter", "create", "grant", "revoke"}
)


def check_one_select(query: str) -> str:
    """Check that a query is a single reading statement.

    Args:
        query: SQL text; one trailing semicolon is allowed.

    Returns:
        The query without white space around it.

    Raises:
        DataSourceError: It is empty, too long, several statements, or anything but a SELECT (or WITH ... SELECT).
    """
    if len(query) > _MAX_QUERY_CHARACTERS:
        raise DataSourceError(
            f"The query of the data source has {len(query):,} characters, expected at most {_MAX_QUERY_CHARACTERS:,};"
            " make it a view of the database."
        )
    if "\x00" in query:
        raise DataSourceError("The query of the data source holds a NUL character; write one SELECT as plain text.")
    bare = _without_quoted(query)
    statements = [part for part in bare.split(";") if part.strip()]
    if not statements:
        raise DataSourceError("The query of the data source is empty; write one SELECT.")
    if len(statements) > 1:
        raise DataSourceError(
            f"The query of the data source holds {len(statements)} statements, expected one SELECT; keep that one."
        )
    words = [word.lower() for word in _WORD.findall(bare)]
    first = words[0] if words else ""
    if first not in {"select", "with"} or not statements[0].lstrip(" \t\r\n(").lower().startswith(first):
        raise DataSourceError(
            "The query of the data source must be one SELECT, which may start with WITH, and is not; change it."
        )
    writing = next((word for word in words if word in _WRITING_WORDS), None)
    if writing is not None:
        raise DataSourceError(
            f"The query of the data source must only read, and holds the word {writing.upper()}; write a plain SELECT"
            " (a column of that name goes into double quotes)."
        )
    return query.strip()


def _without_quoted(query: str) -> str:
    """The query with comments, quoted text and quoted names blanked."""

    def blank(match: re.Match[str]) -> str:
        if match.lastgroup == "unclosed":
            raise DataSourceError(
                "The query of the data source opens a quote or comment that it never closes; close it."
            )
        # A quoted name still separates words: "a"from is two of them.
        return " "

    return _QUOTED.sub(blank, query)
