"""One process per state folder: two that answer from one state would each forget what the other has answered."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from policies.closed_model import shown_path
from policies.errors import UserError

LOCK_FILE: Final = "process.lock"


class StateInUse(UserError):
    """Another process is serving from this state folder."""


@contextmanager
def sole_process(state_dir: Path) -> Iterator[None]:
    """Keep a state folder to this process while the block lasts; the system lets go of it when a process dies.

    Raises:
        StateInUse: Another process has it.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(state_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StateInUse(
                f"{shown_path(state_dir)}: expected a state folder that no other process serves from, found one in"
                " use; stop the other process, or give this one a state_dir of its own."
            ) from None
        yield
    finally:
        os.close(descriptor)


def is_served(state_dir: Path) -> bool:
    """Whether some process is serving from a state folder now."""
    try:
        descriptor = os.open(state_dir / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
