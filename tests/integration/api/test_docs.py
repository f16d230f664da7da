"""docs/api.md, run as written: every curl line, against a real server."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from coordinator.api.platform import endpoints_of
from models.artefact import load_model
from simulations.api_platform import found_platform, made_up_model
from simulations.processes import Processes
from tallystick.__main__ import main

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "api.md").read_text()
SETUP = re.search(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.acceptance  # needs curl
def test_every_line_of_the_page_works_as_it_stands(tmp_path, monkeypatch):
    platform = found_platform(tmp_path / "coordinator", made_up_model(), clients={})
    (tmp_path / "runs").mkdir()
    (platform.coordinator.parent / "model.tallystick").rename(tmp_path / "runs" / "run-1")
    monkeypatch.chdir(tmp_path)
    *before, run = [shlex.split(line.removeprefix("$ tallystick ")) for line in SETUP.splitlines()]
    for words in before:
        assert main(words) == 0
    settings = tmp_path / "platform" / "api.toml"
    settings.write_text(settings.read_text().replace("port = 8080", "port = 0"))
    with Processes(tmp_path / "logs") as processes:
        processes.start("api", *run)
        url = processes.wait_for("api", r"Serving on (\S+)", deadline_s=60)[1]
        script = "set -euo pipefail\n" + "".join(BLOCKS).replace("http://127.0.0.1:8080", url)
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]


def test_every_endpoint_is_on_the_page():
    shown = re.sub(r"\$(ID|OFFER|REVIEW)", "{id}", PAGE)
    for endpoint in endpoints_of(load_model(made_up_model())):
        assert re.search(rf"\$API{re.escape(endpoint.path)}(?![\w/])", shown), endpoint.path
