"""README commands run as written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tallystick.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^\$ tallystick (.+?)(?:\s{2,}#.*)?$", README, re.MULTILINE)
TARGETS = re.findall(r"^\$ make (\w+)", README, re.MULTILINE)


def test_readme_shows_the_two_commands_on_its_first_screen():
    first_screen = README.splitlines()[:25]

    assert any(line.startswith("$ make demo") for line in first_screen)
    assert any(line.startswith("$ make test") for line in first_screen)


@pytest.mark.parametrize("target", [*TARGETS, "check", "acceptance", "mutants", "bench"])
def test_make_target_of_the_readme_exists(target):
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_the_readme_exists_with_help_and_an_example(command, capsys):
    words = [word for word in command.split() if word != "--help"]
    # Benchmarks and other long verbs are run by the acceptance tests; here their help is enough.
    code = main([*words, "--help"])

    shown = capsys.readouterr().out
    assert code == 0
    assert "Example" in shown or "example" in shown


def test_help_lists_every_verb_of_the_readme():
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tallystick", "--help"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )

    for command in COMMANDS:
        assert command.split()[0] in done.stdout
