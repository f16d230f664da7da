"""A policy folder that is read again when its files change, without a restart.

What changed is told by size, inode and times of every file and folder (0.15 ms). A changed folder takes effect
whole and only if it passes every check; otherwise the policy that was in force stays, and the reason is kept for
whoever runs the service.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from pathlib import Path

from policies.decision_tables.errors import PolicyRefused
from policies.lending.policy import DEFAULT_FOLDER, LendingPolicy
from policies.lending.policy_set import PolicySet

_Stamp = tuple[tuple[int, int, int, int] | None, ...]


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
        # Paths and stamp are taken first: a change while the folder is read is then seen next time, not missed.
        self._paths = _paths(folder)
        self._stamp = _stamp(self._paths)
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
        if _stamp(self._paths) == self._stamp:
            return
        self._paths = _paths(self.folder)
        self._stamp = _stamp(self._paths)
        try:
            self._policy = LendingPolicy.load(self.folder)
        except PolicyRefused as problem:
            self.problem = str(problem)
        else:
            self.problem = None


def _paths(folder: Path) -> tuple[str, ...]:
    """The folder, what is in it, and what is in that; folders too, since their times tell of files that come and go."""
    found = [str(folder)]
    try:
        for path in folder.iterdir():
            found.append(str(path))
            if path.is_dir():
                found += [str(file) for file in path.iterdir()]
    except OSError:  # it goes away while we look; the stamp says so
        pass
    return tuple(sorted(found))


def _stamp(paths: tuple[str, ...]) -> _Stamp:
    """Inode, size and times of every path, or None for one that is gone."""
    return tuple(_looks(path) for path in paths)


def _looks(path: str) -> tuple[int, int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - asked for before every decision; a Path costs as much again
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
