"""The tables in force on one day: what a decision asks, and what it is later explained by."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from policies.decision_tables.cells import Value, shown_value
from policies.decision_tables.engine import Engine
from policies.decision_tables.errors import NoRow
from policies.decision_tables.table import Row, Table, described
from policies.lending.record import sha256_of
from policies.lending.types import TableVersion, TraceRow


@dataclass(frozen=True)
class PolicySet:
    """One version of every table.

    Attributes:
        date: The day they are in force.
        tables: By name.
        engine: The rules engine with these tables.
        versions: Name, version and SHA-256 of each, sorted by name.
        sha256: Of `versions`: names this policy in a decision and in the ledger.
    """

    date: dt.date
    tables: Mapping[str, Table]
    engine: Engine = field(repr=False, compare=False)
    versions: tuple[TableVersion, ...]
    sha256: str

    @classmethod
    def of(cls, date: dt.date, tables: Mapping[str, Table]) -> PolicySet:
        """Bind one version of every table."""
        versions = tuple(
            TableVersion(table=name, version=table.version, sha256=table.sha256)
            for name, table in sorted(tables.items())
        )
        return cls(date, MappingProxyType(dict(tables)), Engine(tables), versions, sha256_of(versions))


class Inquiry:
    """Asks one policy set, and remembers which rows answered."""

    def __init__(self, policy: PolicySet) -> None:
        self.policy = policy
        self._trace: list[TraceRow] = []

    @property
    def trace(self) -> tuple[TraceRow, ...]:
        """The rows that answered, in the order of the questions."""
        return tuple(self._trace)

    def one(self, table: str, **facts: Value) -> Row:
        """The row of a table that answers with its first match.

        Raises:
            NoRow: None matches.
        """
        row = self.first(table, **facts)
        if row is None:
            raise NoRow(
                f"table {table!r} of {self.policy.date}: expected a row for {described(facts)}, found none; add one"
                " or correct the request."
            )
        return row

    def first(self, table: str, **facts: Value) -> Row | None:
        """The same, or None when no row matches."""
        rows = self.every(table, **facts)
        return rows[0] if rows else None

    def every(self, table: str, **facts: Value) -> list[Row]:
        """All rows that match."""
        rows = self.policy.engine.matching(table, facts)
        shown = tuple((name, shown_value(value)) for name, value in facts.items())
        version = self.policy.tables[table].version
        for row in rows:
            self._trace.append(
                TraceRow(
                    table=table,
                    version=version,
                    row=row.id,
                    description=row.description,
                    facts=shown,
                    outputs=tuple((name, shown_value(value)) for name, value in row.outputs.items()),
                )
            )
        return rows
