"""Tables as files: whatever is wrong with one is said in one sentence, and nothing of it is used."""

import json
from decimal import Decimal

import pytest
import zen

from policies.decision_tables.cells import shown_value
from policies.decision_tables.document import TableDocument
from policies.decision_tables.engine import Engine
from policies.decision_tables.errors import NoRow, PolicyRefused
from policies.decision_tables.table import build_table, combinations
from policies.lending.catalogue import CATALOGUE
from policies.lending.policy import DEFAULT_FOLDER, LendingPolicy, check_folder
from policies.lending.policy_set import Inquiry, PolicySet

VERSION = "2026-01-01"


def _table(folder, name="appetite"):
    return folder / name / f"{VERSION}.json"


def _problems(folder):
    policy, report = check_folder(folder)
    assert (policy is None) == bool(report.problems)
    return report.problems


def test_the_shipped_policy_passes_every_check():
    policy, report = check_folder(DEFAULT_FOLDER)

    assert report.problems == ()
    assert policy is not None
    assert report.table_cases > 200
    assert report.decision_cases >= 17


def test_every_table_says_where_its_numbers_come_from(versions):
    for tables in versions.versions.values():
        for table in tables:
            assert len(table.source) > 40


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_the_engine_and_our_own_reading_of_the_cells_agree(versions, name):
    """Completeness and orders are checked by our reading; decisions are made by the engine."""
    for table in versions.versions[name]:
        engine = Engine({name: table})
        for facts in combinations(table, name):
            assert engine.matching(name, facts) == table.matching(facts)


