"""Run a scenario: all members in this process, through the code that separate processes run.

A folder comes out: the scenario as it was read, metrics, the model card with its plots, and the model. The figures
are those that the members signed; what only somebody with all rows could know comes from the auditor and says so.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from coordinator.driver import RunOutcome
from coordinator.evidence import evidence_of, write_run_folder
from models.card import ComparisonRow, build_card
from models.plots import ComparisonLine, comparison_plot
from nodes.program import horizontal_settings
from policies.errors import UserError
from simulations.auditor import Row, UnsafeAuditor, paired_rows
from simulations.consortium import ROLE, TASK
from simulations.in_process_consortium import InProcessConsortium
from simulations.machine import machine, versions
from simulations.scenario import Scenario, load_rows, load_scenario, planned_faults

SCENARIO_FILE = "scenario.toml"
METRICS_FILE = "metrics.json"
COMPARISON_FILE = "comparison.svg"
_ABOUT_THE_SUM = {"k", "purpose", "survivors", "seconds"}

Announce = Callable[[str], None]
OnEvent = Callable[[str, dict[str, object]], None]


@dataclass
class SumLine:
    """One sum of the run as it was seen from outside."""

    k: int
    purpose: str
    survivors: int
    seconds: float
    dropped: list[str] = field(default_factory=list)
    statistics: dict[str, float] = field(default_factory=dict)

    def as_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "k": self.k,
            "purpose": self.purpose,
            "survivors": self.survivors,
            "dropped": self.dropped,
            "seconds": round(self.seconds, 3),
            **{name: value for name, value in self.statistics.items() if name != "k"},
        }


@dataclass(frozen=True)
class SimulationResult:
    """What came out.

    Attributes:
        folder: Where it lies.
        failure: Why the run failed; None if it finished.
        sums: Every opened sum in order.
        quality: The signed figures of the cohort's hold-out; empty if the run failed.
        rows: The auditor's comparison; empty if none was asked for.
        seconds: Wall-clock seconds by stage.
        metrics: Everything above as written to `metrics.json`.
    """

    folder: Path
    failure: str | None
    sums: list[SumLine]
    quality: Mapping[str, float]
    rows: list[Row]
    seconds: Mapping[str, float]
    metrics: Mapping[str, Any]


class _Watch:
    """Follows the run's events with a wall clock: the run's own clock is simulated."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._since = time.monotonic()
        self.sums: dict[int, SumLine] = {}
        self._dropped: dict[int, list[str]] = {}

    def __call__(self, event: str, details: dict[str, object]) -> None:
        match event, details.get("k"), details.get("members"):
            case "keyed", _, _:
                self._since = time.monotonic()
            case "dropped", int(k), list(members):
                self._dropped[k] = [str(member) for member in members]
            case "opened", int(k), _:
                self._opened(k, details)
            case _:
                pass
        self._on_event(event, details)

    def _opened(self, k: int, details: dict[str, object]) -> None:
        now = time.monotonic()
        survivors = details.get("survivors")
        self.sums[k] = SumLine(
            k,
            str(details.get("purpose")),
            survivors if isinstance(survivors, int) else 0,
            now - self._since,
            self._dropped.get(k, []),
        )
        self._since = now
        # What a sum has opened is signed with the next contribution.
        figures = {n: v for n, v in details.items() if n not in _ABOUT_THE_SUM and isinstance(v, (int, float))}
        if k - 1 in self.sums:
            self.sums[k - 1].statistics.update(figures)


