"""SIGTERM to the supervisors ends a whole consortium, in a run or not: exit code 0, nothing left behind."""

import socket
from contextlib import closing

import psutil
import pytest

pytestmark = pytest.mark.acceptance


def test_sigterm_in_a_run_ends_everybody_and_leaves_nothing_behind(launch):
    fleet = launch(3)
    names = ("coordinator", *fleet.members)
    supervisors = {name: psutil.Process(fleet.processes[name].pid) for name in names}
    services = {name: fleet.service(name) for name in names}
    assert all(process.memory_info().rss < 40e6 for process in supervisors.values())
    run_id = fleet.propose()
    fleet.wait_event(run_id, "opened", k=1)

    for process in supervisors.values():
        process.terminate()
    assert {name: fleet.processes.stop(name) for name in names} == dict.fromkeys(names, 0)

    assert not any(process.is_running() for process in services.values())
    for name in names:
        text = fleet.processes[name].text()
        assert text.endswith("stopped\n")
        assert "Traceback" not in text
        assert "; restart " not in text
    folder = str(fleet.consortium.folder)
    assert [p.info for p in psutil.process_iter(["cmdline"]) if folder in " ".join(p.info["cmdline"] or [])] == []
    assert [file for file in fleet.consortium.folder.rglob("*") if file.suffix in {".part", ".new"}] == []
    address = ("127.0.0.1", fleet.port)
    with closing(socket.socket()) as probe:
        assert probe.connect_ex(address) != 0, "somebody still listens"
    with fleet.store() as store:
        assert store.run(run_id).status == "running", "the run waits at its checkpoint"
