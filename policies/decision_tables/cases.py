"""Cases beside a table: facts, the rows they must find, and what those rows must say.

A table without cases is refused, and so is one with a row that no case finds: a row that nobody has seen at work is
either out of reach or a surprise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from policies.closed_model import ONE_LINE, SNAKE_CASE, ClosedModel, shown
from policies.decision_tables.cells import Value, shown_value
from policies.decision_tables.document import VERSION
from policies.decision_tables.errors import PolicyRefused
from policies.decision_tables.table import Row, Table, described

Name = Annotated[str, Field(pattern=SNAKE_CASE)]
Line = Annotated[str, Field(max_length=400, pattern=ONE_LINE)]


class TableCase(ClosedModel):
    """One case; numbers are written in quotes, like in the table."""

    case: Annotated[str, Field(min_length=1, max_length=200, pattern=ONE_LINE)]
    facts: Annotated[dict[Name, Line | bool], Field(min_length=1, max_length=20)]
    rows: Annotated[tuple[Line, ...], Field(max_length=50)]
    """Ids of the rows that must match, in the order of the table."""
    outputs: Annotated[tuple[dict[Name, Line | bool], ...], Field(max_length=50)]
    """For each of these rows some outputs, at least one."""


class TableCases(ClosedModel):
    """The file beside a table."""

    format: Literal["tallystick-table-cases/1"]
    table: Name
    version: Annotated[str, Field(pattern=VERSION)]
    cases: Annotated[tuple[TableCase, ...], Field(min_length=1, max_length=1000)]


def failures(cases: TableCases, table: Table, matching: Callable[[Mapping[str, Value]], list[Row]]) -> list[str]:
    """What does not hold, one sentence each; nothing when everything does.

    Args:
        cases: The cases.
        table: The table of the same version.
        matching: What finds the rows: the rules engine.
    """
    if (cases.table, cases.version) != (table.name, table.version):
        return [
            (
                f"expected cases of {table.name} {table.version}, found those of {cases.table} {cases.version};"
                " correct table and version."
            )
        ]
    found: list[str] = []
    seen: set[str] = set()
    for case in cases.cases:
        try:
            facts = _facts(case, table)
            rows = matching(facts)
        except PolicyRefused as problem:
            found.append(f"case {shown(case.case)}: {problem}")
            continue
        seen.update(row.id for row in rows)
        ids = tuple(row.id for row in rows)
        if ids != case.rows:
            found.append(
                f"case {shown(case.case)}: expected the rows {_listed(case.rows)}, found {_listed(ids)}, for"
                f" {described(facts)}."
            )
        elif len(case.outputs) != len(rows) or not all(case.outputs):
            found.append(f"case {shown(case.case)}: expected some outputs for each of its rows; add them.")
        else:
            found += _different(case, rows)
    if unseen := [row for row in table.rows if row not in seen]:
        found.append(f"expected a case for every row, found none that reaches {_listed(unseen)}; add one.")
    return found


def _different(case: TableCase, rows: list[Row]) -> list[str]:
    found = []
    for row, expected in zip(rows, case.outputs, strict=True):
        for name, value in expected.items():
            actual = row.outputs.get(name)
            if actual is None:
                found.append(f"case {shown(case.case)}: {shown(name)} is no output of the table; correct it.")
            elif not _same(actual, value):
                found.append(
                    f"case {shown(case.case)}: expected {name} = {shown_value(value)} in row {row.id}, found"
                    f" {shown_value(actual)}."
                )
    return found


def _same(actual: Value, expected: str | bool) -> bool:
    if isinstance(actual, Decimal):
        return isinstance(expected, str) and shown_value(actual) == _plain(expected)
    return type(actual) is type(expected) and actual == expected


def _plain(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _facts(case: TableCase, table: Table) -> dict[str, Value]:
    columns = {column.name: column for column in table.shape.inputs}
    if case.facts.keys() != columns.keys():
        raise PolicyRefused(f"expected the facts {', '.join(columns)}, found {', '.join(case.facts)}; correct them.")
    facts: dict[str, Value] = {}
    for name, column in columns.items():
        value = case.facts[name]
        if isinstance(value, bool) != (column.kind == "flag"):
            raise PolicyRefused(f"expected {name} as a {column.kind}, found {shown(value)}; correct it.")
        if column.kind == "number":
            facts[name] = _number(str(value), name)
        elif column.values and value not in column.values:
            raise PolicyRefused(f"expected {name} to be one of {', '.join(column.values)}, found {shown(value)}.")
        else:
            facts[name] = value
    return facts


def _number(text: str, name: str) -> Decimal:
    whole, _, part = text.partition(".")
    if not (whole.isascii() and whole.isdigit() and len(whole) <= 15 and (part.isdigit() or "." not in text)):
        raise PolicyRefused(f'expected {name} as a decimal number in quotes, as "0.80", found {shown(text)}.')
    return Decimal(text)


def _listed(ids: list[str] | tuple[str, ...]) -> str:
    return ", ".join(ids) if ids else "none"
