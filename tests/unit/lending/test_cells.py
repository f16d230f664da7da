"""Cells are a closed part of the engine's language, and read as the engine reads them."""

import json
from decimal import Decimal

import pytest
import zen

from policies.decision_tables.cells import (
    Anything,
    OneOf,
    Within,
    parse_condition,
    parse_output,
    plain,
)


@pytest.mark.parametrize(
    ("text", "kind", "condition"),
    [
        ("", "text", Anything()),
        ('"a"', "text", OneOf(("a",))),
        ('"a", "b c"', "text", OneOf(("a", "b c"))),
        ("true", "flag", OneOf((True,))),
        ("5", "number", Within(Decimal(5), Decimal(5), True, True)),
        ("< 0.05", "number", Within(None, Decimal("0.05"), True, False)),
        ("<= 5", "number", Within(None, Decimal(5), True, True)),
        ("> 5", "number", Within(Decimal(5), None, False, False)),
        (">= 5", "number", Within(Decimal(5), None, True, False)),
        ("[1..5)", "number", Within(Decimal(1), Decimal(5), True, False)),
        ("(1..5]", "number", Within(Decimal(1), Decimal(5), False, True)),
    ],
)
def test_every_form_of_a_condition_is_read(text, kind, condition):
    assert condition == parse_condition(text, kind)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a", "text"),
        ("'a'", "text"),
        ('"a","b"', "text"),
        ('"a" or "b"', "text"),
        ('"\\u0061"', "text"),
        ('not in ["a"]', "text"),
        ("True", "flag"),
        ('"true"', "flag"),
        ("<5", "number"),
        ("< -5", "number"),
        ("< 1e3", "number"),
        ("05", "number"),
        ("[5..1]", "number"),
        ("[1..1)", "number"),
        ("> 1 and < 5", "number"),
        ('"5"', "number"),
        ("amount > 5", "number"),
        ("garbage", "number"),
        ("<<<", "number"),
        ("< 0.1234567890123", "number"),
    ],
)
def test_a_condition_of_another_form_is_refused(text, kind):
    """The engine takes most of these, and those that it cannot use match nothing without a word."""
    with pytest.raises(ValueError, match="expected"):
        parse_condition(text, kind)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [('"0.80"', "number", Decimal("0.80")), ('"yes"', "text", "yes"), ("false", "flag", False)],
)
def test_every_form_of_an_output_is_read(text, kind, value):
    assert value == parse_output(text, kind)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("0.80", "number"), ('"0,8"', "number"), ('"-1"', "number"), ('""', "text"), ("yes", "text"), ('"true"', "flag")],
)
def test_an_output_of_another_form_is_refused(text, kind):
    with pytest.raises(ValueError, match="expected"):
        parse_output(text, kind)


def test_flags_and_numbers_are_never_mistaken_for_one_another():
    assert not OneOf((True,)).holds(Decimal(1))
    assert not Within(Decimal(0), None).holds(True)


@pytest.mark.parametrize(
    ("number", "text"), [("1.50", "1.5"), ("100", "100"), ("1E+3", "1000"), ("0.000", "0"), ("-0.0", "0")]
)
def test_a_number_has_one_plain_form(number, text):
    assert text == plain(Decimal(number))


def _zen_holds(cell, value):
    rules = [{"_id": "r", "in": cell, "out": '"yes"'}]
    place = {"x": 0, "y": 0}
    content = {
        "hitPolicy": "first",
        "inputs": [{"id": "in", "name": "in", "field": "x"}],
        "outputs": [{"id": "out", "name": "out", "field": "y"}],
        "rules": rules,
    }
    graph = {
        "nodes": [
            {"id": "a", "name": "a", "type": "inputNode", "position": place},
            {"id": "t", "name": "t", "type": "decisionTableNode", "position": place, "content": content},
            {"id": "z", "name": "z", "type": "outputNode", "position": place},
        ],
        "edges": [
            {"id": "1", "type": "edge", "sourceId": "a", "targetId": "t"},
            {"id": "2", "type": "edge", "sourceId": "t", "targetId": "z"},
        ],
    }
    engine = zen.ZenEngine({"loader": {"type": "static", "content": {"t": graph}}})
    return engine.evaluate("t", value)["result"] == {"y": "yes"}


def test_the_engine_compares_decimals_exactly_when_they_come_as_json_text():
    """The reason why facts are written out and not handed over as Python objects."""
    cell = "<= 12345678901234.567890123456"

    assert _zen_holds(cell, '{"x": 12345678901234.567890123456}')
    assert not _zen_holds(cell, '{"x": 12345678901234.567890123457}')


def test_the_engine_says_nothing_about_a_cell_that_it_cannot_use():
    """Should a later version refuse such cells itself, our own grammar may be widened."""
    assert not _zen_holds("<<<", '{"x": 1}')
    assert not _zen_holds("< 5", json.dumps({"x": "4"}))
