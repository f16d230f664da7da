"""The shipped policy and lists, loaded once."""

import datetime as dt

import pytest

from policies.lending.policy import LendingPolicy
from policies.screening.lists import ScreeningLists
from policies.screening.screen import Screener

TODAY = dt.date(2026, 11, 25)


@pytest.fixture(scope="session")
def policy():
    return LendingPolicy.load().on(TODAY)


@pytest.fixture(scope="session")
def lists():
    return ScreeningLists.load(on=TODAY)


@pytest.fixture(scope="session")
def screener(policy, lists):
    return Screener(policy, lists)
