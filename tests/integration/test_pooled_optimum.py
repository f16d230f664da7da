"""Federated training against the optimum of the pooled rows, found by other means, on real and on synthetic rows."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score

from models.artefact import load_model
from models.features import InputFeature, TrainingData
from models.holdout import holdout_mask
from models.horizontal import HorizontalProgram, HorizontalSettings, weight_log2_for_rows
from models.metrics import auc
from models.program import run_locally
from protos.sealed_sum.layout import decode, encode
from protos.sealed_sum.parameters import PLAIN_MODULUS

DATA = Path(os.environ.get("TALLYSTICK_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
SETS = {"gmsc": ("id", "SeriousDlqin2yrs"), "uci_default": ("ID", "default_next_month")}
SHARES = (0.40, 0.25, 0.15, 0.12, 0.08)


def real(name):
    path = DATA / name / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"needs {path.name} in {DATA} (set TALLYSTICK_DATA)")
    frame = pd.read_parquet(path)
    identifier, label = SETS[name]
    columns = {c: frame[c].to_numpy(np.float64) for c in frame if c not in (identifier, label)}
    holdout = holdout_mask(frame[identifier], b"k")
    return columns, frame[label].to_numpy(np.int8), holdout


def synthetic():
    rng = np.random.default_rng(5)
    rows = 9000
    late = rng.poisson(0.4, rows).astype(np.float64)
    income = np.round(rng.lognormal(8, 0.7, rows))
    income[rng.random(rows) < 0.1] = np.nan
    use = np.where(rng.random(rows) < 0.2, 0.0, rng.beta(1, 3, rows))
    log_odds = -2.2 + 1.1 * np.minimum(late, 3) + 1.5 * use - 0.3 * np.nan_to_num((income - 3000) / 2000)
    label = (rng.random(rows) < 1 / (1 + np.exp(-log_odds))).astype(np.int8)
    return {"late": late, "income": income, "use": use}, label, holdout_mask(range(rows), b"k")


def load(name):
    return synthetic() if name == "synthetic" else real(name)


def features_of(columns, monotone=None):
    found = []
    for name, values in columns.items():
        known = values[~np.isnan(values)]
        found.append(
            InputFeature(
                name=name,
                type="integer" if (known == np.rint(known)).all() else "number",
                low=float(known.min()),
                high=float(known.max()),
                monotone=(monotone or {}).get(name, "none"),
                reason_code=name.upper(),
                missing_allowed=bool(np.isnan(values).any()),
            )
        )
    return found


def programs(columns, label, holdout, settings, monotone=None):
    """Five members of unlike sizes, with customers of unlike kinds: the first column decides who goes where."""
    order = np.argsort(np.nan_to_num(next(iter(columns.values()))), kind="stable")
    rng = np.random.default_rng(3)
    noisy = np.argsort(np.argsort(order) + rng.normal(0, len(label) / 4, len(label)))
    ends = np.round(np.cumsum(SHARES) * len(label)).astype(int)
    parts = np.split(noisy, ends[:-1])
    weights = [2 ** weight_log2_for_rows(len(part)) for part in parts]
    features = features_of(columns, monotone)
    return [
        HorizontalProgram(
            TrainingData({n: v[part] for n, v in columns.items()}, label[part], holdout[part]),
            features,
            "credit",
            settings,
            member_number=k,
            weights=weights,
        )
        for k, part in enumerate(parts)
    ]


def federate(members):
    """Drive the members with sums of encoded slots: what the sealed sum opens, without the sealing."""
    while not members[0].finished:
        layout = members[0].layout()
        slots = [encode(member.layout(), member.contribution(), len(members)) for member in members]
        total = np.sum(slots, axis=0, dtype=np.uint64) % np.uint64(PLAIN_MODULUS)
        for member in members:
            member.absorb(decode(layout, total, len(members), len(members)))
        assert len({member.model_digest() for member in members}) == 1
    results = [member.result() for member in members]
    assert len({result.artefact for result in results}) == 1
    return results[0]


def hats(bins, columns):
    """The basis again, by numpy's interpolation and from its definition in models/README.md."""
    parts = []
    for b in bins:
        if b.num_columns == 0:
            continue
        values = columns[b.feature.name]
        unit = max(abs(b.feature.low), abs(b.feature.high)) / 2**24
        missing = np.isnan(values)
        block = np.zeros((len(values), len(b.bins)))
        atom = np.zeros(len(values), bool)
        for k, one in enumerate(b.bins):
            if one.atom:
                block[values == one.low, k] = 1
                atom |= values == one.low
        ranges = [k for k, one in enumerate(b.bins) if not one.atom]
        knots = np.arcsinh([b.bins[k].knot / unit for k in ranges])
        inside = ~atom & ~missing
        for k, peak in zip(ranges, np.eye(len(ranges)), strict=True):
            block[inside, k] = np.interp(np.arcsinh(values[inside] / unit), knots, peak)
        if b.missing is None:
            block[missing, b.missing_bin] = 1
        parts.append(block)
        if b.missing is not None:
            parts.append(missing[:, None].astype(float))
    return np.hstack(parts)


def penalty_of(bins, ridge, smoothness):
    size = sum(b.num_columns for b in bins) + 1
    matrix = np.diag([ridge] * (size - 1) + [0.0])
    start = 0
    for b in bins:
        if b.num_columns == 0:
            continue
        for k in range(start, start + len(b.bins) - 2):
            second = np.zeros(size)
            second[k : k + 3] = 1, -2, 1
            matrix += smoothness * np.outer(second, second)
        start += b.num_columns
    return matrix


