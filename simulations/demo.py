"""What the stories of `tallystick demo` have in common: the clock, the results' folder, and what is left at the end.

Nothing is special to a demo but the auditor, who sees all rows to compare: the processes are those of
`tallystick coordinator run` and `tallystick node run`, the run is one of `tallystick train`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.evidence import CARD_PAGE
from models.card import CARD_FILE, ComparisonRow, build_card, load_card
from models.card_html import render_html
from models.plots import ComparisonLine, calibration_plot, comparison_plot, roc_plot
from policies.release import CalibrationBin
from simulations.auditor import Row

NUM_CALIBRATION_BINS = 20
_ROC_POINTS = 400


@dataclass(frozen=True)
class DemoResult:
    """What a story found and where it lies.

    Attributes:
        story: horizontal or vertical.
        rows: Lines of the comparison.
        seconds: By phase, and in total.
        folder: Results and logs.
        score: One score, as it was answered; empty if none was asked for.
        artefact: File of the model in the folder; empty where nobody holds the model.
    """

    story: str
    rows: list[Row]
    seconds: Mapping[str, float]
    folder: Path
    score: Mapping[str, Any] = field(default_factory=dict)
    artefact: str = ""

    def as_plain(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "story": self.story,
            "rows": [row.as_plain() for row in self.rows],
            "seconds": round(self.seconds["total"], 2),
            "phases_s": {name: round(value, 2) for name, value in self.seconds.items()},
            "folder": str(self.folder),
        }


@dataclass
class Laps:
    """Seconds by phase, as a stop watch takes them."""

    seconds: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)
    _since: float = field(default_factory=time.monotonic)

    def lap(self, name: str) -> None:
        """A phase has ended."""
        now = time.monotonic()
        self.seconds[name], self._since = now - self._since, now

    def total(self) -> dict[str, float]:
        """All phases, and the whole."""
        return {**self.seconds, "total": time.monotonic() - self._began}


def write_comparison(
    folder: Path,
    card_path: Path,
    label: NDArray[np.int8],
    table: Sequence[Row],
    predicted: Mapping[str, NDArray[np.float64]],
    *,
    shown: Sequence[str],
) -> None:
    """Write plots, the table, and the run's card with the comparison on it.

    Args:
        folder: Results.
        card_path: The run's own card.
        label: Of the common hold-out, shape (n,).
        table: Lines of the comparison.
        predicted: PDs by model, shape (n,) each.
        shown: Models in the ROC plot.
    """
    (folder / "roc.svg").write_bytes(roc_plot({name: _roc(label, predicted[name]) for name in shown}))
    (folder / "calibration.svg").write_bytes(calibration_plot(calibration(label, predicted["federated"])))
    lines = [ComparisonLine(row.model, row.auc, row.auc_low, row.auc_high) for row in table]
    (folder / "comparison.svg").write_bytes(comparison_plot(lines))
    evidence = load_card(card_path).evidence.model_copy(
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


def best_alone(table: Sequence[Row]) -> str:
    """The model of the member that does best with its own rows."""
    return max((row for row in table if row.model.startswith("alone")), key=lambda row: row.auc).model


def _roc(label: NDArray[np.int8], pd_: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """ROC at some points of the score's order: enough for a plot, small as a file."""
    order = np.argsort(-pd_, kind="stable")
    bad = label[order].astype(bool)
    at = np.unique(np.linspace(0, len(bad), _ROC_POINTS + 1).astype(np.int64))
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
    """Remove the consortium itself (keys, rows, databases); results and all logs stay."""
    logs = folder / "logs"
    for log in sorted((folder / "consortium").glob("*/state/*.log")):
        logs.mkdir(exist_ok=True)
        shutil.copyfile(log, logs / f"{log.parent.parent.name}.{log.name}")
    shutil.rmtree(folder / "consortium", ignore_errors=True)
