"""One lending decision: what entered, the tables of the day, an outcome, and every row that answered.

The plan, repeated by number in the code:

1. the currency, the product and the industry;
2. what the evidence is worth, and what the checks say;
3. what a score without some roles is worth;
4. the appetite for this risk, and whose authority the amount needs;
5. the limit, and what holds it down;
6. the severest of all findings is the outcome: declined over referred over approved.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from policies.decision_tables.table import Row
from policies.lending.catalogue import SEVERITIES
from policies.lending.exchange import Currency, Exchange
from policies.lending.money import MAX_PLACES, plus, round_up, times
from policies.lending.policy_set import Inquiry, PolicySet
from policies.lending.pricing import Ceiling, ceiling_of, price
from policies.lending.reasons import policy_reason, score_reasons
from policies.lending.record import sha256_of
from policies.lending.types import (
    Application,
    Approved,
    Checks,
    Condition,
    Decision,
    Declined,
    Exposure,
    Outcome,
    Reason,
    Referred,
    Risk,
    WatchItem,
)

APPROVE, REFER, DECLINE = SEVERITIES

# Reasons that the code itself gives; a folder without texts for them does not load.
SCREENING_BLOCKED = "SCREENING_BLOCKED"
SCREENING_REFERRED = "SCREENING_REFERRED"
EVIDENCE_LIMIT = "EVIDENCE_LIMIT"
PRODUCT_CAP = "PRODUCT_CAP"
LIMIT_BELOW_MINIMUM = "LIMIT_BELOW_MINIMUM"
CODES = (SCREENING_BLOCKED, SCREENING_REFERRED, EVIDENCE_LIMIT, PRODUCT_CAP, LIMIT_BELOW_MINIMUM)


@dataclass
class _Findings:
    """What speaks against a plain yes, in the order it was found."""

    severity: str = APPROVE
    codes: list[str] = field(default_factory=list)
    about_score: bool = False

    def add(self, outcome: str, *codes: str, about_score: bool = False) -> None:
        if outcome == APPROVE:
            return
        self.severity = max(self.severity, outcome, key=SEVERITIES.index)
        self.codes += [code for code in codes if code not in self.codes]
        self.about_score = self.about_score or about_score


@dataclass(frozen=True)
class _Score:
    """The risk as the policy takes it, after what missing roles cost.

    Attributes:
        pd_12m: With the add-on for missing roles.
        factor: Share of the ceiling that is left, by missing roles alone.
        codes: Why it is not all of it.
    """

    pd_12m: Decimal
    factor: Decimal
    codes: tuple[str, ...]


def decide(policy: PolicySet, application: Application, risk: Risk, checks: Checks, exposure: Exposure) -> Decision:
    """Decide on an application under the policy of a day.

    Pure: the same arguments give the same decision, with the same trace and the same hash of inputs.

    Args:
        policy: The tables in force.
        application: What is asked for.
        risk: What the score says.
        checks: What the checks before a decision say.
        exposure: What the applicant owes already.

    Raises:
        PolicyRefused: A question that the tables have no answer for, such as a currency without a rate; there is no
            decision then, not even a decline.
    """
    inquiry = Inquiry(policy)
    outcome = _outcome(inquiry, application, risk, checks, exposure)
    return Decision(
        outcome=outcome,
        decided_for=policy.date,
        product=application.product,
        policy_sha256=policy.sha256,
        versions=policy.versions,
        inputs_sha256=inputs_sha256(application, risk, checks, exposure),
        trace=inquiry.trace,
    )


def inputs_sha256(application: Application, risk: Risk, checks: Checks, exposure: Exposure) -> str:
    """SHA-256 of the canonical JSON of everything that entered, in hexadecimal."""
    return sha256_of({"application": application, "risk": risk, "checks": checks, "exposure": exposure})


def _outcome(inquiry: Inquiry, application: Application, risk: Risk, checks: Checks, exposure: Exposure) -> Outcome:
    findings = _Findings()

    # 1. Currency, product, industry.
    exchange = Exchange(inquiry)
    currency = exchange.checked(application.amount)
    product = inquiry.one("product", product=application.product)
    industry = inquiry.one("industry", industry=application.industry)

    # 2. Evidence and checks.
    evidence, state = _evidence(application, product.text("evidence_kind"), exchange, currency)
    tenor_max = min(product.number("max_tenor_days"), industry.number("max_tenor_days"))
    for row in inquiry.every(
        "eligibility",
        product=application.product,
        screening=checks.screening,
        three_way_match=checks.three_way_match,
        double_financing=checks.double_financing,
        evidence=state,
        industry_profiled=industry.flag("profiled"),
        tenor_within=application.tenor_days <= tenor_max,
    ):
        findings.add(row.text("outcome"), row.text("code"))
    # Under every table: no row can waive a sanction, and none the second look at a possible one.
    if checks.screening == "blocked":
        findings.add(DECLINE, SCREENING_BLOCKED, *checks.screening_codes)
    elif checks.screening == "referred":
        findings.add(REFER, SCREENING_REFERRED, *checks.screening_codes)

    # 3. A score without some roles.
    score = _degraded(inquiry, application, risk, findings)

    # 4. Appetite and authority.
    appetite = inquiry.one("appetite", product=application.product, pd_12m=score.pd_12m)
    findings.add(appetite.text("outcome"), appetite.text("code"), about_score=True)
    owed_cny = exchange.total_cny_up(exposure.outstanding)
    for row in inquiry.every(
        "authority",
        product=application.product,
        customer_risk=checks.customer_risk,
        exposure_cny=plus(currency.in_cny_up(application.amount.amount), owed_cny),
    ):
        findings.add(row.text("outcome"), row.text("code"))

    # 5. The limit.
    ceiling = ceiling_of(
        advance_rate=product.number("advance_rate"),
        evidence=evidence,
        cap_cny=product.number("cap"),
        owed_cny=owed_cny,
        factor=times(score.factor, appetite.number("limit_factor")),
        currency=currency,
    )
    limit = ceiling.limit(application.amount.amount, currency)
    held_down = _held_down(ceiling, limit, application.amount.amount, score, appetite)
    too_little = currency.in_cny_down(limit) < product.number("minimum") or not limit
    if too_little and findings.severity != DECLINE:  # what follows from a decline is no reason for it
        findings.add(DECLINE, *held_down.codes, LIMIT_BELOW_MINIMUM, about_score=held_down.about_score)

    # 6. The outcome.
    reasons = _reasons(inquiry, findings, risk)
    if findings.severity == DECLINE:
        return Declined(reasons=reasons)
    loss = inquiry.one("loss", product=application.product, industry=application.industry)
    terms = price(
        inquiry,
        limit=currency.money_down(limit),
        currency=currency,
        pd_12m=score.pd_12m,
        lgd=loss.number("lgd"),
        ead_factor=loss.number("ead_factor"),
        rate_floor=product.number("rate_floor"),
        rate_ceiling=product.number("rate_ceiling"),
        reserve_rate=product.number("reserve_rate"),
        tenor_days=application.tenor_days,
    )
    conditions = tuple(
        Condition(code=row.text("code"), text=row.text("text"))
        for row in inquiry.every("condition", product=application.product, industry=application.industry)
    )
    watch = tuple(
        WatchItem(item=row.text("item"), text=row.text("text"))
        for row in inquiry.every("industry_watch", industry=application.industry)
    )
    reductions = _reasons(inquiry, held_down, risk)
    if findings.severity == REFER:
        return Referred(reasons=reasons, proposed=terms, conditions=conditions, watch=watch, reductions=reductions)
    return Approved(terms=terms, conditions=conditions, watch=watch, reductions=reductions)


def _evidence(application: Application, kind: str, exchange: Exchange, currency: Currency) -> tuple[Decimal, str]:
    """Value of the documents that count for the product, in the application's currency, and their state."""
    counted = [one for one in application.evidence if one.kind == kind]
    values = [one.value for one in counted if one.value is not None]
    total = plus(*(exchange.converted_down(value, currency) for value in values))
    if not counted:
        return total, "missing"
    return total, "sufficient" if len(values) == len(counted) else "unvalued"


