"""The use cases over a real database, a really trained model, and a copy of the shipped policy that a test may edit."""

import asyncio
import datetime as dt
import hashlib
import itertools
import json
import shutil
from decimal import Decimal

import numpy as np
import pytest
import sqlalchemy as sa

from coordinator.database.connection import parse_url, writing_engine
from coordinator.decisions.records import WebhookEndpoint
from coordinator.decisions.store import DecisionStore
from coordinator.financing.checks import Matched, matched_among
from coordinator.financing.released_scores import ReleasedScores
from coordinator.financing.requests import (
    EVENT_REQUEST,
    DecisionRequest,
    DisbursementRequest,
    ReviewConfirmation,
    ReviewProposal,
)
from coordinator.financing.score_source import Scored
from coordinator.financing.service import Financing
from models.artefact import load_model
from models.features import InputFeature, TrainingData
from models.horizontal import HorizontalProgram, HorizontalSettings
from models.program import run_locally
from policies.lending.folder import PolicyFolder
from policies.lending.policy import DEFAULT_FOLDER
from policies.lending.types import Risk
from protos.sealed_sum.secret import SecretBytes

ORIGIN = "tallystick-ledger/test"
START = dt.datetime(2026, 11, 25, 9, 0, tzinfo=dt.UTC)
FEATURES = (
    InputFeature("utilization", "number", 0.0, 100.0, "none", "UTILIZATION", missing_allowed=False),
    InputFeature("age", "integer", 0.0, 120.0, "none", "AGE", missing_allowed=False),
    InputFeature("income", "number", 0.0, 1e7, "none", "INCOME", missing_allowed=True),
)


@pytest.fixture(scope="session")
def model():
    rng = np.random.default_rng(7)
    rows = 4000
    utilization = rng.gamma(1.0, 0.5, rows)
    age = rng.integers(20, 90, rows).astype(np.float64)
    income = np.where(rng.random(rows) < 0.1, np.nan, rng.lognormal(8, 0.5, rows))
    chance = 1 / (1 + np.exp(4.5 - 1.8 * utilization + 0.03 * (age - 50)))
    data = TrainingData(
        columns={"utilization": utilization, "age": age, "income": income},
        label=(rng.random(rows) < chance).astype(np.int8),
        holdout=rng.random(rows) < 0.3,
    )
    program = HorizontalProgram(data, FEATURES, "credit", HorizontalSettings(), member_number=0, weights=[1])
    return load_model(run_locally(program).artefact)


class Clock:
    """Stands still until it is moved."""

    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now

    def move(self, **by):
        self.now += dt.timedelta(**by)


class StatedScores:
    """Scores that a test states: `pd`, and what else a score source may say."""

    mode = "released"
    model_version = "stated"

    def __init__(self, pd="0.01"):
        self.pd = pd
        self.changes = {}
        self.asked = 0

    async def risk(self, applicant):
        self.asked += 1
        risk = Risk(pd_12m=Decimal(self.pd), model_version="stated")
        return Scored(risk, **self.changes)

    async def matched(self, request):
        return Matched(matched_among(request.application()))


class Desk:
    """The use cases, blocking, with a key for every call; bodies come back parsed."""

    def __init__(self, store, folder, scores, clock, **options):
        self.store, self.scores, self.clock = store, scores, clock
        self.financing = Financing(
            store,
            PolicyFolder(folder),
            scores,
            evidence_key=SecretBytes(bytes(range(32))),
            clock=clock,
            look_every_s=0.0,
            **options,
        )

    def call(self, method, *arguments, key=None):
        return asyncio.run(self.calling(method, *arguments, key=key))

    async def calling(self, method, *arguments, key=None):
        key = key or f"key-{next(_NUMBERS)}"
        response = await getattr(self.financing, method)(
            *arguments, key=key, request_hash=hashlib.sha256(repr(arguments[2:]).encode()).digest()
        )
        return json.loads(response.body) | {"_status": response.status, "_replayed": response.replayed}

    def decide(self, tenant="acme", *, key=None, actor="platform-a", **changes):
        return self.call("decide", tenant, actor, a_request(**changes), key=key)

    def decide_all(self, requests):
        """Several at once: `(tenant, request)` pairs; refusals come back as exceptions."""

        async def together():
            return await asyncio.gather(
                *(self.calling("decide", tenant, "platform-a", request) for tenant, request in requests),
                return_exceptions=True,
            )

        return asyncio.run(together())

    def event(self, tenant="acme", *, key=None, **fields):
        return self.call("event", tenant, "platform-a", an_event(**fields), key=key)

    def disburse(self, decision_id, amount, tenant="acme", currency="CNY", **options):
        request = DisbursementRequest(amount=Decimal(amount), currency=currency, why="instalment")
        return self.call("disburse", tenant, "platform-a", decision_id, request, **options)

    def accept(self, offer_id, tenant="acme", **options):
        return self.call("accept_offer", tenant, "platform-a", offer_id, **options)

    def propose(self, review_id, actor, verdict="approve", why="seen", tenant="acme"):
        return self.call("propose", tenant, actor, review_id, ReviewProposal(verdict=verdict, why=why))

    def confirm(self, review_id, actor, confirms, verdict="approve", why="agreed", tenant="acme"):
        given = ReviewConfirmation(verdict=verdict, why=why, confirms=confirms)
        return self.call("confirm", tenant, actor, review_id, given)

    def view(self, decision_id, tenant="acme"):
        return self.financing.decision(tenant, decision_id)

    def count(self, table):
        with self.store.reading() as connection:
            return connection.execute(sa.text(f"select count(*) from {table}")).scalar_one()


