"""Column types that mean the same on SQLite and PostgreSQL: exact decimals, points in time.

SQLite keeps both as text, in one form each: another form of the same value was not written here, and is refused.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal, InvalidOperation
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine


class ExactDecimal(TypeDecorator[Decimal]):
    """A decimal with every digit that was given: NUMERIC on PostgreSQL, text on SQLite, whose numbers are floats."""

    impl = sa.String(64)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """NUMERIC without a precision keeps the digits, trailing zeros included."""
        return dialect.type_descriptor(sa.Numeric() if dialect.name == "postgresql" else sa.String(64))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        """Refuses what is not a finite decimal: a float would round without a word."""
        if value is None:
            return None
        given: object = value  # whatever the caller's type checker missed
        if not isinstance(given, Decimal) or not given.is_finite():
            raise ValueError(f"expected a finite Decimal, found {given!r}; convert it before it is stored")
        return value if dialect.name == "postgresql" else format(value, "f")

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """The decimal as it was given.

        Raises:
            ValueError: The text is not what was written.
        """
        if value is None or dialect.name == "postgresql":
            return None if value is None else Decimal(value)
        try:
            decimal = Decimal(value)
        except (InvalidOperation, TypeError):
            raise ValueError(f"expected a decimal, found {value!r:.40}") from None
        if format(decimal, "f") != value:
            raise ValueError(f"expected a decimal in digits, found {value!r:.40}")
        return decimal


class UtcTime(TypeDecorator[dt.datetime]):
    """A point in time to the microsecond: `timestamptz` on PostgreSQL, UTC text on SQLite; aware on both sides."""

    impl = sa.String(26)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """With a time zone where the database knows them; as text that sorts by time where it does not."""
        return dialect.type_descriptor(sa.DateTime(timezone=True) if dialect.name == "postgresql" else sa.String(26))

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> Any:
        """Refuses a naive time, which would mean another moment on another machine."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("expected a time with its time zone, found one without; use datetime.now(UTC)")
        utc = value.astimezone(dt.UTC)
        return utc if dialect.name == "postgresql" else _text(utc)

    def process_result_value(self, value: Any, dialect: Dialect) -> dt.datetime | None:  # noqa: ARG002 - its name
        """The time in UTC.

        Raises:
            ValueError: The text is not what was written.
        """
        if value is None:
            return None
        try:
            if isinstance(value, dt.datetime):  # PostgreSQL's
                return value.astimezone(dt.UTC)
            time = dt.datetime.fromisoformat(value).replace(tzinfo=dt.UTC)
        except (ValueError, TypeError):
            raise ValueError(f"expected a time, found {value!r:.40}") from None
        if _text(time) != value:
            raise ValueError(f"expected a time as YYYY-MM-DD HH:MM:SS.ffffff, found {value!r:.40}")
        return time


def _text(utc: dt.datetime) -> str:
    return utc.replace(tzinfo=None).isoformat(" ", "microseconds")
