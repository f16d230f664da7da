"""Messages on their way to nodes and replies on their way back: at least once, over streams that come and go."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from protos.fleet_stream.frames import MAX_MESSAGE_BYTES, FrameRefused, split
from protos.fleet_stream.v1.fleet_stream_pb2 import Frame

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Link:
    """The open stream of one node, seen from the side that writes to it.

    Attributes:
        member: Whose node it is.
        close: Ends the stream; may be called more than once and from any thread.
    """

    member: str
    close: Callable[[], None]
    outbox: queue.SimpleQueue[str | None] = field(default_factory=queue.SimpleQueue)
    """Ids of messages to send; None ends the link."""


@dataclass(frozen=True)
class _Outstanding:
    member: str
    message: bytes
    expires_at: float


class Hub:
    """Keeps each message until its reply has come, it is withdrawn or it expires.

    A message is sent when it is pushed, and again whenever its member opens a new stream: what died with a node
    reaches the node that replaces it. A reply counts only from the member its message went to, and only once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._links: dict[str, Link] = {}
        self._outstanding: dict[str, _Outstanding] = {}
        self._replies: dict[str, bytes] = {}
        self._generation = 0
        self._seen_generation = 0

    def attach(self, member: str, close: Callable[[], None]) -> Link:
        """Take up a node's new stream; the one it had before, if any, is closed.

        Args:
            member: As authenticated by the stream's certificate.
            close: Ends the stream.
        """
        link = Link(member, close)
        with self._changed:
            self._expire()
            previous = self._links.pop(member, None)
            self._links[member] = link
            for message_id, message in self._outstanding.items():
                if message.member == member:
                    link.outbox.put(message_id)
            self._notify()
        if previous is not None:
            logger.warning("%s connected again while its last stream was open; the last one is closed", member)
            previous.outbox.put(None)
            previous.close()
        return link

    def detach(self, link: Link) -> bool:
        """Note that a stream has ended; true if it was its member's current one."""
        link.outbox.put(None)
        with self._changed:
            current = self._links.get(link.member) is link
            if current:
                del self._links[link.member]
                self._notify()
            return current

    def drop(self, members: Collection[str]) -> None:
        """Close the streams of these members, for instance because they are no longer admitted."""
        with self._changed:
            links = [link for member, link in self._links.items() if member in members]
        for link in links:
            link.outbox.put(None)
            link.close()

    def online(self) -> frozenset[str]:
        """Members whose stream is open."""
        with self._changed:
            return frozenset(self._links)

    def push(self, member: str, message_id: str, message: bytes, ttl_s: float) -> None:
        """Send a message to a member, now or when it connects, as long as it lives.

        Raises:
            FrameRefused: The message is longer than a node accepts.
        """
        if len(message) > MAX_MESSAGE_BYTES:
            raise FrameRefused(f"a message holds at most {MAX_MESSAGE_BYTES} bytes, this one has {len(message)}")
        with self._changed:
            self._expire()
            self._outstanding[message_id] = _Outstanding(member, message, self._clock() + ttl_s)
            link = self._links.get(member)
            if link is not None:
                link.outbox.put(message_id)

    def frames(self, link: Link) -> Iterator[Frame]:
        """Yield what this link must send, waiting for more, until the link ends."""
        while (message_id := link.outbox.get()) is not None:
            with self._changed:
                outstanding = self._outstanding.get(message_id)
            # Answered or withdrawn while it waited behind another message: the node need not see it.
            if outstanding is not None:
                yield from split(message_id, outstanding.message)

    def accept(self, member: str, message_id: str, reply: bytes) -> bool:
        """Take a reply; false if nobody waits for it or it answers another member's message."""
        with self._changed:
            outstanding = self._outstanding.get(message_id)
            if outstanding is None or outstanding.member != member:
                return False
            del self._outstanding[message_id]
            self._replies[message_id] = reply
            self._notify()
            return True

    def collect(self, message_ids: Collection[str]) -> dict[str, bytes]:
        """Hand over the replies to these messages that have come; each is handed over once."""
        with self._changed:
            self._seen_generation = self._generation
            return {
                message_id: self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies
            }

    def withdraw(self, message_ids: Collection[str]) -> None:
        """Forget these messages and their replies."""
        with self._changed:
            for message_id in message_ids:
                self._outstanding.pop(message_id, None)
                self._replies.pop(message_id, None)

    def pause(self, longest_s: float) -> None:
        """Wait until something has arrived or changed since the last `collect`, at most `longest_s` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._generation != self._seen_generation, timeout=longest_s)
            self._seen_generation = self._generation

    def close(self) -> None:
        """End all streams."""
        self.drop(self.online())

    def _notify(self) -> None:
        self._generation += 1
        self._changed.notify_all()

    def _expire(self) -> None:
        now = self._clock()
        for message_id in [i for i, message in self._outstanding.items() if message.expires_at <= now]:
            del self._outstanding[message_id]
