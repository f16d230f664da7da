"""A store of decisions on either database, and what it takes to fill it."""

import datetime as dt
import hashlib
import itertools
from decimal import Decimal

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.database.connection import parse_url, writing_engine
from coordinator.decisions.records import DecisionRecord, OfferRecord, canonical_json
from coordinator.decisions.store import DecisionStore
from coordinator.ledger.checkpoints import Checkpointer
from policies.ledger_keys import LedgerKeys
from protos.ledger.checkpoints import log_key, witness_key

ORIGIN = "tallystick-ledger/test"
START = dt.datetime(2026, 11, 25, 9, 0, tzinfo=dt.UTC)


class Clock:
    """Moves a second with every look at it."""

    def __init__(self):
        self._seconds = itertools.count()

    def __call__(self):
        return START + dt.timedelta(seconds=next(self._seconds))


def open_store(url, **options):
    store = DecisionStore.open(url, origin=ORIGIN, **{"clock": Clock(), "survives_power_cut": False, **options})
    store.commit_blocking(lambda writes: [writes.add_tenant(name, name.title()) for name in ("acme", "globex")])
    return store


@pytest.fixture
def store(decisions_url):
    store = open_store(decisions_url)
    yield store
    store.close()


@pytest.fixture
def reopen(decisions_url):
    """Open the database once more, as another process would."""
    opened = []

    def again(**options):
        opened.append(open_store(decisions_url, **options))
        return opened[-1]

    yield again
    for store in opened:
        store.close()


@pytest.fixture
def operator():
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def keys(operator):
    members = {
        name: Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32).public_key().public_bytes_raw()
        for number, name in enumerate(("bank-a", "bank-b", "bank-c"), start=1)
    }
    log = log_key(ORIGIN, operator.public_key().public_bytes_raw())
    return LedgerKeys(log, {name: witness_key(ORIGIN, name, key) for name, key in members.items()})


@pytest.fixture
def checkpointer(store, operator, tmp_path):
    return Checkpointer(store, operator, tmp_path / "state")


@pytest.fixture
def sql(decisions_url):
    """Change the database behind the store's back: `sql("update ...", value=...)`; returns how many rows it met."""
    engine = writing_engine(parse_url(decisions_url))

    def run(statement, **values):
        with engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("drop trigger if exists ledger_entries_no_update")
                connection.exec_driver_sql("drop trigger if exists ledger_entries_no_delete")
                connection.exec_driver_sql("pragma defer_foreign_keys = on")
            else:
                connection.exec_driver_sql("drop trigger if exists ledger_entries_append_only on ledger_entries")
            return connection.execute(sa.text(statement), values).rowcount

    yield run
    engine.dispose()


def a_decision(store, number=0, **changes):
    values = {
        "id": store.new_id("dec"),
        "tenant": "acme",
        "applicant": f"token-{number}",
        "product": "order-finance",
        "amount": Decimal("120000.50"),
        "currency": "CNY",
        "tenor_days": 90,
        "outcome": "approved",
        "reasons": (),
        "rate": Decimal("0.0550"),
        "policy_versions": {"order-finance": "2026-11-01"},
        "model_version": "ab" * 32,
        "mode": "released",
        "inputs_hash": hashlib.sha256(b"inputs").digest(),
        "document": canonical_json({"number": number, "explained": "größer"}).decode(),
        "initial_status": "approved",
        "created_at": START,
    }
    return DecisionRecord(**{**values, **changes})


def an_offer(store, decision, **changes):
    values = {
        "id": store.new_id("off"),
        "tenant": decision.tenant,
        "applicant": decision.applicant,
        "product": decision.product,
        "amount": Decimal("1000.00"),
        "currency": "CNY",
        "tenor_days": 30,
        "rate": Decimal("0.05"),
        "decision_id": decision.id,
        "event_id": None,
        "document": "{}",
        "created_at": START,
        "expires_at": START + dt.timedelta(days=7),
    }
    return OfferRecord(**{**values, **changes})


@pytest.fixture
def decide(store):
    """Write a decision: `decide(number, **fields)`."""

    def one(number=0, **changes):
        record = a_decision(store, number, **changes)
        return store.commit_blocking(lambda writes: writes.add_decision(record))

    return one


@pytest.fixture
def make(store):
    """Records that are not written yet: `make.decision(...)`, `make.offer(decision, ...)`."""

    class Make:
        decision = staticmethod(lambda *arguments, **changes: a_decision(store, *arguments, **changes))
        offer = staticmethod(lambda *arguments, **changes: an_offer(store, *arguments, **changes))

    return Make


@pytest.fixture
def make_decision():
    """A decision of any store: `make_decision(store, number, **fields)`."""
    return a_decision
