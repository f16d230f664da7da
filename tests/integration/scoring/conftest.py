"""A small model, really trained (by one party alone), and the two ways to ask it for scores."""

from __future__ import annotations

import asyncio

import httpx
import numpy as np
import pytest

from coordinator.api.app import create_app
from coordinator.registry import MODEL_FILE
from models.artefact import load_model
from models.features import InputFeature, TrainingData
from models.horizontal import HorizontalProgram, HorizontalSettings
from models.program import run_locally
from simulations.scoring_consortium import found
from simulations.scoring_in_process import LocalScoring

FEATURES = (
    InputFeature("utilization", "number", 0.0, 100.0, "none", "UTILIZATION", missing_allowed=False),
    InputFeature("age", "integer", 0.0, 120.0, "none", "AGE", missing_allowed=False),
    InputFeature("income", "number", 0.0, 1e7, "none", "INCOME", missing_allowed=True),
)


@pytest.fixture(scope="session")
def artefact():
    rng = np.random.default_rng(7)
    rows = 4000
    utilization = rng.gamma(1.0, 0.5, rows)
    age = rng.integers(20, 90, rows).astype(np.float64)
    income = np.where(rng.random(rows) < 0.1, np.nan, rng.lognormal(8, 0.5, rows))
    chance = 1 / (1 + np.exp(2.5 - 1.8 * utilization + 0.03 * (age - 50)))
    data = TrainingData(
        columns={"utilization": utilization, "age": age, "income": income},
        label=(rng.random(rows) < chance).astype(np.int8),
        holdout=rng.random(rows) < 0.3,
    )
    program = HorizontalProgram(data, FEATURES, "credit", HorizontalSettings(), member_number=0, weights=[1])
    return run_locally(program).artefact


@pytest.fixture(scope="session")
def model(artefact):
    return load_model(artefact)


class Client:
    """Sends requests to the application over httpx's ASGI transport, as a server would pass them on."""

    def __init__(self, app):
        self._app = app

    def request(self, method, path, **arguments):
        async def send():
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **arguments)

        return asyncio.run(send())

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, **arguments):
        return self.request("POST", path, **arguments)


@pytest.fixture
def client(model):
    return Client(create_app(lambda: model))


@pytest.fixture
def model_path(artefact, tmp_path):
    path = tmp_path / MODEL_FILE
    path.write_bytes(artefact)
    return path


@pytest.fixture
def applicant():
    return {"utilization": 0.3, "age": 45, "income": 5400.0}


@pytest.fixture
def six(tmp_path):
    """Two members of each of three roles, in one process."""
    return LocalScoring(found(tmp_path / "consortium", 6, 200))


@pytest.fixture
def three(tmp_path):
    """One member of each of three roles: nobody may be absent."""
    return LocalScoring(found(tmp_path / "consortium", 3, 50))
