"""Flower messages as bytes for the stream: Flower's own protobuf form, built with one copy of a large body.

Flower's serialiser nests four constructors, each of which copies what it is given: 25 to 70 ms for 10 MB. Filling
the message in place takes 5. The bytes are the same.
"""

from flwr.app import ConfigRecord, Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.common.serde_utils import metadata_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from google.protobuf.message import DecodeError


class MessageRefused(ValueError):
    """Bytes that are not a Flower message."""


def to_bytes(message: Message) -> bytes:
    """Serialise a message.

    Args:
        message: Of any content; records of bytes and text alone take the short way.
    """
    if not message.has_content() or not all(map(_is_plain, message.content.values())):
        return bytes(message_to_proto(message).SerializeToString())
    proto = ProtoMessage(metadata=metadata_to_proto(message.metadata))
    proto.content.SetInParent()
    for name, record in message.content.items():
        item = proto.content.items.add(key=name)
        item.config_record.SetInParent()
        for key, value in record.items():
            entry = item.config_record.items.add(key=key)
            if isinstance(value, bytes):
                entry.value.bytes = value
            else:
                entry.value.string = value
    return bytes(proto.SerializeToString())


def from_bytes(data: bytes) -> Message:
    """Parse a message.

    Raises:
        MessageRefused: The bytes are not a message, or one that Flower's types refuse.
    """
    try:
        return message_from_proto(ProtoMessage.FromString(data))
    except (DecodeError, ValueError, TypeError, KeyError) as error:
        raise MessageRefused(f"expected a Flower message, got {len(data)} bytes that are none: {error}") from error


def _is_plain(record: object) -> bool:
    return isinstance(record, ConfigRecord) and all(isinstance(value, bytes | str) for value in record.values())
