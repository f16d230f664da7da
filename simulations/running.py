"""A founded consortium at work: its processes started, and a run queued and followed to its end."""

from __future__ import annotations

import datetime as dt
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.follow import follow
from coordinator.request import RunRequest
from coordinator.store import CoordinatorStore, Event
from policies.errors import UserError
from simulations.consortium import Consortium
from simulations.processes import Processes

START_DEADLINE_S = 90.0

Announce = Callable[[str], None]
OnEvent = Callable[[str, dict[str, object]], None]


@dataclass(frozen=True)
class FinishedRun:
    """A run that has come to its end.

    Attributes:
        run_id: The run.
        folder: What it left at the coordinator.
        events: Its public progress, in order.
    """

    run_id: str
    folder: Path
    events: tuple[Event, ...]

    def seconds(self, first: str, last: Sequence[str]) -> float:
        """Seconds from an event to the last one of some others.

        Args:
            first: The earlier event; its first occurrence counts.
            last: The later events.

        Raises:
            UserError: The run had none of them.
        """
        starts = [event.at for event in self.events if event.event == first]
        ends = [event.at for event in self.events if event.event in last]
        if not starts or not ends:
            raise UserError(f"Expected the events {first} and {' or '.join(last)} in run {self.run_id}, found neither.")
        return (dt.datetime.fromisoformat(ends[-1]) - dt.datetime.fromisoformat(starts[0])).total_seconds()


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_processes(consortium: Consortium, processes: Processes, announce: Announce = lambda _: None) -> None:
    """Start the coordinator and every node, and wait until all are online.

    Raises:
        UserError: One of them ended or is not online in time.
    """
    processes.start("coordinator", "coordinator", "run", "--settings", str(consortium.coordinator_settings))
    for member in consortium.members:
        processes.start(member, "node", "run", "--settings", str(consortium.node_settings(member)))
    # More processes than the machine has cores start one after the other.
    deadline_s = START_DEADLINE_S * max(1.0, len(consortium.members) / 5)
    listening = processes.wait_for("coordinator", r"^listening on (\S+)$", deadline_s=deadline_s)
    announce(f"coordinator: https://{listening.group(1)} (mutual TLS), process {processes['coordinator'].pid}")
    for member in consortium.members:
        processes.wait_for(member, r"^online$", deadline_s=deadline_s)
        announce(f"{member}: online, process {processes[member].pid}")


def run_to_end(consortium: Consortium, request: RunRequest, on_event: OnEvent = lambda _e, _d: None) -> FinishedRun:
    """Queue a run as `tallystick train` does, and follow it to its end.

    Raises:
        UserError: The run failed.
    """
    store = CoordinatorStore(consortium.coordinator_state)
    try:
        run_id = f"run-{secrets.token_hex(6)}"
        store.queue_run(run_id, request.to_bytes())
        events = []
        for event in follow(store, run_id):
            events.append(event)
            on_event(event.event, event.details)
            if event.event == "failed":
                raise UserError(f"The run failed: {event.details.get('reason')}")
        return FinishedRun(run_id, Path(str(event.details["folder"])), tuple(events))
    finally:
        store.close()
