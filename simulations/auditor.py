"""An auditor who sees every member's rows: it exists in demos, benchmarks and tests alone.

No deployment can hold such a party; the class says so in its name. It trains the very program that the
consortium runs, with a sum of one party, and compares on a common hold-out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.artefact import Model, load_model
from models.features import FeatureTerms, TrainingData
from models.horizontal import HorizontalProgram, HorizontalSettings
from models.metrics import auc, brier, ks
from models.program import RunResult, run_locally

BOOTSTRAP_RESAMPLES = 200
INTERVAL_PERCENT = 95.0


@dataclass(frozen=True)
class Row:
    """One line of the comparison: figures on the common hold-out, AUC with its bootstrap interval.

    `auc_gap` is federated minus this model on the same resamples (paired), with its interval; None for the
    federated row itself.
    """

    model: str
    auc: float
    ks: float
    brier: float
    auc_low: float
    auc_high: float
    auc_gap: float | None
    auc_gap_low: float | None
    auc_gap_high: float | None

    def as_plain(self) -> dict[str, float | str | None]:
        """For JSON, in the order of the table."""
        return dict(vars(self))


def pool(parts: Sequence[TrainingData]) -> TrainingData:
    """All members' rows in one place: what the consortium exists to avoid."""
    names = parts[0].columns.keys()
    return TrainingData(
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in names},
        label=np.concatenate([part.label for part in parts]),
        holdout=np.concatenate([part.holdout for part in parts]),
    )


class UnsafeAuditor:
    """Holds every member's rows in the clear. Never part of a deployment."""

    def __init__(
        self,
        data: Mapping[str, TrainingData],
        features: Sequence[FeatureTerms],
        task: str,
        settings: HorizontalSettings,
    ) -> None:
        self._data = data
        self._features = features
        self._task = task
        self._settings = settings
        self._pooled = pool(list(data.values()))

    def train_alone(self, member: str) -> RunResult:
        """What one member reaches with its own rows."""
        return self._train(self._data[member])

    def train_pooled(self) -> RunResult:
        """What all rows in one place reach."""
        return self._train(self._pooled)

    def _train(self, data: TrainingData) -> RunResult:
        program = HorizontalProgram(data, self._features, self._task, self._settings, member_number=0, weights=(1,))
        return run_locally(program)

    @property
    def holdout_label(self) -> NDArray[np.int8]:
        """Labels of the common hold-out, the union of the members' hold-outs, shape (n_holdout,)."""
        return self._pooled.label[self._pooled.holdout]

    def predict(self, artefact: bytes) -> NDArray[np.float64]:
        """PD of every row of the common hold-out, shape (n_holdout,)."""
        model: Model = load_model(artefact)
        held = self._pooled.holdout
        return np.asarray(model.pd({name: column[held] for name, column in self._pooled.columns.items()}))

    def compare(
        self, federated: bytes, *, progress: Callable[[str], None] = lambda _: None
    ) -> tuple[list[Row], dict[str, NDArray[np.float64]]]:
        """Alone, federated and pooled on the common hold-out, with paired bootstrap intervals.

        Returns:
            Rows in the order of the table, and each model's PDs, shape (n_holdout,).
        """
        predicted: dict[str, NDArray[np.float64]] = {}
        for member in self._data:
            progress(f"{member} alone")
            predicted[f"alone:{member}"] = self.predict(self.train_alone(member).artefact)
        predicted["federated"] = self.predict(federated)
        progress("all rows pooled")
        predicted["pooled"] = self.predict(self.train_pooled().artefact)
        progress("bootstrap intervals")
        return paired_rows(self.holdout_label, predicted, reference="federated"), predicted


def paired_rows(label: NDArray[np.int8], predicted: Mapping[str, NDArray[np.float64]], *, reference: str) -> list[Row]:
    """Figures of several models on the same rows, with percentile bootstrap intervals.

    Every resample draws the same rows for all models, so that the interval of a difference leaves out the
    noise that they share (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

    Args:
        label: 1 = bad, shape (n,).
        predicted: PD per model, each of shape (n,).
        reference: The model from which gaps are taken.
    """
    draws = _resampled_aucs(label, predicted)
    tail = (100.0 - INTERVAL_PERCENT) / 2.0
    rows = []
    for name, pd in predicted.items():
        low, high = np.percentile(draws[name], [tail, 100.0 - tail])
        gap = gap_low = gap_high = None
        if name != reference:
            gap = float(auc(label, predicted[reference]) - auc(label, pd))
            gap_low, gap_high = (float(x) for x in np.percentile(draws[reference] - draws[name], [tail, 100.0 - tail]))
        rows.append(
            Row(
                model=name,
                auc=float(auc(label, pd)),
                ks=float(ks(label, pd)),
                brier=float(brier(label, pd)),
                auc_low=float(low),
                auc_high=float(high),
                auc_gap=gap,
                auc_gap_low=gap_low,
                auc_gap_high=gap_high,
            )
        )
    return rows


def _resampled_aucs(
    label: NDArray[np.int8], predicted: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """AUC of every model on every resample, shape (BOOTSTRAP_RESAMPLES,) each.

    Scores are ranked once; a resample is then a vector of row multiplicities, and its AUC a weighted
    Mann-Whitney statistic: no sorting in the loop. Ties count one half.
    """
    rng = np.random.default_rng(7)
    rows = len(label)
    orders = {name: _tie_groups(pd) for name, pd in predicted.items()}
    bad = label.astype(bool)
    draws = {name: np.empty(BOOTSTRAP_RESAMPLES) for name in predicted}
    for number in range(BOOTSTRAP_RESAMPLES):
        times = np.bincount(rng.integers(0, rows, rows), minlength=rows)
        for name, (group, groups) in orders.items():
            bads = np.bincount(group, weights=times * bad, minlength=groups)
            goods = np.bincount(group, weights=times * ~bad, minlength=groups)
            below = np.cumsum(goods) - goods
            draws[name][number] = float((bads * (below + goods / 2.0)).sum() / (bads.sum() * goods.sum()))
    return draws


def _tie_groups(pd: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
    values, group = np.unique(pd, return_inverse=True)
    return group, len(values)
