"""The model card: JSON there and back, and what it refuses."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.card import CARD_FILE, CardRefused, MemberLine, build_card, load_card
from models.card_html import render_html
from policies.leakage import LEAKS
from policies.release import FeatureShape, OpenedSumRecord, ShapeBin


def test_card_survives_json_there_and_back(make_evidence, tmp_path):
    card = build_card(make_evidence())
    (tmp_path / CARD_FILE).write_bytes(card.to_json())

    assert load_card(card.to_json()) == card
    assert load_card(tmp_path) == card
    assert load_card(tmp_path / CARD_FILE).to_json() == card.to_json()


def test_card_names_every_leak_of_its_run_by_id(make_evidence):
    ids = {line.id for line in build_card(make_evidence()).leaks}

    assert {"coordinator-traffic", "members-sums", "chosen-subset", "weight-bucket", "model-to-platform"} <= ids
    assert ids <= {leak.id for leak in LEAKS}
    assert "dropout-named" not in ids


def test_card_of_a_changed_roster_says_what_members_learn_of_the_leaver(make_evidence, make_table):
    cohort = make_table().cohort
    sums = (
        OpenedSumRecord(k=1, purpose="train", input_class="step", survivors=cohort, chain="ab" * 32),
        OpenedSumRecord(
            k=2, purpose="train", input_class="step", survivors=cohort[:4], dropped=cohort[4:], chain="cd" * 32
        ),
    )
    evidence = make_evidence(table=make_table(sums=sums), allow_roster_change=True)

    lines = {line.id: line.what for line in build_card(evidence).leaks}
    assert "approximately the leaver's gradient" in lines["leaver-difference"]
    assert "opened without bank-e" in render_html(build_card(evidence))


def test_ledger_ready_hashes_name_agreement_proposal_epoch_table_model_and_card(make_evidence):
    card = build_card(make_evidence())

    names = [what for what, _ in card.hashes()]
    assert names == ["agreement", "run proposal", "key epoch 1", "released table", "model", "this card"]
    assert all(len(bytes.fromhex(value)) == 32 for _, value in card.hashes())


def test_model_that_members_keep_shows_its_keyed_hash_only(make_evidence, make_table):
    kept = make_evidence(table=make_table(model_digest=None), release_policy="members", keyed_hash="ee" * 32)

    assert "model, keyed by the members" in dict(build_card(kept).hashes())
    with pytest.raises(ValidationError, match="unkeyed hash"):
        make_evidence(release_policy="members")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"run_id": "another-run"}, "run id of the card and of the signed table differ"),
        ({"task": "fraud"}, "task"),
        ({"agreement_hash": "00" * 32}, "agreement hash"),
        ({"members": (MemberLine(id="bank-a", role="bank"),)}, "cohort"),
        ({"signatures": {"stranger": "A" * 86 + "=="}}, "outside the cohort"),
        ({"key_epochs": ()}, "key_epochs"),
        ({"created_at": "2026-01-31T12:00:00"}, "offset from UTC"),
        ({"created_at": "yesterday"}, "created_at"),
    ],
)
def test_evidence_whose_parts_contradict_each_other_is_no_card(make_evidence, changes, problem):
    with pytest.raises(ValidationError, match=problem):
        make_evidence(**changes)


def _changed(card, path, value):
    document = json.loads(card.to_json())
    place = document
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), "tallystick-card/9"),
        (("surprise",), 1),
        (("evidence", "surprise"), 1),
        (("evidence", "task"), ...),
        (("evidence", "table", "quality", "auc"), 1.5),
        (("evidence", "table", "quality", "auc"), "NaN"),
        (("evidence", "table", "agreement_hash"), "00" * 32),
        (("evidence", "table", "sums", 0, "chain"), "zz"),
        (("evidence", "table", "sums", 0, "dropped"), ["bank-a"]),
        (("evidence", "members", 0, "id"), "Bank A"),
        (("evidence", "horizon_months"), 0),
        (("leaks",), []),
        (("leaks", 0, "what"), None),
    ],
)
def test_malformed_card_is_one_clear_sentence(make_evidence, path, value):
    with pytest.raises(CardRefused) as refused:
        load_card(_changed(build_card(make_evidence()), path, value))

    sentence = str(refused.value)
    assert "expected a model card" in sentence
    assert "\n" not in sentence
    assert "pydantic" not in sentence


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": NaN}', b"[" * 5000])
def test_bytes_that_are_no_card_are_one_clear_sentence(data):
    with pytest.raises(CardRefused, match="expected a model card"):
        load_card(data)


def test_path_without_a_card_says_what_to_give(tmp_path):
    with pytest.raises(CardRefused, match="give the folder of a finished run"):
        load_card(tmp_path)
    with pytest.raises(CardRefused, match="not a valid path"):
        load_card(tmp_path / "a\0b")


@given(data=st.binary(max_size=300))
def test_any_bytes_are_a_card_or_a_sentence(data):
    with pytest.raises(CardRefused):
        load_card(data)


class _Page(HTMLParser):
    VOID = frozenset({"meta", "path", "use", "br", "link", "img", "input"})

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.targets, self.tags, self.sources = [], [], [], set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        values = dict(attrs)
        if "id" in values:
            self.ids.append(values["id"])
        for name in ("href", "xlink:href"):
            if str(values.get(name, "")).startswith("#"):
                self.targets.append(values[name][1:])
        self.sources += [values[n] for n in ("src", "href", "xlink:href", "action", "data") if n in values]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture
def page(make_evidence):
    parsed = _Page()
    parsed.feed(render_html(build_card(make_evidence())))
    return parsed


def test_page_is_well_formed_and_its_ids_are_unique(page):
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.targets) <= set(page.ids)


def test_page_asks_nobody_for_anything_and_runs_no_script(page, make_evidence):
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "form"}
    assert all(source.startswith("#") for source in page.sources)
    text = render_html(build_card(make_evidence()))
    assert "url(http" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_page_is_the_same_for_the_same_card(make_evidence):
    assert render_html(build_card(make_evidence())) == render_html(build_card(make_evidence()))


def test_page_says_what_its_card_says(make_evidence):
    card = build_card(make_evidence())
    text = render_html(card)

    for expected in ("0.8612", "past due 30–59", "bank-e", "serious_delinquency", "−31", "alone:bank-a"):
        assert expected in text
    for _, hexadecimal in card.hashes():
        assert hexadecimal[:8] in text
    for leak in card.leaks:
        assert f"<code>{leak.id}</code>" in text


def test_words_from_a_run_cannot_become_markup(make_evidence, make_table):
    hostile = "<script>alert(1)</script>"
    nasty = FeatureShape(
        feature=hostile, role=hostile, unit=hostile, bins=(ShapeBin(label=hostile, log_odds=0, points=0),)
    )
    text = render_html(
        build_card(make_evidence(table=make_table(features=(nasty,)), label=hostile, agreement_name=hostile))
    )

    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_page_of_a_neural_tower_shows_weights_of_evidence(make_evidence, make_table):
    neural = FeatureShape(feature="age", role="bank", bins=(ShapeBin(label="0 to 30", woe=-0.4, share=0.5),))

    text = render_html(build_card(make_evidence(table=make_table(features=(neural,)))))
    assert "Weight of evidence of each bin" in text


def test_page_of_a_run_without_figures_still_stands(make_evidence, make_table):
    bare = make_table(quality=None, calibration=(), roc=(), histogram=(), features=(), rounds=())

    text = render_html(build_card(make_evidence(table=bare, comparison=(), settings={}, versions={})))
    assert "What leaks by design" in text
    assert 'id="quality"' not in text
