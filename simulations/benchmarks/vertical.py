"""Vertical training on real data: AUC beside pooled and alone, seconds, bytes, memory.

In one process, with the real protocol code and ciphertexts and without sockets; every party's memory adds up in it.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import train_test_split

from models.features import FloatArray, InputFeature
from models.metrics import auc
from models.vertical import VerticalSettings
from simulations.datasets.data_set import DataSet
from simulations.datasets.gmsc import load_gmsc
from simulations.datasets.uci_default import load_uci_default
from simulations.pooled_towers import PooledRows
from simulations.vertical_auditor import UnsafeVerticalAuditor
from simulations.vertical_parties import TrainedVertical, train_vertically

HOLDOUT_SHARE = 0.3
SPLIT_SEED = 7
PASSES = 5
PAIRS = 5

_STATUSES = ("pay_0", "pay_2", "pay_3", "pay_4", "pay_5", "pay_6")
_AMOUNTS = tuple(f"{kind}_amt{month}" for kind in ("bill", "pay") for month in range(1, 7))
_PROFILE = ("limit_bal", "sex", "education", "marriage", "age")
SPLITS: Mapping[tuple[str, int], Mapping[str, tuple[str, ...]]] = {
    ("uci_default", 2): {"bank": (*_PROFILE, *_STATUSES), "payment": _AMOUNTS},
    ("uci_default", 3): {"bank": _PROFILE, "payment": _STATUSES, "logistics": _AMOUNTS},
    ("gmsc", 3): {
        "bank": ("revolving_utilization", "age", "debt_ratio", "monthly_income", "dependents"),
        "payment": ("past_due_30_59", "past_due_60_89", "past_due_90"),
        "logistics": ("open_credit_lines", "real_estate_loans"),
    },
}
"""Features per role, the label holder first."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Columns and label of one part of a data set."""

    columns: Mapping[str, FloatArray]
    label: FloatArray


def run(
    cases: Sequence[tuple[str, int]] = tuple(SPLITS),
    *,
    pairwise: Sequence[bool] = (False, True),
    data: Mapping[str, DataSet] | None = None,
) -> list[dict[str, float | int | str | bool]]:
    """One row per data set, number of parties, and pairwise terms off or on.

    Args:
        cases: (data set, parties), keys of `SPLITS`.
        pairwise: Which of off and on to run.
        data: Data sets by name; loaded from the shared folder by default.

    Raises:
        DataSetUnavailable: A data set is nowhere to be found.
    """
    loaded = dict(data or {})
    found: list[dict[str, float | int | str | bool]] = []
    for name, parties in cases:
        if name not in loaded:
            loaded[name] = (load_gmsc if name == "gmsc" else load_uci_default)(os.environ)
        training, holdout = _split(loaded[name])
        by_name = {feature.name: InputFeature.from_terms(feature) for feature in loaded[name].features}
        features = {role: [by_name[f] for f in names] for role, names in SPLITS[name, parties].items()}
        found += [
            {
                "data": name,
                "parties": parties,
                "pairwise": pairs,
                **_measure(features, training, holdout, pairs=pairs),
            }
            for pairs in pairwise
        ]
    return found


def settings_for(*, pairs: bool) -> VerticalSettings:
    """The settings that the benchmark measures."""
    return VerticalSettings(passes=PASSES, pairs=PAIRS if pairs else 0)


def _measure(
    features: Mapping[str, Sequence[InputFeature]], training: Rows, holdout: Rows, *, pairs: bool
) -> dict[str, float | int | str | bool]:
    settings = settings_for(pairs=pairs)
    start, start_cpu = time.perf_counter(), time.process_time()
    trained = train_vertically(
        features,
        training.columns,
        training.label,
        settings,
        partial_scores_visible=len(features) == 2,
    )
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    auditor = UnsafeVerticalAuditor(
        features, PooledRows(training.columns, training.label), PooledRows(holdout.columns, holdout.label), settings
    )
    return {
        "auc": _auc(trained, holdout),
        "auc_pooled": auditor.auc_of(list(features)),
        "auc_alone": auditor.auc_of(list(features)[:1]),
        "train_s": round(seconds, 2),
        "train_cpu_s": round(cpu, 2),
        "passes": trained.passes,
        "peak_rss_mb": round(peak, 1),
        "wire_mb": round(trained.wire.moved_bytes / 1e6, 1),
        "columns_asked": trained.budget.asked,
    }


def _auc(trained: TrainedVertical, holdout: Rows) -> float:
    score = np.full(len(holdout.label), trained.bias)
    for tower in trained.towers.values():
        score += tower.scores(tower.basis.levels(holdout.columns))
    return float(auc(holdout.label, score))


def _split(data: DataSet) -> tuple[Rows, Rows]:
    label = data.frame[data.label].to_numpy(dtype=np.float64)
    parts = train_test_split(np.arange(len(label)), test_size=HOLDOUT_SHARE, random_state=SPLIT_SEED, stratify=label)
    columns = {f.name: data.frame[f.name].to_numpy(dtype=np.float64) for f in data.features}
    training, holdout = (Rows({name: values[at] for name, values in columns.items()}, label[at]) for at in parts)
    return training, holdout
