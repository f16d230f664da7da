"""The API in this process, over a real database and real keys, spoken to through its ASGI door."""

import asyncio
import itertools
import json

import httpx
import pytest

from coordinator.api.service import open_api
from coordinator.api.settings import load_api_settings
from simulations.api_platform import decision_request, found_platform, made_up_model


@pytest.fixture(scope="session")
def artefact():
    return made_up_model()


class Desk:
    """Somebody with a client's secret."""

    def __init__(self, process, platform):
        self.process = process
        self.platform = platform
        self._tokens = {}
        self._keys = itertools.count()

    def request(self, method, path, **arguments):
        async def send():
            transport = httpx.ASGITransport(self.process.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
                return await client.request(method, path, **arguments)

        return asyncio.run(send())

    def token(self, client, scope=None):
        known = self._tokens.get((client, scope))
        if known is None:
            form = {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {})
            answer = self.request("POST", "/oauth/token", data=form, auth=(client, self.platform.secrets[client]))
            assert answer.status_code == 200, answer.text
            known = self._tokens[client, scope] = answer.json()["access_token"]
        return known

    def get(self, path, *, by="platform-app", **arguments):
        return self.request("GET", path, headers={"Authorization": f"Bearer {self.token(by)}"}, **arguments)

    def post(self, path, body=None, *, by="platform-app", key=None, headers=None, **arguments):
        sent = {"Authorization": f"Bearer {self.token(by)}", "Idempotency-Key": key or f"key-{next(self._keys)}"}
        if body is not None:
            sent["Content-Type"] = "application/json"
            arguments["content"] = body if isinstance(body, bytes) else json.dumps(body)
        return self.request("POST", path, headers=sent | (headers or {}), **arguments)

    def decide(self, number, *, by="platform-app", key=None, **changes):
        return self.post("/v1/decisions", decision_request(number, **changes), by=by, key=key)


@pytest.fixture
def desk(tmp_path, artefact):
    platform = found_platform(tmp_path / "platform", artefact)
    process = open_api(load_api_settings(platform.settings))
    yield Desk(process, platform)
    process.store.close()


@pytest.fixture(scope="module")
def standing(tmp_path_factory, artefact):
    """One API for tests that leave it as it is."""
    platform = found_platform(tmp_path_factory.mktemp("api") / "platform", artefact)
    process = open_api(load_api_settings(platform.settings))
    yield Desk(process, platform)
    process.store.close()
