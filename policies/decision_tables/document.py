"""A table file: a closed envelope around a decision table in the JSON decision model (JDM) of zen-engine.

Only the three nodes that a decision table needs are accepted, wired in one way. What the editor of the format writes
besides is accepted with its neutral value alone, so a file that was saved there loads, and nothing else gets through:
the format also knows nodes with JavaScript in them.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from policies.closed_json import IsoDate
from policies.closed_model import ONE_LINE, SNAKE_CASE, ClosedModel, shown

VERSION = r"^[0-9a-z][0-9a-z.-]{0,30}$"
MAX_ROWS = 500

Text = Annotated[str, Field(min_length=1, max_length=400, pattern=ONE_LINE)]
Cell = Annotated[str, Field(max_length=4000)]
Name = Annotated[str, Field(pattern=SNAKE_CASE)]
NodeId = Annotated[str, Field(min_length=1, max_length=64, pattern=ONE_LINE)]


def _whole(value: object) -> object:
    return int(value) if isinstance(value, Decimal) and abs(value) < 1_000_000 else value


Pixels = Annotated[int, BeforeValidator(_whole)]


class Position(ClosedModel):
    """Where the editor draws a node."""

    x: Pixels
    y: Pixels


class _Node(ClosedModel):
    id: NodeId
    name: NodeId
    position: Position = Position(x=0, y=0)


class _NoSchema(ClosedModel):
    schema_: Annotated[Literal[""], Field(alias="schema")] = ""


class InputNode(_Node):
    """Where the facts come in."""

    type: Literal["inputNode"]
    content: _NoSchema | None = None


class OutputNode(_Node):
    """Where the outcome leaves."""

    type: Literal["outputNode"]
    content: _NoSchema | None = None


class Column(ClosedModel):
    """One column; `id` is the key of its cells."""

    id: NodeId
    name: Text
    field: Name
    type: Literal["expression"] = "expression"
    defaultValue: Literal[""] | None = None  # noqa: N815 - the format's key


class TableContent(ClosedModel):
    """Columns and rows."""

    hitPolicy: Literal["first", "collect"]  # noqa: N815 - the format's key
    inputs: Annotated[tuple[Column, ...], Field(min_length=1, max_length=20)]
    outputs: Annotated[tuple[Column, ...], Field(min_length=1, max_length=20)]
    rules: Annotated[tuple[dict[str, Cell], ...], Field(min_length=1, max_length=MAX_ROWS)]
    passThrough: Literal[False] = False  # noqa: N815
    passThorough: Literal[False] = False  # noqa: N815 - so spelt in older files of the format
    executionMode: Literal["single"] = "single"  # noqa: N815
    inputField: None = None  # noqa: N815
    outputPath: None = None  # noqa: N815

    @model_validator(mode="after")
    def _rows_have_the_columns(self) -> Self:
        cells = [column.id for column in (*self.inputs, *self.outputs)]
        if len({*cells, "_id", "_description"}) != len(cells) + 2:
            raise ValueError("expected every column id once, found one twice; correct the columns")
        keys = {*cells, "_id", "_description"}
        seen: set[str] = set()
        for number, row in enumerate(self.rules, 1):
            if missing := keys - row.keys():
                raise ValueError(f"row {number}: expected a cell {shown(min(missing))}, found none; add it")
            if unknown := row.keys() - keys:
                raise ValueError(f"row {number}: {shown(min(unknown))} is no column; remove it")
            if not row["_id"].isprintable() or not 1 <= len(row["_id"]) <= 64:
                raise ValueError(f"row {number}: expected an _id of 1 to 64 printable characters; correct it")
            if not row["_description"].isprintable() or not row["_description"]:
                raise ValueError(f"row {number}: expected a _description, since decisions are explained by it; add one")
            if row["_id"] in seen:
                raise ValueError(f"row {number}: expected every _id once, found {shown(row['_id'])} twice; rename one")
            seen.add(row["_id"])
        return self


class TableNode(_Node):
    """The decision table."""

    type: Literal["decisionTableNode"]
    content: TableContent


Node = Annotated[InputNode | TableNode | OutputNode, Field(discriminator="type")]


class Edge(ClosedModel):
    """From one node to the next."""

    id: NodeId
    type: Literal["edge"] = "edge"
    sourceId: NodeId  # noqa: N815 - the format's key
    targetId: NodeId  # noqa: N815
    sourceHandle: None = None  # noqa: N815


class Graph(ClosedModel):
    """Input, table, output, and the two edges between them."""

    nodes: Annotated[tuple[Node, ...], Field(min_length=3, max_length=3)]
    edges: Annotated[tuple[Edge, ...], Field(min_length=2, max_length=2)]

    @field_validator("nodes", mode="before")
    @classmethod
    def _only_known_nodes(cls, value: Any) -> Any:
        """Says which node is the wrong one; without this the sentence would speak of all three forms."""
        for node in value if isinstance(value, tuple) else ():
            kind = node.get("type") if isinstance(node, dict) else None
            if kind not in ("inputNode", "decisionTableNode", "outputNode"):
                raise ValueError(
                    f"expected nodes of type inputNode, decisionTableNode and outputNode, found {shown(kind)};"
                    " a policy is a table, not a program"
                )
        return value

    @model_validator(mode="after")
    def _one_chain(self) -> Self:
        by_type = {node.type: node.id for node in self.nodes}
        if len(by_type) != 3:
            raise ValueError("expected one input, one table and one output node, found one of them twice; correct it")
        chain = [(by_type["inputNode"], by_type["decisionTableNode"])]
        chain.append((by_type["decisionTableNode"], by_type["outputNode"]))
        if sorted((edge.sourceId, edge.targetId) for edge in self.edges) != sorted(chain):
            raise ValueError("expected edges from input to table and from table to output; correct them")
        return self

    @property
    def table(self) -> TableContent:
        """Columns and rows."""
        return next(node.content for node in self.nodes if isinstance(node, TableNode))


class TableDocument(ClosedModel):
    """The whole file."""

    format: Literal["tallystick-table/1"]
    id: Name
    version: Annotated[str, Field(pattern=VERSION)]
    effective_from: IsoDate
    """First day on which this version decides."""
    effective_to: IsoDate | None
    """First day on which it no longer does, or null."""
    source: Annotated[str, Field(min_length=1, max_length=1000, pattern=ONE_LINE)]
    """Where the numbers come from, and what they are."""
    description: Annotated[str, Field(min_length=1, max_length=1000, pattern=ONE_LINE)]
    jdm: Graph

    @model_validator(mode="after")
    def _dates_in_order(self) -> Self:
        if self.effective_to is not None and self.effective_to <= self.effective_from:
            raise ValueError(
                f"expected effective_to after effective_from, found {self.effective_from} to {self.effective_to};"
                " effective_to is the first day on which the version no longer decides"
            )
        return self
