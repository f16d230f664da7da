"""The rows that ledger entries are about, in the order of their entries, each with the check of its entry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from coordinator.database.schema import DecisionRow, OfferRow, TransitionRow
from coordinator.decisions.ledgered import decision_entry, offer_entry, transition_entry
from coordinator.decisions.records import Transition
from coordinator.decisions.rows import DECISIONS, OFFERS, TRANSITIONS, decision_of, offer_of
from coordinator.ledger.entries import DecisionEntry, Entry
from policies.errors import UserError

_PIECE: Final = 1000
_ALTERED: Final = "expected what the ledger commits to, found other values; the row was altered."

_SALT: Final = DecisionRow.salt.label("decision_salt")
STATEMENTS: Final = {
    "decision": DECISIONS,
    "transition": TRANSITIONS.add_columns(_SALT).join_from(TransitionRow, DecisionRow),
    "offer": OFFERS.add_columns(_SALT).join_from(OfferRow, DecisionRow, OfferRow.decision_id == DecisionRow.id),
}
_UNREADABLE: Final = (UserError, ValueError, ArithmeticError, TypeError, AttributeError)
"""What a column's type or a record makes of a value that none of ours can have written."""
_NAME: Final = {"decision": DecisionRow.id, "transition": TransitionRow.decision_id, "offer": OfferRow.id}
_ENTRY: Final = {"decision": DecisionRow.entry, "transition": TransitionRow.entry, "offer": OfferRow.entry}


@dataclass(frozen=True)
class LedgeredRow:
    """A row that names a ledger entry.

    Attributes:
        entry: The entry that it names.
        name: What it is, for a finding.
        expected: The entry that its bytes lead to; None when they cannot be read at all.
    """

    entry: int
    name: str
    expected: Entry | None

    def problem(self, found: Entry) -> str | None:
        """What is wrong between the row and its entry, if anything is."""
        if self.expected is None:
            return "expected a row as it was written, found values that cannot be read; the row was altered."
        if isinstance(self.expected, DecisionEntry) and isinstance(found, DecisionEntry):
            # Who was in the sum stands in the ledger alone.
            known = {"survivors": found.survivors, "degraded": found.degraded}
            return None if self.expected.model_copy(update=known) == found else _ALTERED
        return None if self.expected == found else _ALTERED


def ledgered_rows(connection: sa.Connection, kind: str) -> Iterator[LedgeredRow]:
    """All rows of a kind (`decision`, `transition`, `offer`) by the entries they name.

    Read in pieces; a row that cannot be read does not hide the others.
    """
    statement, column = STATEMENTS[kind], _ENTRY[kind]
    last: object = -(1 << 62)
    limit = _PIECE
    while True:
        behind = column > sa.literal(last)
        try:
            rows = connection.execute(statement.where(behind).order_by(column).limit(limit)).mappings().all()
        except _UNREADABLE:
            if limit > 1:
                limit = 1
                continue
            bare = sa.select(column, _NAME[kind]).where(behind).order_by(column).limit(1)
            last, name = connection.execute(bare).one()
            yield LedgeredRow(_position(last), f"{kind} {name}", None)
            limit = _PIECE
            continue
        for row in rows:
            last = row["entry"]
            yield _row(kind, row)
        if len(rows) < limit:
            return


def misplaced(connection: sa.Connection) -> Iterator[tuple[int, str]]:
    """(entry, id) of decisions that do not stand where their transitions have led, or count them wrongly."""
    steps = sa.select(sa.func.count()).where(TransitionRow.decision_id == DecisionRow.id).scalar_subquery()
    reached = (
        sa.select(TransitionRow.to_status)
        .where(TransitionRow.decision_id == DecisionRow.id, TransitionRow.number == DecisionRow.transitions)
        .scalar_subquery()
    )
    wrong = (DecisionRow.transitions != steps) | (
        DecisionRow.status != sa.func.coalesce(reached, DecisionRow.initial_status)
    )
    yield from connection.execute(sa.select(DecisionRow.entry, DecisionRow.id).where(wrong).order_by(DecisionRow.entry))


def _row(kind: str, row: sa.RowMapping) -> LedgeredRow:
    name = f"{kind} {row['decision_id'] if kind == 'transition' else row['id']}"
    try:
        expected = _EXPECTED[kind](row)
    except _UNREADABLE:
        expected = None
    return LedgeredRow(_position(row["entry"]), name, expected)


def _position(entry: object) -> int:
    """SQLite keeps whatever was put into a column: what is no number is no entry's position."""
    return entry if isinstance(entry, int) else -1


def _decision(row: sa.RowMapping) -> Entry:
    stored = decision_of(row)
    return decision_entry(stored.record, stored.salt)


def _transition(row: sa.RowMapping) -> Entry:
    values = dict(row)
    salt = values.pop("decision_salt")
    return transition_entry(Transition(**values), salt)


def _offer(row: sa.RowMapping) -> Entry:
    return offer_entry(offer_of(row).record, row["decision_salt"])


_EXPECTED: Final[dict[str, Callable[[sa.RowMapping], Entry]]] = {
    "decision": _decision,
    "transition": _transition,
    "offer": _offer,
}
