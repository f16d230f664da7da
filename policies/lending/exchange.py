"""Conversions at the policy's own rates, each with the direction that is prudent where it is used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from policies.decision_tables.errors import NoRow, PolicyRefused
from policies.lending.money import Money, divide_down, plus, round_down, round_up, times
from policies.lending.policy_set import Inquiry

POLICY_CURRENCY = "CNY"
"""Caps and thresholds of the tables are in this currency."""
_POLICY_PLACES = 2


@dataclass(frozen=True)
class Currency:
    """A currency as the table `fx` knows it.

    Attributes:
        code: ISO 4217.
        cny_per_unit: Units of the policy's currency for one unit.
        minor_digits: Decimal places of its minor unit.
    """

    code: str
    cny_per_unit: Decimal
    minor_digits: int

    def money_down(self, amount: Decimal) -> Money:
        """The largest amount of whole minor units that is not above `amount`."""
        return Money.of(round_down(amount, self.minor_digits), self.code)

    def money_up(self, amount: Decimal) -> Money:
        """The smallest amount of whole minor units that is not below `amount`."""
        return Money.of(round_up(amount, self.minor_digits), self.code)

    def in_cny_down(self, amount: Decimal) -> Decimal:
        """An amount of this currency in the policy's, rounded down to the fen."""
        return round_down(times(amount, self.cny_per_unit), _POLICY_PLACES)

    def in_cny_up(self, amount: Decimal) -> Decimal:
        """An amount of this currency in the policy's, rounded up to the fen."""
        return round_up(times(amount, self.cny_per_unit), _POLICY_PLACES)

    def from_cny_down(self, cny: Decimal) -> Decimal:
        """An amount of the policy's currency in this one, rounded down to the minor unit."""
        return divide_down(cny, self.cny_per_unit, self.minor_digits)


class Exchange:
    """The currencies of one policy set, looked up once each."""

    def __init__(self, inquiry: Inquiry) -> None:
        self._inquiry = inquiry
        self._known: dict[str, Currency] = {}

    def currency(self, code: str) -> Currency:
        """A currency by its code.

        Raises:
            PolicyRefused: The policy has no rate for it: nothing can be said about its caps, so nothing is decided.
        """
        if code not in self._known:
            try:
                row = self._inquiry.one("fx", currency=code)
            except NoRow:
                raise PolicyRefused(
                    f"expected a currency that the policy of {self._inquiry.policy.date} has a rate for, found"
                    f" {code!r}; ask in another one, or add a row to the table fx."
                ) from None
            self._known[code] = Currency(code, row.number("cny_per_unit"), int(row.number("minor_digits")))
        return self._known[code]

    def checked(self, money: Money) -> Currency:
        """The currency of an amount that is a whole number of minor units.

        Raises:
            PolicyRefused: It is not, or the currency is not known.
        """
        currency = self.currency(money.currency)
        if round_down(money.amount, currency.minor_digits) != money.amount:
            raise PolicyRefused(
                f"expected an amount of {money.currency} with at most {currency.minor_digits} decimal places, found"
                f" {money.amount}; round it."
            )
        return currency

    def total_cny_up(self, amounts: Iterable[Money]) -> Decimal:
        """What is owed, in the policy's currency, each amount rounded up."""
        return plus(*(self.currency(one.currency).in_cny_up(one.amount) for one in amounts))

    def converted_down(self, money: Money, to: Currency) -> Decimal:
        """An amount in another currency, rounded down twice; exactly itself in its own."""
        if money.currency == to.code:
            return money.amount
        return to.from_cny_down(self.currency(money.currency).in_cny_down(money.amount))
