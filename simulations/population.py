"""A synthetic population of borrowers under the Give Me Some Credit contract, for work without a network.

Nobody's data: it imitates the shape of the real set (skew, missing incomes, the codes 96 and 98, ratios that are
amounts where the income is missing), with a known, nonlinear risk. numpy's generator is right here, because a
population must be the same for the same seed and nothing in it is secret.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from simulations.datasets.data_set import ID_COLUMN, DataSet
from simulations.datasets.gmsc import FEATURES, HORIZON_MONTHS, LABEL, ROLES

NAME: Final = "synthetic"

Floats = NDArray[np.float64]

# Chosen once so that 6.7 % are bad and a good model reaches an AUC of about .85, as on the real set.
_INTERCEPT: Final = -4.83
_SHARE_WITHOUT_INCOME: Final = 0.2
_SHARE_WITHOUT_DEPENDENTS: Final = 0.026
_SHARE_OF_REFUSAL_CODES: Final = 0.0018
_REFUSAL_CODES: Final = (96, 98)


def synthetic_population(rows: int, seed: int) -> DataSet:
    """Draw a population.

    Args:
        rows: Number of borrowers, at least 1.
        seed: Same seed and rows, same population.

    Returns:
        A data set of the schema, ranges and roles of Give Me Some Credit.
    """
    rng = np.random.default_rng(seed)
    strain = rng.normal(size=rows)  # what makes a borrower both use credit and pay late
    age = np.clip(rng.normal(52 - 3 * strain, 14), 21, 105).round()
    utilization = _utilization(rng, strain)
    income = np.exp(rng.normal(8.6 - 0.15 * strain + 0.01 * np.minimum(age - 40, 20), 0.65)).round()
    ratio = np.exp(rng.normal(-1.1 + 0.25 * strain, 0.9))
    open_lines = rng.negative_binomial(4, 4 / (4 + np.clip(8.5 + 0.05 * (age - 52), 3, None)))
    real_estate = rng.poisson(np.clip(0.4 + 0.08 * open_lines, 0.05, 3))
    late = {name: _late_payments(rng, strain, shift) for name, shift in _LATE_SHIFTS.items()}
    dependents = rng.poisson(np.clip(1.1 - np.abs(age - 42) / 40, 0.05, None)).astype(np.float64)

    log_odds = (
        _INTERCEPT
        + 3.0 * np.minimum(utilization, 1.0) ** 1.5
        + 1.3 * np.log2(1 + np.minimum(late["past_due_30_59"], 5))
        + 1.8 * np.minimum(late["past_due_90"], 2)
        + 1.2 * np.minimum(late["past_due_60_89"], 2)
        - 0.04 * (np.clip(age, 30, 75) - 52)
        + 0.35 * np.clip(ratio - 0.6, 0, 1.5)
        - 0.25 * np.clip(np.log(income) - 8.6, -1.5, 1.5)
        + 0.06 * np.abs(open_lines - 7).clip(0, 12)
        + 0.08 * dependents
        + rng.normal(0, 0.35, size=rows)  # what no feature tells
    )
    bad = rng.random(rows) < 1 / (1 + np.exp(-log_odds))

    without_income = rng.random(rows) < _SHARE_WITHOUT_INCOME
    refused = rng.random(rows) < _SHARE_OF_REFUSAL_CODES
    code = rng.choice(_REFUSAL_CODES, size=rows)
    frame = pd.DataFrame(
        {
            ID_COLUMN: [f"synthetic-{number:07d}" for number in range(1, rows + 1)],
            "revolving_utilization": utilization.round(6),
            "age": age.astype(np.int64),
            "past_due_30_59": np.where(refused, code, late["past_due_30_59"]),
            "debt_ratio": np.where(without_income, (ratio * income).round(), ratio.round(6)),
            "monthly_income": np.where(without_income, np.nan, income),
            "open_credit_lines": open_lines.clip(0, 100),
            "past_due_90": np.where(refused, code, late["past_due_90"]),
            "real_estate_loans": real_estate,
            "past_due_60_89": np.where(refused, code, late["past_due_60_89"]),
            "dependents": np.where(rng.random(rows) < _SHARE_WITHOUT_DEPENDENTS, np.nan, dependents),
            LABEL: bad.astype(np.int8),
        }
    )
    return DataSet(NAME, frame, LABEL, HORIZON_MONTHS, FEATURES, ROLES)


# Log-rate of each kind of late payment for a borrower of average strain: the longer, the rarer.
_LATE_SHIFTS: Final = {"past_due_30_59": -2.3, "past_due_60_89": -3.9, "past_due_90": -3.7}


def _late_payments(rng: np.random.Generator, strain: Floats, shift: float) -> NDArray[np.int64]:
    """Counts of late payments, shape (rows,), mostly 0."""
    counts: NDArray[np.int64] = rng.poisson(np.exp(shift + 0.95 * strain)).clip(0, 17)
    return counts


def _utilization(rng: np.random.Generator, strain: Floats) -> Floats:
    """Used share of revolving credit, shape (rows,): in [0, 1], but for a few amounts in place of ratios."""
    middle = 1 / (1 + np.exp(-(1.2 * strain - 1.0 + rng.normal(0, 1.1, size=strain.shape))))
    zero = rng.random(strain.shape) < 0.07
    amount = rng.random(strain.shape) < 0.002
    return np.where(zero, 0.0, np.where(amount, np.exp(rng.normal(6.5, 1.0, size=strain.shape)), middle))
