"""One version of one table, checked: columns as its shape says, cells that can match, every combination answered."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType

from policies.closed_model import shown
from policies.decision_tables.cells import (
    Condition,
    OneOf,
    Value,
    Within,
    parse_condition,
    parse_output,
    shown_value,
)
from policies.decision_tables.document import Column, TableDocument
from policies.decision_tables.errors import PolicyRefused
from policies.decision_tables.shape import InputColumn, OutputColumn, Shape

MAX_COMBINATIONS = 50_000
OTHER_TEXT = "(any other)"
"""Stands for every text that no cell of an open column names."""


@dataclass(frozen=True)
class Row:
    """One rule.

    Attributes:
        id: Its `_id`.
        description: Why it is there; decisions are explained by it.
        cells: Condition cells as written, by input column.
        conditions: The same, parsed.
        outputs: Values by output column.
    """

    id: str
    description: str
    cells: Mapping[str, str]
    conditions: Mapping[str, Condition]
    outputs: Mapping[str, Value]

    def holds(self, facts: Mapping[str, Value]) -> bool:
        """Whether every condition holds: what the engine is compared with, and what the checks below use."""
        return all(condition.holds(facts[name]) for name, condition in self.conditions.items())

    def text(self, column: str) -> str:
        """An output that is a text."""
        value = self.outputs[column]
        if not isinstance(value, str):
            raise TypeError(f"{column} is no text")
        return value

    def number(self, column: str) -> Decimal:
        """An output that is a number."""
        value = self.outputs[column]
        if not isinstance(value, Decimal):
            raise TypeError(f"{column} is no number")
        return value

    def flag(self, column: str) -> bool:
        """An output that is true or false."""
        value = self.outputs[column]
        if not isinstance(value, bool):
            raise TypeError(f"{column} is no flag")
        return value


@dataclass(frozen=True)
class Table:
    """One version of one table.

    Attributes:
        shape: Its columns and rules.
        version: Its version.
        effective_from: First day on which it decides.
        effective_to: First day on which it no longer does, or None.
        source: Where its numbers come from.
        rows: In the order of the file, by id.
        sha256: Of the canonical JSON of the whole file, in hexadecimal.
        document: The whole file, to be kept with the decisions that it made.
    """

    shape: Shape
    version: str
    effective_from: dt.date
    effective_to: dt.date | None
    source: str
    rows: Mapping[str, Row]
    sha256: str
    document: TableDocument = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """Name of the table."""
        return self.shape.name

    def effective_on(self, date: dt.date) -> bool:
        """Whether this version decides on that day."""
        return self.effective_from <= date and (self.effective_to is None or date < self.effective_to)

    def matching(self, facts: Mapping[str, Value]) -> list[Row]:
        """The rows that hold, by our own reading of the cells: the first one, or all."""
        rows = (row for row in self.rows.values() if row.holds(facts))
        return list(itertools.islice(rows, 1)) if self.shape.hit == "first" else list(rows)


def build_table(document: TableDocument, shape: Shape, where: str) -> Table:
    """Check a parsed file against the shape of its table.

    Args:
        document: The file.
        shape: What a table of that name must look like.
        where: Name of the file, the start of the sentence.

    Raises:
        PolicyRefused: Another name, hit policy or columns; a cell of no known form; a combination without a row;
            an order between rows that the shape forbids.
    """
    content = document.jdm.table
    if document.id != shape.name:
        raise PolicyRefused(f"{where}: expected the table {shape.name!r}, found {document.id!r}; correct id or folder.")
    if content.hitPolicy != shape.hit:
        raise PolicyRefused(f"{where}: expected hitPolicy {shape.hit!r}, found {content.hitPolicy!r}; correct it.")
    inputs = _columns(content.inputs, [column.name for column in shape.inputs], "input", where)
    outputs = _columns(content.outputs, [column.name for column in shape.outputs], "output", where)
    rows = {}
    for number, rule in enumerate(content.rules, 1):
        place = f"{where}: row {number} ({rule['_id']})"
        rows[rule["_id"]] = Row(
            rule["_id"],
            rule["_description"],
            MappingProxyType({name: rule[column] for name, column in inputs.items()}),
            MappingProxyType(
                {name: _condition(rule[column], shape.input(name), place) for name, column in inputs.items()}
            ),
            MappingProxyType(
                {name: _output(rule[column], shape.output(name), place) for name, column in outputs.items()}
            ),
        )
    table = Table(
        shape,
        document.version,
        document.effective_from,
        document.effective_to,
        document.source,
        MappingProxyType(rows),
        _digest(document),
        document,
    )
    if shape.complete or shape.orders:
        _check_rows(table, where)
    return table


def _digest(document: TableDocument) -> str:
    text = json.dumps(
        document.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _columns(found: tuple[Column, ...], expected: list[str], what: str, where: str) -> dict[str, str]:
    """Column id by field, in the order of the shape."""
    by_field = {column.field: column.id for column in found}
    if sorted(column.field for column in found) != sorted(expected):
        raise PolicyRefused(
            f"{where}: expected the {what} columns {', '.join(expected)}, found"
            f" {', '.join(column.field for column in found)}; correct them."
        )
    return {name: by_field[name] for name in expected}


def _condition(text: str, column: InputColumn, place: str) -> Condition:
    try:
        condition = parse_condition(text, column.kind)
    except ValueError as problem:
        raise PolicyRefused(
            f"{place}, column {column.name}: {problem}, found {shown(text)}; correct the cell."
        ) from None
    if isinstance(condition, OneOf) and column.values:
        for value in condition.values:
            if value not in column.values:
                raise PolicyRefused(
                    f"{place}, column {column.name}: expected one of {', '.join(column.values)}, found"
                    f" {shown(value)}, which never occurs; correct the cell."
                )
    if isinstance(condition, Within) and column.high is not None and any(b > column.high for b in condition.bounds()):
        raise PolicyRefused(
            f"{place}, column {column.name}: expected numbers of at most {column.high}, found {shown(text)};"
            " correct the cell."
        )
    return condition


def _output(text: str, column: OutputColumn, place: str) -> Value:
    try:
        value = parse_output(text, column.kind)
    except ValueError as problem:
        raise PolicyRefused(
            f"{place}, column {column.name}: {problem}, found {shown(text)}; correct the cell."
        ) from None
    if column.values and value not in column.values:
        raise PolicyRefused(
            f"{place}, column {column.name}: expected one of {', '.join(column.values)}, found {shown(value)};"
            " correct the cell."
        )
    if isinstance(value, Decimal):
        if column.low is not None and value < column.low:
            raise PolicyRefused(f"{place}, column {column.name}: expected at least {column.low}, found {value}.")
        if column.high is not None and value > column.high:
            raise PolicyRefused(f"{place}, column {column.name}: expected at most {column.high}, found {value}.")
        if column.whole and value != value.to_integral_value():
            raise PolicyRefused(f"{place}, column {column.name}: expected a whole number, found {value}.")
    return value


def _check_rows(table: Table, where: str) -> None:
    """Completeness and orders, over facts that stand for all."""
    inputs = table.shape.inputs
    found = {tuple(facts.values()): table.matching(facts) for facts in combinations(table, where)}
    if table.shape.complete:
        for values, rows in found.items():
            if not rows:
                facts = dict(zip((column.name for column in inputs), values, strict=True))
                raise PolicyRefused(
                    f"{where}: expected a row for every combination of inputs, found none for {described(facts)};"
                    " add one."
                )
    for order in table.shape.orders:
        place = next(k for k, column in enumerate(inputs) if column.name == order.column)
        walks: dict[tuple[Value, ...], list[tuple[Value, list[Row]]]] = {}
        for values, rows in found.items():
            walks.setdefault((*values[:place], *values[place + 1 :]), []).append((values[place], rows))
        for others, walk in walks.items():
            for name in (*order.rising, *order.falling):
                if (at := _first_breach(table, name, walk, rising=name in order.rising)) is not None:
                    values = (*others[:place], at, *others[place:])
                    facts = dict(zip((column.name for column in inputs), values, strict=True))
                    raise PolicyRefused(
                        f"{where}: expected {name} not to {'fall' if name in order.rising else 'rise'} as"
                        f" {order.column} grows, found that it does at {described(facts)}; correct the rows."
                    )


def _first_breach(table: Table, output: str, walk: list[tuple[Value, list[Row]]], *, rising: bool) -> Value | None:
    """Where an output goes the wrong way; `walk` is in the order of the column's values."""
    known = [(value, rank) for value, rows in walk if (rank := _rank(table, rows, output)) is not None]
    for (_, before), (value, after) in itertools.pairwise(known):
        if (after < before) if rising else (after > before):
            return value
    return None