def simulate(path: Path, folder: Path, *, announce: Announce, on_event: OnEvent) -> SimulationResult:
    """Read a scenario file, run it, and write what came out.

    Args:
        path: The scenario file.
        folder: Where to write; absent or empty.
        announce: Called with a sentence at each stage.
        on_event: Called with every event of the run.

    Raises:
        UserError: The scenario is refused, the folder holds files, or the data cannot be had. A run that fails is
            no error here: that it fails is what the simulation found.
    """
    scenario = load_scenario(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: expected an empty or a new folder for the results, found files; name another one.")
    result = run_scenario(scenario, folder, announce=announce, on_event=on_event)
    shutil.copyfile(path, folder / SCENARIO_FILE)
    return result


def run_scenario(scenario: Scenario, folder: Path, *, announce: Announce, on_event: OnEvent) -> SimulationResult:
    """Run a scenario; see `simulate`."""
    torch.set_num_threads(1)  # members take turns on small batches: threads only cost
    seconds: dict[str, float] = {}
    began = time.monotonic()
    announce(f"{scenario.name}: {scenario.data.set}, {len(scenario.members.all_shares)} members")
    data_set, rows = load_rows(scenario)
    seconds["data"] = time.monotonic() - began
    watch = _Watch(on_event)
    with tempfile.TemporaryDirectory(prefix="tallystick-simulation-") as state:
        started = time.monotonic()
        consortium = InProcessConsortium(
            data_set,
            rows,
            Path(state),
            model=scenario.model,
            privacy=scenario.privacy.terms(len(rows)),
            holdout_key=scenario.holdout_key,
            faults=planned_faults(scenario, lambda: consortium.current_sum()),  # noqa: PLW0108 - not made yet
            survives_power_cut=False,
            on_event=watch,
        )
        with consortium:
            seconds["founding"] = time.monotonic() - started
            started = time.monotonic()
            outcome, failure = _run(consortium, scenario)
            seconds["run"] = time.monotonic() - started
            if failure is None:
                on_event("finished", dict(_quality(outcome)))
            started = time.monotonic()
            compared = _compare(consortium, scenario, outcome, announce)
            seconds["audit"] = time.monotonic() - started
            folder.mkdir(parents=True, exist_ok=True)
            if outcome is not None:
                _write_card(folder, consortium, outcome, compared)
                for k, figures in outcome.rounds.items():
                    if k in watch.sums:
                        watch.sums[k].statistics.update(figures)
    seconds["total"] = time.monotonic() - began
    sums = [watch.sums[k] for k in sorted(watch.sums)]
    quality = _quality(outcome)
    metrics = {
        "scenario": scenario.name,
        "outcome": "finished" if failure is None else "failed",
        "failure": failure,
        "members": len(rows),
        "rows": {member: len(frame) for member, frame in rows.items()},
        "method": scenario.training.method,
        "rounds": sum(line.purpose == "train" for line in sums),
        "sums": [line.as_plain() for line in sums],
        "quality": dict(quality),
        "comparison": [row.as_plain() for row in compared],
        "traffic": _traffic(outcome),
        "model": outcome.released.table.model_digest if outcome is not None else None,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "machine": machine(),
        "versions": versions(),
    }
    (folder / METRICS_FILE).write_text(json.dumps(metrics, indent=1) + "\n")
    return SimulationResult(folder, failure, sums, quality, compared, seconds, metrics)


def _run(consortium: InProcessConsortium, scenario: Scenario) -> tuple[RunOutcome | None, str | None]:
    try:
        return consortium.run(scenario.method_settings), None
    except UserError as failure:
        return None, str(failure)


def _quality(outcome: RunOutcome | None) -> dict[str, float]:
    quality = outcome.released.table.quality if outcome is not None else None
    return {} if quality is None else quality.model_dump(exclude_none=True)


def _traffic(outcome: RunOutcome | None) -> dict[str, Any]:
    if outcome is None:
        return {}
    traffic = outcome.traffic
    return {"exchanges": traffic.exchanges, "bytes_up": traffic.bytes_up, "bytes_down": traffic.bytes_down}


def _compare(
    consortium: InProcessConsortium, scenario: Scenario, outcome: RunOutcome | None, announce: Announce
) -> list[Row]:
    if scenario.compare == "none" or outcome is None or outcome.artefact is None:
        return []
    announce("auditor (exists only in simulations): the same program with all rows in one place")
    auditor = UnsafeAuditor(
        consortium.data,
        consortium.agreement.features_of(ROLE),
        TASK,
        horizontal_settings(consortium.agreement, scenario.method_settings),
    )
    if scenario.compare == "all":
        return auditor.compare(outcome.artefact, progress=announce)[0]
    predicted = {
        "federated": auditor.predict(outcome.artefact),
        "pooled": auditor.predict(auditor.train_pooled().artefact),
    }
    return paired_rows(auditor.holdout_label, predicted, reference="federated")


def _write_card(folder: Path, consortium: InProcessConsortium, outcome: RunOutcome, compared: list[Row]) -> None:
    evidence = evidence_of(outcome, consortium.agreement, dt.datetime.now(dt.UTC).isoformat(timespec="seconds"))
    lines = tuple(
        ComparisonRow(
            model=row.model, auc=row.auc, ks=row.ks, brier=row.brier, auc_low=row.auc_low, auc_high=row.auc_high
        )
        for row in compared
    )
    write_run_folder(folder, outcome, build_card(evidence.model_copy(update={"comparison": lines})))
    if compared:
        plot = comparison_plot([ComparisonLine(row.model, row.auc, row.auc_low, row.auc_high) for row in compared])
        (folder / COMPARISON_FILE).write_bytes(plot)
