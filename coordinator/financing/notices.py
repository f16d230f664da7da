"""Webhooks that a use case puts into the outbox, in the transaction that they tell of."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Final, Literal

from coordinator.decisions.records import WebhookEndpoint
from coordinator.decisions.store import DecisionStore
from coordinator.decisions.writes import DecisionWrites
from coordinator.ledger.entries import time_text

Topic = Literal[
    "decision.created", "decision.moved", "offer.created", "offer.accepted", "offer.expired", "review.opened"
]
EVERYTHING: Final = "*"
REMEMBERED_S: Final = 1.0
"""How long another process may go on telling an endpoint that was added or disabled here."""


class Notices:
    """Whom to tell, and the words.

    Args:
        store: Has the endpoints.
        monotonic: Seconds that never go back.
    """

    def __init__(self, store: DecisionStore, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._known: dict[str, tuple[float, tuple[WebhookEndpoint, ...]]] = {}

    async def endpoints(self, tenant: str) -> tuple[WebhookEndpoint, ...]:
        """The tenant's endpoints; give them to `tell`."""
        known = self._known.get(tenant)
        if known is None or self._monotonic() - known[0] > REMEMBERED_S:
            known = self._monotonic(), await asyncio.to_thread(self._store.endpoints, tenant)
            self._known[tenant] = known
        return known[1]

    def forget(self, tenant: str) -> None:
        """The tenant's endpoints changed."""
        self._known.pop(tenant, None)

    def tell(self, writes: DecisionWrites, endpoints: tuple[WebhookEndpoint, ...], topic: Topic, about: bytes) -> None:
        """Put a webhook for everybody who asked for the topic into the outbox.

        Args:
            writes: The transaction.
            endpoints: Of the tenant.
            topic: What happened.
            about: JSON of it, as the API answers it.
        """
        for endpoint in endpoints:
            if topic in endpoint.topics or EVERYTHING in endpoint.topics:
                delivery = self._store.new_id("del")
                head = json.dumps({"id": delivery, "topic": topic, "at": time_text(writes.now)})
                payload = f'{head[:-1]}, "data": {about.decode()}}}'
                writes.deliver(delivery, endpoint.id, topic, payload)

    def tell_moved(
        self, writes: DecisionWrites, endpoints: tuple[WebhookEndpoint, ...], decision_id: str, status: str, why: str
    ) -> None:
        """Tell that a decision stands elsewhere now."""
        about = json.dumps({"decision": decision_id, "status": status, "why": why}).encode()
        self.tell(writes, endpoints, "decision.moved", about)
