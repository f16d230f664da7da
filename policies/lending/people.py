"""Who did what, when and why: the records that review and watch keep of every transition."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from policies.closed_model import ClosedModel, validation_sentence
from policies.errors import UserError
from policies.lending.types import Text

PersonId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._@-]{0,63}$")]
"""One spelling a person: with capitals or spaces allowed, one person could be two."""


def _aware(value: dt.datetime) -> dt.datetime:
    if value.tzinfo is None:
        raise ValueError("expected a time with its offset from UTC, found none; give it as 2026-11-25T08:00:00+00:00")
    return value.astimezone(dt.UTC)


Moment = Annotated[dt.datetime, Field(strict=False), AfterValidator(_aware)]
"""A point in time, kept in UTC."""


class Transition(ClosedModel):
    """One step, as the record keeps it."""

    step: Text
    before: str
    after: str
    by: PersonId
    at: Moment
    why: Text


def next_step(
    record: tuple[Transition, ...],
    error: type[UserError],
    *,
    step: str,
    before: str,
    after: str,
    by: str,
    at: dt.datetime,
    why: str,
) -> Transition:
    """The next step of a record.

    Raises:
        UserError: As `error`: no person's id, no reason, a time without offset or before the last step.
    """
    try:
        made = Transition(step=step, before=before, after=after, by=by, at=at, why=why)
    except ValidationError as problem:
        raise error(f"the step {step!r}: {validation_sentence(problem, 'say who, when and why')}") from None
    if record and made.at < record[-1].at:
        raise error(
            f"expected a time not before the last step at {record[-1].at.isoformat()}, found {made.at.isoformat()};"
            " correct the clock."
        )
    return made
