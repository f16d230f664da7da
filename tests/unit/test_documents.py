"""Orders and invoices: how they are named, what a member's books say of them, and what all evidence together means."""

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from models.score_slots import ScoreSlots
from nodes.evidence import EvidenceReader, evidence_of, publish_evidence
from nodes.scoring_tables import ScoreTables
from policies.documents import (
    DEFAULT_REQUIRED,
    FIELDS,
    KINDS,
    TASK,
    VERSION,
    DocumentRefused,
    amount_of,
    document_token,
    match_of,
    quarter_key,
)
from policies.errors import SettingsRefused
from policies.fingerprints import fingerprint
from policies.token_key import TokenKey, create_token_key, load_token_key

KEY = TokenKey(bytes(range(32)))
INVOICE = {
    "seller_tax_id": "DE 811 128 135",
    "buyer_tax_id": "FR-40303265045",
    "number": "RE/2026/17",
    "date": "2026-11-02",
    "amount": "1200.00",
    "currency": "EUR",
}


# ---- names ----


@pytest.mark.parametrize(
    "written",
    [
        {"seller_tax_id": "de811128135"},
        {"number": "re-2026-17"},
        {"amount": "1200"},
        {"amount": "01200.0000"},
        {"currency": "eur"},
    ],
)
def test_c8_document_has_one_fingerprint_however_its_fields_are_written(written):
    assert document_token(KEY, INVOICE | written) == document_token(KEY, INVOICE)


@pytest.mark.parametrize(
    "other",
    [
        {"seller_tax_id": "DE811128136"},
        {"buyer_tax_id": "FR1"},
        {"number": "RE/2026/18"},
        {"date": "2026-11-03"},
        {"amount": "12.00"},
        {"amount": "1200.01"},
        {"currency": "USD"},
    ],
)
def test_c8_every_field_of_a_document_changes_its_fingerprint(other):
    assert document_token(KEY, INVOICE | other) != document_token(KEY, INVOICE)


def test_c8_fingerprints_have_at_least_five_fields_and_both_tax_ids_and_the_number():
    assert len(FIELDS) >= 5
    assert {"seller_tax_id", "buyer_tax_id", "number"} <= set(FIELDS)


def test_c8_key_rotates_with_the_quarter_of_the_document():
    keys = {quarter_key(KEY, dt.date(2026, month, 1)).raw for month in range(1, 13)}
    keys |= {quarter_key(KEY, dt.date(2027, 1, 1)).raw}

    assert len(keys) == 5
    assert KEY.raw not in keys


def test_c8_fingerprint_is_under_the_key_of_the_quarter():
    """Whoever has a quarter's key, and not the members', can name that quarter's documents and no others."""
    quarter = quarter_key(KEY, dt.date(2026, 11, 2))
    fields = INVOICE | {"date": "20261102", "amount": "12000000"}

    assert document_token(KEY, INVOICE) == fingerprint(quarter.raw, fields)
    assert document_token(KEY, INVOICE) != fingerprint(KEY.raw, fields)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", ["", " - ", None])
def test_document_without_a_field_is_refused_by_the_fields_name(name, value):
    with pytest.raises(DocumentRefused, match=name):
        document_token(KEY, INVOICE | {name: value})


@pytest.mark.parametrize(
    "wrong",
    [
        {"date": "02.11.2026"},
        {"date": "2026-02-30"},
        {"amount": "1,200.00"},
        {"amount": "-5"},
        {"amount": "0"},
        {"amount": "1.23456"},
        {"amount": "1e3"},
        {"currency": "EURO"},
    ],
)
def test_field_that_is_not_of_its_form_is_refused_without_its_value(wrong):
    (value,) = wrong.values()
    with pytest.raises(DocumentRefused) as refused:
        document_token(KEY, INVOICE | wrong)
    assert value not in str(refused.value)


@pytest.mark.parametrize(("text", "amount"), [("1", 10_000), (" 0.5 ", 5_000), ("0.0001", 1), ("00", None), ("", None)])
def test_amounts_are_counted_in_ten_thousandths(text, amount):
    assert amount_of(text) == amount


# ---- what evidence means ----


def bits(*kinds):
    return [kind in kinds for kind in KINDS]


@pytest.mark.parametrize(
    ("evidence", "result", "missing"),
    [
        (bits("paid", "amount", "shipped"), "matched", ()),
        (bits("paid", "amount", "shipped", "delivered"), "matched", ()),
        (bits("paid", "shipped"), "not matched", ("amount",)),
        (bits(), "not matched", DEFAULT_REQUIRED),
        (bits("paid", "amount", "shipped", "pledged"), "already financed", ()),
        (bits("pledged"), "already financed", DEFAULT_REQUIRED),
    ],
)
def test_match_is_matched_already_financed_or_not_matched(evidence, result, missing):
    assert match_of(evidence, DEFAULT_REQUIRED) == (result, missing)


