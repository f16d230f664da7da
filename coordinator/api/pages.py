"""Pages of a list: a cursor that callers hand back as it is, and the limits of what may be asked for."""

from __future__ import annotations

import base64
import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from policies.closed_model import ClosedModel
from policies.lending.types import Id

MAX_PAGE: Final = 200
_CURSOR: Final = re.compile(r"before:(0|[1-9][0-9]{0,17})")


def cursor_of(before: int) -> str:
    """The text of a cursor; what stands in it is nobody's business but ours."""
    return base64.urlsafe_b64encode(f"before:{before}".encode()).decode().rstrip("=")


def before_of(cursor: str) -> int:
    """Where a cursor points to.

    Raises:
        ValueError: It is none of `cursor_of`.
    """
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except ValueError:
        text = ""
    found = _CURSOR.fullmatch(text)
    if found is None or cursor_of(int(found[1])) != cursor:
        raise ValueError("expected the cursor of an earlier page, found something else; hand it back as it came")
    return int(found[1])


def _is_cursor(value: str) -> str:
    before_of(value)
    return value


Cursor = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_is_cursor)]


class PageQuery(ClosedModel):
    """Which page."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 50
    cursor: Cursor | None = None
    """`next` of the page before."""

    @property
    def before(self) -> int | None:
        """Where the page begins."""
        return None if self.cursor is None else before_of(self.cursor)


class DecisionsQuery(PageQuery):
    """Which decisions."""

    applicant: Id | None = None


class OffersQuery(PageQuery):
    """Which offers."""

    applicant: Id | None = None
    open_only: bool = False


class ReviewsQuery(ClosedModel):
    """Which reviews."""

    decision: Id | None = None
    unfinished: bool = False
