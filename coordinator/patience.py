"""How long a relay between members waits for one that is silent: it says whom it waits for, and gives up in the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.engine.steps import StepOutcome
from coordinator.sum_round import RunFailed


@dataclass
class Patience:
    """Patience with the members of one run, whose roster is fixed: without any of them it cannot go on.

    Attributes:
        what: What waits, as a sentence begins with it: "the alignment".
        deadline_s: How long a step waits for silent members.
        pause_limit_s: How long a member may stay away before what waits is given up.
        announce: Called with an event name and details, for progress.
        clock: Monotonic seconds.
    """

    what: str
    deadline_s: float
    pause_limit_s: float
    announce: Callable[..., None]
    clock: Callable[[], float] = time.monotonic
    _silent_since: float | None = None

    def after(self, outcome: StepOutcome) -> bool:
        """Note how a step ended; True if everybody has answered.

        Raises:
            RunFailed: A member has been silent for longer than the limit.
        """
        if not outcome.silent:
            self._silent_since = None
            return True
        now = self.clock()
        if self._silent_since is None:
            self._silent_since = now - self.deadline_s
        names = ", ".join(sorted(outcome.silent))
        if now - self._silent_since > self.pause_limit_s:
            raise RunFailed(
                f"{self.what.capitalize()} needs {names}, who stayed away for {self.pause_limit_s:g} s; it is given "
                "up, start their nodes and propose the run again."
            )
        self.announce("paused", reason=f"{self.what} waits for {names}", members=sorted(outcome.silent))
        return False
