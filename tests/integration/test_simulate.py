"""`tallystick simulate` end to end: the members' real code in one process, on synthetic borrowers."""

import json
from pathlib import Path

import pytest

from models.artefact import load_model
from simulations.scenario import load_scenario
from tallystick.__main__ import main

NEWTON = """
format = "tallystick-scenario/1"
name = "three"
seed = 5
compare = "pooled"

[data]
set = "synthetic"
rows = 4000

[members]
count = 3
skew_column = "age"
skew_strength = 0.5

[training]
method = "newton"
rounds = 15
"""

FEDAVG_WITH_A_DROP_OUT = """
format = "tallystick-scenario/1"
name = "five"
seed = 5

[data]
set = "synthetic"
rows = 5000

[members]
count = 5

[training]
method = "fedavg"
rounds = 4
batch_size = 256

[privacy]
allow_roster_change = true

[[dropouts]]
member = "bank-03"
round = 2
phase = "contribute"

[[dropouts]]
member = "bank-05"
round = 3
phase = "shares"
"""


def _run(tmp_path, text, *options):
    path, out = tmp_path / "scenario.toml", tmp_path / "out"
    path.write_text(text)
    return main(["simulate", str(path), "--out", str(out), *options]), out


def _metrics(out: Path):
    return json.loads((out / "metrics.json").read_text())


def test_three_members_reach_the_pooled_optimum_and_a_folder_with_settings_metrics_and_plots_comes_out(
    tmp_path, capsys
):
    code, out = _run(tmp_path, NEWTON)
    shown = capsys.readouterr()
    assert code == 0
    assert {file.name for file in out.iterdir()} >= {
        "scenario.toml",
        "metrics.json",
        "loss.svg",
        "roc.svg",
        "calibration.svg",
        "comparison.svg",
        "card.html",
        "card.json",
        "model.tallystick",
    }
    assert load_scenario(out / "scenario.toml") == load_scenario(tmp_path / "scenario.toml")
    metrics = _metrics(out)
    assert metrics["outcome"] == "finished"
    assert [line["purpose"] for line in metrics["sums"]] == ["bins", *["train"] * metrics["rounds"], "evaluate"]
    assert all(line["survivors"] == 3 and line["dropped"] == [] for line in metrics["sums"])
    assert all("loss" in line for line in metrics["sums"] if line["purpose"] == "train")
    federated, pooled = metrics["comparison"]
    assert (federated["model"], pooled["model"]) == ("federated", "pooled")
    assert abs(federated["auc"] - pooled["auc"]) < 1e-4
    assert "On the common hold-out" in shown.out
    assert "sum 1 (train) over 3 members" in shown.err
    assert load_model((out / "model.tallystick").read_bytes()).method == "newton"


def test_keys_differ_from_run_to_run_and_the_model_does_not(tmp_path):
    digests = set()
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        assert _run(folder, NEWTON.replace("pooled", "none").replace("rounds = 15", "rounds = 2"))[0] == 0
        digests.add(_metrics(folder / "out")["model"])
    assert len(digests) == 1
    assert None not in digests


def test_member_that_drops_out_is_missing_from_its_sum_alone_and_the_run_goes_on(tmp_path, capsys):
    code, out = _run(tmp_path, FEDAVG_WITH_A_DROP_OUT, "--json")
    shown = capsys.readouterr()
    assert code == 0
    assert shown.err == ""
    metrics = json.loads(shown.out)
    assert metrics == _metrics(out)
    assert {line["k"]: line["dropped"] for line in metrics["sums"] if line["dropped"]} == {2: ["bank-03"]}
    assert [line["survivors"] for line in metrics["sums"]] == [5, 5, 4, 5, 5, 5]
    assert metrics["rounds"] == 4


def test_run_that_may_not_go_on_without_a_member_fails_in_one_sentence_and_says_so_in_its_metrics(tmp_path, capsys):
    text = FEDAVG_WITH_A_DROP_OUT.replace("allow_roster_change = true", "allow_roster_change = false")
    code, out = _run(tmp_path, text)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 1
    assert last.startswith("Error: The simulated run failed: Sum 2 needs bank-03")
    assert "allow_roster_change" in last
    metrics = _metrics(out)
    assert metrics["outcome"] == "failed"
    assert metrics["failure"].startswith("Sum 2 needs bank-03")
    assert [line["k"] for line in metrics["sums"]] == [0, 1]


def test_too_many_drop_outs_give_the_sum_up_unopened(tmp_path):
    text = FEDAVG_WITH_A_DROP_OUT + '[[dropouts]]\nmember = "bank-04"\nround = 2\nphase = "contribute"\n'
    code, out = _run(tmp_path, text)
    assert code == 1
    assert "Sum 2 was given up, nothing was revealed" in _metrics(out)["failure"]


def test_survivors_that_never_give_their_shares_end_the_run(tmp_path):
    gone = "".join(f'[[dropouts]]\nmember = "bank-0{n}"\nround = 1\nphase = "shares"\nsums = 1\n' for n in (1, 2, 3, 4))
    code, out = _run(tmp_path, FEDAVG_WITH_A_DROP_OUT + gone)
    assert code == 1
    assert "Sum 1 needs shares of bank-01, bank-02, bank-03, bank-04" in _metrics(out)["failure"]


def test_folder_that_holds_files_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("three years")
    code, out = _run(tmp_path, NEWTON)
    assert code == 1
    assert "expected an empty or a new folder" in capsys.readouterr().err
    assert [file.name for file in out.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("arguments", [["simulate"], ["simulate", "a.toml", "--speed", "9"]])
def test_wrong_usage_of_simulate_exits_with_two(arguments, capsys):
    assert main(arguments) == 2
    assert "simulate" in capsys.readouterr().err


def test_malformed_scenario_exits_with_one_and_one_sentence(tmp_path, capsys):
    code, out = _run(tmp_path, NEWTON.replace("count = 3", "count = 1"))
    error = capsys.readouterr().err
    assert code == 1
    assert error.count("\n") == 1
    assert "members.count: expected at least 3" in error
    assert not out.exists()
