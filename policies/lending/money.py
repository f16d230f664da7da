"""Money: a decimal amount with its currency, exact arithmetic, and roundings whose direction is in their name."""

from __future__ import annotations

import decimal
from decimal import Decimal
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator

from policies.closed_model import ClosedModel, shown

CURRENCY = r"^[A-Z]{3}$"
MAX_AMOUNT = Decimal(10) ** 15
MAX_PLACES = 12

# Wide enough that no product of ours is ever rounded, and it says so if one would be.
_EXACT = decimal.Context(prec=100, traps=[decimal.Inexact, decimal.InvalidOperation, decimal.DivisionByZero])
_DOWN = decimal.Context(prec=100, rounding=decimal.ROUND_DOWN, traps=[decimal.InvalidOperation, decimal.DivisionByZero])
_UP = decimal.Context(prec=100, rounding=decimal.ROUND_UP, traps=[decimal.InvalidOperation, decimal.DivisionByZero])


def _decimal(value: object) -> object:
    if isinstance(value, bool | float | int) or (isinstance(value, str) and not _is_plain(value)):
        raise ValueError(f'expected a decimal number in quotes, as "1250.00", found {shown(value)}; correct it')
    if isinstance(value, Decimal) and not value.is_finite():
        raise ValueError("expected a finite number, found none; correct it")
    return Decimal(value) if isinstance(value, str) else value


def _is_plain(text: str) -> bool:
    digits = text.removeprefix("-")
    whole, point, part = digits.partition(".")
    return text.isascii() and len(text) <= 40 and whole.isdigit() and (part.isdigit() or not point)


Exact = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    # Decimal's own text of 0.000000000000 is 0E-12, which is no plain number.
    PlainSerializer(lambda number: f"{number:f}", return_type=str, when_used="json"),
]
"""A decimal given as `Decimal`, or in JSON as text: a JSON number may already have been a binary float somewhere."""

Share = Annotated[Exact, Field(ge=0, le=1, decimal_places=MAX_PLACES)]
"""A rate, probability or factor in [0, 1]."""


class Money(ClosedModel):
    """An amount that is not negative, in one currency."""

    amount: Annotated[Exact, Field(ge=0, le=MAX_AMOUNT, decimal_places=4)]
    currency: Annotated[str, Field(pattern=CURRENCY)]
    """ISO 4217 code; which ones are known, and their minor units, is in the policy's table `fx`."""

    @field_validator("amount")
    @classmethod
    def _no_minus_zero(cls, value: Decimal) -> Decimal:
        return abs(value)

    @classmethod
    def of(cls, amount: str | Decimal, currency: str) -> Self:
        """`Money.of("1250.00", "CNY")`.

        Raises:
            pydantic.ValidationError: Negative, too large, more than 4 decimal places, or no currency code.
        """
        return cls.model_validate({"amount": amount, "currency": currency})

    def __str__(self) -> str:
        return f"{self.amount:f} {self.currency}"


def times(*factors: Decimal) -> Decimal:
    """The exact product.

    Raises:
        decimal.Inexact: It has more than 100 digits.
    """
    product = Decimal(1)
    for factor in factors:
        product = _EXACT.multiply(product, factor)
    return product


def plus(*terms: Decimal) -> Decimal:
    """The exact sum."""
    total = Decimal(0)
    for term in terms:
        total = _EXACT.add(total, term)
    return total


def minus(left: Decimal, right: Decimal) -> Decimal:
    """The exact difference."""
    return _EXACT.subtract(left, right)


def round_down(number: Decimal, places: int) -> Decimal:
    """The largest number of that many places that is not above `number` (which is not negative)."""
    return number.quantize(Decimal(1).scaleb(-places), context=_DOWN)


def round_up(number: Decimal, places: int) -> Decimal:
    """The smallest number of that many places that is not below `number` (which is not negative)."""
    return number.quantize(Decimal(1).scaleb(-places), context=_UP)


def divide_down(number: Decimal, divisor: Decimal, places: int) -> Decimal:
    """The quotient, rounded towards zero twice: to 100 digits and to `places`. Never above the true one."""
    return round_down(_DOWN.divide(number, divisor), places)


def divide_up(number: Decimal, divisor: Decimal, places: int) -> Decimal:
    """The quotient, rounded away from zero twice. Never below the true one."""
    return round_up(_UP.divide(number, divisor), places)
