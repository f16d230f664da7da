"""What the coordinator's database refuses.

Tree::

    DatabaseRefused        the database cannot be used as it is: another schema, another log, no such server
    StoreUnavailable       it cannot be written now; the same request may be sent again (HTTP 503)
    StoreBusy              more waits to be written than may wait (HTTP 429)
    RecordRefused          a row breaks a rule of the tables (an unknown tenant, an id used twice)
"""

from __future__ import annotations

from policies.errors import UserError


class DatabaseRefused(UserError):
    """The database cannot be used as it is."""


class StoreUnavailable(UserError):
    """The database cannot be written now."""


class StoreBusy(UserError):
    """More waits to be written than may wait."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"Expected at most {waiting} writes to wait, found that many; send the request again later.")


class RecordRefused(UserError):
    """A row breaks a rule of the tables."""
