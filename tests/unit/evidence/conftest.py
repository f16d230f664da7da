"""One small, complete run whose evidence the tests of this folder vary."""

from __future__ import annotations

import base64
import hashlib
import math

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.card import ComparisonRow, KeyEpoch, MemberLine, RunEvidence
from policies.release import (
    CalibrationBin,
    FeatureShape,
    HistogramBin,
    OpenedSumRecord,
    Quality,
    ReleasedTable,
    RocPoint,
    RoundFigures,
    ShapeBin,
    sign_release,
)

COHORT = ("bank-a", "bank-b", "bank-c", "bank-d", "bank-e")


def _hash(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def shape():
    points = (9.0, -18.0, -31.0)
    bins = [
        ShapeBin(label=label, low=k, high=k + 1, log_odds=-p * math.log(2) / 20, points=p, woe=p / 30, share=0.3)
        for k, (label, p) in enumerate(zip(("0", "1", "2 to 99"), points, strict=True))
    ]
    missing = ShapeBin(label="missing", missing=True, log_odds=0.0, points=0.0, woe=0.0, share=0.1)
    return FeatureShape(
        feature="past_due_30_59", role="bank", unit="times", information_value=0.74, bins=(*bins, missing)
    )


@pytest.fixture
def make_table(shape):
    def make(**changes):
        sums = [
            OpenedSumRecord(k=k, purpose=purpose, input_class=kind, survivors=COHORT, chain=_hash(f"chain {k}"))
            for k, (purpose, kind) in enumerate((("bins", "static"), ("train", "step"), ("evaluate", "static")), 1)
        ]
        fields = {
            "agreement_hash": _hash("agreement"),
            "epoch_id": _hash("epoch"),
            "run_id": "run-0001",
            "task": "credit",
            "method": "newton",
            "model_digest": _hash("model"),
            "cohort": COHORT,
            "weights_log2": dict.fromkeys(COHORT, 3),
            "sums": tuple(sums),
            "rounds": (RoundFigures(number=1, k=2, loss=0.69), RoundFigures(number=2, k=3, loss=0.19)),
            "quality": Quality(auc=0.8612, ks=0.563, gini=0.7224, brier=0.0493, rows=44812, bads=2998),
            "calibration": (
                CalibrationBin(pd_low=0, pd_high=0.1, mean_pd=0.03, observed_rate=0.031, rows=30000),
                CalibrationBin(pd_low=0.1, pd_high=1),
            ),
            "roc": (
                RocPoint(false_positive_rate=0, true_positive_rate=0),
                RocPoint(false_positive_rate=0.2, true_positive_rate=0.8),
                RocPoint(false_positive_rate=1, true_positive_rate=1),
            ),
            "histogram": (
                HistogramBin(pd_low=0, pd_high=0.1, goods=30000, bads=900),
                HistogramBin(pd_low=0.1, pd_high=1, goods=1000, bads=2098),
            ),
            "features": (shape,),
        }
        return ReleasedTable(**(fields | changes))

    return make


@pytest.fixture
def keys():
    """Fixed seeds: keys of tests, worth nothing."""
    return {member: Ed25519PrivateKey.from_private_bytes(hashlib.sha256(member.encode()).digest()) for member in COHORT}


@pytest.fixture
def make_evidence(make_table, keys):
    def make(**changes):
        table = changes.pop("table", None) or make_table()
        fields = {
            "run_id": table.run_id,
            "task": table.task,
            "purpose": "credit-model-training",
            "label": "serious_delinquency",
            "horizon_months": 24,
            "method": table.method,
            "settings": {"bins": 8, "ridge": 1.0, "tower": "additive"},
            "created_at": "2026-01-31T12:00:00+00:00",
            "agreement_name": "five-banks",
            "agreement_hash": table.agreement_hash,
            "proposal_hash": _hash("proposal"),
            "members": tuple(MemberLine(id=member, role="bank") for member in table.cohort),
            "max_colluders": 1,
            "min_survivors": 4,
            "shamir_threshold": 3,
            "release_policy": "platform",
            "key_epochs": (KeyEpoch(number=1, epoch_id=table.epoch_id, members=len(table.cohort)),),
            "table": table,
            "signatures": {m: base64.b64encode(sign_release(table, keys[m]).signature).decode() for m in table.cohort},
            "comparison": (
                ComparisonRow(model="alone:bank-a", auc=0.857, ks=0.55, brier=0.05, auc_low=0.85, auc_high=0.86),
                ComparisonRow(model="federated", auc=0.8612, ks=0.563, brier=0.0493),
            ),
            "versions": {"tallystick": "0.1.0"},
        }
        return RunEvidence(**(fields | changes))

    return make
