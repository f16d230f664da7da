"""The table of leaks: every line has a place in the docs, and applies when it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.leakage import LEAKS, RunFacts, leakage_document, leaks_for
from policies.protocol_steps import STEPS

DOCUMENT = Path(__file__).parents[3] / "docs" / "leakage.md"
HORIZONTAL = {"story": "horizontal", "cohort": 5, "max_colluders": 1, "min_survivors": 4}


def ids(**facts):
    return {leak.id for leak in leaks_for(RunFacts(**(HORIZONTAL | facts)))}


def test_document_is_generated_from_the_table():
    assert DOCUMENT.read_text() == leakage_document(), "run: python -m policies.leakage > docs/leakage.md"


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.id)
def test_every_leak_has_its_line_in_the_docs(leak):
    assert f"## `{leak.id}`" in DOCUMENT.read_text().splitlines()


def test_ids_are_unique_and_every_line_is_complete():
    assert len({leak.id for leak in LEAKS}) == len(LEAKS)
    assert all((leak.who, leak.what, leak.adversary, leak.protocol, leak.condition) for leak in LEAKS)
    assert all("" not in (leak.who, leak.what, leak.adversary, leak.protocol, leak.condition) for leak in LEAKS)


def test_some_facts_make_every_leak_apply():
    applied = set()
    for story in ("horizontal", "vertical", "scoring"):
        for policy in ("members", "platform"):
            applied |= ids(
                story=story,
                cohort=3,
                min_survivors=3,
                dropped=True,
                roster_changed=True,
                allow_roster_change=True,
                release_policy=policy,
                role_sizes={"bank": 2},
                bilateral=True,
                sealed=False,
            )

    assert applied == {leak.id for leak in LEAKS}


@pytest.mark.parametrize("story", ["horizontal", "vertical", "scoring"])
def test_nothing_is_free_of_leaks(story):
    assert "coordinator-traffic" in ids(story=story)


def test_conditions_decide_who_learns_what():
    assert "model-to-platform" not in ids()
    assert "model-to-platform" in ids(release_policy="platform")
    assert "two-member-sum" in ids(cohort=3, min_survivors=3)
    assert "two-member-sum" not in ids()
    assert "leaver-difference" not in ids(roster_changed=True)
    assert "leaver-difference" in ids(roster_changed=True, allow_roster_change=True)
    assert "partial-score-sums" not in ids()
    assert "unsealed-sum" not in ids()


def test_sentences_carry_the_numbers_of_the_run():
    facts = RunFacts(**HORIZONTAL)

    for leak in leaks_for(facts):
        assert "{" not in leak.sentence(facts) + leak.adversary_in(facts)
    (sums,) = [leak for leak in leaks_for(facts) if leak.id == "members-sums"]
    assert "at least 3" in sums.sentence(facts)


def test_every_leak_belongs_to_a_step_and_every_step_names_leaks_that_exist():
    named = {leak for row in STEPS for leak in row.leaks}

    assert named == {leak.id for leak in LEAKS}


def test_every_step_has_its_row_in_the_docs():
    text = DOCUMENT.read_text()
    for row in STEPS:
        assert f"| {row.message} | {row.sender} -> {row.receiver} | {row.learns} |" in text


def test_a_vertical_card_speaks_of_what_its_roster_makes_possible():
    alone = {"story": "vertical", "cohort": 3, "min_survivors": 3, "role_sizes": {"bank": 1, "payment": 1, "ship": 1}}
    several = {**alone, "cohort": 9, "role_sizes": {"bank": 3, "payment": 3, "ship": 3}}

    assert "role-sums" not in ids(**alone)
    assert {"role-sums", "role-overlap", "holdout-score-sums", "tower-to-role"} <= ids(**several)
    assert "partial-scores-bilateral" in ids(**alone, bilateral=True)
    assert "members-sums" not in ids(**several)
