"""A node process that aligns and does nothing else: `python -m simulations.benchmarks.alignment_node SETTINGS IDS`.

Identity, agreement, policy, state on disk and the connection over mutual TLS are those of `tallystick node run`; the
identifiers come from a text file, one a line, so that what is measured is the alignment and not the reading of tables.
"""

from __future__ import annotations

import datetime as dt
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from nodes.fleet import run_node
from nodes.runtime import NodeRuntime
from nodes.service import build_membership, fleet_connection
from nodes.settings import load_node_settings
from nodes.store import NodeStore
from policies.state_lock import sole_process


def lines(path: Path) -> Iterator[str]:
    """The lines of a file, one at a time and never held together."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n")


def main(settings_path: Path, identifiers_path: Path) -> int:
    """Serve until SIGTERM."""
    settings = load_node_settings(settings_path)
    with sole_process(settings.state_dir):
        store = NodeStore(settings.state_dir)
        runtime = NodeRuntime(
            build_membership(settings),
            _no_rows,
            store,
            rng=os.urandom,
            now=lambda: dt.datetime.now(dt.UTC).isoformat(),
            entities=lambda _tasks, _purpose: lines(identifiers_path),
        )
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        try:
            run_node(fleet_connection(settings), runtime.handle, stop, on_online=lambda: print("online", flush=True))
        finally:
            store.close()
    return 0


def _no_rows(task: str) -> NoReturn:
    raise KeyError(task)  # an alignment reads no features


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2])))
