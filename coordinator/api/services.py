"""What the endpoints of the financing API work with; put together by `coordinator.api.platform`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coordinator.decisions.store import DecisionStore
from coordinator.financing.service import Financing
from coordinator.identity.issuer import TokenIssuer
from coordinator.ledger.checkpoints import Checkpointer


@dataclass(frozen=True)
class Services:
    """The use cases and what stands beside them.

    Attributes:
        financing: Decisions, events, offers, reviews.
        store: Decisions and their ledger.
        checkpointer: Signs what the ledger says.
        issuer: Gives tokens.
        check: Raises a `UserError` when the work cannot be done now.
    """

    financing: Financing
    store: DecisionStore
    checkpointer: Checkpointer
    issuer: TokenIssuer
    check: Callable[[], None]
