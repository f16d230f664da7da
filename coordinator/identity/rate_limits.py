"""How often a client may ask, and how often anybody may be wrong about its secret; counted in this process."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from time import time
from typing import Final

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from coordinator.identity.errors import RateLimited

FAILURES_PER_MINUTE: Final = 10
_MAX_NAME: Final = 64


class RateLimits:
    """Sliding windows of a minute.

    Args:
        now: Unix seconds.
    """

    def __init__(self, now: Callable[[], float] = time) -> None:
        self._now = now
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._failures = RateLimitItemPerMinute(FAILURES_PER_MINUTE, namespace="failures")
        self._items: dict[int, RateLimitItemPerMinute] = {}

    def take(self, client_id: str, per_minute: int) -> None:
        """Count one request.

        Raises:
            RateLimited: It is one too many.
        """
        item = self._items.get(per_minute)
        if item is None:
            item = self._items[per_minute] = RateLimitItemPerMinute(per_minute, namespace="requests")
        if not self._limiter.hit(item, client_id):
            raise self._limited(item, client_id, f"at most {per_minute} requests a minute")

    def require_few_failures(self, client_id: str) -> None:
        """Return if the client's secret was not tried wrongly too often.

        Raises:
            RateLimited: It was; also whoever has the right one waits.
        """
        if not self._limiter.test(self._failures, client_id[:_MAX_NAME]):
            raise self._limited(
                self._failures, client_id[:_MAX_NAME], f"at most {FAILURES_PER_MINUTE} wrong secrets a minute"
            )

    def failed(self, client_id: str) -> None:
        """Count a wrong secret, or a wrong name: they are counted alike."""
        self._limiter.hit(self._failures, client_id[:_MAX_NAME])

    def _limited(self, item: RateLimitItemPerMinute, client_id: str, bound: str) -> RateLimited:
        reset = self._limiter.get_window_stats(item, client_id).reset_time
        wait = min(max(ceil(reset - self._now()), 1), 60)
        return RateLimited(f"Expected {bound}, found more; wait {wait} s.", wait)
