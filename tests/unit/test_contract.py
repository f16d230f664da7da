import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.column_values import ids_of, numbers_of
from nodes.contract import ContractBroken, ContractLimits, check_rows, prepare_rows
from nodes.sources import load_rows
from policies.agreement import Feature, Task
from policies.presets import example_agreement
from simulations.dealing import write_rows
from simulations.population import synthetic_population

CANARY = "canary-7f3a"
ANY_SHARE = ContractLimits(max_set_aside_share=0.999)


def feature(name, kind="number", low=0.0, high=100.0, *, missing_allowed=False):
    return Feature(
        role="bank",
        name=name,
        type=kind,
        unit="unit",
        low=low,
        high=high,
        monotone="none",
        reason_code=name.upper(),
        missing_allowed=missing_allowed,
    )


CONTRACT = (feature("age", "integer", 18, 100), feature("income", missing_allowed=True, high=1e6))


def sound(rows=100):
    return pd.DataFrame(
        {
            "entity_id": [f"e{number:03d}" for number in range(rows)],
            "age": [str(18 + number % 60) for number in range(rows)],
            "income": [float(number) for number in range(rows)],
            "bad": [number % 2 for number in range(rows)],
            "comment": [CANARY] * rows,
        }
    ).astype({"age": "str"})


def check(frame, limits=ANY_SHARE, features=CONTRACT):
    return check_rows(frame, features, id_column="entity_id", label_column="bad", whose="bank-a", limits=limits)


def with_cells(column, cells):
    frame = sound()
    values = frame[column].astype(object)
    values.iloc[: len(cells)] = cells
    frame[column] = values
    return frame


def agreement_of(features, label, holdout_key=bytes(range(32))):
    keys = {f"bank-{letter}": bytes([number]) * 31 + b"\x01" for number, letter in enumerate("abc", start=1)}
    task = Task(name="credit", label=label, label_role="bank", horizon_months=12, purposes=("credit-model-training",))
    return example_agreement(
        keys,
        coordinator_key=b"\x09" * 31 + b"\x01",
        features=features,
        tasks=(task,),
        id_column="entity_id",
        holdout_key=holdout_key,
    )


def test_rows_that_meet_the_contract_are_all_kept_and_columns_not_named_are_left_out():
    rows, report = check(sound())

    assert (report.rows_read, report.rows_kept, report.rows_set_aside) == (100, 100, 0)
    assert set(rows.columns) == {"age", "income"}
    assert rows.columns["age"].dtype == np.float64
    assert rows.label is not None
    assert rows.label.dtype == np.int8
    assert report.columns_not_used == 1
    assert report.lines() == ["bank-a: 100 rows read, 100 kept, 0 set aside (0.00 %)"]


@pytest.mark.parametrize(
    ("column", "cells", "counted_as", "count"),
    [
        ("age", ["x", "1,000", "0x20", "1_0", "12 years"], "not_numeric", 5),
        ("age", [None, "", " ", "NA", "null"], "missing", 5),
        ("age", ["17", "-1", "0"], "below_range", 3),
        ("age", ["101", "1e9"], "above_range", 2),
        ("age", ["18.5", "99.999"], "not_whole", 2),
        ("age", ["inf", "-Infinity", "1e999", float("inf")], "infinite", 4),
        ("income", ["1e7"], "above_range", 1),
        ("income", [None, ""], "missing_allowed", 2),
    ],
)
def test_each_problem_is_counted_under_its_name(column, cells, counted_as, count):
    _, report = check(with_cells(column, cells))
    found = next(entry for entry in report.columns if entry.column == column)

    assert getattr(found, counted_as) == count
    kept_all = counted_as == "missing_allowed"
    assert found.problems == (0 if kept_all else count)
    assert report.rows_set_aside == (0 if kept_all else count)


def test_missing_values_that_the_contract_allows_stay_as_nan():
    rows, _ = check(with_cells("income", [None]))

    assert np.isnan(rows.columns["income"][0])


@pytest.mark.parametrize("label", ["2", "-1", "0.5", "yes", None, CANARY])
def test_labels_other_than_0_and_1_set_the_row_aside(label):
    _, report = check(with_cells("bad", [label]))

    assert (report.bad_labels, report.rows_set_aside) == (1, 1)


def test_labels_may_be_booleans_text_or_floats():
    frame = sound()
    for spelled in (frame["bad"] == 1, frame["bad"].astype("str"), frame["bad"].astype("float64")):
        rows, _ = check(frame.assign(bad=spelled))
        assert rows.label is not None
        assert rows.label.tolist() == frame["bad"].tolist()


@pytest.mark.parametrize("entity_id", [None, "", " e", "e\n", "e\x07", "x" * 129, 1.5, float("nan")])
def test_malformed_ids_set_the_row_aside(entity_id):
    _, report = check(with_cells("entity_id", [entity_id]))

    assert (report.malformed_ids, report.rows_set_aside) == (1, 1)


def test_all_rows_of_a_repeated_id_are_set_aside_so_that_their_order_does_not_matter():
    frame = with_cells("entity_id", ["e050", "e050"])

    rows, report = check(frame)

    assert report.duplicate_ids == 3
    assert "e050" not in rows.entity_ids


def test_rows_come_out_in_the_order_of_their_ids_whatever_order_the_source_has():
    frame = sound()

    forwards, _ = check(frame)
    backwards, _ = check(frame.sample(frac=1, random_state=3))

    assert forwards.entity_ids == backwards.entity_ids == tuple(sorted(frame["entity_id"]))
    np.testing.assert_array_equal(forwards.columns["income"], backwards.columns["income"])


