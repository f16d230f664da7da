"""What the run driver sees of the engine: one step, sent to members, answered within a deadline."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Refusal:
    """A member's answer that it will not do the step, in its own words.

    Attributes:
        code: Name of the refusing error at the node, for instance `GuardRefused`; `InternalError` when the details
            stay in the node's log.
        sentence: One sentence for the operator.
    """

    code: str
    sentence: str


@dataclass(frozen=True)
class StepOutcome:
    """How a step ended for each member it was sent to: every one is in exactly one of the first three.

    Attributes:
        replies: Answer of each member that did the step.
        refusals: Refusal of each member that would not.
        silent: Members that had said nothing when the step ended.
        bytes_down: Body bytes sent to each member, resends included, framing excluded.
        bytes_up: Body bytes received from each member in `replies`.
        elapsed_s: From the call to the return.
    """

    replies: Mapping[str, bytes]
    refusals: Mapping[str, Refusal]
    silent: frozenset[str]
    bytes_down: Mapping[str, int]
    bytes_up: Mapping[str, int]
    elapsed_s: float


class Steps(Protocol):
    """Sends steps of one run to its members. One call at a time."""

    def run_step(
        self,
        action: str,
        bodies: Mapping[str, bytes],
        *,
        deadline_s: float,
        enough: Callable[[Mapping[str, bytes]], bool] | None = None,
    ) -> StepOutcome:
        """Send each member its body and collect the answers.

        A member that stays silent is sent the same bytes again while the deadline lasts, so a handler must be
        idempotent. A refusal is final for the step. A member's failure never raises here.

        Args:
            action: Which handler of the node answers.
            bodies: Body by member id.
            deadline_s: Seconds after which the step ends with whoever is silent.
            enough: Asked after each arrival with the replies so far; true ends the step at once.

        Returns:
            The outcome, when all have answered, when `enough` says so, or at the deadline.
        """
        ...

    def online(self) -> frozenset[str]:
        """Members that are connected now."""
        ...

    def wait_online(self, members: Collection[str], *, deadline_s: float) -> frozenset[str]:
        """Wait until all of `members` are connected, at most `deadline_s` seconds.

        Returns:
            Those of `members` that are connected when the wait ends.
        """
        ...
