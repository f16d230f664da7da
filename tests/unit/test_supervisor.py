"""The supervisor behind `run --restart`, with small programs in the service's place."""

import os
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest

from policies.state_lock import StateInUse, sole_process
from tallystick import supervisor
from tallystick.supervisor import EXIT_CRASHED, LONGEST_WAIT_S, wait_before_restart_s

PATIENCE_S = 20.0

# Counts its starts in a file; what it does at each start is given, one statement a start.
SERVICE = """
import os, pathlib, signal, sys
counter = pathlib.Path(sys.argv[1])
starts = int(counter.read_text()) if counter.exists() else 0
counter.write_text(str(starts + 1))
print("start", starts, flush=True)
exec(sys.argv[2:][starts])
"""
DIE = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def supervised(tmp_path):
    """Starts the supervisor over the small service; ends whatever is left."""
    started = []

    def start(*statements):
        command = [sys.executable, "-c", SERVICE, str(tmp_path / "starts"), *map(textwrap.dedent, statements)]
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", supervisor.__file__, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_service_that_is_killed_comes_back_and_each_restart_is_one_line(supervised):
    output, _ = supervised(DIE, "sys.exit(70)", "pass").communicate(timeout=PATIENCE_S)
    lines = output.splitlines()
    assert [line for line in lines if line.startswith("start")] == ["start 0", "start 1", "start 2"]
    assert lines[1].startswith("killed by SIGKILL after ")
    assert "; restart 1 in " in lines[1]
    assert lines[3].startswith("ended with code 70 after ")
    assert "; restart 2 in " in lines[3]


@pytest.mark.parametrize("code", [0, 1, 2])
def test_service_that_ends_with_an_answer_is_not_started_again(supervised, code):
    process = supervised(f"sys.exit({code})", "pass")
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, output) == (code, "start 0\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_reaches_the_service_and_the_supervisor_waits_for_it(supervised, number):
    process = supervised(f"""
        signal.signal(signal.{number.name}, lambda *_: sys.exit(print("bye", flush=True)))
        print("ready", flush=True)
        while True: signal.pause()
    """)
    assert process.stdout.readline() == "start 0\n"
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, output) == (0, "bye\n")


def test_signal_during_the_wait_for_a_restart_ends_the_supervisor(supervised):
    process = supervised(*[DIE] * 12)
    # Waits double, so that after the sixth death more than a second lies before the next start.
    lines = [process.stdout.readline() for _ in range(12)]
    assert "; restart 6 in " in lines[-1]
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, output) == (0, "")


def test_service_ends_with_a_supervisor_that_was_killed(supervised):
    process = supervised("print('ready', flush=True); signal.pause()")
    assert process.stdout.readline() == "start 0\n"
    assert process.stdout.readline() == "ready\n"
    (service,) = psutil.Process(process.pid).children()
    process.kill()
    assert not psutil.wait_procs([service], timeout=PATIENCE_S)[1]


def test_supervisor_stays_small(supervised):
    process = supervised("print('ready', flush=True); signal.pause()")
    assert process.stdout.readline() == "start 0\n"
    assert psutil.Process(process.pid).memory_info().rss < 40e6


def test_waits_double_are_jittered_and_have_a_cap():
    assert [wait_before_restart_s(deaths, max) for deaths in range(1, 5)] == [0.1, 0.2, 0.4, 0.8]
    assert wait_before_restart_s(4, min) == 0.4
    assert wait_before_restart_s(100_000, max) == LONGEST_WAIT_S


def test_supervised_bug_ends_with_a_code_of_its_own_even_when_other_threads_run(tmp_path):
    program = """
        import threading, tallystick.verbs
        from tallystick.__main__ import main
        def broken(name):
            threading.Thread(target=threading.Event().wait).start()
            raise KeyError(name)
        tallystick.verbs.load_verb = broken
        main(["train"])
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={
            **os.environ,
            supervisor.SUPERVISED: "1",
            "TMPDIR": str(tmp_path),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == EXIT_CRASHED
    assert ended.stderr.startswith("Error: tallystick met a bug of its own (KeyError)")


def test_second_process_is_kept_from_a_state_folder_in_use(tmp_path):
    with sole_process(tmp_path), pytest.raises(StateInUse, match="no other process"), sole_process(tmp_path):
        pass
    with sole_process(tmp_path):
        pass
