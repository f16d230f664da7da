"""The published figures can be made by anybody with one command; what does not depend on the machine must hold.

Times are shown, not asserted: they belong to the machine. `tallystick bench` prints them beside a floor or a peer.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.acceptance
ROOT = Path(__file__).resolve().parents[2]


def _tallystick(*arguments, timeout):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tallystick", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _report(path, bench):
    report = json.loads(path.read_text())
    assert {"bench", "machine", "versions", "results"} <= report.keys()
    assert report["bench"] == bench
    return report["results"]


def test_bench_sealed_sum_is_exact_and_small(tmp_path):
    file = tmp_path / "sealed-sum.json"
    _tallystick("bench", "sealed-sum", "--json", str(file), "--plot", str(tmp_path / "sum.svg"), timeout=900)
    rows = _report(file, "sealed-sum")

    needed = {"nodes", "values", "bytes_per_value", "node_cpu_s", "coordinator_cpu_s_per_node", "exact"}
    assert all(needed <= row.keys() for row in rows)
    assert all(row["exact"] is True for row in rows)
    assert {10_000, 100_000, 1_000_000} <= {row["values"] for row in rows if row["nodes"] == 5}
    assert {3, 50} <= {row["nodes"] for row in rows}
    assert max(row["bytes_per_value"] for row in rows if row["nodes"] == 5 and row["values"] == 1_000_000) <= 12


def test_bench_round_compares_sealed_and_plain_rounds_of_real_processes(tmp_path):
    file = tmp_path / "round.json"
    _tallystick("bench", "round", "--json", str(file), timeout=1200)
    rows = _report(file, "round")

    needed = {"nodes", "parameters", "sealed_s", "plain_s", "ratio", "exchanges", "bytes_per_node"}
    assert all(needed <= row.keys() for row in rows)
    assert [row["nodes"] for row in rows] == [5, 5]
    small, large = sorted(rows, key=lambda row: row["parameters"])
    assert 8_000 <= small["parameters"] <= 12_000
    assert 800_000 <= large["parameters"] <= 1_200_000
    # Two exchanges a sealed round, and at most 12 bytes a parameter in either of them.
    assert small["exchanges"] == large["exchanges"] == 2
    assert large["bytes_per_node"] <= 2 * 12 * large["parameters"]


@pytest.fixture(scope="module")
def vertical_rows(tmp_path_factory):
    """Both sets, all party counts, pairwise terms off and on: from one call."""
    file = tmp_path_factory.mktemp("vertical") / "vertical.json"
    _tallystick("bench", "vertical", "--json", str(file), timeout=3600)
    return _report(file, "vertical")


def test_bench_vertical_measures_every_case_with_and_without_pairs(vertical_rows):
    needed = {"data", "parties", "pairwise", "auc", "auc_pooled", "auc_alone", "train_s", "passes", "peak_rss_mb"}
    assert all({*needed, "wire_mb", "task", "align_s", "training_s"} <= row.keys() for row in vertical_rows)
    assert {(row["data"], row["parties"], row["task"], row["pairwise"]) for row in vertical_rows} == {
        (data, parties, task, pairwise)
        for data, parties, task in (
            ("uci_default", 2, "credit"),
            ("uci_default", 3, "credit"),
            ("gmsc", 3, "credit"),
            ("olist", 3, "dispute"),
            ("olist", 3, "late"),
        )
        for pairwise in (False, True)
    }
    assert all(row["passes"] <= 8 for row in vertical_rows)


@pytest.mark.parametrize(
    ("data", "pairwise", "least"),
    [("uci_default", False, 0.782), ("uci_default", True, 0.786), ("gmsc", False, 0.860), ("gmsc", True, 0.8625)],
)
def test_vertical_models_reach_their_figures(vertical_rows, data, pairwise, least):
    rows = [row for row in vertical_rows if row["data"] == data and row["pairwise"] is pairwise]

    assert min(row["auc"] for row in rows) >= least
    assert all(row["auc_alone"] < row["auc"] for row in rows)


@pytest.mark.parametrize("data", ["uci_default", "olist"])
def test_vertical_models_are_as_good_as_with_all_columns_in_one_place(vertical_rows, data):
    for row in vertical_rows:
        if row["data"] == data and not row["pairwise"]:
            assert abs(row["auc"] - row["auc_pooled"]) <= 0.003


def test_vertical_training_of_uci_default_stays_within_its_memory_and_its_bytes(vertical_rows):
    for row in vertical_rows:
        if row["data"] == "uci_default" and not row["pairwise"]:
            assert row["peak_rss_mb"] <= 600
            assert row["wire_mb"] <= 75


@pytest.mark.parametrize("method", ["newton", "fedavg"])
def test_fifty_members_simulate_on_real_loans(method, tmp_path):
    scenario = ROOT / "simulations" / "scenarios" / f"fifty-banks-{method}.toml"
    out = tmp_path / "out"
    _tallystick("simulate", str(scenario), "--out", str(out), timeout=900)

    metrics = json.loads((out / "metrics.json").read_text())
    assert (out / "scenario.toml").exists()
    assert list(out.glob("*.svg")) or list(out.glob("plots/*.svg"))
    assert metrics
