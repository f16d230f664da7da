"""`simulations.benchmarks.scoring`, small: its rows have the promised keys, and no score is wrong."""

import json

import pytest

from simulations.benchmarks.scoring import command

pytestmark = pytest.mark.acceptance

KEYS = {"nodes", "clients", "batch", "p50_ms", "p99_ms", "per_s", "degraded", "failed", "wrong"}
BESIDE = {"relay_p50_ms", "relay_p99_ms", "relay_per_s", "ratio", "gateway_cpu_ms", "node_cpu_ms"}


def test_every_row_has_the_promised_keys_and_no_wrong_score(tmp_path):
    path = tmp_path / "scoring.json"
    command(
        path,
        progress=lambda _: None,
        nodes=(3,),
        requests=60,
        clients=4,
        batch=500,
        kill_nodes=6,
        kill_requests=400,
        kill_every_s=2.0,
    )
    report = json.loads(path.read_text())

    assert report["bench"] == "scoring"
    assert [(row["nodes"], row["clients"], row["batch"]) for row in report["results"]] == [
        (3, 1, 1),
        (3, 4, 1),
        (3, 1, 500),
        (6, 2, 1),
    ]
    single, many, _, kills = report["results"]
    assert all(row.keys() >= KEYS for row in report["results"])
    assert single.keys() >= BESIDE | {"growth", "relay_growth"}
    assert many.keys() >= BESIDE
    assert kills["kills"] > 0
    assert kills["errors"] == ""
    assert all(row["wrong"] == row["failed"] == 0 for row in report["results"])
