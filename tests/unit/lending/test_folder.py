"""A policy folder changes decisions without a restart, whole or not at all, and old decisions stay explained."""

import datetime as dt
import json
import os
import threading
from decimal import Decimal

import pytest

from policies.decision_tables.errors import PolicyRefused
from policies.lending.decide import decide
from policies.lending.explain import explained, replayed
from policies.lending.folder import PolicyFolder
from policies.lending.policy import archived, from_archive
from policies.lending.types import Exposure

TODAY = dt.date(2026, 11, 25)
LATER = dt.date(2027, 2, 1)


def _add_rate_version(folder, edited, rules_of):
    """A second version of the table of rates, dearer from 2027 on, with cases beside it."""
    table = folder / "rate"
    for suffix in (".json", ".cases.json"):
        content = (table / f"2026-01-01{suffix}").read_text(encoding="utf-8")
        (table / f"2027-01-01{suffix}").write_text(content, encoding="utf-8")

    def dearer(document):
        document.update(version="2027-01-01", effective_from="2027-01-01")
        rules_of(document)[1].update(out_base_rate='"0.0475"')

    edited(table / "2027-01-01.json", dearer)

    def cases(content):
        content["version"] = "2027-01-01"
        content["cases"][1]["outputs"] = [{"base_rate": "0.0475"}]

    edited(table / "2027-01-01.cases.json", cases)
    edited(table / "2026-01-01.json", lambda document: document.update(effective_to="2027-01-01"))


def test_a_new_version_changes_decisions_from_its_first_day_without_a_restart(
    folder, edited, rules_of, application, risk, checks
):
    watched = PolicyFolder(folder)
    entered = (application(), risk("0.01"), checks(), Exposure())
    before = decide(watched.current(LATER), *entered)

    _add_rate_version(folder, edited, rules_of)
    after = decide(watched.current(LATER), *entered)
    today = decide(watched.current(TODAY), *entered)

    assert watched.problem is None
    assert before.outcome.terms.base_rate == today.outcome.terms.base_rate == Decimal("0.045")
    assert after.outcome.terms.base_rate == Decimal("0.0475")


def test_an_old_decision_is_still_explained_by_the_version_that_made_it(
    folder, edited, rules_of, application, risk, checks
):
    watched = PolicyFolder(folder)
    entered = (application(), risk("0.01"), checks(), Exposure())
    old_policy = watched.current(TODAY)
    kept, old = archived(old_policy), decide(old_policy, *entered)
    explanation = explained(old)

    edited(folder / "rate" / "2026-01-01.json", lambda document: rules_of(document)[1].update(out_base_rate='"0.05"'))
    edited(
        folder / "rate" / "2026-01-01.cases.json",
        lambda content: content["cases"][1].update(outputs=[{"base_rate": "0.05"}]),
    )

    def dearer(content):
        for case in content["cases"]:
            case["expected"].pop("rate", None)

    edited(folder / "decisions" / "products.json", dearer)
    new = decide(watched.current(TODAY), *entered)

    assert watched.problem is None
    assert new.outcome.terms.base_rate == Decimal("0.05")
    assert new.policy_sha256 != old.policy_sha256
    assert explained(old) == explanation
    assert replayed(from_archive(kept), old, *entered) == old


def test_a_folder_that_does_not_pass_leaves_the_policy_in_force_and_says_why(folder, edited, rules_of):
    watched = PolicyFolder(folder)
    before = watched.current(TODAY)

    edited(folder / "rate" / "2026-01-01.json", lambda document: rules_of(document)[1].update(out_base_rate='"0.9"'))

    assert watched.current(TODAY).sha256 == before.sha256
    assert "expected base_rate not to fall as expected_loss_rate grows" in watched.problem
    assert watched.problem.isprintable()


def test_a_failing_case_of_a_table_alone_keeps_a_change_out(folder, edited, rules_of):
    """No whole decision speaks of the watch."""
    watched = PolicyFolder(folder)
    before = watched.current(TODAY)

    edited(folder / "watch" / "2026-01-01.json", lambda document: rules_of(document)[1].update(out_action='"freeze"'))

    assert watched.current(TODAY).sha256 == before.sha256
    assert "case" in watched.problem


def test_a_folder_that_is_put_right_takes_effect(folder, edited, rules_of):
    watched = PolicyFolder(folder)
    path = folder / "rate" / "2026-01-01.json"
    content = path.read_text(encoding="utf-8")
    path.write_text("{", encoding="utf-8")
    watched.current(TODAY)
    assert watched.problem

    path.write_text(content, encoding="utf-8")
    _add_rate_version(folder, edited, rules_of)

    assert watched.current(LATER).tables["rate"].version == "2027-01-01"
    assert watched.problem is None


def test_a_folder_that_goes_away_leaves_the_policy_in_force(folder):
    watched = PolicyFolder(folder)
    before = watched.current(TODAY)
    folder.rename(folder.with_name("elsewhere"))

    assert watched.current(TODAY).sha256 == before.sha256
    assert "expected the folder of a lending policy, found nothing" in watched.problem


def test_an_edit_that_keeps_size_and_time_is_seen(folder):
    """Name, size and modification time alone would miss a file put in place with its old time."""
    watched = PolicyFolder(folder)
    path = folder / "rate" / "2026-01-01.json"
    status = path.stat()
    path.write_text(path.read_text(encoding="utf-8").replace('"0.045\\"', '"0.047\\"'), encoding="utf-8")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size

    watched.current(TODAY)

    assert watched.problem


def test_an_unchanged_folder_is_not_read_again(folder, monkeypatch):
    watched = PolicyFolder(folder)
    monkeypatch.setattr("policies.lending.folder.LendingPolicy.load", lambda _: pytest.fail("read again"))

    assert watched.current(TODAY) is watched.current(TODAY)


def test_without_a_policy_there_is_no_service(tmp_path):
    with pytest.raises(PolicyRefused, match="found nothing"):
        PolicyFolder(tmp_path / "absent")


def test_threads_see_one_whole_policy_or_the_other(folder, edited, rules_of):
    watched = PolicyFolder(folder)
    known = {watched.current(LATER).sha256}
    seen = set()
    changed = threading.Event()

    def ask():
        while not changed.is_set():
            seen.add(watched.current(LATER).sha256)
        seen.add(watched.current(LATER).sha256)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    _add_rate_version(folder, edited, rules_of)
    changed.set()
    for thread in threads:
        thread.join()
    known.add(watched.current(LATER).sha256)

    assert seen <= known
    assert len(known) == 2


def test_a_case_file_belongs_to_the_folder_that_is_watched(folder, edited):
    watched = PolicyFolder(folder)
    edited(
        folder / "decisions" / "products.json",
        lambda content: content["cases"][0]["expected"].update(outcome="declined"),
    )

    watched.current(TODAY)

    assert "expected outcome declined, found approved" in watched.problem


def test_the_archive_of_a_day_is_small(versions):
    assert len(archived(versions.on(TODAY))) < 200_000
    assert json.loads(archived(versions.on(TODAY)))["date"] == "2026-11-25"
