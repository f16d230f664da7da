"""Steps over any Flower Grid, through its public API alone."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from coordinator.engine.steps import Refusal, StepOutcome
from protos.fleet_stream.records import (
    ACTION,
    BODY,
    CODE,
    INTERNAL_ERROR,
    MESSAGE_TYPE,
    REFUSAL_RECORD,
    REPLY_RECORD,
    SENTENCE,
    STEP_RECORD,
)

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.02
PAUSE_GROWTH = 1.5

TRANSIENT_ERROR_CODES = frozenset({3, 4, 5, 8})
"""Flower's message unavailable, reply unavailable, node unavailable and app crashed: the message or its answer was
lost on the way, so the step is still open for that member."""


def _do_nothing(_: Collection[str]) -> None:
    """Leave withdrawn messages to their time to live."""


@dataclass
class GridSteps:
    """`Steps` on a Grid.

    Attributes:
        grid: Carries the messages.
        node_ids: Flower's node id of each member.
        resend_after_s: Silence after which a member is sent its body again; doubles with each resend.
        clock: Seconds, monotonic.
        pause: Waits so many seconds, or less if the grid knows that something arrived.
        withdraw: Told the ids of messages whose answers nobody waits for any more.
    """

    grid: Grid
    node_ids: Mapping[str, int]
    resend_after_s: float = 15.0
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    withdraw: Callable[[Collection[str]], None] = _do_nothing

    def run_step(
        self,
        action: str,
        bodies: Mapping[str, bytes],
        *,
        deadline_s: float,
        enough: Callable[[Mapping[str, bytes]], bool] | None = None,
    ) -> StepOutcome:
        """See `Steps.run_step`."""
        step = _OpenStep(self.clock(), deadline_s, dict(bodies))
        self._push(action, step, bodies)
        resend_after_s, resend_at = self.resend_after_s, self.clock() + self.resend_after_s
        pause_s = FIRST_PAUSE_S
        while step.waiting:
            arrived = step.take(self.grid.pull_messages(list(step.owners)))
            if not step.waiting or (arrived and enough is not None and enough(step.replies)):
                break
            now = self.clock()
            if now >= step.ends_at:
                break
            if step.waiting and now >= resend_at:
                logger.info("%s: sending again to %s", action, ", ".join(sorted(step.waiting)))
                self._push(action, step, step.waiting)
                resend_after_s *= 2
                resend_at = now + resend_after_s
            pause_s = FIRST_PAUSE_S if arrived else min(pause_s * PAUSE_GROWTH, LONGEST_PAUSE_S)
            self.pause(min(pause_s, step.ends_at - now))
        self.withdraw(list(step.owners))
        return step.outcome(self.clock())

    def online(self) -> frozenset[str]:
        """See `Steps.online`."""
        connected = set(self.grid.get_node_ids())
        return frozenset(member for member, node_id in dict(self.node_ids).items() if node_id in connected)

    def wait_online(self, members: Collection[str], *, deadline_s: float) -> frozenset[str]:
        """See `Steps.wait_online`."""
        ends_at = self.clock() + deadline_s
        while not (present := self.online() & set(members)).issuperset(members) and self.clock() < ends_at:
            self.pause(LONGEST_PAUSE_S)
        return present

    def _push(self, action: str, step: "_OpenStep", members: Iterable[str]) -> None:
        """Send their bodies to `members` and note which message belongs to whom."""
        # Beyond the deadline nobody reads the answer, so neither message nor reply may live longer.
        ttl_s = max(step.ends_at - self.clock(), 0.0) + 1.0
        receivers = [member for member in members if member in self.node_ids]
        messages = [
            Message(
                RecordDict({STEP_RECORD: ConfigRecord({ACTION: action, BODY: step.bodies[member]})}),
                dst_node_id=self.node_ids[member],
                message_type=MESSAGE_TYPE,
                ttl=ttl_s,
                group_id=action,
            )
            for member in receivers
        ]
        for member, message_id in zip(receivers, self.grid.push_messages(messages), strict=True):
            if message_id:
                step.owners[message_id] = member
                step.bytes_down[member] = step.bytes_down.get(member, 0) + len(step.bodies[member])


@dataclass
class _OpenStep:
    """A step while it lasts."""

    started_at: float
    deadline_s: float
    bodies: dict[str, bytes]
    owners: dict[str, str] = field(default_factory=dict)
    """Member by id of each message whose answer is still welcome."""
    replies: dict[str, bytes] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    bytes_down: dict[str, int] = field(default_factory=dict)

    @property
    def ends_at(self) -> float:
        return self.started_at + self.deadline_s

    @property
    def waiting(self) -> frozenset[str]:
        """Members that have neither answered nor refused."""
        return frozenset(self.bodies.keys() - self.replies.keys() - self.refusals.keys())

    def take(self, messages: Iterable[Message]) -> bool:
        """Sort arrivals to their members; true if any of them was the first answer of its member."""
        arrived = False
        for message in messages:
            # Flower's own error replies carry its node id, not the member's: only the message id tells whose it is.
            member = self.owners.pop(message.metadata.reply_to_message_id, None)
            if member is None or member not in self.waiting:
                continue
            arrived = self._settle(member, message) or arrived
        return arrived

    def _settle(self, member: str, message: Message) -> bool:
        if message.has_error():
            if message.error.code in TRANSIENT_ERROR_CODES:
                return False
            self.refusals[member] = Refusal(INTERNAL_ERROR, _engine_sentence(message.error.code))
            return True
        answer = _read_answer(message.content)
        if isinstance(answer, Refusal):
            self.refusals[member] = answer
        else:
            self.replies[member] = answer
        return True

    def outcome(self, now: float) -> StepOutcome:
        return StepOutcome(
            replies=self.replies,
            refusals=self.refusals,
            silent=self.waiting,
            bytes_down=self.bytes_down,
            bytes_up={member: len(body) for member, body in self.replies.items()},
            elapsed_s=now - self.started_at,
        )


def _engine_sentence(code: int) -> str:
    return f"the node could not run the step (engine error {code}); its log says why"


def _read_answer(content: RecordDict) -> bytes | Refusal:
    """Read a reply or a refusal out of a node's records; anything else is a refusal that says so."""
    reply, refusal = content.get(REPLY_RECORD), content.get(REFUSAL_RECORD)
    if isinstance(reply, ConfigRecord) and isinstance(body := reply.get(BODY), bytes):
        return body
    if isinstance(refusal, ConfigRecord):
        code, sentence = refusal.get(CODE), refusal.get(SENTENCE)
        if isinstance(code, str) and isinstance(sentence, str):
            return Refusal(code[:100], sentence[:2000])
    return Refusal("MalformedReply", "expected a step's reply or a refusal, got other records")
