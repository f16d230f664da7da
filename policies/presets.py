"""Ready-made feature contracts, and the agreement that demos, benchmarks and tests build from one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from policies.agreement import (
    Agreement,
    CoordinatorTerms,
    EntityTerms,
    Feature,
    Member,
    ModelTerms,
    PrivacyTerms,
    ReleaseTerms,
    Task,
    format_identity_key,
)

GMSC_COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "id": "entity_id",
        "SeriousDlqin2yrs": "serious_delinquency",
        "RevolvingUtilizationOfUnsecuredLines": "revolving_utilization",
        "age": "age",
        "NumberOfTime30-59DaysPastDueNotWorse": "past_due_30_59",
        "DebtRatio": "debt_ratio",
        "MonthlyIncome": "monthly_income",
        "NumberOfOpenCreditLinesAndLoans": "open_credit_lines",
        "NumberOfTimes90DaysLate": "past_due_90",
        "NumberRealEstateLoansOrLines": "real_estate_loans",
        "NumberOfTime60-89DaysPastDueNotWorse": "past_due_60_89",
        "NumberOfDependents": "dependents",
    }
)
"""Give Me Some Credit: column of the published file -> name in our contract."""

# name, type, unit, low, high, reason code, missing allowed. The ranges are public and hold the whole
# published file (utilisation up to 50,708 for instance, and the codes 96 and 98 in the past-due counts).
_GMSC_FEATURES = (
    ("revolving_utilization", "number", "ratio", 0.0, 1e5, "REVOLVING_UTILIZATION", False),
    ("age", "integer", "years", 0.0, 120.0, "AGE_OF_BORROWER", False),
    ("past_due_30_59", "integer", "count", 0.0, 100.0, "PAST_DUE_30_59_DAYS", False),
    ("debt_ratio", "number", "ratio", 0.0, 1e6, "DEBT_RATIO", False),
    ("monthly_income", "number", "USD per month", 0.0, 1e7, "MONTHLY_INCOME", True),
    ("open_credit_lines", "integer", "count", 0.0, 100.0, "OPEN_CREDIT_LINES", False),
    ("past_due_90", "integer", "count", 0.0, 100.0, "PAST_DUE_90_DAYS", False),
    ("real_estate_loans", "integer", "count", 0.0, 100.0, "REAL_ESTATE_LOANS", False),
    ("past_due_60_89", "integer", "count", 0.0, 100.0, "PAST_DUE_60_89_DAYS", False),
    ("dependents", "integer", "persons", 0.0, 50.0, "NUMBER_OF_DEPENDENTS", True),
)


def gmsc_features(role: str = "bank") -> tuple[Feature, ...]:
    """The ten Give Me Some Credit features as the contract of one role."""
    return tuple(
        Feature(
            role=role,
            name=name,
            type="integer" if kind == "integer" else "number",
            unit=unit,
            low=low,
            high=high,
            monotone="none",
            reason_code=reason_code,
            missing_allowed=missing_allowed,
        )
        for name, kind, unit, low, high, reason_code, missing_allowed in _GMSC_FEATURES
    )


def gmsc_task(role: str = "bank") -> Task:
    """Serious delinquency within two years, the label held by one role."""
    return Task(
        name="credit",
        label="serious_delinquency",
        label_role=role,
        horizon_months=24,
        purposes=("credit-model-training",),
    )


def example_agreement(
    members: Mapping[str, bytes],
    *,
    coordinator_key: bytes,
    holdout_key: bytes = bytes(range(32)),
    name: str = "Give Me Some Credit consortium",
    role: str = "bank",
    features: tuple[Feature, ...] | None = None,
    tasks: tuple[Task, ...] | None = None,
    model: ModelTerms | None = None,
    privacy: PrivacyTerms | None = None,
    release: Literal["members", "platform"] = "platform",
    id_column: str = "entity_id",
) -> Agreement:
    """An agreement of one role on Give Me Some Credit, for demos, benchmarks and tests.

    Args:
        members: Raw 32-byte Ed25519 public key by member id; at least 3.
        coordinator_key: Raw Ed25519 public key of the operator, different from every member's.
        holdout_key: 32 bytes that pick the hold-out.
        name: Name of the consortium.
        role: Role of all members.
        features: Contract of the role; Give Me Some Credit by default.
        tasks: Tasks; the default within two years by default.
        model: Form of the model; an additive tower of 8 bins by default.
        privacy: Floor; for one colluder and the smallest safe survivor set by default.
        release: Who gets the opened model.
        id_column: Column that names a row.

    Raises:
        pydantic.ValidationError: The parts do not hold together (a ValueError).
    """
    return Agreement(
        format="tallystick-agreement/1",
        name=name,
        coordinator=CoordinatorTerms(identity_key=format_identity_key(coordinator_key)),
        entities=EntityTerms(id_column=id_column, holdout_key=holdout_key.hex()),
        members=tuple(
            Member(id=member_id, role=role, identity_key=format_identity_key(key)) for member_id, key in members.items()
        ),
        features=gmsc_features(role) if features is None else features,
        tasks=(gmsc_task(role),) if tasks is None else tasks,
        model=ModelTerms(tower="additive", ridge=1.0, smoothness=20.0) if model is None else model,
        privacy=smallest_privacy_terms(len(members)) if privacy is None else privacy,
        release=ReleaseTerms(policy=release),
    )


def smallest_privacy_terms(num_members: int, max_colluders: int = 1) -> PrivacyTerms:
    """The terms that tolerate the most drop-outs: u = ceil((n+c+2)/2), T = u-1 (PROTOCOLS section 0).

    Args:
        num_members: n, at least c + 2 and at least 3.
        max_colluders: c.
    """
    survivors = max(3, (num_members + max_colluders + 3) // 2)
    return PrivacyTerms(
        min_cohort=3, max_colluders=max_colluders, min_survivors=survivors, shamir_threshold=survivors - 1
    )