@pytest.mark.parametrize("path", sorted(DEFAULT_FOLDER.glob("*/*.cases.json")), ids=lambda path: path.parent.name)
def test_the_file_itself_in_the_engine_gives_the_outputs_of_its_cases(path):
    """What runs is compiled from the checked table; this is the file as the editor of the format would run it."""
    document = json.loads(path.with_name(path.name.replace(".cases.json", ".json")).read_text(encoding="utf-8"))
    shape = CATALOGUE[document["id"]]
    engine = zen.ZenEngine({"loader": {"type": "static", "content": {"t": document["jdm"]}}})
    for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
        facts = {
            name: Decimal(value) if shape.input(name).kind == "number" else value
            for name, value in case["facts"].items()
        }
        text = ",".join(
            f"{json.dumps(name)}:{shown_value(value) if isinstance(value, Decimal) else json.dumps(value)}"
            for name, value in facts.items()
        )
        result = engine.evaluate("t", "{" + text + "}")["result"]
        rows = result if isinstance(result, list) else [result] if result else []

        assert len(rows) == len(case["rows"])
        for row, expected in zip(rows, case["outputs"], strict=True):
            for column, value in expected.items():
                numeric = shape.output(column).kind == "number"
                assert (Decimal(row[column]) == Decimal(value)) if numeric else row[column] == value


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("source"), "source is missing"),
        (lambda t: t.update(note="x"), "note is not a known key"),
        (lambda t: t.update(format="tallystick-table/2"), "format: expected"),
        (lambda t: t.update(id="rate"), "expected the table 'appetite', found 'rate'"),
        (lambda t: t.update(version="2026-01-02"), "expected the version '2026-01-01', as the file is named"),
        (lambda t: t.update(effective_from="01.01.2026"), "expected a date as 2026-11-25"),
        (lambda t: t.update(effective_from=20260101), "expected a date as 2026-11-25"),
        (lambda t: t.update(effective_to="2026-01-01"), "expected effective_to after effective_from"),
        (lambda t: t["jdm"]["nodes"].pop(), "jdm.nodes: expected a list of at least 3"),
        (
            lambda t: t["jdm"]["nodes"][2].update(type="functionNode", content="export const handler = 1"),
            "found 'functionNode'; a policy is a table, not a program",
        ),
        (lambda t: t["jdm"]["edges"].reverse() or t["jdm"]["edges"][0].update(targetId="facts"), "expected edges"),
        (lambda t: t["jdm"]["nodes"][1]["content"].update(hitPolicy="collect"), "expected hitPolicy 'first'"),
        (lambda t: t["jdm"]["nodes"][1]["content"].update(passThrough=True), "passThrough: expected"),
        (lambda t: t["jdm"]["nodes"][1]["content"]["inputs"][1].update(field="pd"), "expected the input columns"),
        (lambda t: t["jdm"]["nodes"][1]["content"]["outputs"].pop(), "is no column; remove it"),
        (lambda t: t["jdm"]["nodes"][1]["content"]["rules"].clear(), "expected a list of at least 1"),
        (lambda t: t["jdm"]["nodes"][1]["content"]["rules"][0].pop("in_pd_12m"), "expected a cell 'in_pd_12m'"),
        (lambda t: t["jdm"]["nodes"][1]["content"]["rules"][0].update(extra=""), "'extra' is no column"),
        (lambda t: t["jdm"]["nodes"][1]["content"]["rules"][0].update(_description=""), "expected a _description"),
        (lambda t: t["jdm"]["nodes"][1]["content"]["rules"][0].update(_id="moderate"), "'moderate' twice"),
        (lambda t: t["jdm"]["nodes"][1]["content"]["rules"][0].update(in_pd_12m="< 2%"), "found '< 2%'"),
        (lambda t: t["jdm"]["nodes"][1]["content"]["rules"][0].update(in_pd_12m="[0..2]"), "at most 1"),
        (lambda t: t["jdm"]["nodes"][1]["content"]["rules"][0].update(in_product='"odrer"'), "never occurs"),
        (lambda t: t["jdm"]["nodes"][1]["content"]["rules"][0].update(out_outcome='"maybe"'), "found 'maybe'"),
        (lambda t: t["jdm"]["nodes"][1]["content"]["rules"][0].update(out_limit_factor="1"), "in double quotes"),
        (lambda t: t["jdm"]["nodes"][1]["content"]["rules"][0].update(out_limit_factor='"1.5"'), "expected at most 1"),
        (lambda t: t["jdm"]["nodes"][1]["content"]["rules"][0].update(out_code='"NEW_CODE"'), "reason NEW_CODE"),
        (
            lambda t: t["jdm"]["nodes"][1]["content"]["rules"][1].update(in_pd_12m="[0.03..0.05)"),
            "found none for product = order, pd_12m = 0.02",
        ),
        (
            lambda t: t["jdm"]["nodes"][1]["content"]["rules"][3].update(out_limit_factor='"0.9"'),
            "expected limit_factor not to rise as pd_12m grows",
        ),
        (
            lambda t: t["jdm"]["nodes"][1]["content"]["rules"][4].update(out_outcome='"approve"'),
            "expected outcome not to fall as pd_12m grows",
        ),
    ],
)
def test_a_malformed_table_gets_one_sentence(folder, edited, change, sentence):
    edited(_table(folder), change)

    problems = _problems(folder)

    assert any(sentence in problem.sentence for problem in problems), [str(p) for p in problems]
    for problem in problems:
        assert problem.sentence.isprintable()
        assert problem.file


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "expected JSON, found a mistake in line 1"),
        (b"[]", "expected a JSON object in braces"),
        (b'{"format": "a", "format": "b"}', "found 'format' twice"),
        (b'{"x": NaN}', "expected numbers, found NaN"),
        (b'{"x": 1234567890123456789012}', "at most 18 digits"),
        (b"\xef\xbb\xbf{}", "byte-order mark"),
        (b"\xff\xfe", "expected UTF-8 text"),
        (b'{"x":' * 200 + b"1" + b"}" * 200, "nested levels"),
        (b'{"x": "' + b"a" * (1 << 20) + b'"}', "expected at most 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_strict_json_gets_one_sentence(folder, content, sentence):
    _table(folder).write_bytes(content)

    problems = _problems(folder)

    assert any(sentence in problem.sentence for problem in problems), [str(p) for p in problems]


def test_overlapping_versions_are_refused(folder, edited):
    edited(folder / "fx" / "2026-01-01.json", lambda table: table.update(effective_to="2026-08-01"))

    [problem] = _problems(folder)

    assert problem.file == "fx/2026-07-01.json"
    assert "to end before 2026-07-01 begins on 2026-07-01, found that it ends 2026-08-01" in problem.sentence


def test_two_versions_without_an_end_are_refused(folder, edited):
    edited(folder / "fx" / "2026-01-01.json", lambda table: table.update(effective_to=None))

    [problem] = _problems(folder)

    assert "found that it ends never" in problem.sentence


def test_a_gap_between_versions_is_refused(folder, edited):
    edited(folder / "fx" / "2026-01-01.json", lambda table: table.update(effective_to="2026-06-01"))

    [problem] = _problems(folder)

    assert "found none in force from 2026-06-01 to 2026-07-01" in problem.sentence


def test_a_missing_table_is_named(folder):
    for path in (folder / "loss").iterdir():
        path.unlink()

    [problem] = _problems(folder)

    assert problem.file == "loss"


@pytest.mark.parametrize("name", ["notes/readme.txt", "rates/2026-01-01.json", "stray.json"])
def test_a_file_that_is_no_part_of_a_policy_is_refused(folder, name):
    """A table in a folder of the wrong name would otherwise be a rule that silently never decides."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")

    assert [name] == [problem.file for problem in _problems(folder)]


def test_a_table_without_cases_is_refused(folder):
    (folder / "rate" / f"{VERSION}.cases.json").unlink()

    [problem] = _problems(folder)

    assert "expected cases beside the table" in problem.sentence


def test_cases_without_a_table_are_refused(folder):
    (folder / "rate" / "2027-01-01.cases.json").write_text("{}")

    [problem] = _problems(folder)

    assert "expected a table beside these cases" in problem.sentence


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c["cases"][0].update(rows=["good"]), "expected the rows good, found best"),
        (lambda c: c["cases"][0]["outputs"][0].update(base_rate="0.05"), "expected base_rate = 0.05 in row best"),
        (lambda c: c["cases"][0].update(outputs=[{}]), "expected some outputs for each of its rows"),
        (lambda c: c["cases"][0]["outputs"][0].update(price="1"), "'price' is no output"),
        (lambda c: c["cases"][0].update(facts={"loss": "0"}), "expected the facts expected_loss_rate"),
        (lambda c: c["cases"][0].update(facts={"expected_loss_rate": "zero"}), "as a decimal number in quotes"),
        (lambda c: c["cases"][0].update(facts={"expected_loss_rate": True}), "expected expected_loss_rate as a number"),
        (lambda c: c.update(version="1"), "expected cases of rate 2026-01-01"),
        (lambda c: c["cases"].pop(0), "found none that reaches best"),
        (lambda c: c.update(cases=[]), "cases: expected a list of at least 1"),
    ],
)
def test_a_case_that_does_not_hold_is_named(folder, edited, change, sentence):
    edited(folder / "rate" / f"{VERSION}.cases.json", change)

    problems = _problems(folder)

    assert any(sentence in problem.sentence for problem in problems), [str(p) for p in problems]


def test_a_row_out_of_reach_cannot_hide(folder, edited, rules_of):
    """A row behind one that matches everything never decides; no case can reach it."""
    edited(
        _table(folder, "industry"),
        lambda table: rules_of(table).append({**rules_of(table)[-1], "_id": "never"}),
    )

    [problem] = _problems(folder)

    assert "found none that reaches never" in problem.sentence


def test_a_whole_decision_that_comes_out_otherwise_is_named(folder, edited):
    edited(
        folder / "decisions" / "products.json",
        lambda content: content["cases"][0]["expected"].update(limit={"amount": "800000.01", "currency": "CNY"}),
    )

    [problem] = _problems(folder)

    assert problem.sentence == "case order-in-full: expected limit 800000.01 CNY, found 800000.00 CNY."


def test_a_changed_rate_is_caught_by_whole_decisions_too(folder, edited, rules_of):
    edited(_table(folder, "rate"), lambda table: rules_of(table)[1].update(out_base_rate='"0.0475"'))

    assert {"rate/2026-01-01.cases.json", "decisions"} <= {problem.file for problem in _problems(folder)}


def test_white_space_and_order_of_keys_do_not_change_the_hash_of_a_table(folder, versions):
    path = _table(folder)
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content, indent=7, sort_keys=True), encoding="utf-8")

    assert versions.versions["appetite"] == LendingPolicy.load(folder).versions["appetite"]


def test_any_change_of_a_table_changes_the_hash_of_the_policy(policy):
    document = policy.tables["product"].document
    changed = TableDocument.model_validate({**document.model_dump(by_alias=True), "source": document.source + " "})
    table = build_table(changed, CATALOGUE["product"], "product")

    assert PolicySet.of(policy.date, {**policy.tables, "product": table}).sha256 != policy.sha256


def test_a_file_as_the_editor_of_the_format_saves_it_loads(folder, edited):
    def saved(table):
        nodes = table["jdm"]["nodes"]
        nodes[0]["position"] = {"x": 70.5, "y": -12.25}
        nodes[0]["content"] = {"schema": ""}
        nodes[1]["content"] |= {
            "passThrough": False,
            "executionMode": "single",
            "inputField": None,
            "outputPath": None,
        }

    edited(_table(folder), saved)

    assert _problems(folder) == ()


def test_a_number_of_more_digits_than_the_engine_compares_is_refused(policy):
    with pytest.raises(PolicyRefused, match="at most 28 digits"):
        Inquiry(policy).one("rate", expected_loss_rate=Decimal("0." + "1" * 28))


def test_a_number_just_below_a_threshold_stays_below_it_in_the_engine(policy):
    """As a binary float this number is two million."""
    exposure = Decimal("1999999.999999999999")

    assert float(exposure) == 2_000_000
    assert Inquiry(policy).every("authority", product="order", customer_risk="low", exposure_cny=exposure) == []


def test_a_table_without_a_row_for_the_question_is_no_answer(policy):
    with pytest.raises(NoRow, match="expected a row for currency = XAU, found none"):
        Inquiry(policy).one("fx", currency="XAU")


def test_facts_that_are_no_columns_are_a_bug_and_not_an_answer(policy):
    with pytest.raises(TypeError, match="takes"):
        Inquiry(policy).one("rate", expected_loss=Decimal(0))


def test_hostile_text_in_a_fact_is_only_text(policy):
    row = Inquiry(policy).one("industry", industry='home", "x": true, "industry": "home')

    assert row.id == "other"
