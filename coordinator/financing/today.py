"""The policy and the screening lists of the day: looked at again as time goes by, prepared once.

A changed policy folder takes effect within `LOOK_EVERY_S`, without a restart; lists are read once a day, and again
when the policy changed.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from policies.lending.folder import PolicyFolder
from policies.lending.policy_set import Inquiry, PolicySet
from policies.lending.types import Product
from policies.screening.lists import ScreeningLists
from policies.screening.screen import Screener

LOOK_EVERY_S = 0.1
"""A look at the folder costs a tenth of a decision."""


@dataclass(frozen=True)
class Today:
    """What decides today.

    Attributes:
        policy: The tables in force.
        screener: The lists, prepared under that policy.
    """

    policy: PolicySet
    screener: Screener
    _kinds: dict[Product, str] = field(default_factory=dict, repr=False, compare=False)

    def evidence_kind(self, product: Product) -> str:
        """The kind of document that a product lends against."""
        if product not in self._kinds:
            self._kinds[product] = Inquiry(self.policy).one("product", product=product).text("evidence_kind")
        return self._kinds[product]


class Days:
    """Gives the policy and the lists of now; safe to use from any thread.

    Args:
        folder: The lending policy.
        lists_folder: Screening lists.
        clock: Wall clock, aware.
        look_every_s: How long the folder may go unlooked at.
        monotonic: Seconds that never go back.
    """

    def __init__(
        self,
        folder: PolicyFolder,
        lists_folder: Path,
        *,
        clock: Callable[[], dt.datetime],
        look_every_s: float = LOOK_EVERY_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._lists_folder = lists_folder
        self._clock = clock
        self._look_every_s = look_every_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._lists: tuple[dt.date, ScreeningLists] | None = None
        self._today: Today | None = None
        self._looked_at = -float("inf")

    def known(self) -> Today | None:
        """What was in force a moment ago, or while somebody looks; None when it is time to call `today`."""
        known = self._today
        if known is None or known.policy.date != self._date():
            return None
        fresh = self._monotonic() - self._looked_at < self._look_every_s
        return known if fresh or self._lock.locked() else None

    def today(self) -> Today:
        """The policy and the lists of now, after a look at the folder; it may take a second when that changed.

        Raises:
            PolicyRefused: Some table has no version for today.
            ScreeningRefused: The lists cannot be used: nobody can be cleared.
        """
        with self._lock:
            date = self._date()
            policy = self._folder.current(date)
            if self._today is None or self._today.policy is not policy:
                self._today = Today(policy, Screener(policy, self._lists_of(date)))
            self._looked_at = self._monotonic()
            return self._today

    def _date(self) -> dt.date:
        return self._clock().astimezone(dt.UTC).date()

    def _lists_of(self, date: dt.date) -> ScreeningLists:
        if self._lists is None or self._lists[0] != date:
            self._lists = date, ScreeningLists.load(self._lists_folder, on=date)
        return self._lists[1]