def pooled_optimum(design, label, penalty, gtol=1e-5):
    design = np.hstack([design, np.ones((len(design), 1))])

    def loss(b):
        scores = design @ b
        return np.logaddexp(0, scores).sum() - scores[label == 1].sum() + 0.5 * b @ penalty @ b

    def gradient(b):
        return design.T @ (1 / (1 + np.exp(-design @ b)) - label) + penalty @ b

    def hessian(b):
        p = 1 / (1 + np.exp(-design @ b))
        return (design * (p * (1 - p))[:, None]).T @ design + penalty

    found = minimize(
        loss, np.zeros(design.shape[1]), jac=gradient, hess=hessian, method="trust-exact", options={"gtol": gtol}
    )
    return found.x


@pytest.mark.parametrize(("name", "least"), [("synthetic", 0.7), ("gmsc", 0.858), ("uci_default", 0.775)])
def test_newton_over_five_members_reaches_the_optimum_of_the_pooled_rows(name, least):
    torch.set_num_threads(1)
    columns, label, holdout = load(name)
    settings = HorizontalSettings()
    members = programs(columns, label, holdout, settings)
    result = federate(members)
    model = load_model(result.artefact, result.version)

    train = {n: v[~holdout] for n, v in columns.items()}
    optimum = pooled_optimum(
        hats(model.bins, train), label[~holdout], penalty_of(model.bins, settings.ridge, settings.smoothness)
    )
    held = hats(model.bins, {n: v[holdout] for n, v in columns.items()})
    pooled_auc = roc_auc_score(label[holdout], held @ optimum[:-1])

    assert np.abs(model.parameters - optimum).max() < 1e-3
    assert abs(result.evaluation.auc - pooled_auc) < 1e-4
    assert result.evaluation.auc >= least


def test_even_a_tiny_ridge_leaves_newton_at_the_pooled_optimum():
    columns, label, holdout = synthetic()
    settings = HorizontalSettings(ridge=1e-3, smoothness=1e-3)
    model = load_model(federate(programs(columns, label, holdout, settings)).artefact)

    train = {n: v[~holdout] for n, v in columns.items()}
    optimum = pooled_optimum(hats(model.bins, train), label[~holdout], penalty_of(model.bins, 1e-3, 1e-3), gtol=1e-7)

    assert np.abs(model.parameters - optimum).max() < 1e-3


@pytest.mark.parametrize("name", ["synthetic", "gmsc"])
def test_newton_over_five_members_equals_the_same_program_on_pooled_rows(name):
    columns, label, holdout = load(name)
    settings = HorizontalSettings()
    federated = federate(programs(columns, label, holdout, settings))
    pooled = run_locally(
        HorizontalProgram(
            TrainingData(columns, label, holdout),
            features_of(columns),
            "credit",
            settings,
            member_number=0,
            weights=[1],
        )
    )

    one, other = load_model(federated.artefact), load_model(pooled.artefact)
    assert one.bins == other.bins
    assert np.abs(one.parameters - other.parameters).max() < 1e-4
    for figure in ("auc", "ks", "gini", "brier", "bad_rate", "mean_pd"):
        assert abs(getattr(federated.evaluation, figure) - getattr(pooled.evaluation, figure)) < 1e-4


@pytest.mark.parametrize(
    ("method", "rounds", "tower", "least"),
    [
        ("fedavg", 20, "additive", 0.860),
        ("fedprox", 20, "additive", 0.859),
        ("fedadam", 25, "additive", 0.857),
        ("fedavg", 10, "neural", 0.858),
    ],
)
def test_averaging_methods_come_close_to_the_pooled_model_on_gmsc(method, rounds, tower, least):
    torch.set_num_threads(1)
    columns, label, holdout = load("gmsc")
    settings = HorizontalSettings(method=method, rounds=rounds, tower=tower)

    result = federate(programs(columns, label, holdout, settings))

    assert result.evaluation.auc >= least


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "fedadam"])
def test_averaging_methods_come_close_to_the_pooled_model_on_synthetic_rows(method):
    torch.set_num_threads(1)
    columns, label, holdout = synthetic()
    best = federate(programs(columns, label, holdout, HorizontalSettings())).evaluation.auc

    result = federate(programs(columns, label, holdout, HorizontalSettings(method=method, rounds=25, batch_size=256)))

    assert result.evaluation.auc > best - 0.01


def test_evaluation_of_the_sum_equals_the_metrics_of_all_rows_together():
    columns, label, holdout = synthetic()
    result = federate(programs(columns, label, holdout, HorizontalSettings()))
    model = load_model(result.artefact)
    pd_ = model.pd({n: v[holdout] for n, v in columns.items()})

    assert abs(result.evaluation.auc - auc(label[holdout], pd_)) < 1e-4
    assert abs(result.evaluation.brier - np.mean((pd_ - label[holdout]) ** 2)) < 1e-4
    assert result.evaluation.rows == holdout.sum()
    assert result.evaluation.bads == label[holdout].sum()


@pytest.mark.parametrize("method", ["newton", "fedavg"])
def test_monotone_directions_hold_in_the_federated_model(method):
    columns, label, holdout = synthetic()
    directions = {"late": "increasing", "income": "increasing", "use": "decreasing"}
    settings = HorizontalSettings(method=method, rounds=12)

    members = programs(columns, label, holdout, settings, monotone=directions)
    model = load_model(federate(members).artefact)

    for b, block in zip(model.bins, model.blocks, strict=True):
        steps = np.diff(model.parameters[block.start : block.start + block.num_bins])
        sign = 1 if b.feature.monotone == "increasing" else -1
        assert (sign * steps >= -1e-6).all()
        if b.feature.name in ("income", "use"):  # against the data: the shape goes flat
            assert np.abs(steps).max() < 1e-6