def _degraded(inquiry: Inquiry, application: Application, risk: Risk, findings: _Findings) -> _Score:
    """The strictest of what the table says about each missing role."""
    factor, multiplier = Decimal(1), Decimal(1)
    codes: list[str] = []
    for role in risk.degraded_roles:
        row = inquiry.one(
            "degraded", product=application.product, role=role, roles_missing=Decimal(len(risk.degraded_roles))
        )
        findings.add(row.text("outcome"), row.text("code"))
        factor = min(factor, row.number("limit_factor"))
        multiplier = max(multiplier, row.number("pd_multiplier"))
        codes.append(row.text("code"))
    pd_12m = min(round_up(times(risk.pd_12m, multiplier), MAX_PLACES), Decimal(1))
    return _Score(pd_12m, factor, tuple(dict.fromkeys(codes)))


def _held_down(ceiling: Ceiling, limit: Decimal, requested: Decimal, score: _Score, appetite: Row) -> _Findings:
    """Why the limit is below what was asked for; no codes when it is not."""
    held = _Findings()
    if limit >= requested:
        return held
    if ceiling.before_risk < requested:
        held.codes.append(EVIDENCE_LIMIT if ceiling.by_evidence <= ceiling.by_cap else PRODUCT_CAP)
    if score.factor < 1:
        held.codes += score.codes
    if appetite.number("limit_factor") < 1:
        held.codes.append(appetite.text("code"))
        held.about_score = True
    return held


def _reasons(inquiry: Inquiry, findings: _Findings, risk: Risk) -> tuple[Reason, ...]:
    """The findings in words; the principal score terms follow where the score is what speaks against."""
    reasons = [policy_reason(inquiry, code) for code in findings.codes]
    if findings.about_score:
        reasons += [
            one for one in score_reasons(inquiry, risk.reason_votes) if one.code not in {r.code for r in reasons}
        ]
    return tuple(reasons)