def _rank(table: Table, rows: list[Row], output: str) -> Decimal | None:
    """How severe an outcome is: the number itself, or the place of a text among its values."""
    column = table.shape.output(output)
    ranks = [_rank_of(row.outputs[output], column) for row in rows]
    if ranks:
        return max(ranks)
    return Decimal(-1) if table.shape.hit == "collect" else None


def _rank_of(value: Value, column: OutputColumn) -> Decimal:
    if isinstance(value, Decimal):
        return value
    return Decimal(int(value) if isinstance(value, bool) else column.values.index(value))


def combinations(table: Table, where: str) -> Iterator[dict[str, Value]]:
    """Facts that stand for all: every value that a cell tells from others, and numbers on and between bounds.

    Args:
        table: The table.
        where: Name of its file, for the message.

    Raises:
        PolicyRefused: There are too many of them to check.
    """
    columns = table.shape.inputs
    values = [_values(table, column) for column in columns]
    size = 1
    for one in values:
        size *= len(one)
    if size > MAX_COMBINATIONS:
        raise PolicyRefused(
            f"{where}: expected rows that tell at most {MAX_COMBINATIONS} combinations of inputs apart, found {size};"
            " split the table."
        )
    for chosen in itertools.product(*values):
        yield {column.name: value for column, value in zip(columns, chosen, strict=True)}


def _values(table: Table, column: InputColumn) -> list[Value]:
    conditions = [row.conditions[column.name] for row in table.rows.values()]
    match column.kind:
        case "flag":
            return [False, True]
        case "text":
            if column.values:
                return list(column.values)
            named = {value for one in conditions if isinstance(one, OneOf) for value in one.values}
            return [*sorted(str(value) for value in named), OTHER_TEXT]
        case "number":
            return _numbers([one for one in conditions if isinstance(one, Within)], column)


def _numbers(ranges: list[Within], column: InputColumn) -> list[Value]:
    bounds = {bound for one in ranges for bound in one.bounds()} | {column.low}
    bounds.add(max(bounds) + 1 if column.high is None else column.high)
    ends = sorted(bounds)
    between = [(low + high) / 2 for low, high in itertools.pairwise(ends)]
    return [*sorted(number for number in (*ends, *between) if number >= column.low)]


def described(facts: Mapping[str, Value]) -> str:
    """Facts in one line."""
    return ", ".join(f"{name} = {shown_value(value)}" for name, value in facts.items())
