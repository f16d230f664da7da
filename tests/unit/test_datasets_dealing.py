import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.sources import load_rows
from simulations.datasets import DataSet
from simulations.dealing import (
    DEMO_KINDS,
    DEMO_SHARES,
    DealImpossible,
    deal_by_column,
    deal_shares,
    deal_sizes,
    write_rows,
)
from simulations.population import synthetic_population

POPULATION = synthetic_population(5_000, seed=11)


def ids_of(dealt):
    return list(itertools.chain.from_iterable(frame["entity_id"] for frame in dealt.values()))


def with_states(rows=1_000):
    frame = POPULATION.frame.iloc[:rows].copy()
    frame["state"] = np.random.default_rng(0).choice(["CA", "TX", "NY", "FL", "WA", "VT"], size=rows)
    return DataSet("states", frame, POPULATION.label, 12, POPULATION.features, POPULATION.roles)


def test_demo_shares_deal_every_row_once():
    dealt = deal_shares(POPULATION, DEMO_SHARES, seed=7, skew_column="age", skew_strength=0.5)

    assert [len(frame) for frame in dealt.values()] == [2000, 1250, 750, 600, 400]
    assert sorted(ids_of(dealt)) == sorted(POPULATION.frame["entity_id"])
    assert len(DEMO_KINDS) == len(DEMO_SHARES)
    assert sorted(DEMO_KINDS) == ["csv", "csv", "parquet", "parquet", "sql"]


def test_same_seed_gives_the_same_deal_and_another_seed_another():
    first = deal_shares(POPULATION, DEMO_SHARES, seed=7, skew_column="age", skew_strength=0.5)
    again = deal_shares(POPULATION, DEMO_SHARES, seed=7, skew_column="age", skew_strength=0.5)
    other = deal_shares(POPULATION, DEMO_SHARES, seed=8, skew_column="age", skew_strength=0.5)

    assert ids_of(first) == ids_of(again)
    assert ids_of(first) != ids_of(other)


def test_skew_grows_from_none_to_bands_of_their_own():
    def spread(strength):
        dealt = deal_shares(POPULATION, DEMO_SHARES, seed=7, skew_column="age", skew_strength=strength)
        return dealt["bank-e"]["age"].mean() - dealt["bank-a"]["age"].mean()

    spreads = [spread(strength) for strength in (0.0, 0.25, 0.5, 1.0)]

    assert abs(spreads[0]) < 2
    assert spreads == sorted(spreads)
    bands = list(deal_shares(POPULATION, DEMO_SHARES, seed=7, skew_column="age", skew_strength=1.0).values())
    for lower, upper in itertools.pairwise(bands):
        assert lower["age"].max() <= upper["age"].min()


def test_column_with_missing_values_can_skew_the_deal():
    dealt = deal_shares(POPULATION, DEMO_SHARES, seed=7, skew_column="monthly_income", skew_strength=1.0)

    assert dealt["bank-a"]["monthly_income"].isna().sum() == POPULATION.frame["monthly_income"].isna().sum()


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=12),
    strength=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_exact_sizes_are_dealt_and_no_row_twice(sizes, strength, seed):
    wanted = {f"member-{number}": size for number, size in enumerate(sizes)}

    dealt = deal_sizes(POPULATION, wanted, seed=seed, skew_column="age", skew_strength=strength)

    assert {member: len(frame) for member, frame in dealt.items()} == wanted
    assert len(set(ids_of(dealt))) == sum(sizes)


def test_whole_states_are_dealt_as_evenly_as_they_allow():
    data_set = with_states()

    dealt = deal_by_column(data_set, "state", ["west", "east", "north"])

    assert sorted(ids_of(dealt)) == sorted(data_set.frame["entity_id"])
    states = [set(frame["state"]) for frame in dealt.values()]
    assert sum(len(group) for group in states) == len(set.union(*states))
    sizes = [len(frame) for frame in dealt.values()]
    assert max(sizes) - min(sizes) < 100


@pytest.mark.parametrize(
    ("deal", "expected"),
    [
        (lambda: deal_shares(POPULATION, {}, seed=1), "add up to 1"),
        (lambda: deal_shares(POPULATION, {"a": 0.5, "b": 0.4}, seed=1), "add up to 1"),
        (lambda: deal_shares(POPULATION, {"a": 1.5, "b": -0.5}, seed=1), "add up to 1"),
        (lambda: deal_shares(POPULATION, {"a": 0.999999, "b": 0.000001}, seed=1), "at least one row"),
        (lambda: deal_sizes(POPULATION, {"a": 5_001}, seed=1), "at most 5,000"),
        (lambda: deal_sizes(POPULATION, {"a": 10}, seed=1, skew_column="height"), "column 'height'"),
        (lambda: deal_sizes(POPULATION, {"a": 10}, seed=1, skew_column="entity_id"), "Expected numbers"),
        (lambda: deal_sizes(POPULATION, {"a": 10}, seed=1, skew_column="age", skew_strength=1.5), "between 0 and 1"),
        (lambda: deal_by_column(POPULATION, "state", ["a"]), "column 'state'"),
        (lambda: deal_by_column(with_states(), "state", [f"m{n}" for n in range(7)]), "found 6"),
        (lambda: deal_by_column(POPULATION, "monthly_income", ["a"]), "found rows without"),
    ],
)
def test_deal_that_cannot_be_made_says_why(deal, expected):
    with pytest.raises(DealImpossible, match=expected):
        deal()


@pytest.mark.parametrize("kind", ["csv", "parquet", "sql"])
def test_written_rows_are_read_back_by_a_node(tmp_path, kind):
    folder = tmp_path / "a folder, with signs % ü"
    source = write_rows(POPULATION.frame, folder, "bank-a", kind)
    write_rows(POPULATION.frame, folder, "bank-a", kind)

    frame = load_rows(type("Source", (), source)())

    assert source["kind"] == kind
    assert list(frame.columns) == list(POPULATION.frame.columns)
    assert frame["entity_id"].tolist() == POPULATION.frame["entity_id"].tolist()
    debt = pd.to_numeric(frame["debt_ratio"]).to_numpy(dtype=np.float64)
    np.testing.assert_array_equal(debt, POPULATION.frame["debt_ratio"].to_numpy())
