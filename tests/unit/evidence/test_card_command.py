"""`tallystick card show`."""

from __future__ import annotations

import pytest

from models.card import CARD_FILE, build_card, load_card
from tallystick.__main__ import main


@pytest.fixture
def run_folder(make_evidence, tmp_path):
    (tmp_path / CARD_FILE).write_bytes(build_card(make_evidence()).to_json())
    return tmp_path


def test_summary_names_quality_members_hashes_and_leaks(run_folder, capsys):
    assert main(["card", "show", str(run_folder)]) == 0

    text = capsys.readouterr().out
    card = load_card(run_folder)
    assert "AUC 0.8612" in text
    assert "bank          5: bank-a, bank-b" in text
    assert all(value in text for _, value in card.hashes())
    assert all(leak.id in text for leak in card.leaks)


def test_json_is_the_checked_card_itself(run_folder, capsys):
    assert main(["card", "show", str(run_folder / CARD_FILE), "--json"]) == 0

    assert load_card(capsys.readouterr().out.encode()) == load_card(run_folder)


def test_page_is_written_where_asked(run_folder, capsys):
    page = run_folder / "card.html"
    assert main(["card", "show", str(run_folder), "--html", str(page)]) == 0

    assert page.read_text().startswith("<!doctype html>")
    assert "card.html" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"format": "tallystick-card/2"}'])
def test_file_that_is_no_card_is_one_sentence(tmp_path, capsys, content):
    (tmp_path / CARD_FILE).write_bytes(content)
    assert main(["card", "show", str(tmp_path)]) == 1

    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert error.count("\n") == 1


def test_page_that_cannot_be_written_is_one_sentence(run_folder, capsys):
    assert main(["card", "show", str(run_folder), "--html", str(run_folder / "absent" / "card.html")]) == 1

    assert "cannot be written" in capsys.readouterr().err


def test_verb_without_arguments_shows_its_help_with_an_example(capsys):
    assert main(["card", "show", "--help"]) == 0

    assert "Example: tallystick card show" in capsys.readouterr().out
