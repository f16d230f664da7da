"""Start a service again when it dies: the small parent process behind `run --restart` of node and coordinator.

A process replaces itself by this file, run by its path without site-packages, so that the parent stays at about
11 MB whatever the service loads. The service is the same command line without `--restart`. It comes back after a
signal or a bug of its own. It does not after exit code 0, 1 or 2: it was asked to stop, it said in one sentence
what is wrong, or it was called wrongly, and no restart mends any of these.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

SUPERVISED: Final = "TALLYSTICK_SUPERVISED"
"""Set in the environment of a supervised service."""
EXIT_CRASHED: Final = 70
"""Exit code of a supervised service that met a bug: 1 would say that it ended with a sentence (BSD's EX_SOFTWARE)."""
RESTART_OPTION: Final = "--restart"

FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 30.0
STEADY_AFTER_S: Final = 20.0
"""A service that lived this long starts the series of waits anew."""

_FINAL_EXIT_CODES: Final = frozenset({0, 1, 2})
_STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_AWAITED: Final = _STOP_SIGNALS | {signal.SIGCHLD, signal.SIGALRM}
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def become_supervisor(*added: str) -> NoReturn:
    """Replace this process by the supervisor of its own command line.

    Args:
        added: Arguments for the service beside those of this process.
    """
    service = [sys.executable, *(word for word in sys.orig_argv[1:] if word != RESTART_OPTION), *added]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-I", "-S", __file__, *service])  # noqa: S606 - this very interpreter


def supervise(command: Sequence[str], *, uniform: Callable[[float, float], float] = random.uniform) -> int:
    """Run a service until it ends by itself or a signal asks for its end, starting it again when it dies.

    Args:
        command: Program and arguments of the service.
        uniform: Draws the jitter.

    Returns:
        Exit code of the service; 0 when it was asked to stop before it could answer for itself.
    """
    # Signals are fetched one by one and never interrupt anything: none is lost between two starts.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    restarts = deaths_in_a_row = 0
    while True:
        started = time.monotonic()
        exit_code, asked_to_stop = _run(command)
        if asked_to_stop or exit_code in _FINAL_EXIT_CODES:
            return max(exit_code, 0)
        lived_s = time.monotonic() - started
        deaths_in_a_row = 1 if lived_s >= STEADY_AFTER_S else deaths_in_a_row + 1
        restarts += 1
        wait_s = wait_before_restart_s(deaths_in_a_row, uniform)
        print(f"{_cause(exit_code)} after {lived_s:.1f} s; restart {restarts} in {wait_s:.2f} s", flush=True)
        if _stopped_within(wait_s):
            return 0


def wait_before_restart_s(deaths_in_a_row: int, uniform: Callable[[float, float], float]) -> float:
    """Seconds to wait: doubled with each death in a row up to a cap, and jittered down to half of it.

    Many nodes that died of one cause must not all come back in the same instant.
    """
    doublings = min(deaths_in_a_row - 1, 30)
    return min(FIRST_WAIT_S * 2.0**doublings, LONGEST_WAIT_S) * uniform(0.5, 1.0)


def _run(command: Sequence[str]) -> tuple[int, bool]:
    """Start the service and wait for its end; its exit code (negative: a signal) and whether it was asked to stop."""
    child = subprocess.Popen(
        command,
        env={**os.environ, SUPERVISED: "1"},
        preexec_fn=_in_child,  # noqa: PLW1509 - this process has one thread, so the hook is safe
    )
    asked_to_stop = False
    while (exit_code := child.poll()) is None:
        number = signal.sigwait(_AWAITED)
        if number in _STOP_SIGNALS:
            asked_to_stop = True
            child.send_signal(number)
    return exit_code, asked_to_stop


def _in_child() -> None:
    """Give the service the signals of an ordinary process, and an end when its supervisor is killed."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


def _stopped_within(wait_s: float) -> bool:
    """Wait, unless a signal asks for the end; whether one did."""
    signal.setitimer(signal.ITIMER_REAL, wait_s)
    while (number := signal.sigwait(_AWAITED)) is signal.SIGCHLD:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    return number in _STOP_SIGNALS


def _cause(exit_code: int) -> str:
    if exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"ended with code {exit_code}"


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[1:]))
