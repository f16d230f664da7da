"""The training of a vertical run: carries the members' letters until all of them are done, and opens none.

It decides nothing but when a letter is handed over. Letters wait here in memory; after a crash of the coordinator, or
of a node, the training starts again on the alignment that the nodes have on disk, with fresh keys and nonces.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from coordinator.engine.steps import StepOutcome, Steps
from coordinator.epoch_opening import parse_reply
from coordinator.patience import Patience
from coordinator.sum_round import RunFailed, Traffic
from protos.runs.v1 import vertical_pb2

log = logging.getLogger(__name__)

ACTION = "vertical"
LOST = "AttemptLost"
MOST_STARTS = 4
"""A training that was lost so often is given up: the labels' budget would not allow another one anyway (rule B5)."""
MAX_LETTERS = 4096


@dataclass
class _Member:
    """Where one member stands in an attempt.

    Attributes:
        number: Of its next step.
        awaits: Whose letters that step needs.
        inbox: Sender -> letters that have not been handed over.
        done: Nothing more is due from it.
    """

    number: int = 0
    awaits: tuple[str, ...] = ()
    inbox: dict[str, deque[bytes]] = field(default_factory=lambda: defaultdict(deque))
    done: bool = False

    @property
    def ready(self) -> bool:
        return not self.done and all(self.inbox[sender] for sender in self.awaits)


class _AttemptOver(Exception):  # control flow between an attempt and the round, never shown
    """A node has lost the attempt."""


class VerticalRound:
    """Drives the training of one run.

    Args:
        run_id: The run; its alignment has ended.
        cohort: Its members.
        steps: The engine.
        confirmations: E2 messages, for members that have not accepted them yet.
        deadline_s: How long a step waits for silent members.
        pause_limit_s: How long the training waits for a member that is away before it is given up.
        announce: Called with an event name and details, for progress.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        run_id: str,
        cohort: tuple[str, ...],
        steps: Steps,
        confirmations: tuple[bytes, ...],
        *,
        deadline_s: float,
        pause_limit_s: float,
        announce: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
        first_attempt: int = 0,
    ) -> None:
        self._run_id = run_id
        self._cohort = cohort
        self._steps = steps
        self._confirmations = confirmations
        self._announce = announce
        self._patience = Patience("the training", deadline_s, pause_limit_s, announce, clock)
        self._first_attempt = first_attempt
        self._shown: tuple[str, int] = ("", 0)
        self.traffic = Traffic()

    def run(self) -> dict[str, dict[str, vertical_pb2.VerticalResult]]:
        """Train, and return what each member releases: task -> member -> result.

        Raises:
            RunFailed: A member refuses, stays away for longer than the pause limit, or sends what it may not.
        """
        for attempt in range(self._first_attempt, self._first_attempt + MOST_STARTS):
            self._announce("training", attempt=attempt + 1, members=len(self._cohort))
            try:
                return self._attempt(attempt)
            except _AttemptOver as over:
                self._announce("paused", reason=f"{over}; the training starts again")
        raise RunFailed(
            f"The training was lost {MOST_STARTS} times, because a node or the coordinator restarted; propose the run "
            "again when all of them stay up."
        )

    def _attempt(self, attempt: int) -> dict[str, dict[str, vertical_pb2.VerticalResult]]:
        members = {member: _Member() for member in self._cohort}
        results: dict[str, dict[str, vertical_pb2.VerticalResult]] = {}
        while not all(member.done for member in members.values()):
            bodies = {name: self._request(attempt, member) for name, member in members.items() if member.ready}
            if not bodies:
                waiting = ", ".join(name for name, member in members.items() if not member.done)
                raise RunFailed(
                    f"The training cannot go on: {waiting} wait for letters that nobody sends; the nodes must run the "
                    "same release."
                )
            outcome = self._steps.run_step(ACTION, bodies, deadline_s=self._patience.deadline_s)
            self.traffic.count(ACTION, outcome)
            self._take_refusals(outcome)
            for name in sorted(outcome.replies):
                reply = parse_reply(vertical_pb2.VerticalStepReply, name, outcome.replies[name])
                self._take(name, members, reply, results)
            self._patience.after(outcome)
        return results

    def _request(self, attempt: int, member: _Member) -> bytes:
        """A member's next step; the same bytes until it has answered."""
        letters = [vertical_pb2.Letter(sender=sender, body=member.inbox[sender][0]) for sender in member.awaits]
        return vertical_pb2.VerticalStepRequest(
            run_id=self._run_id,
            attempt=attempt,
            number=member.number,
            letters=letters,
            confirmations=() if member.number else self._confirmations,
        ).SerializeToString(deterministic=True)

    def _take_refusals(self, outcome: StepOutcome) -> None:
        for name, refusal in sorted(outcome.refusals.items()):
            if refusal.code == LOST:
                raise _AttemptOver(f"{name} has lost the training")
            raise RunFailed(f"{name} refused a step of the training ({refusal.code}): {refusal.sentence}")

    def _take(
        self,
        name: str,
        members: Mapping[str, _Member],
        reply: vertical_pb2.VerticalStepReply,
        results: dict[str, dict[str, vertical_pb2.VerticalResult]],
    ) -> None:
        member = members[name]
        for sender in member.awaits:
            member.inbox[sender].popleft()
        for post in reply.posts:
            for recipient in post.recipients:
                if recipient not in members or recipient == name or len(members[recipient].inbox[name]) >= MAX_LETTERS:
                    raise RunFailed(f"{name} sent a letter that the run has no place for; update its node.")
                members[recipient].inbox[name].append(post.body)
        member.awaits = tuple(reply.awaits)
        if not set(member.awaits) <= set(members) - {name} or (not member.awaits and not reply.done):
            raise RunFailed(f"{name} waits for letters of members that the run does not have; update its node.")
        member.number, member.done = member.number + 1, reply.done
        for result in reply.results:
            results.setdefault(result.task, {})[name] = result
        if reply.HasField("progress"):
            self._show(reply.progress)

    def _show(self, progress: vertical_pb2.VerticalProgress) -> None:
        """Announce a pass once, whichever label holder is the first to say so."""
        if (progress.task, progress.number) != self._shown:
            self._shown = (progress.task, progress.number)
            self._announce("pass", task=progress.task, number=progress.number, of=progress.of)
