"""The API attacked from its own description, on a real server: a few examples here, fifty by `make acceptance`."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from simulations.api_platform import found_platform, made_up_model
from simulations.processes import Processes

ROOT = Path(__file__).resolve().parents[3]
CONFIG = """
[checks.positive_data_acceptance]
# A schema cannot say that every document counts once, or which features the model takes: 422 is a good answer too.
expected-statuses = ["2xx", "401", "403", "404", "409", "422", "429"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Its URL, and tokens by client."""
    folder = tmp_path_factory.mktemp("contract")
    platform = found_platform(folder / "platform", made_up_model())
    with Processes(folder / "logs") as processes:
        processes.start_python("api", "-m", "tallystick", "api", "run", str(platform.settings))
        url = processes.wait_for("api", r"Serving on (\S+)", deadline_s=60)[1]
        tokens = {
            name: httpx.post(
                f"{url}/oauth/token",
                data={"grant_type": "client_credentials"},
                auth=(name, platform.secrets[name]),
            ).json()["access_token"]
            for name in ("platform-app", "bank-maker", "authority", "operations")
        }
        yield url, tokens
        assert processes.stop("api") == 0


def attack(server, folder, client, *, examples):
    """What schemathesis found, as its report; nothing when it found nothing."""
    url, tokens = server
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", config, "run", f"{url}/v1/openapi.json"),
            *("--url", url, "--header", f"Authorization: Bearer {tokens[client]}"),
            *("--max-examples", str(examples), "--phases", "examples,coverage,fuzzing", "--mode", "all"),
            # It cannot write lines of JSON; tests/integration/api/test_endpoints.py does.
            *("--exclude-path", "/v1/scores/batch", "--warnings", "off", "--continue-on-failure", "--seed", "7"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout[-6000:] + done.stderr[-2000:]


def test_few_examples_find_nothing(server, tmp_path):
    found = attack(server, tmp_path, "platform-app", examples=3)
    assert not found, found


@pytest.mark.acceptance
@pytest.mark.parametrize("client", ["platform-app", "bank-maker", "authority", "operations"])
def test_fifty_examples_in_every_role_find_nothing(server, tmp_path, client):
    found = attack(server, tmp_path, client, examples=50)
    assert not found, found