_NUMBERS = itertools.count()


def an_applicant(**changes):
    fields = {
        "id": "seller-1",
        "name": "Lantern Home Goods Ltd",
        "country": "CN",
        "history_months": 26,
        "features": {"utilization": 0.05, "age": 70, "income": 5400.0},
    }
    return fields | changes


def a_request(*, applicant=None, amount="400000.00", currency="CNY", worth=None, reference=None, **changes):
    fields = {
        "applicant": an_applicant(**(applicant or {})),
        "product": "order",
        "amount": amount,
        "currency": currency,
        "tenor_days": 90,
        "industry": "home",
        "evidence": [
            {
                "kind": "purchase_order",
                "reference": reference or f"PO-{next(_NUMBERS)}",
                "value": {"amount": worth or f"{Decimal(amount) * 2:f}", "currency": currency},
            }
        ],
    }
    return DecisionRequest.model_validate_json(json.dumps(fields | changes))


def an_event(**fields):
    known = {"id": f"event-{next(_NUMBERS)}", "occurred_at": START.isoformat()}
    if fields.get("kind", "payment_settled") == "payment_settled":
        known |= {
            "kind": "payment_settled",
            "applicant": an_applicant(**fields.pop("applicant", {})),
            "amount": "300000.00",
            "currency": "CNY",
            "industry": "home",
        }
    return EVENT_REQUEST.validate_json(json.dumps(known | fields))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def scores():
    return StatedScores()


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(DEFAULT_FOLDER, tmp_path / "policy")


@pytest.fixture
def store(decisions_url, clock):
    store = DecisionStore.open(decisions_url, origin=ORIGIN, clock=clock, survives_power_cut=False)
    store.commit_blocking(lambda writes: [writes.add_tenant(name, name.title()) for name in ("acme", "globex")])
    yield store
    store.close()


@pytest.fixture
def make_desk(store, folder, clock):
    """Another desk over the same database: `make_desk(scores)`."""
    return lambda scores, *, store=store, policy=folder, **options: Desk(store, policy, scores, clock, **options)


@pytest.fixture
def desk(make_desk, scores):
    return make_desk(scores)


@pytest.fixture
def real(make_desk, model):
    """A desk with a really trained model."""
    return make_desk(ReleasedScores(model))


@pytest.fixture
def request_of():
    return a_request


@pytest.fixture
def event_of():
    return an_event


@pytest.fixture
def edited():
    """Edits a JSON file in place: `edited(path, change)`."""

    def edit(path, change):
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    return edit


@pytest.fixture
def listening(store):
    """Webhook endpoints of acme for everything, and of globex."""
    for tenant in ("acme", "globex"):
        endpoint = WebhookEndpoint(
            id=f"end-{tenant}", tenant=tenant, url="https://x.example/", key_id="k1", topics=("*",), created_at=START
        )
        store.commit_blocking(lambda writes, endpoint=endpoint: writes.add_endpoint(endpoint))


@pytest.fixture
def second_store(decisions_url, clock):
    """The same database as another process sees it."""
    store = DecisionStore.open(decisions_url, origin=ORIGIN, clock=clock, survives_power_cut=False)
    yield store
    store.close()


@pytest.fixture
def delivered(store):
    """What is in the outbox: topic, tenant, payload; the clock stands still, so in no order."""
    return lambda: [(one.topic, one.endpoint.tenant, json.loads(one.payload)) for one in store.due_deliveries()]


@pytest.fixture
def sql(decisions_url):
    """Change the database behind the store's back."""
    engine = writing_engine(parse_url(decisions_url))

    def run(statement):
        with engine.begin() as connection:
            connection.execute(sa.text(statement))

    yield run
    engine.dispose()
