"""The benchmark's consortia: what is compared with published figures must be divided and split as published."""

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from models.holdout import holdout_mask
from nodes.settings import load_node_settings
from policies.guard import load_policy
from simulations.benchmarks.vertical_cases import (
    BY_FEATURES,
    BY_PARTIES,
    CASES,
    HOLDOUT_PERCENT,
    UCI_OF_THREE,
    UCI_OF_TWO,
    Case,
    found_case,
    rows_of,
)
from simulations.consortium import HOLDOUT_KEY
from simulations.datasets import DataSetUnavailable, RoleDataSet
from simulations.datasets.gmsc import ROLES
from simulations.population import synthetic_population

SYNTHETIC = Case("synthetic", 3, rows=2_000)


def published(case):
    try:
        return rows_of(case)
    except DataSetUnavailable as missing:
        pytest.skip(str(missing))


def held(ids):
    return holdout_mask(ids, HOLDOUT_KEY, HOLDOUT_PERCENT)


def test_uci_default_is_split_as_published():
    bank = published(UCI_OF_TWO).rows["bank-a"]

    label = bank["default_next_month"].to_numpy()
    _, expected = train_test_split(np.arange(30_000), test_size=0.3, random_state=7, stratify=label)
    assert set(np.flatnonzero(held(bank["entity_id"]))) == set(expected)


def test_uci_default_of_three_has_profile_statuses_and_amounts():
    rows = published(UCI_OF_THREE).rows

    columns = {member: list(frame.columns[1:]) for member, frame in rows.items()}
    assert columns["bank-a"] == ["limit_bal", "sex", "education", "marriage", "age", "default_next_month"]
    assert columns["payment-a"] == ["pay_0", "pay_2", "pay_3", "pay_4", "pay_5", "pay_6"]
    assert len(columns["logistics-a"]) == 12


def test_olist_has_two_tasks_and_its_natural_overlap():
    dealt = published(CASES[3])

    assert list(dealt.data.labels) == ["dispute", "late"]
    assert {member: len(rows) for member, rows in dealt.rows.items()} == {
        "platform-a": 34_872,
        "payment-a": 99_440,
        "logistics-a": 35_108,
    }
    assert held(dealt.rows["payment-a"]["entity_id"]).mean() == pytest.approx(0.3, abs=0.01)


def test_columns_are_divided_among_as_many_parties_as_asked_for():
    for case in BY_PARTIES:
        dealt = published(case)
        assert len(dealt.members) == case.parties == case.roles
        names = [name for role in dealt.data.roles for name in dealt.data.columns_of(role)]
        assert len(set(names)) == len(names) == 23
        assert min(len(dealt.data.columns_of(role)) for role in dealt.data.roles) >= 2


def test_fewer_features_are_fewer_in_every_role():
    for case in BY_FEATURES:
        data = published(case).data
        assert abs(len(data.features) - (case.features or 23)) <= 1
        assert all(data.columns_of(role) for role in data.roles)


def test_fewer_rows_are_the_same_entities_at_every_role():
    rows = rows_of(SYNTHETIC).rows

    ids = [set(frame["entity_id"]) for frame in rows.values()]
    assert ids[0] == ids[1] == ids[2]
    assert len(ids[0]) == 2_000
    assert held(rows["bank-a"]["entity_id"]).sum() == 600


def test_members_of_a_role_share_its_rows():
    dealt = rows_of(Case("synthetic", 3, members_per_role=3, rows=900))

    assert len(dealt.members) == 9
    for role in dealt.data.roles:
        parts = [dealt.rows[member] for member in dealt.members_of(role)]
        pd.testing.assert_series_equal(
            pd.concat(parts)["entity_id"].sort_values().reset_index(drop=True),
            dealt.data.frames[role]["entity_id"].sort_values().reset_index(drop=True),
        )


def test_two_parties_are_a_bilateral_run_with_a_witness(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "simulations.benchmarks.vertical_cases.load_role_data_set",
        lambda *_, **__: two_roles(),
    )
    case = Case("uci_default", 2)
    consortium = found_case(tmp_path / "two", case, rows_of(case), fleet_port=40_000, node_policy={"max_rounds": 9})

    assert consortium.members == ("bank-a", "payment-a", "witness-a")
    assert consortium.agreement.privacy.partial_scores_visible_to_label_holder
    policy = load_policy(load_node_settings(consortium.node_settings("bank-a")).policy_path)
    assert (policy.max_rounds, policy.methods) == (9, ("alignment", "vertical"))


def two_roles():
    return RoleDataSet.of(synthetic_population(600, seed=5), ROLES, task="credit", label_role="bank")


def test_three_parties_hide_their_partial_scores(tmp_path):
    consortium = found_case(tmp_path / "three", SYNTHETIC, rows_of(SYNTHETIC), fleet_port=40_000)

    assert consortium.members == ("bank-a", "logistics-a", "payment-a")
    assert not consortium.agreement.privacy.partial_scores_visible_to_label_holder
    assert consortium.agreement.privacy.max_colluders == 1
