"""Follow a run from another process through the coordinator's store: what `tallystick train` shows."""

from __future__ import annotations

import time
from collections.abc import Iterator

from coordinator.store import CoordinatorStore, Event

POLL_INTERVAL_S = 0.1
FINAL_EVENTS = frozenset({"finished", "failed"})


def follow(store: CoordinatorStore, run_id: str) -> Iterator[Event]:
    """Yield the run's events as they come, until it has finished or failed."""
    last = 0
    while True:
        for event in store.events(run_id, after=last):
            last = event.entry
            yield event
            if event.event in FINAL_EVENTS:
                return
        time.sleep(POLL_INTERVAL_S)
