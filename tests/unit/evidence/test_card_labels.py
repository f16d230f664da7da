"""How bins read, in a table and under a bar."""

from __future__ import annotations

import pytest

from models.card_labels import table_label, tick_label


@pytest.mark.parametrize(
    ("label", "in_table", "under_bar"),
    [
        ("0", "0", "0"),
        ("98", "98", "98"),
        ("2 to 4", "2 to 4", "2–4"),
        ("over 0 to 0.0102255", "over 0 to 0.0102", "0–0.01"),
        ("0.0444849 to 0.115192", "0.0445 to 0.115", "0.044–0.12"),
        ("10981.3 to 1e+07", "10\u2009981 to 10\u2009000\u2009000", "11k–10M"),
        ("610.77 to 1e+06", "611 to 1\u2009000\u2009000", "611–1M"),
        ("-5.25 to 120000", "-5.25 to 120\u2009000", "-5.2–120k"),
        ("missing", "missing", "missing"),
        ("grade_2b of 1.5x", "grade_2b of 1.5x", "grade_2b of 1.5x"),
    ],
)
def test_bin_reads_as_a_person_would_write_it(label, in_table, under_bar):
    assert table_label(label) == in_table
    assert tick_label(label) == under_bar
