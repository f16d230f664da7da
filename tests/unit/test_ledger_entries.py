"""Entries of the ledger: a closed list of kinds, one encoding, and a page that explains them."""

import json
from pathlib import Path
from typing import get_args

import pytest

from coordinator.ledger.commitments import commitment
from coordinator.ledger.entries import AlarmEntry, CheckpointEntry, Entry, EntryMalformed, encode_entry, parse_entry

PAGE = Path(__file__).parents[2] / "docs" / "ledger.md"
KINDS = {model.model_fields["kind"].default for model in get_args(Entry)}
AT = "2026-11-25T09:00:00.000000Z"
ALARM = AlarmEntry(at=AT, code="LedgerForked", member="bank-a", evidence="00" * 32)


def test_every_kind_of_entry_is_explained_on_the_page_and_no_other():
    rows = [line.split("|")[1].strip(" `") for line in PAGE.read_text().splitlines() if line.startswith("| `")]

    assert set(rows) == KINDS
    assert len(rows) == len(KINDS)


def test_an_entry_is_read_as_it_was_written():
    entry = CheckpointEntry(at=AT, size=7, root="0f" * 32, witnesses=("bank-a", "bank-b"))

    assert parse_entry(encode_entry(entry)) == entry
    assert encode_entry(ALARM) == (
        b'{"at":"2026-11-25T09:00:00.000000Z","code":"LedgerForked","evidence":"' + b"00" * 32 + b'",'
        b'"kind":"alarm","member":"bank-a"}'
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 10_000,
        encode_entry(ALARM) + b" ",
        encode_entry(ALARM).replace(b":", b": ", 1),
        encode_entry(ALARM).replace(b'"alarm"', b'"rumour"'),
        encode_entry(ALARM).replace(b'"code"', b'"note":"x","code"'),
        encode_entry(ALARM).replace(b"bank-a", b"Bank A"),
        encode_entry(ALARM).replace(b"00Z", b"00+01:00"),
        encode_entry(ALARM).replace(b"LedgerForked", b"a\\nb"),
        encode_entry(ALARM).replace(b'"00', b'"0G'),
        json.dumps({**ALARM.model_dump(), "size": 1}).encode(),
    ],
)
def test_what_is_no_entry_or_written_otherwise_is_refused_in_one_sentence(body):
    with pytest.raises(EntryMalformed) as refused:
        parse_entry(body)
    assert "\n" not in str(refused.value)


def test_a_commitment_binds_the_value_what_it_is_and_the_salt():
    salt, other = bytes(32), bytes(31) + b"\x01"
    values = {
        commitment(salt, "tenant", b"acme"),
        commitment(other, "tenant", b"acme"),
        commitment(salt, "decision", b"acme"),
        commitment(salt, "tenant", b"globex"),
    }

    assert len(values) == 4
    with pytest.raises(ValueError, match="salt of 32 bytes"):
        commitment(b"", "tenant", b"acme")
