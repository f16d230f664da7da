"""kill -9 of the financing API under load: what was acknowledged is there, once, with a valid proof; nothing is half-made."""

import itertools
import json
import os
import threading
import time

import httpx
import pytest
import sqlalchemy as sa

from coordinator.database.connection import parse_url, reading_engine
from coordinator.ledger.audit import audit
from coordinator.ledger.proof_file import verify_evidence
from coordinator.settings import load_coordinator_settings
from policies.agreement import load_agreement
from policies.ledger_keys import ledger_keys
from simulations.api_platform import decision_request, found_platform, made_up_model
from simulations.processes import Processes

pytestmark = pytest.mark.acceptance
CALLERS = 8
ACKNOWLEDGED_A_LIFE = 150
LIVES = 3


class Load:
    """Callers that ask for decisions until the server is gone, and what they were told."""

    def __init__(self, url, token, numbers):
        self._url = url
        self._token = token
        self._numbers = numbers
        self.acknowledged = {}
        self.problems = []

    def run(self):
        headers = {"Authorization": f"Bearer {self._token}"}
        with httpx.Client(base_url=self._url, headers=headers, timeout=30) as client:
            while True:
                number = next(self._numbers)
                key = f"key-{number}"
                try:
                    answer = client.post(
                        "/v1/decisions", json=decision_request(number), headers={"Idempotency-Key": key}
                    )
                except httpx.HTTPError:
                    return
                if answer.status_code != 201:
                    self.problems.append(answer.text)
                    return
                self.acknowledged[number] = answer.json()


@pytest.fixture
def platform(tmp_path, decisions_url):
    url = sa.make_url(decisions_url)
    if url.get_backend_name() == "sqlite":
        return found_platform(tmp_path / "platform", made_up_model())
    return found_platform(tmp_path / "platform", made_up_model(), database_url=decisions_url)


def test_every_acknowledged_decision_outlives_the_kill_once_and_proved(platform, tmp_path):
    numbers, told = itertools.count(), {}
    with Processes(tmp_path / "logs") as processes:
        processes.start_python("api", "-m", "tallystick", "api", "run", str(platform.settings))
        for life in range(LIVES):
            url = processes.wait_for("api", r"Serving on (\S+)", deadline_s=60)[1]
            token = httpx.post(
                f"{url}/oauth/token",
                data={"grant_type": "client_credentials"},
                auth=("platform-app", platform.secrets["platform-app"]),
            ).json()["access_token"]
            loads = [Load(url, token, numbers) for _ in range(CALLERS)]
            threads = [threading.Thread(target=one.run) for one in loads]
            for thread in threads:
                thread.start()
            while sum(len(one.acknowledged) for one in loads) < ACKNOWLEDGED_A_LIFE:
                assert not any(one.problems for one in loads), loads[0].problems
                time.sleep(0.01)
            processes.kill("api")
            for thread in threads:
                thread.join()
            for one in loads:
                assert one.problems == []
                told |= one.acknowledged
            if life < LIVES:
                processes.restart("api")
        url = processes.wait_for("api", r"Serving on (\S+)", deadline_s=60)[1]
        token = httpx.post(
            f"{url}/oauth/token",
            data={"grant_type": "client_credentials"},
            auth=("platform-app", platform.secrets["platform-app"]),
        ).json()["access_token"]
        check(platform, url, token, told)
        assert processes.stop("api") == 0


def check(platform, url, token, told):
    settings = load_coordinator_settings(platform.coordinator)
    keys = ledger_keys(load_agreement(settings.agreement_path))
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        for number, decision in told.items():
            read = client.get(f"/v1/decisions/{decision['id']}").json()
            assert {name: read[name] for name in decision} == decision
            # Asking again under the key gives the same answer and decides nothing.
            again = client.post(
                "/v1/decisions", json=decision_request(number), headers={"Idempotency-Key": f"key-{number}"}
            )
            assert again.json() == decision
        for decision in list(told.values())[::29]:
            proof = client.get(f"/v1/decisions/{decision['id']}/proof").content
            assert verify_evidence(proof, keys).decision["id"] == decision["id"]
        found = tampered(json.loads(proof))
        with pytest.raises(Exception, match=r"."):
            verify_evidence(found, keys)
    engine = reading_engine(parse_url(settings.database_url))
    with engine.connect() as connection:
        counts = {
            table: connection.execute(sa.text(f"select count(*) from {table}")).scalar_one()
            for table in ("decisions", "idempotency_keys")
        }
        applicants = connection.execute(sa.text("select count(distinct applicant) from decisions")).scalar_one()
        assert set(counts.values()) == {applicants}, os.linesep.join(map(str, counts.items()))
        assert audit(connection).findings == []
    engine.dispose()


def tampered(proof):
    """The same proof of a decision on ten times the amount."""
    proof["decision"]["record"]["amount"] = "400000.00"
    return json.dumps(proof).encode()
