"""An alignment between real processes, with the bounds of issue 3."""

import pytest

from simulations.benchmarks.alignment import run

pytestmark = pytest.mark.acceptance


def test_150_thousand_by_150_thousand_identifiers_take_at_most_30_seconds_on_two_cores():
    (row,) = run(((150_000, 150_000),))

    assert row["exact"]
    assert row["common"] == 120_000
    assert row["seconds"] <= 30


def test_a_million_by_100_thousand_identifiers_run_in_bounded_memory():
    (row,) = run(((1_000_000, 100_000),))

    assert row["exact"]
    assert row["common"] == 80_000
    assert row["peak_rss_mb"] <= 600
