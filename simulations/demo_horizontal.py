"""The horizontal story: five banks with other customers each, one credit model, and what it was worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from coordinator.registry import MODEL_FILE
from coordinator.request import RunRequest
from models.artefact import load_model
from models.card import CARD_FILE
from models.features import TrainingData
from models.scoring import score_frame
from nodes.contract import prepare_rows
from nodes.program import horizontal_settings
from policies.agreement import ModelTerms
from policies.proposal import MethodSettings
from simulations.auditor import UnsafeAuditor
from simulations.consortium import PURPOSE, ROLE, TASK, Consortium, found
from simulations.datasets import DataSet, load_data_set
from simulations.dealing import DEMO_SHARES, deal_shares
from simulations.demo import DemoResult, Laps, best_alone, write_comparison
from simulations.processes import Processes
from simulations.running import Announce, OnEvent, free_port, run_to_end, start_processes

MODEL = ModelTerms(tower="additive", bins=8, ridge=1.0, smoothness=20.0)
SETTINGS = MethodSettings(method="newton", rounds=15)
SKEW_COLUMN, SKEW_STRENGTH, SEED = "age", 0.9, 7


def run_horizontal(folder: Path, data: str, num_rows: int, *, announce: Announce, on_event: OnEvent) -> DemoResult:
    """Play the whole story.

    Args:
        folder: Where results, and until `tidy` the consortium itself, lie; absent or empty.
        data: Name of the data set, see `simulations.datasets`.
        num_rows: Borrowers, drawn at random; 0 for all of them.
        announce: Called with a sentence at each stage.
        on_event: Called with every event of the training run.

    Raises:
        UserError: The data cannot be fetched, a process does not come up, or the run fails.
    """
    laps = Laps()
    announce(f"data: {data}")
    data_set = load_data_set(data)
    if 0 < num_rows < len(data_set.frame):
        data_set = replace(data_set, frame=data_set.frame.sample(num_rows, random_state=SEED).sort_index())
    rows = deal_shares(data_set, DEMO_SHARES, seed=SEED, skew_column=SKEW_COLUMN, skew_strength=SKEW_STRENGTH)
    laps.lap("data")
    announce(f"founding a consortium of {len(rows)} banks in {folder}")
    consortium = found(folder / "consortium", data_set, rows, model=MODEL, fleet_port=free_port())
    _say_who_has_what(rows, data_set, announce)
    laps.lap("founding")
    with Processes(folder / "logs") as processes:
        start_processes(consortium, processes, announce)
        laps.lap("start")
        announce(f"training: {SETTINGS.method}, sealed sums, at most {SETTINGS.rounds} rounds")
        run = run_to_end(consortium, RunRequest(task=TASK, purpose=PURPOSE, settings=SETTINGS), on_event)
        laps.lap("training")
    announce("auditor (exists only in demos): every bank alone, and all rows pooled")
    threadpool_limits(limits=1)  # small matrices: a second thread costs more than it brings
    auditor, members = _auditor(consortium, rows)
    artefact = (run.folder / MODEL_FILE).read_bytes()
    table, predicted = auditor.compare(artefact, progress=announce)
    laps.lap("audit")
    (folder / MODEL_FILE).write_bytes(artefact)
    shown = ("pooled", "federated", best_alone(table))
    write_comparison(folder, run.folder / CARD_FILE, auditor.holdout_label, table, predicted, shown=shown)
    return DemoResult("horizontal", table, laps.total(), folder, score_one(artefact, members), MODEL_FILE)


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
