"""Frames: whatever is cut is put together again, and a frame out of order is refused before it is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.fleet_stream import frames
from protos.fleet_stream.frames import FRAME_BYTES, Assembler, FrameRefused, split
from protos.fleet_stream.v1.fleet_stream_pb2 import Frame


@given(st.lists(st.integers(0, 2 * FRAME_BYTES + 2), max_size=4))
def test_messages_of_any_length_come_out_as_they_went_in(lengths):
    assembler = Assembler()
    for number, length in enumerate(lengths):
        message = bytes([number]) * length
        complete = [done for frame in split(f"m{number}", message) if (done := assembler.add(frame))]
        assert complete == [(f"m{number}", message)]


def test_frames_hold_a_mebibyte_each_but_the_last():
    sizes = [len(frame.data) for frame in split("m", bytes(2 * FRAME_BYTES + 5))]
    assert sizes == [FRAME_BYTES, FRAME_BYTES, 5]


@pytest.mark.parametrize(
    "second",
    [
        Frame(message_id="other", total_bytes=FRAME_BYTES + 5, data=bytes(5)),
        Frame(message_id="m", total_bytes=FRAME_BYTES + 6, data=bytes(6)),
        Frame(message_id="m", total_bytes=FRAME_BYTES + 5, data=bytes(6)),
        Frame(message_id="m", total_bytes=FRAME_BYTES + 5, data=bytes(4)),
        Frame(message_id="m", total_bytes=FRAME_BYTES + 5, data=b""),
    ],
    ids=["another message", "another total", "too long", "too short", "empty"],
)
def test_frame_that_does_not_continue_its_message_is_refused(second):
    assembler = Assembler()
    assert assembler.add(Frame(message_id="m", total_bytes=FRAME_BYTES + 5, data=bytes(FRAME_BYTES))) is None
    with pytest.raises(FrameRefused):
        assembler.add(second)


def test_message_over_the_limit_is_refused_at_its_first_frame():
    with pytest.raises(FrameRefused, match="at most 10 bytes"):
        Assembler(max_message_bytes=10).add(Frame(message_id="m", total_bytes=11, data=bytes(11)))


def test_message_without_an_id_is_refused():
    with pytest.raises(FrameRefused):
        Assembler().add(Frame(total_bytes=1, data=b"x"))


def test_sender_refuses_what_no_receiver_would_take(monkeypatch):
    monkeypatch.setattr(frames, "MAX_MESSAGE_BYTES", 3)
    with pytest.raises(FrameRefused):
        list(split("m", b"four"))
