"""The shape of the repository: who may import whom, and that our names are ours alone."""

import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("coordinator", "models", "nodes", "policies", "protos", "simulations", "tallystick")


def test_import_contracts_hold():
    """`lint-imports` also runs in `make check`; here it is a test so that `make test` alone shows a breach."""
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_owns_a_top_level_name_of_ours(package):
    owners = set(packages_distributions().get(package, [])) - {"tallystick"}

    assert owners == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_a_one_page_readme(package):
    text = (ROOT / package / "README.md").read_text()

    assert 10 <= len(text.splitlines()) <= 120
    for heading in ("## Purpose", "## Non-goals", "## Invariants", "## Decisions"):
        assert heading in text


def test_no_file_is_a_bag_of_leftovers():
    bags = {"utils.py", "common.py", "helpers.py", "misc.py"}

    found = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name in bags
    ]

    assert found == []


@pytest.mark.parametrize("module", ["nodes.service", "coordinator.service"])
def test_a_process_loads_torch_only_when_a_run_needs_it(module):
    """190 MB and seconds that vertical runs, alignment and scoring do without."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys, {module}; print('torch' in sys.modules)"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "FLWR_TELEMETRY_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "False"
