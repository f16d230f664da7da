"""The hub: messages outlive the streams that carry them, and a reply counts once and from one member alone."""

import threading

import pytest

from coordinator.engine.hub import Hub
from simulations.in_process import TickingClock


@pytest.fixture
def clock():
    return TickingClock()


@pytest.fixture
def hub(clock):
    return Hub(clock)


def sent(hub, link):
    """Ids of the messages a link sends before it ends."""
    hub.detach(link)
    return [frame.message_id for frame in hub.frames(link)]


def test_message_waits_for_its_member_and_is_sent_when_it_connects(hub):
    hub.push("bank-a", "m1", b"x", ttl_s=10)
    assert sent(hub, hub.attach("bank-a", lambda: None)) == ["m1"]


def test_message_is_sent_again_on_a_new_stream_until_it_is_answered(hub):
    link = hub.attach("bank-a", lambda: None)
    hub.push("bank-a", "m1", b"x", ttl_s=10)
    assert sent(hub, link) == ["m1"]
    assert sent(hub, hub.attach("bank-a", lambda: None)) == ["m1"]
    assert hub.accept("bank-a", "m1", b"answer")
    assert sent(hub, hub.attach("bank-a", lambda: None)) == []


def test_message_that_was_withdrawn_or_has_expired_is_not_sent(hub, clock):
    hub.push("bank-a", "m1", b"x", ttl_s=10)
    hub.push("bank-a", "m2", b"x", ttl_s=20)
    hub.push("bank-a", "m3", b"x", ttl_s=20)
    hub.withdraw(["m2"])
    clock.pause(15)
    assert sent(hub, hub.attach("bank-a", lambda: None)) == ["m3"]


def test_reply_counts_once_and_only_from_the_member_that_was_asked(hub):
    hub.push("bank-a", "m1", b"x", ttl_s=10)
    assert not hub.accept("bank-b", "m1", b"forged")
    assert hub.accept("bank-a", "m1", b"answer")
    assert not hub.accept("bank-a", "m1", b"another")
    assert hub.collect(["m1"]) == {"m1": b"answer"}
    assert hub.collect(["m1"]) == {}


def test_reply_to_a_message_that_was_withdrawn_is_ignored(hub):
    hub.push("bank-a", "m1", b"x", ttl_s=10)
    hub.withdraw(["m1"])
    assert not hub.accept("bank-a", "m1", b"late")


def test_new_stream_of_a_member_closes_the_one_before_and_its_end_does_not_count(hub):
    closed = []
    first = hub.attach("bank-a", lambda: closed.append("first"))
    second = hub.attach("bank-a", lambda: closed.append("second"))
    assert closed == ["first"]
    assert not hub.detach(first)
    assert hub.online() == {"bank-a"}
    assert hub.detach(second)
    assert hub.online() == set()


def test_pause_returns_at_once_when_a_reply_came_after_the_last_look(hub):
    hub.push("bank-a", "m1", b"x", ttl_s=10)
    assert hub.collect(["m1"]) == {}
    thread = threading.Thread(target=hub.accept, args=("bank-a", "m1", b"answer"))
    thread.start()
    hub.pause(longest_s=30)
    assert hub.collect(["m1"]) == {"m1": b"answer"}
    thread.join()
