"""The horizontal story: five banks, real processes, mutual TLS, one credit model, and what it was worth.

Nothing here is special to the demo but the auditor, who sees all rows to compare: the processes are those of
`tallystick coordinator run` and `tallystick node run`, the run is one of `tallystick train`.
"""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from coordinator.evidence import CARD_PAGE
from coordinator.follow import follow
from coordinator.registry import MODEL_FILE
from coordinator.request import RunRequest
from coordinator.store import CoordinatorStore
from models.artefact import load_model
from models.card import CARD_FILE, ComparisonRow, build_card, load_card
from models.card_html import render_html
from models.features import TrainingData
from models.plots import ComparisonLine, calibration_plot, comparison_plot, roc_plot
from models.scoring import score_frame
from nodes.contract import prepare_rows
from nodes.program import horizontal_settings
from policies.agreement import ModelTerms
from policies.errors import UserError
from policies.proposal import MethodSettings
from policies.release import CalibrationBin
from simulations.auditor import Row, UnsafeAuditor
from simulations.consortium import PURPOSE, ROLE, TASK, Consortium, found
from simulations.datasets import DataSet, load_data_set
from simulations.dealing import DEMO_SHARES, deal_shares
from simulations.processes import Processes

MODEL = ModelTerms(tower="additive", bins=8, ridge=1.0, smoothness=20.0)
SETTINGS = MethodSettings(method="newton", rounds=15)
SKEW_COLUMN, SKEW_STRENGTH, SEED = "age", 0.9, 7
START_DEADLINE_S = 90.0
NUM_CALIBRATION_BINS = 20

Announce = Callable[[str], None]


@dataclass(frozen=True)
class DemoResult:
    """What the demo found and where it lies."""

    rows: list[Row]
    seconds: dict[str, float]
    folder: Path
    applicant: Mapping[str, Any]

    def as_plain(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "story": "horizontal",
            "rows": [row.as_plain() for row in self.rows],
            "seconds": round(self.seconds["total"], 2),
            "phases_s": {name: round(value, 2) for name, value in self.seconds.items()},
            "folder": str(self.folder),
        }


def run_horizontal(
    folder: Path,
    data: str,
    *,
    announce: Announce,
    on_event: Callable[[str, dict[str, object]], None],
) -> DemoResult:
    """Play the whole story.

    Args:
        folder: Where results, and until `tidy` the consortium itself, lie; absent or empty.
        data: Name of the data set, see `simulations.datasets`.
        announce: Called with a sentence at each stage.
        on_event: Called with every event of the training run.

    Raises:
        UserError: The data cannot be fetched, a process does not come up, or the run fails.
    """
    seconds: dict[str, float] = {}
    began = started = time.monotonic()

    def lap(name: str) -> None:
        nonlocal started
        seconds[name], started = time.monotonic() - started, time.monotonic()

    announce(f"data: {data}")
    data_set = load_data_set(data)
    rows = deal_shares(data_set, DEMO_SHARES, seed=SEED, skew_column=SKEW_COLUMN, skew_strength=SKEW_STRENGTH)
    lap("data")
    announce(f"founding a consortium of {len(rows)} banks in {folder}")
    consortium = found(folder / "consortium", data_set, rows, model=MODEL, fleet_port=free_port())
    _say_who_has_what(rows, data_set, announce)
    lap("founding")
    with Processes(folder / "logs") as processes:
        start_processes(consortium, processes, announce)
        lap("start")
        announce(f"training: {SETTINGS.method}, sealed sums, at most {SETTINGS.rounds} rounds")
        run_folder = train(consortium, on_event)
        lap("training")
    announce("auditor (exists only in demos): every bank alone, and all rows pooled")
    auditor, members = _auditor(consortium, rows)
    artefact = (run_folder / MODEL_FILE).read_bytes()
    table, predicted = auditor.compare(artefact, progress=announce)
    lap("audit")
    _write_results(folder, run_folder, artefact, auditor, table, predicted)
    applicant = score_one(artefact, members)
    seconds["total"] = time.monotonic() - began
    return DemoResult(table, seconds, folder, applicant)


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_processes(consortium: Consortium, processes: Processes, announce: Announce) -> None:
    """Start the coordinator and every node, and wait until all are online.

    Raises:
        UserError: One of them ended or is not online in time.
    """
    processes.start("coordinator", "coordinator", "run", "--settings", str(consortium.coordinator_settings))
    for member in consortium.members:
        processes.start(member, "node", "run", "--settings", str(consortium.node_settings(member)))
    listening = processes.wait_for("coordinator", r"^listening on (\S+)$", deadline_s=START_DEADLINE_S)
    announce(f"coordinator: https://{listening.group(1)} (mutual TLS), process {processes['coordinator'].pid}")
    for member in consortium.members:
        processes.wait_for(member, r"^online$", deadline_s=START_DEADLINE_S)
        announce(f"{member}: online, process {processes[member].pid}")


