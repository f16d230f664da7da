"""A consortium's exchanges inside one process: real ClientApps behind Flower's public Grid, with faults on demand."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from coordinator.engine.grid_steps import GridSteps
from coordinator.engine.steps import Steps
from nodes.flower_app import Handle, client_app
from protos.fleet_stream.flower_messages import from_bytes, to_bytes

Fault = Literal["lost", "offline", "raise", "late", "duplicate"]
"""What happens to one message.

`lost`: the node never sees it. `offline`: Flower reports the node as unavailable. `raise`: the node's app dies over
it. `late`: the node answers, but the answer arrives with the next message that is sent. `duplicate`: the node gets it
twice and both answers arrive.
"""

Faults = Callable[[str, str, int], Fault | None]
"""Decides the fault of a message from (member, action, attempt); attempts count from 0 for each member and action."""

RUN_ID = 1
COORDINATOR_NODE_ID = 1
FIRST_NODE_ID = 100
NODE_UNAVAILABLE = 5
APP_RAISED = 2


class InProcessGrid(Grid):  # type: ignore[misc]  # flwr is not followed by the type checker
    """Calls each member's ClientApp when a message is pushed.

    Args:
        apps: ClientApp of each member.
        faults: Decides what goes wrong; nothing by default.
        wire: Serialise and parse every message and reply, as the stream does.
    """

    def __init__(self, apps: Mapping[str, ClientApp], faults: Faults | None = None, *, wire: bool = False) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id = RUN_ID, RUN_ID
        TaskIdentity.node_id = COORDINATOR_NODE_ID
        self.node_ids: dict[str, int] = {member: FIRST_NODE_ID + i for i, member in enumerate(sorted(apps))}
        self._run = Run.create_empty(RUN_ID)
        self._apps = {self.node_ids[member]: (member, app) for member, app in apps.items()}
        self._contexts = {
            node_id: Context(run_id=RUN_ID, node_id=node_id, node_config={}, state=RecordDict(), run_config={})
            for node_id in self._apps
        }
        self._faults = faults
        self._wire = wire
        self._ids = itertools.count(1)
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._arrived: list[Message] = []
        self._late: list[Message] = []

    def set_run(self, run: Run) -> None:
        """Take up another run."""
        self._run = run

    @property
    def run(self) -> Run:
        """Flower's record of the run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message; Flower has deprecated this in favour of `Message`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes: a fault concerns a message, not a node."""
        return list(self._apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run each message at its node; what came late before arrives now."""
        self._arrived, self._late = self._arrived + self._late, []
        return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to these messages that have arrived; each is handed over once."""
        wanted = set(message_ids)
        found = [reply for reply in self._arrived if reply.metadata.reply_to_message_id in wanted]
        self._arrived = [reply for reply in self._arrived if reply.metadata.reply_to_message_id not in wanted]
        return found

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, then pull: nothing more would arrive by waiting, so `timeout` has no effect."""
        del timeout
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> str:
        message_id = f"message-{next(self._ids)}"
        message.metadata.__dict__["_message_id"] = message_id  # as Flower's own grids do
        member, app = self._apps[message.metadata.dst_node_id]
        # The steps put their action into the group id, which is Flower's free text field.
        action = message.metadata.group_id
        attempt = self._attempts[member, action]
        self._attempts[member, action] += 1
        match self._faults(member, action, attempt) if self._faults is not None else None:
            case "lost":
                pass
            case "offline":
                self._arrived.append(Message(Error(NODE_UNAVAILABLE, "offline"), reply_to=message))
            case "raise":
                self._arrived.append(Message(Error(APP_RAISED, "the app died"), reply_to=message))
            case "late":
                self._late.append(self._ask(app, message))
            case "duplicate":
                self._arrived.extend([self._ask(app, message), self._ask(app, message)])
            case None:
                self._arrived.append(self._ask(app, message))
        return message_id

    def _ask(self, app: ClientApp, message: Message) -> Message:
        context = self._contexts[message.metadata.dst_node_id]
        if not self._wire:
            return app(message, context)
        return from_bytes(to_bytes(app(from_bytes(to_bytes(message)), context)))


class TickingClock:
    """Time that passes only when somebody waits, so that deadlines and resends cost nothing."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        """Seconds since the clock was made."""
        return self._now_s

    def pause(self, seconds: float) -> None:
        """Let so many seconds pass at once."""
        self._now_s += seconds


def in_process_steps(handlers: Mapping[str, Handle], faults: Faults | None = None, *, wire: bool = False) -> Steps:
    """Steps over handlers in this process, called one after the other.

    Time is simulated: a silent member lets the deadline pass without anybody waiting for it. `elapsed_s` of an
    outcome is in that time.

    Args:
        handlers: Step handler of each member.
        faults: Decides what goes wrong; nothing by default.
        wire: Serialise and parse every message, as the stream does; slower.
    """
    grid = InProcessGrid({member: client_app(handle) for member, handle in handlers.items()}, faults, wire=wire)
    clock = TickingClock()
    return GridSteps(grid, grid.node_ids, resend_after_s=1.0, clock=clock, pause=clock.pause)
