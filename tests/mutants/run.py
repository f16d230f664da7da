"""Break the security code on purpose, one line at a time, and show the named test that notices.

Each `tests/mutants/*.toml` holds `[[mutant]]` tables: `claim` (the sentence that the line upholds), `file`,
`find` (text that occurs exactly once in it), `replace`, `killed_by` (a pytest node id). A mutant is applied
to a copy of the tree; the named test must pass before and fail after. `make mutants` runs them all;
`python -m tests.mutants.run role_sum` those of one table.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("coordinator", "models", "nodes", "policies", "protos", "simulations", "tallystick", "tests")
TEST_TIMEOUT_S = 600


@dataclass(frozen=True)
class Mutant:
    """One deliberate fault and the test that must notice it."""

    claim: str
    file: str
    find: str
    replace: str
    killed_by: str


def load_mutants(tables: Sequence[str] = ()) -> list[Mutant]:
    """Every mutant of the named tables, of all by default, checked: the text to replace occurs exactly once."""
    mutants = []
    for table in sorted(Path(__file__).parent.glob("*.toml")):
        if tables and table.stem not in tables:
            continue
        for entry in tomllib.loads(table.read_text())["mutant"]:
            mutant = Mutant(**entry)
            occurrences = (ROOT / mutant.file).read_text().count(mutant.find)
            if occurrences != 1:
                raise SystemExit(
                    f"{table.name}: '{mutant.find}' occurs {occurrences} times in {mutant.file}, expected once"
                )
            mutants.append(mutant)
    return mutants


def copy_tree(target: Path) -> None:
    """Copy what tests need; the environment and caches stay where they are."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, target / package, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", target)
    if (ROOT / "docs").is_dir():
        shutil.copytree(ROOT / "docs", target / "docs", ignore=ignore)


def passes(tree: Path, tests: list[str]) -> tuple[bool, str]:
    """Run the named tests in `tree`; True when all of them ran and passed."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment.setdefault("TALLYSTICK_DATA", str(ROOT.parent / "shared" / "data"))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TEST_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, "timed out"
    return done.returncode == 0, done.stdout[-2000:] + done.stderr[-500:]


def attack(mutant: Mutant) -> tuple[bool, str]:
    """Apply one mutant to a fresh copy; True when its test fails as a test does (not as a collection error)."""
    with tempfile.TemporaryDirectory(prefix="tallystick-mutant-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        source = tree / mutant.file
        source.write_text(source.read_text().replace(mutant.find, mutant.replace))
        survived, output = passes(tree, [mutant.killed_by])
        killed = not survived and (" failed" in output or "timed out" in output)
        return killed, output


def main(tables: Sequence[str] = ()) -> int:
    """Run the mutants; 0 when every one is killed by its named test."""
    mutants = load_mutants(tables)
    if not mutants:
        print(f"Expected tables of tests/mutants, found none of {', '.join(tables)}.")
        return 2
    named = sorted({mutant.killed_by for mutant in mutants})
    print(f"{len(mutants)} mutants, {len(named)} tests: the tests must pass on the unchanged tree first", flush=True)
    with tempfile.TemporaryDirectory(prefix="tallystick-mutant-") as folder:
        copy_tree(Path(folder))
        healthy, output = passes(Path(folder), named)
    if not healthy:
        print(output)
        print("A named test fails on the unchanged tree; mend that first.")
        return 1
    survivors = 0
    with ThreadPoolExecutor(max_workers=max(1, os.cpu_count() or 1)) as pool:
        for mutant, (killed, output) in zip(mutants, pool.map(attack, mutants), strict=True):
            print(
                f"{'killed  ' if killed else 'SURVIVED'}  {mutant.claim}\n          by {mutant.killed_by}", flush=True
            )
            if not killed:
                survivors += 1
                print(output)
    print(f"{len(mutants) - survivors} passed, {survivors} failed")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
