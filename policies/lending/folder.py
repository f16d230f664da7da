"""A policy folder that is read again when its files change, without a restart.

What changed is told by name, size, inode and times of every file. A changed folder takes effect whole and only if it
passes every check; otherwise the policy that was in force stays, and the reason is kept for whoever runs the service.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from pathlib import Path

from policies.decision_tables.errors import PolicyRefused
from policies.lending.policy import DEFAULT_FOLDER, LendingPolicy
from policies.lending.policy_set import PolicySet

_Stamp = tuple[tuple[str, int, int, int, int], ...]


class PolicyFolder:
    """The policy of a folder, as it is now.

    Thread-safe: one thread reads a changed folder while the others decide by the policy that they have.

    Attributes:
        problem: Why a change was not taken, as one sentence; None while the folder is in force as it stands.
    """

    def __init__(self, folder: Path = DEFAULT_FOLDER) -> None:
        """Read the folder.

        Raises:
            PolicyRefused: It does not pass its checks: without a policy there is no decision.
        """
        self.folder = folder
        self.problem: str | None = None
        self._lock = threading.Lock()
        # The stamp is taken first: a change while the folder is read is then seen next time, not missed.
        self._stamp = _stamp(folder)
        self._policy = LendingPolicy.load(folder)

    def current(self, date: dt.date) -> PolicySet:
        """The tables in force on a day, after a look at the folder.

        Raises:
            PolicyRefused: Some table has no version for that day.
        """
        return self.policy().on(date)

    def policy(self) -> LendingPolicy:
        """All versions, after a look at the folder."""
        if self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._lock.release()
        return self._policy

    def _look(self) -> None:
        stamp = _stamp(self.folder)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._policy = LendingPolicy.load(self.folder)
        except PolicyRefused as problem:
            self.problem = str(problem)
        else:
            self.problem = None


def _stamp(folder: Path) -> _Stamp:
    """Name, inode, size and times of every file two levels deep; empty when the folder cannot be read."""
    found = []
    try:
        with os.scandir(folder) as tables:
            for table in tables:
                if table.is_dir(follow_symlinks=True):
                    with os.scandir(table.path) as files:
                        found += [(f.path, f.inode(), *_times(f)) for f in files]
                else:
                    found.append((table.path, table.inode(), *_times(table)))
    except OSError:
        return ()
    return tuple(sorted(found))


def _times(entry: os.DirEntry[str]) -> tuple[int, int, int]:
    status = entry.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
