"""A decision in words, and the proof that an archived policy still leads to it."""

from __future__ import annotations

from decimal import Decimal

from policies.decision_tables.errors import PolicyRefused
from policies.lending.decide import decide, inputs_sha256
from policies.lending.money import times
from policies.lending.policy_set import PolicySet
from policies.lending.types import (
    Application,
    Approved,
    Checks,
    Decision,
    Declined,
    Exposure,
    Reason,
    Referred,
    Risk,
    Terms,
)


def explained(decision: Decision) -> tuple[str, ...]:
    """A decision as lines of text: the outcome, its reasons, and every row of a table that answered.

    All of it comes from the decision itself, so it stays what it was whatever becomes of the policy.
    """
    outcome = decision.outcome
    lines = [f"{outcome.outcome} under the policy of {decision.decided_for} ({decision.policy_sha256[:12]})"]
    match outcome:
        case Approved(terms=terms, reductions=reductions):
            lines += [*_terms(terms), *_reasons("less than asked for", reductions)]
        case Referred(proposed=terms, reductions=reductions, reasons=reasons):
            lines += [*_reasons("two people decide", reasons), *_terms(terms)]
            lines += _reasons("less than asked for", reductions)
        case Declined(reasons=reasons):
            lines += _reasons("because", reasons)
    for row in decision.trace:
        facts = ", ".join(f"{name} = {value}" for name, value in row.facts)
        lines.append(f"table {row.table} {row.version}, row {row.row}: {row.description} [{facts}]")
    return tuple(lines)


def replayed(
    policy: PolicySet, decision: Decision, application: Application, risk: Risk, checks: Checks, exposure: Exposure
) -> Decision:
    """Decide again under an archived policy, and show that it comes to the same.

    Args:
        policy: The policy set, from `policies.lending.policy.from_archive`.
        decision: What was decided then.
        application: What entered then, as all that follows.
        risk: The same.
        checks: The same.
        exposure: The same.

    Raises:
        PolicyRefused: Another policy, other inputs, or another outcome: one of the records was changed.
    """
    if policy.sha256 != decision.policy_sha256:
        raise PolicyRefused(
            f"expected the policy {decision.policy_sha256[:12]} that decided, found {policy.sha256[:12]}; give the"
            " archive that is kept under that hash."
        )
    if inputs_sha256(application, risk, checks, exposure) != decision.inputs_sha256:
        raise PolicyRefused(
            "expected the inputs that the decision names by hash, found others; one of the two was changed."
        )
    again = decide(policy, application, risk, checks, exposure)
    if again != decision:
        raise PolicyRefused(
            "expected the policy to come to the stored decision, found another outcome or trace; the stored decision"
            " was changed."
        )
    return again


def percent(rate: Decimal) -> str:
    """A rate as per cent with two digits after the point."""
    return f"{times(rate, Decimal(100)):.2f} %"


def _terms(terms: Terms) -> list[str]:
    loss = terms.expected_loss
    return [
        (
            f"limit {terms.limit} for {terms.tenor_days} days at {percent(terms.rate)} a year"
            f" ({percent(terms.base_rate)} and a margin of {percent(terms.margin)}), reserve {terms.reserve}"
        ),
        f"expected loss {loss.amount} = PD {percent(loss.pd_12m)} x LGD {percent(loss.lgd)} x EAD {loss.ead}",
    ]


def _reasons(what: str, reasons: tuple[Reason, ...]) -> list[str]:
    return [
        f"{what}: {one.code}: {one.text}" + (f" ({', '.join(one.score_codes)})" if one.score_codes else "")
        for one in reasons
    ]
