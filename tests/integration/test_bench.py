"""Benchmarks on tiny configurations: the form of their results, and that what they compare is the same training."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import simulations
from coordinator.store import CoordinatorStore
from models.artefact import load_model
from nodes.runtime import MessageRefused
from policies.agreement import ModelTerms
from policies.proposal import MethodSettings
from simulations.benchmarks import round as bench_round
from simulations.benchmarks.report import report
from simulations.benchmarks.unsafe_plain import CONTRIBUTE, JOIN, UnsafePlainDriver, UnsafePlainNode
from simulations.dealing import deal_shares
from simulations.in_process import in_process_steps
from simulations.in_process_consortium import InProcessConsortium
from simulations.population import synthetic_population
from tallystick.__main__ import main

SHARES = {"bank-a": 0.5, "bank-b": 0.3, "bank-c": 0.2}
NEURAL = ModelTerms(tower="neural", hidden_units=(4,), ridge=1.0, smoothness=0.5)
FEDAVG = MethodSettings(method="fedavg", rounds=3, batch_size=256, learning_rate=0.002, target_parameters=400)


def _assert_flat_report(written, bench, keys):
    assert written["bench"] == bench
    assert set(written) == {"bench", "machine", "versions", "results"}
    assert written["machine"]["cores"] >= 1
    assert {"python", "flwr", "tenseal", "torch"} <= set(written["versions"])
    for row in written["results"]:
        assert keys <= set(row)
        assert all(isinstance(value, (int, float, bool, str)) for value in row.values())


def test_sealed_sum_bench_writes_exact_rows_a_table_and_two_plots(tmp_path, capsys):
    out, plot = tmp_path / "new" / "sum.json", tmp_path / "sum.svg"
    arguments = ["--values", "50,400", "--nodes", "3", "--cohorts", "3,4", "--json", str(out), "--plot", str(plot)]
    assert main(["bench", "sealed-sum", *arguments]) == 0
    written = json.loads(out.read_text())
    keys = {"nodes", "values", "bytes_per_value", "node_cpu_s", "coordinator_cpu_s_per_node", "exact"}
    _assert_flat_report(written, "sealed-sum", keys)
    assert [(row["nodes"], row["values"]) for row in written["results"]] == [(3, 50), (3, 400), (4, 50)]
    assert all(row["exact"] is True for row in written["results"])
    assert "bytes_per_value" in capsys.readouterr().out
    assert all("<svg" in file.read_text() for file in (plot, tmp_path / "sum-by-cohort.svg"))


@pytest.mark.parametrize("values", ["", "ten", "0", "10,-3", "10 20"])
def test_bench_refuses_vector_lengths_that_are_none(values, capsys):
    assert main(["bench", "sealed-sum", "--values", values]) == 2
    assert "expected whole numbers from 1" in capsys.readouterr().err


def test_bench_without_its_data_says_so_in_one_sentence(capsys):
    assert main(["bench", "round", "--data", "titanic"]) == 1
    error = capsys.readouterr().err.strip()
    assert "expected a data set (gmsc" in error
    assert "Traceback" not in error


def test_bench_that_cannot_write_its_file_says_so(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "sum.json"
    assert main(["bench", "sealed-sum", "--values", "10", "--nodes", "3", "--cohorts", "3", "--json", str(out)]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_round_bench_measures_sealed_and_plain_rounds_in_the_same_processes(tmp_path):
    data_set = synthetic_population(3000, 1)
    said = []
    rows = bench_round.run(
        data_set, tmp_path, shares=SHARES, parameters=(400,), rounds=2, repeats=1, progress=said.append
    )
    written = report("round", rows)
    keys = {"nodes", "parameters", "sealed_s", "plain_s", "ratio", "exchanges", "bytes_per_node"}
    _assert_flat_report(written, "round", keys)
    (row,) = written["results"]
    assert (row["nodes"], row["exchanges"], row["plain_exchanges"]) == (3, 2, 1)
    assert 300 <= row["parameters"] <= 400
    assert row["rounds_measured"] == bench_round.SMALL_TOWER_TURNS
    assert row["sealed_s"] > 0
    assert row["plain_s"] > 0
    assert row["bytes_per_node"] > row["plain_bytes_per_node"] > 4 * row["parameters"]
    assert row["contribute_bytes_per_node"] + row["shares_bytes_per_node"] == pytest.approx(
        row["bytes_per_node"], abs=16
    )
    assert any("sealed, run 1 of 3" in line for line in said)
    assert any("plain, run 3 of 3" in line for line in said)


def test_plain_arm_trains_the_same_model_as_the_sealed_one(tmp_path):
    """Otherwise the ratio would compare two different things."""
    data_set = synthetic_population(3000, 1)
    rows = deal_shares(data_set, SHARES, seed=1)
    with InProcessConsortium(data_set, rows, tmp_path / "sealed", model=NEURAL, survives_power_cut=False) as consortium:
        outcome = consortium.run(FEDAVG)
        members = {
            member: UnsafePlainNode(
                consortium.nodes[member]._membership,
                lambda _task, data=consortium.data[member]: data,
                consortium.node_stores[member],
            )
            for member in consortium.members
        }
        steps = in_process_steps({member: node.handle for member, node in members.items()})
        store = CoordinatorStore(tmp_path / "plain")
        UnsafePlainDriver(consortium.agreement, store, steps, deadline_s=5.0).run("plain-00000001", FEDAVG)
        store.close()
    sealed = load_model(outcome.artefact).parameters
    for node in members.values():
        np.testing.assert_allclose(node._program.model().parameters, sealed, atol=2e-3)
        assert node._program.result().evaluation.auc == pytest.approx(outcome.released.table.quality.auc, abs=2e-3)


@pytest.mark.parametrize("action", [JOIN, CONTRIBUTE])
def test_installed_node_refuses_the_plain_actions(action, tmp_path):
    """The handler of `tallystick node run` has no way to send an update in the clear."""
    data_set = synthetic_population(900, 1)
    rows = deal_shares(data_set, SHARES, seed=1)
    model = ModelTerms(tower="additive", ridge=1.0, smoothness=0.5)
    with (
        InProcessConsortium(data_set, rows, tmp_path, model=model, survives_power_cut=False) as consortium,
        pytest.raises(MessageRefused, match="found action 'unsafe-"),
    ):
        consortium.nodes["bank-a"].handle(action, b"")


def test_only_benchmarks_know_the_unsafe_modules():
    root = Path(simulations.__file__).parents[1]
    packages = ("coordinator", "models", "nodes", "policies", "protos", "simulations", "tallystick")
    knowing = {
        path.relative_to(root).as_posix()
        for package in packages
        for path in (root / package).rglob("*.py")
        if "unsafe_plain" in path.read_text() or "unsafe_node" in path.read_text()
    }
    assert knowing == {f"simulations/benchmarks/{name}.py" for name in ("round", "unsafe_node")}


def test_unsafe_node_without_settings_of_a_node_ends_with_one_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", bench_round.NODE_MODULE, str(tmp_path / "node.toml")],
        capture_output=True,
        text=True,
        cwd=Path(simulations.__file__).parents[1],
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


def test_decisions_bench_holds_what_it_measured_against_the_ledger(tmp_path, capsys):
    out = tmp_path / "decisions.json"

    assert main(["bench", "decisions", "--clients", "1,4", "--number", "100", "--json", str(out)]) == 0

    written = json.loads(out.read_text())
    keys = {"store", "callers", "clients", "per_s", "floor_per_s", "ratio", "p50_ms", "p99_ms"}
    _assert_flat_report(written, "decisions", keys)
    assert [(row["callers"], row["clients"]) for row in written["results"]] == [
        ("event loop", 1),
        ("event loop", 4),
        ("threads", 1),
        ("threads", 4),
    ]
    assert all(row["p50_ms"] <= row["p99_ms"] for row in written["results"])
    assert "Decisions taken for good" in capsys.readouterr().out
