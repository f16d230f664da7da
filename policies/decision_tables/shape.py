"""What a table must look like: its columns, and what must be true of its rows whatever their numbers are.

Shapes are code, since code reads the outputs; rows are data, since a policy owner changes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from policies.decision_tables.cells import Kind

Hit = Literal["first", "collect"]


@dataclass(frozen=True)
class InputColumn:
    """One condition column.

    Attributes:
        name: Field of the facts.
        kind: What it compares.
        values: For text: all values that can occur, in order; empty when it may be anything.
        low: For a number: the smallest that can occur.
        high: For a number: the largest that can occur, or None for no bound.
    """

    name: str
    kind: Kind
    values: tuple[str, ...] = ()
    low: Decimal = Decimal(0)
    high: Decimal | None = None


@dataclass(frozen=True)
class OutputColumn:
    """One output column.

    Attributes:
        name: Field of the outcome.
        kind: What it holds.
        values: For text: the values it may hold, mildest first; empty when it may be anything.
        low: Smallest number it may hold.
        high: Largest number it may hold.
        whole: Whether the number must be a whole one.
    """

    name: str
    kind: Kind
    values: tuple[str, ...] = ()
    low: Decimal | None = None
    high: Decimal | None = None
    whole: bool = False


@dataclass(frozen=True)
class Order:
    """What may happen to outputs while one input grows and everything else stays.

    Attributes:
        column: The input: a number, or a text whose `values` are in order.
        rising: Outputs that must not fall; of a table that collects, the severest of the rows found counts.
        falling: Outputs that must not rise.
    """

    column: str
    rising: tuple[str, ...] = ()
    falling: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shape:
    """The columns of one table and the rules over its rows.

    Attributes:
        name: Name of the table, and of its folder.
        hit: Whether the first row that matches counts, or every row that does.
        inputs: Condition columns.
        outputs: Output columns.
        complete: Whether every combination of inputs must find a row.
        orders: What must hold between neighbours, so that more risk never gets the better answer.
    """

    name: str
    hit: Hit
    inputs: tuple[InputColumn, ...]
    outputs: tuple[OutputColumn, ...]
    complete: bool = False
    orders: tuple[Order, ...] = ()

    def input(self, name: str) -> InputColumn:
        """The condition column of that name."""
        return next(column for column in self.inputs if column.name == name)

    def output(self, name: str) -> OutputColumn:
        """The output column of that name."""
        return next(column for column in self.outputs if column.name == name)
