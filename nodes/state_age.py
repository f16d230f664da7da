"""Tells a node's state file from an older copy of itself, which may not know what the node has answered since.

Two small files beside the database show it. `origin` is written once and never again: a copy of the folder has
another inode number or another change time, which no program can set. `commits` counts what the database has
committed: a database that was put back alone, even into the same inode, counts fewer.

What no file can show is a snapshot of the whole machine: a node on a virtual machine that is rolled back must be
started with an empty state folder (nodes/README.md).
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

_COUNTER_BYTES: Final = 8
_TOKEN_BYTES: Final = 16


class StateAge:
    """The two files beside one database.

    Args:
        state_dir: The node's state folder; the files are made when they are missing.
    """

    def __init__(self, state_dir: Path) -> None:
        self._origin = state_dir / "origin"
        if not self._origin.exists():
            with os.fdopen(os.open(self._origin, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
                file.write(secrets.token_hex(_TOKEN_BYTES))
        # Kept open: one write in place after each commit, which reaches the disk when the system sees fit. Behind
        # the database it does no harm; it can never be ahead of it.
        self._commits = os.open(state_dir / "commits", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def origin(self) -> str:
        """What only this very folder has: token, inode number and change time of the file `origin`."""
        status = self._origin.stat()
        return f"{self._origin.read_text()}:{status.st_ino}:{status.st_ctime_ns}"

    def commits(self) -> int:
        """Commits that the database is known to have made, 0 before any."""
        return int.from_bytes(os.pread(self._commits, _COUNTER_BYTES, 0), "little")

    def record(self, commits: int) -> None:
        """Note a commit, after it was made."""
        os.pwrite(self._commits, commits.to_bytes(_COUNTER_BYTES, "little"), 0)

    def close(self) -> None:
        """Close the counter."""
        os.close(self._commits)
