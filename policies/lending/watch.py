"""In-life watch: signals while money is out, what the policy makes of them, and who lifts what they did.

A signal warns or freezes; a freeze holds what is not disbursed and leaves what is. Nothing thaws by itself: a later
calm signal changes nothing, and a freeze is lifted by two people. Every step is in the record.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from policies.closed_model import ClosedModel
from policies.errors import UserError
from policies.lending.catalogue import WATCH_ACTIONS
from policies.lending.money import MAX_PLACES, Exact, Money, Share, divide_up, minus, plus
from policies.lending.people import Transition, next_step
from policies.lending.policy_set import Inquiry, PolicySet
from policies.lending.types import Id, Name, TraceRow

Status = Literal["active", "warned", "frozen"]
_AFTER: dict[str, Status] = {"none": "active", "warn": "warned", "freeze": "frozen"}
_SEVERITY: tuple[Status, ...] = tuple(_AFTER[action] for action in WATCH_ACTIONS)
_MOST = Decimal(10) ** 6

Rate = Annotated[Exact, Field(gt=0, le=Decimal(10) ** 9, decimal_places=MAX_PLACES)]


class WatchRefused(UserError):
    """A step that the watch does not allow."""


class LateShipment(ClosedModel):
    """A financed shipment is late."""

    signal: Literal["late_shipment"] = "late_shipment"
    days_late: Annotated[int, Field(ge=0, le=3650)]

    def value(self) -> Decimal:
        """Days."""
        return Decimal(self.days_late)


class RefundSpike(ClosedModel):
    """Refunds of the last weeks against what is usual for the seller, both as a share of payments."""

    signal: Literal["refund_spike"] = "refund_spike"
    recent_rate: Share
    usual_rate: Share

    def value(self) -> Decimal:
        """How many times the usual one; very many when nothing was refunded before."""
        if not self.usual_rate:
            return _MOST if self.recent_rate else Decimal(0)
        return min(divide_up(self.recent_rate, self.usual_rate, MAX_PLACES), _MOST)


class RateMove(ClosedModel):
    """The exchange rate between the facility's currency and the seller's, then and now."""

    signal: Literal["rate_move"] = "rate_move"
    rate_at_decision: Rate
    rate_now: Rate

    def value(self) -> Decimal:
        """Relative move, in either direction, rounded up."""
        move = abs(minus(self.rate_now, self.rate_at_decision))
        return min(divide_up(move, self.rate_at_decision, MAX_PLACES), _MOST)


Signal = Annotated[LateShipment | RefundSpike | RateMove, Field(discriminator="signal")]


class Facility(ClosedModel):
    """Money that may go out, or is out."""

    facility_id: Id
    industry: Name
    limit: Money
    disbursed: Money
    status: Status = "active"
    record: tuple[Transition, ...] = ()

    @model_validator(mode="after")
    def _within_the_limit(self) -> Self:
        if self.disbursed.currency != self.limit.currency or self.disbursed.amount > self.limit.amount:
            raise ValueError(f"expected at most {self.limit} disbursed, found {self.disbursed}; correct it")
        return self

    @property
    def available(self) -> Money:
        """What may still be disbursed: nothing while it is frozen."""
        left = Decimal(0) if self.status == "frozen" else minus(self.limit.amount, self.disbursed.amount)
        return Money.of(left, self.limit.currency)


class Observed(ClosedModel):
    """What came of a signal."""

    facility: Facility
    action: Literal["none", "warn", "freeze"]
    code: str
    text: str
    trace: tuple[TraceRow, ...]


def observe(
    policy: PolicySet, facility: Facility, signal: LateShipment | RefundSpike | RateMove, *, by: str, at: dt.datetime
) -> Observed:
    """Take a signal in.

    Args:
        policy: The tables in force; its table `watch` decides.
        facility: As it stands.
        signal: What happened.
        by: Who reports it; a service has an id too.
        at: When, with an offset.

    Returns:
        The facility, with a step in its record when the signal warned or froze.

    Raises:
        WatchRefused: A time before the last step.
        PolicyRefused: The table has no answer.
    """
    inquiry = Inquiry(policy)
    row = inquiry.one("watch", signal=signal.signal, industry=facility.industry, value=signal.value())
    action, text = row.text("action"), row.text("text")
    after = max(facility.status, _AFTER[action], key=_SEVERITY.index)
    if action != "none":
        facility = _stepped(facility, after, signal.signal, by, at, text)
    return Observed.model_validate(
        {"facility": facility, "action": action, "code": row.text("code"), "text": text, "trace": inquiry.trace}
    )


def disburse(facility: Facility, amount: Money, *, by: str, at: dt.datetime, why: str) -> Facility:
    """Pay out a part of what is available.

    Raises:
        WatchRefused: Frozen, more than is available, another currency, nothing, or a time before the last step.
    """
    if facility.status == "frozen":
        raise WatchRefused(
            f"expected facility {facility.facility_id} not to be frozen, found that it is; what is not disbursed stays"
            " until two people lift the freeze."
        )
    available = facility.available
    if amount.currency != available.currency or not 0 < amount.amount <= available.amount:
        raise WatchRefused(f"expected an amount above zero and at most {available}, found {amount}; correct it.")
    out = Money.of(plus(facility.disbursed.amount, amount.amount), amount.currency)
    moved = _stepped(facility, facility.status, f"disburse {amount}", by, at, why)
    return _with(moved, disbursed=out)


def lift(facility: Facility, *, asked_by: str, confirmed_by: str, at: dt.datetime, why: str) -> Facility:
    """Return to active; two people for a freeze as for a warning.

    Raises:
        WatchRefused: One person for both, nothing to lift, or a time before the last step.
    """
    if facility.status == "active":
        raise WatchRefused(
            f"expected facility {facility.facility_id} warned or frozen, found it active; nothing to do."
        )
    if asked_by == confirmed_by:
        raise WatchRefused(
            "expected a second person to confirm what the first one asks for, found the same; ask another person."
        )
    asked = _stepped(facility, facility.status, "ask to lift", asked_by, at, why)
    return _stepped(asked, "active", "lift", confirmed_by, at, why)


def _stepped(facility: Facility, after: Status, step: str, by: str, at: dt.datetime, why: str) -> Facility:
    made = next_step(
        facility.record, WatchRefused, step=step, before=facility.status, after=after, by=by, at=at, why=why
    )
    return _with(facility, status=after, record=(*facility.record, made))


def _with(facility: Facility, **changes: object) -> Facility:
    """A changed facility, validated again: `model_copy` would not be."""
    fields = {name: getattr(facility, name) for name in Facility.model_fields}
    return Facility.model_validate({**fields, **changes})
