"""Malformed bodies and files: each is one problem document or one sentence, none a traceback."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystick.__main__ import main

GOOD = {"utilization": 0.3, "age": 45, "income": 5400.0}
JSON = {"Content-Type": "application/json"}


def body(**changes):
    return json.dumps({"features": GOOD | changes}).encode()


# (name, body, status, what the answer says)
MALFORMED = [
    ("empty", b"", 400, "mistake at line 1"),
    ("white_space", b"   \n ", 400, "mistake"),
    ("no_json", b"utilization=0.3&age=45", 400, "mistake"),
    ("cut_off", body()[:-2], 400, "mistake"),
    ("two_documents", body() + body(), 400, "mistake"),
    ("trailing_comma", b'{"features": {"age": 45,}}', 400, "mistake"),
    ("single_quotes", b"{'features': {}}", 400, "mistake"),
    ("byte_order_mark", b"\xef\xbb\xbf" + body(), 400, "mistake"),
    ("not_utf8", b'{"features": {"\xff": 1}}', 400, "UTF-8"),
    ("utf16", body().decode().encode("utf-16"), 400, "UTF-8"),
    ("nan", b'{"features": {"utilization": NaN, "age": 45}}', 400, "NaN or Infinity"),
    ("infinity", b'{"features": {"utilization": Infinity, "age": 45}}', 400, "NaN or Infinity"),
    ("minus_infinity", b'{"features": {"utilization": -Infinity, "age": 45}}', 400, "NaN or Infinity"),
    ("overflow", b'{"features": {"utilization": 1e999, "age": 45}}', 400, "64-bit float"),
    ("endless_integer", b'{"features": {"age": ' + b"9" * 5000 + b"}}", 400, "too many digits"),
    ("key_twice", b'{"features": {"age": 45, "age": 46}}', 400, "one key twice"),
    ("features_twice", b'{"features": {}, "features": {}}', 400, "one key twice"),
    ("deep", b"[" * 30_000, 400, "nested"),
    ("null", b"null", 422, "found null"),
    ("number", b"42", 422, "found a number"),
    ("list", b"[" + body() + b"]", 422, "found a list"),
    ("no_features", b"{}", 422, "found nothing"),
    ("features_null", b'{"features": null}', 422, "found null"),
    ("features_list", b'{"features": [0.3, 45]}', 422, "found a list"),
    ("unknown_key", json.dumps({"features": GOOD, "debug": True}).encode(), 422, "1 more"),
    ("unknown_feature", body(region="north"), 422, "not a feature of this model"),
    ("misspelt_feature", json.dumps({"features": {"utilisation": 0.3, "age": 45}}).encode(), 422, "not a feature"),
    ("missing_feature", json.dumps({"features": {"age": 45}}).encode(), 422, "found nothing"),
    ("null_not_allowed", body(age=None), 422, "found null"),
    ("text", body(age="45"), 422, "found text"),
    ("text_nan", body(income="NaN"), 422, "found text"),
    ("boolean", body(age=True), 422, "found true or false"),
    ("nested", body(age={"value": 45}), 422, "found an object"),
    ("list_value", body(age=[45]), 422, "found a list"),
    ("fraction", body(age=45.5), 422, "found a fraction"),
    ("too_low", body(age=-1), 422, "found one outside"),
    ("too_high", body(utilization=1e9), 422, "found one outside"),
    ("huge_integer", b'{"features": {"utilization": 0.3, "age": ' + b"9" * 400 + b"}}", 422, "found one outside"),
    ("line_break_in_a_key", json.dumps({"features": GOOD | {"a\nb\u0007": 1}}).encode(), 422, "not a feature"),
    ("markup_in_a_key", json.dumps({"features": GOOD | {"<script>": 1}}).encode(), 422, "not a feature"),
    ("too_large", json.dumps({"features": GOOD, "padding": "x" * 70_000}).encode(), 413, "at most 65536 bytes"),
]


def assert_problem(answer, status):
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["type"].startswith("urn:tallystick:problem:")
    assert document["title"]
    assert document["detail"].endswith(".")
    assert document["detail"].isprintable()
    assert "Traceback" not in answer.text
    for error in document.get("errors", []):
        assert error["pointer"].startswith("/")
    return document


@pytest.mark.parametrize(
    ("content", "status", "says"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED]
)
def test_malformed_body_is_one_problem_document(client, content, status, says):
    document = assert_problem(client.post("/v1/scores", content=content, headers=JSON), status)

    assert says in document["detail"]


@pytest.mark.parametrize(
    "media_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "multipart/form-data"]
)
def test_body_that_is_not_declared_as_json_is_refused(client, media_type):
    headers = {} if media_type is None else {"Content-Type": media_type}

    assert_problem(client.post("/v1/scores", content=body(), headers=headers), 415)


def test_json_with_a_charset_is_json(client):
    assert (
        client.post(
            "/v1/scores", content=body(), headers={"Content-Type": "Application/JSON; charset=utf-8"}
        ).status_code
        == 200
    )


def test_body_that_lies_about_its_length_is_cut_off_at_the_limit(client):
    async def chunks():
        yield b"x" * 40_000
        yield b"x" * 40_000

    assert_problem(client.post("/v1/scores", content=chunks(), headers=JSON), 413)


def test_answer_names_every_value_that_is_wrong_and_repeats_none(client):
    document = assert_problem(
        client.post("/v1/scores", content=body(age="secret-age", utilization=-5.25), headers=JSON), 422
    )

    assert {error["pointer"] for error in document["errors"]} == {"/features/age", "/features/utilization"}
    assert "secret-age" not in json.dumps(document)
    assert "5.25" not in json.dumps(document)


def test_pointer_escapes_the_key(client):
    content = json.dumps({"features": GOOD | {"a/b~c": 1}}).encode()

    document = assert_problem(client.post("/v1/scores", content=content, headers=JSON), 422)
    assert document["errors"][0]["pointer"] == "/features/a~1b~0c"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=json_values | st.fixed_dictionaries({"features": json_values}))
def test_any_json_is_a_score_or_a_problem_document(client, document):
    assert_problem(client.post("/v1/scores", content=json.dumps(document).encode(), headers=JSON), 422)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=json_values, name=st.sampled_from(sorted(GOOD)))
def test_any_value_of_a_feature_is_a_score_or_a_problem_document(client, value, name):
    answer = client.post("/v1/scores", json={"features": GOOD | {name: value}})

    if answer.status_code != 200:
        assert_problem(answer, 422)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(min_value=0, max_value=10_000))
def test_good_body_with_a_few_bytes_changed_is_a_score_or_a_problem_document(client, seed):
    rng = random.Random(seed)
    content = bytearray(body())
    for _ in range(rng.randint(1, 4)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    answer = client.post("/v1/scores", content=bytes(content), headers=JSON)

    if answer.status_code != 200:
        assert_problem(answer, answer.status_code)
        assert answer.status_code in (400, 422)


HEADER = "entity_id,utilization,age,income\n"
GOOD_ROWS = HEADER + "a,0.3,45,5400\nb,2.5,23,\n"
MALFORMED_FILES = [
    ("empty", b"", "empty file"),
    ("header_alone_without_a_feature", b"entity_id,age,income\n1,45,3\n", "utilization"),
    ("text", (HEADER + "a,0.3,old,5400\n").encode(), "column 'age', row 1"),
    ("second_row", (GOOD_ROWS + "c,much,30,1\n").encode(), "column 'utilization', row 3"),
    ("comma_as_decimal_point", (HEADER + 'a,"0,3",45,5400\n').encode(), "column 'utilization', row 1"),
    ("thousands", (HEADER + 'a,0.3,45,"5,400"\n').encode(), "column 'income', row 1"),
    ("hexadecimal", (HEADER + "a,0.3,0x2d,1\n").encode(), "column 'age', row 1"),
    ("missing_not_allowed", (HEADER + "a,,45,1\n").encode(), "row 1: expected a value"),
    ("infinite", (HEADER + "a,inf,45,1\n").encode(), "utilization"),
    ("outside", (HEADER + "a,0.3,450,1\n").encode(), "expected a value from 0 to 120"),
    ("negative", (HEADER + "a,-0.3,45,1\n").encode(), "utilization"),
    ("fraction", (HEADER + "a,0.3,45.5,1\n").encode(), "whole number"),
    ("ragged", (HEADER + "a,0.3,45\n").encode(), "expected"),
    ("too_many_fields", (HEADER + "a,0.3,45,1,9,9\n").encode(), "expected"),
    ("column_twice", b"utilization,age,age,income\n0.3,45,45,1\n", "columns 2 and 3"),
    ("open_quote", (HEADER + 'a,"0.3,45,1\n').encode(), "expected"),
    ("not_utf8", HEADER.encode() + b"\xff,0.3,45,1\n", "UTF-8"),
    ("binary", bytes(range(256)) * 4, "expected"),
    ("semicolons", b"entity_id;utilization;age;income\na;0.3;45;1\n", "semicolon"),
]


def run(capsys, *arguments):
    code = main([*map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def assert_one_sentence(code, error):
    assert code == 1
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("content", "says"), [case[1:] for case in MALFORMED_FILES], ids=[case[0] for case in MALFORMED_FILES]
)
def test_malformed_file_is_one_sentence_and_nothing_is_written(capsys, tmp_path, model_path, content, says):
    rows, out = tmp_path / "rows.csv", tmp_path / "scores.csv"
    rows.write_bytes(content)
    out.write_text("of an earlier day")

    code, _, error = run(capsys, "score", "--model", model_path, "--in", rows, "--out", out)
    assert_one_sentence(code, error)
    assert says in error
    assert out.read_text() == "of an earlier day"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.tallystick", "rows.csv", "scores.csv"]


def test_absent_file_model_or_folder_is_one_sentence(capsys, tmp_path, model_path):
    rows = tmp_path / "rows.csv"
    rows.write_text(GOOD_ROWS)

    for model, source, out in (
        (tmp_path / "no.model", rows, tmp_path / "s.csv"),
        (model_path, tmp_path / "absent.csv", tmp_path / "s.csv"),
        (model_path, rows, tmp_path / "absent" / "s.csv"),
        (model_path, rows, tmp_path),
        (rows, rows, tmp_path / "s.csv"),
    ):
        code, _, error = run(capsys, "score", "--model", model, "--in", source, "--out", out)
        assert_one_sentence(code, error)


def test_model_of_another_version_is_refused(capsys, tmp_path, model_path):
    (tmp_path / "rows.csv").write_text(GOOD_ROWS)
    arguments = ("score", "--model", model_path, "--in", tmp_path / "rows.csv", "--out", tmp_path / "s.csv")

    code, _, error = run(capsys, *arguments, "--version", "0" * 64)
    assert_one_sentence(code, error)
    assert "model version" in error


def test_good_file_is_scored_as_the_api_scores_it(capsys, tmp_path, model_path, client):
    (tmp_path / "rows.csv").write_text(GOOD_ROWS)
    out = tmp_path / "scores.csv"
    code, printed, _ = run(
        capsys,
        "score",
        "--model",
        model_path,
        "--in",
        tmp_path / "rows.csv",
        "--out",
        out,
        "--id-column",
        "entity_id",
        "--json",
    )

    assert code == 0
    assert json.loads(printed)["rows"] == 2
    header, first, second = out.read_text().splitlines()
    assert header.startswith("row,entity_id,pd,score_points,base_points,points_utilization")
    cells = dict(zip(header.split(","), first.split(","), strict=True))
    answer = client.post("/v1/scores", json={"features": {"utilization": 0.3, "age": 45, "income": 5400}}).json()
    assert float(cells["pd"]) == pytest.approx(answer["pd"], abs=1e-8)
    assert float(cells["score_points"]) == pytest.approx(answer["score_points"], abs=0.005)
    assert cells["entity_id"] == "a"
    assert second.startswith("2,b,")