# ---- a member's books ----


def books(*rows):
    return pd.DataFrame([INVOICE | row for row in rows])


def evidence(frame, tolerance=2.0):
    table, report = evidence_of(frame, KEY, tolerance)
    assert table.layout == ScoreSlots.of_documents()
    found = {
        token: {kind for kind, has in zip(KINDS, table.slots[row], strict=True) if has}
        for token, row in table.rows.items()
    }
    return found, report


def test_books_say_what_was_paid_shipped_delivered_and_pledged():
    found, report = evidence(
        books(
            {"paid_amount": "1200", "shipped": "1", "delivered": "0", "pledged": ""},
            {"number": "18", "paid_amount": "", "shipped": "", "delivered": "1", "pledged": "1"},
        )
    )

    assert found == {
        document_token(KEY, INVOICE): {"paid", "amount", "shipped"},
        document_token(KEY, INVOICE | {"number": "18"}): {"delivered", "pledged"},
    }
    assert (report.rows_read, report.rows_set_aside, report.num_documents) == (2, 0, 2)


@pytest.mark.parametrize(
    ("paid", "kinds"), [("1176", {"paid", "amount"}), ("1175.99", {"paid"}), ("1224.01", {"paid"})]
)
def test_sum_paid_counts_as_the_amount_within_the_tolerance(paid, kinds):
    found, _ = evidence(books({"paid_amount": paid}))

    assert found[document_token(KEY, INVOICE)] == kinds


def test_payments_of_one_document_are_added():
    found, report = evidence(books({"paid_amount": "700"}, {"paid_amount": "500", "number": "re 2026 17"}))

    assert found == {document_token(KEY, INVOICE): {"paid", "amount"}}
    assert report.num_documents == 1


def test_rows_that_cannot_be_used_are_counted_and_set_aside():
    found, report = evidence(
        books(
            {"shipped": "1"},
            {"shipped": "maybe", "number": "1"},
            {"shipped": "2", "number": "2"},
            {"shipped": "1", "amount": "x", "number": "3"},
        )
    )

    assert len(found) == 1
    assert report.rows_set_aside == 3


def test_numbers_and_booleans_of_a_database_are_read_as_well():
    frame = books({}, {"number": "2"}, {"number": "3", "amount": "1200.5"}).assign(
        amount=[1200.0, 1200, 1200.5],
        date=pd.to_datetime(["2026-11-02"] * 3),
        paid_amount=[1200.0, np.nan, 1],
        shipped=[True, False, False],
        pledged=[0, 1, 0],
    )
    found, _ = evidence(frame)

    assert found[document_token(KEY, INVOICE)] == {"paid", "amount", "shipped"}
    assert found[document_token(KEY, INVOICE | {"number": "2"})] == {"pledged"}
    assert found[document_token(KEY, INVOICE | {"number": "3", "amount": "1200.50"})] == {"paid"}


@pytest.mark.parametrize("missing", [*FIELDS, "evidence"])
def test_books_without_a_field_or_without_evidence_are_one_sentence(missing):
    frame = books({"shipped": "1"}).drop(columns="shipped" if missing == "evidence" else missing)
    with pytest.raises(SettingsRefused, match=missing):
        evidence(frame)


# ---- from settings to a running node ----


SCORING = """
[scoring]
gateway = "co:1"
policy_path = "scoring.toml"
tables_dir = "tables"
token_key_path = "token.key"
"""
EVIDENCE = SCORING + '[evidence]\nsource = { kind = "csv", path = "books.csv" }\n'


def test_evidence_is_read_again_while_the_node_runs(tmp_path, node_settings):
    create_token_key(tmp_path / "token.key")
    books({"pledged": "0"}).to_csv(tmp_path / "books.csv", index=False)
    found = node_settings(EVIDENCE)
    reader = EvidenceReader(found, found.evidence.model_copy(update={"refresh_s": 0.02}))
    reader.start()
    token = document_token(load_token_key(tmp_path / "token.key"), INVOICE)
    pledged = KINDS.index("pledged")
    tables = ScoreTables(tmp_path / "tables")
    before = tables[TASK, VERSION].slots[tables[TASK, VERSION].rows[token], pledged]
    books({"pledged": "1"}).to_csv(tmp_path / "new.csv", index=False)
    (tmp_path / "new.csv").replace(tmp_path / "books.csv")
    try:
        while not tables[TASK, VERSION].slots[:, pledged].any():
            reader._stop.wait(0.02)
            tables.refresh()
    finally:
        reader.stop()
    assert before == 0


def test_node_without_a_table_of_evidence_publishes_none(node_settings):
    assert publish_evidence(node_settings(SCORING)) is None
