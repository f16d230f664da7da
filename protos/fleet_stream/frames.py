"""Messages cut into frames and put together again, with every length checked before a byte is kept."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from protos.fleet_stream.v1.fleet_stream_pb2 import Frame

FRAME_BYTES = 1 << 20
"""Length of `Frame.data` in every frame but the last: some ten frames for 10 MB, and little memory at the sender."""

MAX_FRAME_MESSAGE_BYTES = FRAME_BYTES + 4096
"""gRPC's limit on one serialised frame: data, the message id and tags."""

MAX_MESSAGE_BYTES = 256 << 20
"""Largest message either end accepts; a sealed update of ten million values is about 110 MB."""


class FrameRefused(ValueError):
    """A frame that breaks the rules of fleet_stream.proto; the stream it came on is closed."""


def split(message_id: str, message: bytes) -> Iterator[Frame]:
    """Cut one message into frames.

    Args:
        message_id: Id of the message sent, or of the message answered.
        message: The whole message, at most `MAX_MESSAGE_BYTES` bytes.

    Yields:
        Frames in the order in which they must be sent; one empty frame for an empty message.

    Raises:
        FrameRefused: The message is longer than any receiver accepts.
    """
    if len(message) > MAX_MESSAGE_BYTES:
        raise FrameRefused(f"a message holds at most {MAX_MESSAGE_BYTES} bytes, this one has {len(message)}")
    view = memoryview(message)
    for start in range(0, max(len(view), 1), FRAME_BYTES):
        yield Frame(message_id=message_id, total_bytes=len(view), data=bytes(view[start : start + FRAME_BYTES]))


@dataclass
class Assembler:
    """Puts the frames of one direction of one stream together.

    Holds one unfinished message at a time, since the pieces of a message may not be interleaved.
    """

    max_message_bytes: int = MAX_MESSAGE_BYTES
    _message_id: str = ""
    _total_bytes: int = 0
    _parts: list[bytes] = field(default_factory=list)
    _received_bytes: int = 0

    def add(self, frame: Frame) -> tuple[str, bytes] | None:
        """Take the next frame.

        Args:
            frame: As received.

        Returns:
            The id and the bytes of the message this frame completes, or None if more must come.

        Raises:
            FrameRefused: The frame belongs to another message, states another length, or brings too much.
        """
        if not self._parts:
            if not frame.message_id or frame.total_bytes > self.max_message_bytes:
                raise FrameRefused(
                    f"a message needs an id and at most {self.max_message_bytes} bytes, "
                    f"got id {frame.message_id[:64]!r} and {frame.total_bytes} bytes"
                )
            self._message_id, self._total_bytes = frame.message_id, frame.total_bytes
        elif frame.message_id != self._message_id or frame.total_bytes != self._total_bytes:
            raise FrameRefused("a frame of another message arrived before the last one was complete")
        received = self._received_bytes + len(frame.data)
        if len(frame.data) != min(FRAME_BYTES, self._total_bytes - self._received_bytes):
            raise FrameRefused(
                f"expected full frames of {self._total_bytes} bytes in all, got {len(frame.data)} bytes "
                f"after {self._received_bytes}"
            )
        self._parts.append(frame.data)
        self._received_bytes = received
        if received < self._total_bytes:
            return None
        message_id, message = self._message_id, b"".join(self._parts)
        self._message_id, self._total_bytes, self._received_bytes = "", 0, 0
        self._parts.clear()
        return message_id, message
