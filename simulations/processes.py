"""Coordinator and nodes as real processes of this machine, for demos, benchmarks and tests; nothing stays behind."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

from policies.errors import UserError

SAMPLE_PERIOD_S = 0.2
STOP_PATIENCE_S = 8.0
POLL_S = 0.02


@dataclass(frozen=True)
class Usage:
    """What a process has used, over all its restarts.

    Attributes:
        peak_rss_bytes: Largest resident memory seen, its children included.
        cpu_s: Processor time of user and system, its children's included.
    """

    peak_rss_bytes: int
    cpu_s: float


@dataclass(eq=False)
class Process:
    """One started program.

    Attributes:
        name: Unique among the processes started together.
        arguments: After the interpreter.
        log_path: Its output; a restart appends.
    """

    name: str
    arguments: tuple[str, ...]
    log_path: Path
    _popen: "subprocess.Popen[bytes] | None" = None
    _peak_rss_bytes: int = 0
    _cpu_s: float = 0.0
    _cpu_before_restart_s: float = 0.0
    log_start: int = field(default=0)
    """Where in the log the current start begins."""

    @property
    def pid(self) -> int:
        """Process id of the current start."""
        if self._popen is None:
            raise UserError(f"The process {self.name} has not been started.")
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._popen.poll() if self._popen is not None else None

    @property
    def usage(self) -> Usage:
        """What it has used so far."""
        return Usage(self._peak_rss_bytes, self._cpu_before_restart_s + self._cpu_s)

    def launch(self, environment: dict[str, str]) -> None:
        """Start it."""
        self.log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        self._cpu_before_restart_s += self._cpu_s
        self._cpu_s = 0.0
        with self.log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # its children can be ended with it, and Ctrl-C reaches us alone
            )

    def sample(self) -> None:
        """Take note of memory and processor time."""
        if self._popen is None or self._popen.poll() is not None:
            return
        try:
            root = psutil.Process(self._popen.pid)
            family = [root, *root.children(recursive=True)]
            rss = sum(each.memory_info().rss for each in family)
            cpu = sum(sum(each.cpu_times()[:2]) for each in family)
        except psutil.Error:
            return
        self._peak_rss_bytes = max(self._peak_rss_bytes, rss)
        self._cpu_s = max(self._cpu_s, cpu)

    def end(self, first_signal: signal.Signals) -> int | None:
        """End it and whatever it has started: with `first_signal`, and with SIGKILL if that is not enough."""
        if self._popen is None:
            return None
        self.sample()
        if self._popen.poll() is None:
            self._popen.send_signal(first_signal)
            try:
                self._popen.wait(STOP_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
        self.vanish()  # as it should be: nothing of its group is left
        return self._popen.returncode

    def vanish(self) -> None:
        """End it and whatever it has started at once, without a chance to tidy up."""
        if self._popen is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)

    def text(self) -> str:
        """What the current start has written so far."""
        with self.log_path.open("rb") as log:
            log.seek(self.log_start)
            return log.read().decode(errors="replace")


class Processes:
    """Starts programs and ends every one of them at exit, however that comes.

    Args:
        log_dir: One `<name>.log` for each process.
        environment: Added to this process's own.
        sample_usage: Whether memory and processor time are sampled all along, which takes some processor time itself:
            a benchmark that has its own figures leaves it out.
    """

    def __init__(self, log_dir: Path, environment: dict[str, str] | None = None, *, sample_usage: bool = True) -> None:
        self._log_dir = log_dir
        self._sample_usage = sample_usage
        self._environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
            **(environment or {}),
        }
        self._processes: dict[str, Process] = {}
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="process-usage", daemon=True)

    def __enter__(self) -> Self:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        if self._sample_usage:
            self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._over.set()
            if self._sample_usage:
                self._sampler.join()
            for process in self._processes.values():
                if process.exit_code is None and process.pid:
                    os.kill(process.pid, signal.SIGTERM)  # all at once; each is waited for below
            for process in self._processes.values():
                process.end(signal.SIGTERM)
        finally:
            for process in self._processes.values():
                if process.exit_code is None:  # an impatient second Ctrl-C has ended the above
                    process.vanish()

    def __getitem__(self, name: str) -> Process:
        return self._processes[name]

    def start(self, name: str, *arguments: str) -> Process:
        """Start `tallystick` with these arguments."""
        return self.start_python(name, "-m", "tallystick", *arguments)

    def start_python(self, name: str, *arguments: str) -> Process:
        """Start this interpreter with these arguments.

        Raises:
            UserError: A process of this name exists.
        """
        if name in self._processes:
            raise UserError(f"A process named {name} has been started already; restart it or choose another name.")
        process = Process(name, arguments, self._log_dir / f"{name}.log")
        self._processes[name] = process
        process.launch(self._environment)
        return process

    def stop(self, name: str) -> int | None:
        """Ask a process to end, and see that it does; returns its exit code."""
        return self._processes[name].end(signal.SIGTERM)

    def kill(self, name: str) -> None:
        """End a process as a power cut would."""
        self._processes[name].end(signal.SIGKILL)

    def restart(self, name: str) -> Process:
        """Start a process again as it was started before, ending it first if it still runs."""
        process = self._processes[name]
        process.end(signal.SIGTERM)
        process.launch(self._environment)
        return process

    def wait_for(self, name: str, pattern: str, *, deadline_s: float) -> re.Match[str]:
        """Wait until the current start of a process has written a line that matches.

        Raises:
            UserError: It has ended, or the deadline has passed, without one.
        """
        process = self._processes[name]
        ends_at = time.monotonic() + deadline_s
        while True:
            ended = process.exit_code is not None  # looked at before the log, so that its last lines are read
            found = re.search(pattern, process.text(), re.MULTILINE)
            if found is not None:
                return found
            if ended or time.monotonic() >= ends_at:
                why = f"it ended with code {process.exit_code}" if ended else f"{deadline_s:g} s have passed"
                raise UserError(f"{name} has not written {pattern!r} and {why}; see {process.log_path}.")
            self._over.wait(POLL_S)

    def usage(self) -> dict[str, Usage]:
        """What each process has used so far."""
        for process in self._processes.values():
            process.sample()
        return {name: process.usage for name, process in self._processes.items()}

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_PERIOD_S):
            for process in list(self._processes.values()):
                process.sample()
