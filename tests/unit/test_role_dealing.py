import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.holdout import holdout_mask
from protos.private_set_intersection.identifiers import normalise
from simulations.datasets import Label, RoleDataSet
from simulations.datasets.data_set import number
from simulations.datasets.gmsc import ROLES_OF_THREE
from simulations.dealing import DealImpossible
from simulations.population import synthetic_population
from simulations.role_dealing import (
    deal_roles,
    ids_of_split,
    members_by_role,
    stratified_holdout,
    with_holdout,
)

KEY = bytes(range(32))
DATA = RoleDataSet.of(synthetic_population(6_000, seed=5), ROLES_OF_THREE, task="credit", label_role="bank")
MEMBERS = members_by_role(DATA.roles, 3)


def ids(frames):
    return list(itertools.chain.from_iterable(frame["entity_id"] for frame in frames))


def test_members_are_named_after_their_role():
    assert members_by_role(["bank", "payment"], 2) == {
        "bank": ("bank-a", "bank-b"),
        "payment": ("payment-a", "payment-b"),
    }


def test_every_entity_has_one_bank_and_a_share_of_them_one_member_of_each_other_role():
    dealt = deal_roles(DATA, MEMBERS, seed=7)
    everybody = set(DATA.frames["bank"]["entity_id"])

    banks = ids(dealt.rows[bank] for bank in dealt.members_of("bank"))
    assert sorted(banks) == sorted(everybody)
    known = {}
    for role in ("payment", "logistics"):
        known[role] = ids(dealt.rows[member] for member in dealt.members_of(role))
        assert len(set(known[role])) == len(known[role])
        assert len(known[role]) / len(everybody) == pytest.approx(0.8, abs=0.02)
    both = set(known["payment"]) & set(known["logistics"])
    assert len(both) / len(everybody) == pytest.approx(0.64, abs=0.02)  # who knows whom is independent
    assert min(len(rows) for rows in dealt.rows.values()) > 1_400


def test_members_hold_their_role_s_columns_and_the_bank_alone_the_label():
    dealt = deal_roles(DATA, MEMBERS, seed=7)

    for member, frame in dealt.rows.items():
        role = dealt.role_of[member]
        label = ["serious_delinquency"] if role == "bank" else []
        assert list(frame.columns) == ["entity_id", *ROLES_OF_THREE[role], *label]


def test_same_seed_gives_the_same_deal_and_another_seed_another():
    first, again, other = (ids(deal_roles(DATA, MEMBERS, seed=seed).rows.values()) for seed in (7, 7, 8))

    assert first == again
    assert first != other


def test_natural_overlap_stays_as_it_is():
    frames = {
        "bank": pd.DataFrame({"entity_id": ["a", "b"], "xx": [1.0, 2.0], "bad": [0, 1]}),
        "payment": pd.DataFrame({"entity_id": ["b", "c", "d"], "yy": [1.0, 2.0, 3.0]}),
    }
    features = (number("xx", "EUR", 0, 9), number("yy", "EUR", 0, 9).model_copy(update={"role": "payment"}))
    data = RoleDataSet("made", frames, features, {"credit": Label("bank", "bad", 12)})

    dealt = deal_roles(data, members_by_role(data.roles, 1), seed=1, overlap=1.0)

    assert {member: ids([rows]) for member, rows in dealt.rows.items()} == {
        "bank-a": ["a", "b"],
        "payment-a": ["b", "c", "d"],
    }


@pytest.mark.parametrize(
    ("members", "changes"),
    [
        ({"bank": ("bank-a",)}, {}),
        ({**MEMBERS, "payment": ()}, {}),
        (MEMBERS, {"overlap": 0.0}),
        (MEMBERS, {"overlap": 1.1}),
        (members_by_role(DATA.roles, 26), {"overlap": 1e-9}),
    ],
)
def test_a_deal_that_cannot_be_made_is_refused(members, changes):
    with pytest.raises(DealImpossible, match="Expected"):
        deal_roles(DATA, members, seed=1, **changes)


def test_ids_are_found_under_which_the_keyed_hash_holds_out_a_given_split():
    held = stratified_holdout(DATA, "credit", share=0.3, seed=7)
    named = with_holdout(DATA, held, key=KEY, percent=30, id_type="text")

    before, after = DATA.frames["bank"], named.frames["bank"]
    wanted = before["entity_id"].isin(held).to_numpy()
    names = after["entity_id"].tolist()
    np.testing.assert_array_equal(holdout_mask(names, KEY), wanted)
    assert [normalise("text", name) for name in names] == names
    assert len(held) == 1_800
    # The split is stratified, and the roles still speak of the same entities.
    rates = before["serious_delinquency"].groupby(wanted).mean()
    assert rates[True] == pytest.approx(rates[False], abs=0.001)
    assert after["entity_id"].tolist() == named.frames["payment"]["entity_id"].tolist()
    pd.testing.assert_frame_equal(before.drop(columns="entity_id"), after.drop(columns="entity_id"))


@settings(deadline=None, max_examples=40)
@given(st.sets(st.text(min_size=1, max_size=20), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_whatever_the_ids_and_the_split_the_hash_agrees_or_the_ids_are_refused(texts, random):
    wanted = np.array([random.random() < 0.5 for _ in texts])
    try:
        found = ids_of_split(sorted(texts), wanted, key=KEY, percent=30, id_type="text")
    except DealImpossible:
        normal = [normalise("text", text) for text in texts]
        assert None in normal or len(set(normal)) < len(normal) or any("x" in text for text in normal)
        return
    np.testing.assert_array_equal(holdout_mask(found, KEY), wanted)
    assert len(set(found)) == len(found)


def test_ids_of_digits_alone_take_no_counter():
    with pytest.raises(DealImpossible, match="type 'digits'"):
        ids_of_split(["1", "2", "3", "4"], np.array([True, True, False, False]), key=KEY, percent=30, id_type="digits")
