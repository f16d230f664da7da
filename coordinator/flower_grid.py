"""Flower's Grid over the nodes' streams: messages pushed here reach the member's ClientApp and their replies come back.

The stock Grid stores every object of a message in the SuperLink's database, and nodes poll for them: some 13 requests
of 5 ms server time for each node and exchange. Here a message is one piece of work for one open stream.
"""

import logging
import time
import uuid
from collections.abc import Iterable, Mapping

from flwr.app import Message, RecordDict
from flwr.app.error import Error
from flwr.app.message.message import remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from coordinator.engine.hub import Hub
from protos.fleet_stream.flower_messages import MessageRefused, from_bytes, to_bytes

logger = logging.getLogger(__name__)


class StreamGrid(Grid):  # type: ignore[misc]  # flwr is not followed by the type checker
    """Grid of one run.

    Args:
        hub: Carries serialised messages to members and back.
        run: Flower's record of the run.
        node_ids: Flower's node id of each admitted member.
    """

    def __init__(self, hub: Hub, run: Run, node_ids: Mapping[str, int]) -> None:
        self._hub = hub
        self._run = run
        self._node_ids = node_ids
        self._sent: dict[str, Message] = {}

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
        """Node ids of the members whose stream is open."""
        node_ids = dict(self._node_ids)  # members may be admitted meanwhile
        return [node_ids[member] for member in self._hub.online() if member in node_ids]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; an empty id stands for one whose destination is no admitted member's node."""
        member_of = {node_id: member for member, node_id in dict(self._node_ids).items()}
        message_ids: list[str] = []
        for message in messages:
            member = member_of.get(message.metadata.dst_node_id)
            if member is None:
                message_ids.append("")
                continue
            message_id = str(uuid.uuid4())
            message.metadata.__dict__["_message_id"] = message_id  # as Flower's own grids do
            self._sent[message_id] = remove_content_from_message(message)
            self._hub.push(member, message_id, to_bytes(message), message.metadata.ttl)
            message_ids.append(message_id)
        return message_ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to these messages that have come; each is handed over once."""
        return [self._read(message_id, payload) for message_id, payload in self._hub.collect(list(message_ids)).items()]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and wait for their replies, at most `timeout` seconds."""
        waiting = {message_id for message_id in self.push_messages(messages) if message_id}
        ends_at = time.monotonic() + timeout if timeout is not None else float("inf")
        replies: list[Message] = []
        while waiting and (left_s := ends_at - time.monotonic()) > 0:
            arrived = list(self.pull_messages(waiting))
            replies.extend(arrived)
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            if waiting and not arrived:
                self._hub.pause(min(left_s, 1.0))
        self.withdraw(waiting)
        return replies

    def pause(self, longest_s: float) -> None:
        """Wait until a reply has come, at most `longest_s` seconds."""
        self._hub.pause(longest_s)

    def withdraw(self, message_ids: Iterable[str]) -> None:
        """Forget messages whose replies nobody waits for."""
        gone = list(message_ids)
        self._hub.withdraw(gone)
        for message_id in gone:
            self._sent.pop(message_id, None)

    def _read(self, message_id: str, payload: bytes) -> Message:
        """Parse a node's reply; one that is malformed becomes an error reply to the same message."""
        sent = self._sent.pop(message_id)
        try:
            reply = from_bytes(payload)
        except MessageRefused as error:
            logger.warning("malformed reply to %s: %s", message_id, error)
            return Message(Error(ErrorCode.UNKNOWN, "the reply could not be parsed"), reply_to=sent)
        if reply.metadata.reply_to_message_id != message_id:
            return Message(Error(ErrorCode.UNKNOWN, "the reply names another message"), reply_to=sent)
        return reply