def test_integer_and_text_columns_give_the_same_ids():
    numbers = [7, 8, 9_007_199_254_740_993]

    for column in (pd.Series(numbers), pd.Series(numbers, dtype="Int64"), pd.Series([str(n) for n in numbers])):
        assert ids_of(column) == ["7", "8", "9007199254740993"]
    assert ids_of(pd.Series([7.0, 8.0])) == ["7", "8"]


@pytest.mark.parametrize(
    ("absent", "shown"),
    [(["age"], "age"), (["entity_id"], "entity_id"), (["bad"], "bad"), (["age", "income"], "age, income")],
)
def test_node_stops_when_a_column_is_missing_and_names_it(absent, shown):
    with pytest.raises(ContractBroken, match=f"missing \\({shown}\\)") as stopped:
        check(sound().drop(columns=absent))
    assert CANARY not in str(stopped.value)
    assert stopped.value.report is not None
    assert stopped.value.report.absent_columns == tuple(absent)


def test_node_stops_when_more_rows_are_bad_than_the_stated_share():
    limits = ContractLimits(max_set_aside_share=0.05)

    _, report = check(with_cells("age", [CANARY] * 5), limits)
    assert report.rows_set_aside == 5
    with pytest.raises(ContractBroken, match=r"at most 5 %.*6 of 100 .*age: 6 not a number") as stopped:
        check(with_cells("age", [CANARY] * 6), limits)
    assert CANARY not in str(stopped.value)


def test_node_stops_when_no_row_is_left():
    with pytest.raises(ContractBroken, match="found none among 100"):
        check(sound().assign(age="x"))
    with pytest.raises(ContractBroken, match="found none among 0"):
        check(sound().iloc[:0])


@pytest.mark.parametrize("only", [0, 1])
def test_node_stops_when_the_label_never_varies(only):
    agreement = agreement_of(CONTRACT, "bad")

    with pytest.raises(ContractBroken, match="expected both labels"):
        prepare_rows(sound().assign(bad=only), agreement, member_id="bank-a", task_name="credit")


def test_report_counts_and_never_shows_a_value():
    frame = with_cells("age", [CANARY, "200", "17"])
    frame.loc[3, "bad"] = 4711
    frame.loc[4, "entity_id"] = f"{CANARY} "

    _, report = check(frame)
    text = "\n".join(report.lines()) + json.dumps(report.as_json())

    assert "age: 1 not a number, 1 below the range, 1 above the range" in text
    assert CANARY not in text
    assert "4711" not in text


def test_rows_without_a_label_can_be_checked_but_not_trained_on():
    rows, _ = check_rows(
        sound().drop(columns="bad"), CONTRACT, id_column="entity_id", label_column=None, whose="request"
    )

    assert rows.label is None
    with pytest.raises(ContractBroken, match="without a label"):
        rows.training_data(bytes(32), 30)


def test_holdout_is_the_same_at_every_member_for_the_same_entity():
    agreement = agreement_of(CONTRACT, "bad")
    whole, _ = check(sound())
    part, _ = check(sound().iloc[20:80])
    key, percent = agreement.entities.holdout_key_bytes, agreement.entities.holdout_percent

    marks = dict(zip(whole.entity_ids, whole.training_data(key, percent).holdout.tolist(), strict=True))
    for entity_id, mark in zip(part.entity_ids, part.training_data(key, percent).holdout.tolist(), strict=True):
        assert marks[entity_id] == mark


def test_member_without_the_label_is_told_so():
    agreement = agreement_of(CONTRACT, "bad")
    payment = agreement.members[0].model_copy(update={"role": "payment"})
    changed = agreement.model_copy(update={"members": (payment, *agreement.members[1:])})

    with pytest.raises(ContractBroken, match="train this task where the label is"):
        prepare_rows(sound(), changed, member_id="bank-a", task_name="credit")


@pytest.mark.parametrize("kind", ["csv", "parquet", "sql"])
def test_csv_parquet_and_sql_give_a_node_the_same_numbers_to_the_last_bit(tmp_path, kind):
    population = synthetic_population(2_000, seed=5)
    agreement = agreement_of(population.features, population.label)
    written = write_rows(population.frame, tmp_path, "rows", kind)

    direct, _ = prepare_rows(population.frame, agreement, member_id="bank-a", task_name="credit")
    loaded, report = prepare_rows(
        load_rows(type("Source", (), written)()), agreement, member_id="bank-a", task_name="credit"
    )

    assert report.rows_set_aside == 0
    np.testing.assert_array_equal(direct.label, loaded.label)
    np.testing.assert_array_equal(direct.holdout, loaded.holdout)
    for name, values in direct.columns.items():
        np.testing.assert_array_equal(values, loaded.columns[name])


@given(st.lists(st.floats(allow_nan=False) | st.integers(-(2**70), 2**70), min_size=1, max_size=30))
def test_text_is_read_as_the_number_python_wrote(values):
    column = pd.Series([repr(value) for value in values], dtype="str")

    numbers = numbers_of(column)

    assert not numbers.missing.any()
    assert not numbers.not_numeric.any()
    assert numbers.as_float.tolist() == [float(value) for value in values]


@given(st.lists(st.text(max_size=12) | st.none(), max_size=30))
def test_any_text_is_missing_or_a_number_or_not_and_never_two_of_them(texts):
    numbers = numbers_of(pd.Series(texts, dtype="str"))

    is_number = ~np.isnan(numbers.as_float)
    assert (is_number.astype(int) + numbers.missing + numbers.not_numeric == 1).all()
