"""Flower messages on the stream are Flower's own bytes, however they were built."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.common.serde import message_to_proto
from flwr.supercore.task_identity import TaskIdentity

from protos.fleet_stream.flower_messages import MessageRefused, from_bytes, to_bytes


def message(records):
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    return Message(RecordDict(records), 7, "query.step", ttl=60, group_id="g")


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"step": ConfigRecord({})},
        {"step": ConfigRecord({"action": "join", "body": b""})},
        {"step": ConfigRecord({"action": "join", "body": bytes(range(256)) * 5000})},
        {"step": ConfigRecord({"count": 3, "ratio": 0.5, "flags": [True, False]})},
        {"metrics": MetricRecord({"loss": 0.5}), "weights": ArrayRecord({"w": Array(np.arange(3.0))})},
    ],
)
def test_bytes_are_those_of_flowers_own_serialiser(records):
    original = message(records)
    assert to_bytes(original) == message_to_proto(original).SerializeToString()
    assert from_bytes(to_bytes(original)).content == original.content


def test_error_reply_survives_the_way():
    reply = Message(Error(2, "died"), reply_to=message({}))
    assert from_bytes(to_bytes(reply)).error.reason == "died"


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x12\x02\x0a\xff"])
def test_bytes_that_are_no_message_are_refused(data):
    with pytest.raises(MessageRefused):
        from_bytes(data)