def train(consortium: Consortium, on_event: Callable[[str, dict[str, object]], None]) -> Path:
    """Queue a run as `tallystick train` does, follow it, and return its folder.

    Raises:
        UserError: The run failed.
    """
    store = CoordinatorStore(consortium.coordinator_state)
    try:
        run_id = f"run-{secrets.token_hex(6)}"
        store.queue_run(run_id, RunRequest(task=TASK, purpose=PURPOSE, settings=SETTINGS).to_bytes())
        for event in follow(store, run_id):
            on_event(event.event, event.details)
            if event.event == "failed":
                raise UserError(f"The run failed: {event.details.get('reason')}")
        return Path(str(event.details["folder"]))
    finally:
        store.close()


def _say_who_has_what(rows: Mapping[str, pd.DataFrame], data_set: DataSet, announce: Announce) -> None:
    for member, frame in sorted(rows.items()):
        announce(
            f"{member}: {len(frame)} borrowers, {100 * frame[data_set.label].mean():.1f} % bad, "
            f"mean age {frame[SKEW_COLUMN].mean():.0f}"
        )


def _auditor(consortium: Consortium, rows: Mapping[str, pd.DataFrame]) -> tuple[UnsafeAuditor, dict[str, TrainingData]]:
    agreement = consortium.agreement
    members = {
        member: prepare_rows(rows[member], agreement, member_id=member, task_name=TASK)[0]
        for member in consortium.members
    }
    settings = horizontal_settings(agreement, SETTINGS)
    return UnsafeAuditor(members, agreement.features_of(ROLE), TASK, settings), members


def score_one(artefact: bytes, members: Mapping[str, TrainingData]) -> Mapping[str, Any]:
    """Score one applicant: the riskiest of the first hundred borrowers that a bank held out."""
    model = load_model(artefact)
    data = next(iter(members.values()))
    held = {name: column[data.holdout][:100] for name, column in data.columns.items()}
    scores = score_frame(model, pd.DataFrame(held))
    row = int(np.argmax(scores.pd))
    return {"features": {name: float(column[row]) for name, column in held.items()}, **scores.row(row)}


def _write_results(
    folder: Path,
    run_folder: Path,
    artefact: bytes,
    auditor: UnsafeAuditor,
    table: list[Row],
    predicted: Mapping[str, NDArray[np.float64]],
) -> None:
    label = auditor.holdout_label
    best_alone = max((row for row in table if row.model.startswith("alone")), key=lambda row: row.auc).model
    shown = ("pooled", "federated", best_alone)
    (folder / "roc.svg").write_bytes(roc_plot({name: _roc(label, predicted[name]) for name in shown}))
    (folder / "calibration.svg").write_bytes(calibration_plot(calibration(label, predicted["federated"])))
    lines = [ComparisonLine(row.model, row.auc, row.auc_low, row.auc_high) for row in table]
    (folder / "comparison.svg").write_bytes(comparison_plot(lines))
    (folder / MODEL_FILE).write_bytes(artefact)
    evidence = load_card(run_folder / CARD_FILE).evidence.model_copy(
        update={
            "comparison": tuple(
                ComparisonRow(
                    model=row.model,
                    auc=row.auc,
                    ks=row.ks,
                    brier=row.brier,
                    auc_low=row.auc_low,
                    auc_high=row.auc_high,
                )
                for row in table
            )
        }
    )
    card = build_card(evidence)
    (folder / CARD_FILE).write_bytes(card.to_json())
    (folder / CARD_PAGE).write_text(render_html(card), encoding="utf-8")
    (folder / "table.json").write_text(json.dumps([row.as_plain() for row in table], indent=1))


def _roc(label: NDArray[np.int8], pd_: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """ROC at 400 points of the score's order: enough for a plot, small as a file."""
    order = np.argsort(-pd_, kind="stable")
    bad = label[order].astype(bool)
    at = np.unique(np.linspace(0, len(bad), 401).astype(np.int64))
    true_rate = np.concatenate([[0.0], np.cumsum(bad) / bad.sum()])[at]
    false_rate = np.concatenate([[0.0], np.cumsum(~bad) / (~bad).sum()])[at]
    return false_rate.tolist(), true_rate.tolist()


def calibration(label: NDArray[np.int8], pd_: NDArray[np.float64]) -> list[CalibrationBin]:
    """Observed against predicted in bins of equally many borrowers."""
    order = np.argsort(pd_, kind="stable")
    return [
        CalibrationBin(
            pd_low=float(pd_[part[0]]),
            pd_high=float(pd_[part[-1]]),
            mean_pd=float(pd_[part].mean()),
            observed_rate=float(label[part].mean()),
            rows=len(part),
        )
        for part in np.array_split(order, NUM_CALIBRATION_BINS)
    ]


def tidy(folder: Path) -> None:
    """Remove the consortium itself (keys, rows, databases); results and logs stay."""
    shutil.rmtree(folder / "consortium", ignore_errors=True)
