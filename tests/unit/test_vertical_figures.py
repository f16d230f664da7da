"""The vertical benchmark's pure parts: which cases are asked for, which runs serve twice, tables and plots."""

import json
import re
from types import SimpleNamespace

import pytest

from nodes.vertical_session import Party
from policies.errors import UserError
from policies.proposal import MethodSettings
from protos.sealed_sum.keys import SigningKey
from simulations.benchmarks import vertical
from simulations.benchmarks.report import report
from simulations.benchmarks.vertical import GROWTH, parse_cases, run
from simulations.benchmarks.vertical_cases import CASES, GMSC_OF_THREE, UCI_OF_THREE, Case, rows_of
from simulations.benchmarks.vertical_plot import plot
from simulations.roles import agreement_of
from simulations.vertical_auditor import vertical_settings
from tallystick.__main__ import main


def grown(by, **changes):
    row = {"by": by, "data": "gmsc", "parties": 3, "members_per_role": 1, "rows": 5000, "features": 10}
    return {**row, "align_s": 1.0, "training_s": 2.0, "train_s": 3.1, **changes}


def test_cases_are_read_from_the_command_line():
    assert parse_cases("uci_default:2,gmsc:3:5000,uci_default:2") == (
        Case("uci_default", 2),
        Case("gmsc", 3, rows=5000),
    )


def test_the_default_of_the_command_is_every_case_with_published_figures():
    assert parse_cases("uci_default:2,uci_default:3,gmsc:3,olist:3") == CASES


@pytest.mark.parametrize("text", ["", "gmsc", "gmsc:three", "gmsc:1", "gmsc:10", "gmsc:3:0", "gmsc:3:5:7", "a:2,,b:3"])
def test_cases_that_are_none_get_one_sentence(text, capsys):
    with pytest.raises(UserError, match="expected cases such as uci_default:2,gmsc:3:5000"):
        parse_cases(text)
    assert main(["bench", "vertical", "--cases", text]) == 1
    assert re.fullmatch(r"Error: expected cases such as [^\n]*\n", capsys.readouterr().err)


def test_pairwise_is_off_on_or_both(capsys):
    assert main(["bench", "vertical", "--pairwise", "sometimes"]) == 2
    assert "expected off, on or both" in capsys.readouterr().err


def test_data_that_nobody_knows_get_one_sentence(capsys):
    assert main(["bench", "vertical", "--cases", "nothing:3"]) == 1
    assert "expected a data set divided among roles" in capsys.readouterr().err


def test_a_run_whose_figures_are_compared_serves_the_growth_of_the_costs_too(monkeypatch):
    asked = []

    def measured(case, *, pairs, progress=None, **_):
        asked.append((case, pairs, progress is not None))
        costs = dict.fromkeys(("cpu_s", "peak_rss_mb", "coordinator_rss_mb", "wire_mb", "auc"), 1.0)
        return [grown("", data=case.data, parties=case.parties, rows=case.rows or 150_000, **costs)]

    monkeypatch.setattr(vertical, "_measured", measured)
    figures = run(CASES, pairwise=(False, True), growth=GROWTH)

    assert len(figures.results) == 2 * len(CASES)
    assert len(asked) == len(set(asked))
    assert [row["rows"] for row in figures.growth if row["by"] == "rows"] == [5_000, 20_000, 80_000, 150_000]
    assert [row["parties"] for row in figures.growth if row["by"] == "parties"] == [2, 3, 6, 9]
    audited = {case for case, _, with_auditor in asked if with_auditor}
    assert audited == set(CASES)


def test_every_growth_differs_in_one_thing_and_ends_or_begins_with_a_published_case():
    assert GROWTH["rows"][-1] == GROWTH["members"][0] == GMSC_OF_THREE
    assert GROWTH["features"][-1] == UCI_OF_THREE
    assert UCI_OF_THREE in GROWTH["parties"]


@pytest.mark.parametrize(
    ("by", "label"),
    [
        ("rows", "entities of the label holder"),
        ("features", "features of all parties"),
        ("parties", "each a role of its own"),
        ("members", "so many to each of the roles"),
    ],
)
def test_plot_shows_the_seconds_by_phase_of_its_own_rows(by, label):
    rows = [grown(by, rows=rows, features=rows // 1000, parties=rows // 5000) for rows in (5_000, 20_000)]
    svg = plot([*rows, grown("another", data="olist")], by).decode()

    assert svg.startswith("<?xml")
    for text in ("alignment", "training", "proposal to release", "seconds", "gmsc"):
        assert text in svg
    assert label in svg
    assert "olist" not in svg


def test_a_report_keeps_other_tables_apart_from_its_results():
    written = report("vertical", [{"auc": 0.8}], {"growth": [grown("rows")]})

    assert json.loads(json.dumps(written))["results"] == [{"auc": 0.8}]
    assert written["growth"] == [grown("rows")]
    assert set(report("round", [])) == {"bench", "machine", "versions", "results"}


def test_the_auditor_trains_with_the_settings_that_members_read_from_agreement_and_proposal():
    dealt = rows_of(Case("synthetic", 3, rows=300))
    keys = [SigningKey.from_bytes(bytes([number]) * 32).public_bytes for number in range(1, 5)]
    agreement = agreement_of(dealt, dict(zip(dealt.members, keys, strict=False)), keys[3])
    method = MethodSettings(method="vertical", passes=4, pairs=3)
    party = Party(
        SimpleNamespace(agreement=agreement, member="bank-a"), SimpleNamespace(settings=method), None, None, bytes
    )

    assert vertical_settings(agreement, method) == party.settings
