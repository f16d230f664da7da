"""A node process that answers sealed runs and, beside them, the plain ones of `bench round`.

Only that benchmark starts it (`python -m simulations.benchmarks.unsafe_node node.toml`); `tallystick node run` has no
way to this handler, and `nodes` cannot import it.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from nodes.checked_rows import CheckedData
from nodes.fleet import run_node
from nodes.flower_app import Handle
from nodes.runtime import NodeRuntime
from nodes.service import build_membership, fleet_connection
from nodes.settings import load_node_settings
from nodes.store import NodeStore
from policies.errors import UserError
from simulations.benchmarks.unsafe_plain import CONTRIBUTE, JOIN, UnsafePlainNode

USAGE = "unsafe-usage"


class Meter:
    """Notes the processor time of each step, and reports it when asked for `USAGE`."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._cpu_s: dict[str, list[float]] = {}

    def handle(self, action: str, body: bytes) -> bytes:
        """Pass a step on; `USAGE` gives the seconds of every step by action since it was last asked for."""
        if action == USAGE:
            report, self._cpu_s = json.dumps(self._cpu_s), {}
            return report.encode()
        started = time.process_time()
        try:
            return self._handle(action, body)
        finally:
            self._cpu_s.setdefault(action, []).append(time.process_time() - started)


def both(sealed: Handle, plain: Handle) -> Handle:
    """A handler that answers plain runs with `plain` and everything else with `sealed`."""

    def handle(action: str, body: bytes) -> bytes:
        return (plain if action in {JOIN, CONTRIBUTE} else sealed)(action, body)

    return handle


def serve(settings_path: Path, *, announce: Callable[[str], None]) -> None:
    """Run the node until SIGTERM."""
    torch.set_num_threads(1)
    settings = load_node_settings(settings_path)
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    membership = build_membership(settings)
    data = CheckedData(membership, settings, announce)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    store = NodeStore(settings.state_dir)
    runtime = NodeRuntime(membership, data, store, rng=os.urandom, now=lambda: dt.datetime.now(dt.UTC).isoformat())
    plain = UnsafePlainNode(membership, data, store)
    meter = Meter(both(runtime.handle, plain.handle))
    try:
        run_node(fleet_connection(settings), meter.handle, stop, on_online=lambda: announce("online"))
    finally:
        store.close()


def main() -> int:
    """Entry of the process; the one argument is the node's settings file."""
    logging.basicConfig(level=logging.WARNING)
    try:
        serve(Path(sys.argv[1]), announce=lambda line: print(line, flush=True))
    except UserError as problem:
        print(f"Error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
