"""`tallystick policy`: what it prints, and its exit codes."""

import json
import shutil

import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policies.lending.policy import DEFAULT_FOLDER
from policies.presets import example_agreement
from tallystick.__main__ import main


@pytest.fixture
def run(capsys):
    def called(*arguments):
        code = main(["policy", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return called


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(DEFAULT_FOLDER, tmp_path / "policy")


@pytest.fixture
def broken(folder):
    """Two mistakes: a dearer rate that no case expects, and a gap between the versions of a table."""
    rate = folder / "rate" / "2026-01-01.json"
    rate.write_text(rate.read_text(encoding="utf-8").replace('"\\"0.045\\""', '"\\"0.0475\\""'), encoding="utf-8")
    fx = folder / "fx" / "2026-01-01.json"
    fx.write_text(fx.read_text(encoding="utf-8").replace('"2026-07-01"', '"2026-06-01"'), encoding="utf-8")
    return folder


@pytest.fixture
def agreement(tmp_path):
    """The shipped agreement as a file, with one reason code changed on request."""

    def written(code=None):
        keys = [Ed25519PrivateKey.generate().public_key().public_bytes_raw() for _ in range(4)]
        made = example_agreement(dict(zip(("bank-a", "bank-b", "bank-c"), keys, strict=False)), coordinator_key=keys[3])
        content = made.model_dump(mode="json")
        if code is not None:
            content["features"][0]["reason_code"] = code
        path = tmp_path / "agreement.toml"
        path.write_text(tomli_w.dumps(content), encoding="utf-8")
        return path

    return written


def test_check_passes_the_shipped_policy(run):
    code, out, err = run("check")

    assert (code, err) == (0, "")
    assert "all as expected" in out


def test_check_lists_every_problem_with_its_file(run, broken):
    code, out, _ = run("check", "--folder", broken)

    lines = out.splitlines()
    assert code == 1
    assert lines[0].endswith("problems")
    assert lines[1].split() == ["file", "problem"]
    assert {line.split()[0] for line in lines[2:]} == {"fx/2026-07-01.json", "rate/2026-01-01.cases.json"}


def test_check_as_json_says_the_same(run, broken):
    code, out, _ = run("check", "--folder", broken, "--json")

    found = json.loads(out)
    assert code == 1
    assert found["ok"] is False
    assert {problem["file"] for problem in found["problems"]} == {"fx/2026-07-01.json", "rate/2026-01-01.cases.json"}
    assert json.loads(run("check", "--json")[1])["ok"] is True


def test_check_of_a_folder_that_is_none_is_one_problem(run, tmp_path):
    code, out, _ = run("check", "--folder", tmp_path / "absent")

    assert code == 1
    assert "found nothing" in out


def test_check_wants_a_text_for_every_reason_code_of_an_agreement(run, agreement):
    assert run("check", "--agreement", agreement())[0] == 0

    code, out, _ = run("check", "--agreement", agreement("SHOE_SIZE"))

    assert code == 1
    assert "expected a row for the agreement's reason code SHOE_SIZE" in out


def test_show_names_the_versions_of_a_day(run):
    code, out, _ = run("show", "--date", "2026-03-01")

    assert code == 0
    assert any(line.split()[:2] == ["fx", "2026-01-01"] for line in out.splitlines())
    assert json.loads(run("show", "--date", "2026-11-25", "--json")[1])["tables"]


def test_show_prints_the_rows_of_a_table_with_their_source(run):
    code, out, _ = run("show", "--date", "2026-11-25", "--table", "product")

    assert code == 0
    assert "up to 80 % of the order's value and 5 million CNY" in out
    rows = json.loads(run("show", "--date", "2026-11-25", "--table", "product", "--json")[1])["rows"]
    assert rows[0]["outputs"]["cap"] == "5000000"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("show", "--date", "25.11.2026"), "expected a day as 2026-11-25"),
        (("show", "--date", "2026-11-25", "--table", "prices"), "expected one of appetite"),
        (("show", "--colour", "red"), "No such option"),
        (("explain",), "Missing argument"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(run, arguments, expected):
    code, _, err = run(*arguments)

    assert code == 2
    assert expected in err
    assert len(err.splitlines()) == 1


def test_a_day_without_a_policy_is_one_sentence_and_exit_code_1(run):
    code, out, err = run("show", "--date", "1999-01-01")

    assert (code, out) == (1, "")
    assert "in force on 1999-01-01, found none" in err


def test_explain_says_which_row_led_to_what(run):
    code, out, _ = run("explain", "risk-above-appetite")

    assert code == 0
    assert "because: RISK_ABOVE_APPETITE" in out
    assert "table appetite 2026-01-01, row above" in out
    assert out.splitlines()[-1] == "as the case expects"


def test_explain_takes_a_case_from_a_file_and_fails_when_it_comes_out_otherwise(run, tmp_path):
    cases = json.loads((DEFAULT_FOLDER / "decisions" / "products.json").read_text(encoding="utf-8"))
    cases["cases"] = cases["cases"][:1]
    cases["cases"][0]["id"] = "mine"
    cases["cases"][0]["expected"]["rate"] = "0.01"
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(cases), encoding="utf-8")

    code, out, _ = run("explain", path)

    assert code == 1
    assert out.splitlines()[-1] == "case mine: expected rate 0.01, found 0.0490."
    assert json.loads(run("explain", path, "--json")[1])["decision"]["outcome"]["outcome"] == "approved"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{}", "format is missing"),
        ("{", "expected JSON, found a mistake"),
        ('{"format": "tallystick-decision-cases/1", "cases": []}', "expected a list of at least 1"),
    ],
)
def test_a_malformed_case_is_one_sentence(run, tmp_path, content, sentence):
    path = tmp_path / "mine.json"
    path.write_text(content, encoding="utf-8")

    code, out, err = run("explain", path)

    assert (code, out) == (1, "")
    assert sentence in err
    assert len(err.splitlines()) == 1


def test_a_case_that_nobody_knows_is_one_sentence_with_those_that_are_known(run):
    code, _, err = run("explain", "nobodys-case")

    assert code == 1
    assert "order-in-full" in err
