"""How bins read."""

from __future__ import annotations

import pytest

from models.card_labels import bin_label


@pytest.mark.parametrize(
    ("low", "high", "kind", "label"),
    [
        (0.0, 0.0, {"atom": True, "whole": True, "last": False}, "0"),
        (2.0, 5.0, {"whole": True, "last": False}, "2 to 4"),
        (2.0, 3.0, {"whole": True, "last": False}, "2"),
        (4.0, 99.0, {"whole": True, "last": True}, "4 to 99"),
        (0.02351, 0.15, {"whole": False, "last": False}, "0.0235 to 0.15"),
        (12500.4, 10_000_000.0, {"whole": False, "last": True}, "12\u2009500 to 10\u2009000\u2009000"),
        (None, 3.0, {"whole": False, "last": False}, "up to 3"),
        (3.0, None, {"whole": False, "last": True}, "3 and more"),
        (None, None, {"whole": False, "last": True}, "any"),
        (None, None, {"missing": True, "whole": False, "last": False}, "missing"),
    ],
)
def test_bin_reads_as_a_person_would_say_it(low, high, kind, label):
    assert bin_label(low, high, **kind) == label
