"""The shipped policy, loaded once, and builders whose defaults are approved in full."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from decimal import Decimal

import pytest

from policies.lending.decide import decide
from policies.lending.money import Money
from policies.lending.policy import DEFAULT_FOLDER, LendingPolicy
from policies.lending.types import Application, Checks, Evidence, Exposure, Risk

TODAY = dt.date(2026, 11, 25)


@pytest.fixture(scope="session")
def versions():
    """All versions of the shipped policy."""
    return LendingPolicy.load()


@pytest.fixture(scope="session")
def policy(versions):
    """The shipped policy of today."""
    return versions.on(TODAY)


def an_application(**changes):
    fields = {
        "applicant_id": "seller-1",
        "product": "order",
        "amount": Money.of("800000.00", "CNY"),
        "tenor_days": 90,
        "industry": "home",
        "evidence": (Evidence(kind="purchase_order", reference="po-1", value=Money.of("1000000.00", "CNY")),),
    }
    return Application.model_validate({**fields, **changes})


def a_risk(pd="0.01", **changes):
    return Risk.model_validate({"pd_12m": Decimal(pd), "model_version": "model-1", **changes})


def checks_that_pass(**changes):
    fields = {
        "screening": "clear",
        "three_way_match": "matched",
        "double_financing": "clear",
        "customer_risk": "low",
    }
    return Checks.model_validate({**fields, **changes})


@pytest.fixture(scope="session")
def application():
    return an_application


@pytest.fixture(scope="session")
def risk():
    return a_risk


@pytest.fixture(scope="session")
def checks():
    return checks_that_pass


@pytest.fixture(scope="session")
def decided(policy):
    """Decides on the default application, with changes to any part."""

    def on(application=None, risk=None, checks=None, exposure=None, *, policy=policy):
        return decide(
            policy,
            application or an_application(),
            risk or a_risk(),
            checks or checks_that_pass(),
            exposure or Exposure(),
        )

    return on


@pytest.fixture
def folder(tmp_path):
    """A copy of the shipped policy that a test may change."""
    return shutil.copytree(DEFAULT_FOLDER, tmp_path / "policy")


@pytest.fixture(scope="session")
def edited():
    """Edits a JSON file in place: `edited(path, change)`, where `change` alters the parsed content."""

    def edit(path, change):
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    return edit


@pytest.fixture(scope="session")
def rules_of():
    """The rows of a parsed table file."""
    return lambda content: content["jdm"]["nodes"][1]["content"]["rules"]
