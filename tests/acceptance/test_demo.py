"""The demo as a newcomer runs it, in a process of its own; its table is the promise that it makes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.acceptance
ROOT = Path(__file__).resolve().parents[2]
MEMBERS = ("bank-a", "bank-b", "bank-c", "bank-d", "bank-e")


def _children_of_demo(folder):
    """Processes whose command line names the demo's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in command and int(entry.name) != os.getpid():
                found.append(command)
    return found


def _play(folder, *arguments):
    out, table = folder / "out", folder / "table.json"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tallystick", "demo", "--out", str(out), "--json", str(table), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out, json.loads(table.read_text()), done


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return _play(tmp_path_factory.mktemp("horizontal"), "--story", "horizontal")


@pytest.fixture(scope="module")
def vertical(tmp_path_factory):
    return _play(tmp_path_factory.mktemp("vertical"))


def test_federated_row_equals_the_pooled_one(demo):
    _, table, _ = demo
    rows = {row["model"]: row for row in table["rows"]}

    assert rows["pooled"]["auc"] >= 0.858
    assert abs(rows["federated"]["auc"] - rows["pooled"]["auc"]) <= 0.001


def test_federated_row_beats_every_bank_alone_beyond_its_bootstrap_interval(demo):
    _, table, _ = demo
    rows = {row["model"]: row for row in table["rows"]}

    assert [row["model"] for row in table["rows"]] == [
        *(f"alone:{member}" for member in MEMBERS),
        "federated",
        "pooled",
    ]
    for member in MEMBERS:
        assert rows[f"alone:{member}"]["auc"] < rows["federated"]["auc"]
        assert rows[f"alone:{member}"]["auc_gap_low"] > 0


def test_table_has_the_agreed_keys(demo):
    _, table, _ = demo

    assert {"rows", "seconds"} <= table.keys()
    for row in table["rows"]:
        assert {"model", "auc", "ks", "brier"} <= row.keys()


RESULTS = ("card.html", "card.json", "roc.svg", "calibration.svg", "comparison.svg", "table.json", "logs")


@pytest.mark.parametrize(("story", "model"), [("demo", True), ("vertical", False)])
def test_results_lie_where_the_demo_says_nothing_runs_and_the_keys_are_gone(story, model, request):
    out, _, done = request.getfixturevalue(story)

    for name in RESULTS:
        assert (out / name).exists()
        assert name in {"card.json", "table.json"} or str(out / name) in done.stdout
    assert (out / "model.tallystick").exists() == model
    assert not (out / "consortium").exists()
    assert _children_of_demo(out) == []


def test_vertical_table_goes_from_each_bank_alone_over_two_roles_to_all_of_them(vertical):
    _, table, _ = vertical
    rows = {row["model"]: row for row in table["rows"]}

    assert table["story"] == "vertical"
    assert list(rows) == ["alone:bank-a", "alone:bank-b", "alone:bank-c", "bank + payment", "federated", "pooled"]
    for bank in ("alone:bank-a", "alone:bank-b", "alone:bank-c"):
        assert rows[bank]["auc_gap_low"] > 0
        assert rows[bank]["auc"] < rows["bank + payment"]["auc"]
    assert rows["federated"]["auc"] >= 0.83  # a fifth of the borrowers is unknown to each other role
    assert abs(rows["federated"]["auc"] - rows["pooled"]["auc"]) <= 0.003


def test_vertical_demo_says_who_holds_what_and_where_each_process_is(vertical):
    out, _, done = vertical

    assert re.search(r"^coordinator: https://127\.0\.0\.1:\d+ \(mutual TLS\), process \d+$", done.stderr, re.MULTILINE)
    for role in ("bank", "payment", "logistics"):
        assert re.search(
            rf"^{role}: {role}-a [\d,]+, {role}-b [\d,]+, {role}-c [\d,]+ borrowers;", done.stderr, re.MULTILINE
        )
        for member in "abc":
            assert re.search(rf"^{role}-{member}: online, process \d+$", done.stderr, re.MULTILINE)
            assert (out / "logs" / f"{role}-{member}.log").exists()


def test_ctrl_c_in_the_middle_of_a_run_leaves_no_process_and_no_file(tmp_path):
    out = tmp_path / "out"
    demo = subprocess.Popen(
        [sys.executable, "-P", "-m", "tallystick", "demo", "--data", "synthetic", "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert any("aligning the entities" in line for line in demo.stderr)  # read as they come, up to this one
        running = _children_of_demo(out / "consortium")
        demo.send_signal(signal.SIGINT)
        _, rest = demo.communicate(timeout=300)
    finally:
        demo.kill()

    assert len(running) == 10
    assert demo.returncode == 1
    assert rest.endswith("Error: Stopped by Ctrl-C.\n")
    assert _children_of_demo(out) == []
    assert not out.exists()


def test_model_of_the_demo_scores_a_file(demo, tmp_path):
    out, _, _ = demo
    rows = tmp_path / "rows.csv"
    rows.write_text(
        "revolving_utilization,age,past_due_30_59,debt_ratio,monthly_income,open_credit_lines,past_due_90,"
        "real_estate_loans,past_due_60_89,dependents\n"
        "0.1,52,0,0.2,6000,8,0,1,0,0\n"
        "0.98,31,2,0.9,,3,2,0,1,2\n"
    )
    scores = tmp_path / "scores.csv"
    command = [sys.executable, "-P", "-m", "tallystick", "score", "--model", str(out), "--in", str(rows)]
    done = subprocess.run(
        [*command, "--out", str(scores)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    header, safe, risky = scores.read_text().splitlines()
    column = header.split(",").index("pd")
    assert float(safe.split(",")[column]) < 0.05
    assert float(risky.split(",")[column]) > 0.3


def test_demo_refuses_a_folder_that_is_in_use(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tallystick", "demo", "--out", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 1
    assert "expected an empty folder" in done.stderr
    assert (tmp_path / "mine.txt").read_text() == "keep me"
