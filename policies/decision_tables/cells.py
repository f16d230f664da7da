"""The cells of a decision table: a closed part of the rules engine's language.

The engine (zen-engine 2.1) reads any expression in a cell, and a cell that it cannot read, or that compares text with a
number, silently matches nothing: a rule that declines would then never fire. So a cell is one of the forms below or
the table is refused:

- a condition: empty (anything); `"a"` or `"a", "b"`; `true` or `false`; `5`, `< 5`, `<= 5`, `> 5`, `>= 5`; `[1..5)` and
  the other three brackets;
- an output: `"text"`, `true` or `false`; a number in quotes, since the engine returns bare numbers as binary floats.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

Kind = Literal["text", "number", "flag"]
"""What a column compares: text, a decimal number, or true and false."""

Value = str | Decimal | bool

_NUMBER = r"(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,12})?"
_TEXT = r'"[^"\\\x00-\x1f\x7f]{1,400}"'
_ONE_OR_MORE_TEXTS = re.compile(rf"{_TEXT}(?:, {_TEXT})*")
_EACH_TEXT = re.compile(_TEXT)
_PLAIN_NUMBER = re.compile(_NUMBER)
_COMPARED = re.compile(rf"(<=|>=|<|>) ({_NUMBER})")
_RANGE = re.compile(rf"([\[(])({_NUMBER})\.\.({_NUMBER})([\])])")


@dataclass(frozen=True)
class Anything:
    """An empty cell."""

    def holds(self, value: Value) -> bool:  # noqa: ARG002 - the same shape as the other conditions
        """Always."""
        return True


@dataclass(frozen=True)
class OneOf:
    """One of some texts, or one truth value."""

    values: tuple[str | bool, ...]

    def holds(self, value: Value) -> bool:
        """Whether the value is one of them, and of the same type (in Python `True == 1`)."""
        return any(type(one) is type(value) and one == value for one in self.values)


@dataclass(frozen=True)
class Within:
    """A number between two bounds; a bound that is None is no bound."""

    low: Decimal | None
    high: Decimal | None
    low_included: bool = True
    high_included: bool = False

    def holds(self, value: Value) -> bool:
        """Whether the number lies between the bounds."""
        if not isinstance(value, Decimal):
            return False
        above = self.low is None or value > self.low or (self.low_included and value == self.low)
        below = self.high is None or value < self.high or (self.high_included and value == self.high)
        return above and below

    def bounds(self) -> tuple[Decimal, ...]:
        """The bounds that there are."""
        return tuple(bound for bound in (self.low, self.high) if bound is not None)


Condition = Anything | OneOf | Within


def parse_condition(text: str, kind: Kind) -> Condition:
    """One condition cell.

    Args:
        text: As it stands in the file.
        kind: What its column compares.

    Raises:
        ValueError: Not one of the forms, or a range that holds no number.
    """
    if text == "":
        return Anything()
    match kind:
        case "text":
            if _ONE_OR_MORE_TEXTS.fullmatch(text):
                return OneOf(tuple(one[1:-1] for one in _EACH_TEXT.findall(text)))
            raise ValueError('expected texts in double quotes, as "a" or "a", "b", or nothing')
        case "flag":
            if text in ("true", "false"):
                return OneOf((text == "true",))
            raise ValueError("expected true, false or nothing")
        case "number":
            return _parse_range(text)


def _parse_range(text: str) -> Within:
    if _PLAIN_NUMBER.fullmatch(text):
        return Within(Decimal(text), Decimal(text), low_included=True, high_included=True)
    if compared := _COMPARED.fullmatch(text):
        sign, bound = compared[1], Decimal(compared[2])
        if sign.startswith("<"):
            return Within(None, bound, high_included=sign == "<=")
        return Within(bound, None, low_included=sign == ">=")
    if between := _RANGE.fullmatch(text):
        low, high = Decimal(between[2]), Decimal(between[3])
        if low >= high:
            raise ValueError("expected a range whose lower bound is below its upper bound")
        return Within(low, high, low_included=between[1] == "[", high_included=between[4] == "]")
    raise ValueError("expected a number, a comparison as < 5, a range as [1..5), or nothing")


def parse_output(text: str, kind: Kind) -> Value:
    """One output cell.

    Args:
        text: As it stands in the file.
        kind: What its column holds.

    Raises:
        ValueError: Not of the form that its column needs.
    """
    match kind:
        case "flag":
            if text in ("true", "false"):
                return text == "true"
            raise ValueError("expected true or false")
        case "text":
            if _EACH_TEXT.fullmatch(text):
                return text[1:-1]
            raise ValueError("expected one text in double quotes")
        case "number":
            if _EACH_TEXT.fullmatch(text) and _PLAIN_NUMBER.fullmatch(text[1:-1]):
                return Decimal(text[1:-1])
            raise ValueError('expected a decimal number in double quotes, as "0.80"')


def shown_value(value: Value) -> str:
    """A value as traces, cases and messages show it: numbers without trailing zeros or exponent."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return plain(value)
    return value


def plain(number: Decimal) -> str:
    """A number in digits: no exponent, no trailing zeros after the point, no minus before zero."""
    text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
