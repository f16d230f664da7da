"""The checks before a decision: screening, the customer's rating, the three-way match and double financing.

In released mode the documents that are given must agree with each other, and a document that is lent against here is
known by a keyed hash. In federated mode the members' own match comes on top of both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.decisions.standing import Standing
from coordinator.financing.today import Today
from policies.fingerprints import normalise
from policies.lending.catalogue import DOUBLE_FINANCINGS
from policies.lending.exchange import POLICY_CURRENCY, Exchange
from policies.lending.money import Money, plus
from policies.lending.policy_set import Inquiry, PolicySet
from policies.lending.types import Application, Checks, DoubleFinancing, Evidence, Exposure, ThreeWayMatch
from policies.screening.rating import CustomerFacts, jurisdiction_verdict, rate_customer
from policies.screening.screen import Blocked, Cleared, PossibleMatch
from protos.sealed_sum.secret import SecretBytes

ORDERS: Final = frozenset({"purchase_order"})
INVOICES: Final = frozenset({"receivable", "invoice"})
TRANSPORTS: Final = frozenset({"transport_document"})


@dataclass(frozen=True)
class Matched:
    """What the documents say, before the store was asked.

    Attributes:
        three_way: Whether order, invoice and transport document agree.
        double_financing: What the members know of it; `clear` in released mode.
    """

    three_way: ThreeWayMatch
    double_financing: DoubleFinancing = "clear"


def matched_among(application: Application) -> ThreeWayMatch:
    """Whether order, invoice and transport document agree in value.

    An order alone needs no match: it is lent against before there is an invoice. A receivable needs all three.
    """
    of_kind = [_of(application.evidence, kinds) for kinds in (ORDERS, INVOICES, TRANSPORTS)]
    stated = {one.value for documents in of_kind for one in documents if one.value is not None}
    if application.product == "warehouse_receipt":
        return "not_required"
    if application.product == "order" and not of_kind[1]:
        return "not_required"
    if sum(len(documents) > 0 for documents in of_kind) > 1 and _disagree(of_kind):
        return "mismatched"
    return "matched" if all(of_kind) and stated else "pending"


def _of(evidence: Iterable[Evidence], kinds: frozenset[str]) -> list[Evidence]:
    return [one for one in evidence if one.kind in kinds]


def _disagree(of_kind: Sequence[list[Evidence]]) -> bool:
    """Whether two kinds of document state different totals, each of all its documents in one currency."""
    totals = set()
    for documents in of_kind:
        values = [one.value for one in documents if one.value is not None]
        if not values or len(values) < len(documents):
            continue  # a transport document need not state a value
        totals.add(tuple(sorted(_by_currency(values).items())))
    return len(totals) > 1


def _by_currency(values: Iterable[Money]) -> dict[str, str]:
    totals: dict[str, Money] = {}
    for value in values:
        known = totals.get(value.currency)
        totals[value.currency] = value if known is None else Money.of(plus(known.amount, value.amount), value.currency)
    return {currency: f"{total.amount.normalize():f}" for currency, total in totals.items()}


def fingerprints_of(key: SecretBytes, today: Today, application: Application) -> tuple[bytes, ...]:
    """Keyed hashes of the documents that are lent against, sorted: by them a document is found twice.

    How a reference is written (capitals, hyphens, spaces) makes no difference.
    """
    kind = today.evidence_kind(application.product)
    return tuple(sorted({_fingerprint(key, one) for one in application.evidence if one.kind == kind}))


def _fingerprint(key: SecretBytes, evidence: Evidence) -> bytes:
    text = f"tallystick/evidence/1\n{evidence.kind}\n{normalise(evidence.reference) or evidence.reference}"
    return hashlib.blake2b(text.encode(), key=key.raw, digest_size=32).digest()


def double_financing_in(standing: Standing) -> DoubleFinancing:
    """What the store knows: lent against by the tenant itself, or by somebody (not whom)."""
    if not standing.claims:
        return "clear"
    return "confirmed" if any(claim.own for claim in standing.claims) else "suspected"


def exposure_of(standing: Standing) -> Exposure:
    """What is owed, as the policy takes it."""
    return Exposure(outstanding=tuple(Money.of(amount, currency) for currency, amount in standing.owed if amount > 0))


def checks_of(
    today: Today,
    application: Application,
    screening: Cleared | PossibleMatch | Blocked,
    matched: Matched,
    standing: Standing,
    *,
    history_months: int | None,
    prior_defaults: int,
) -> Checks:
    """All checks of an application.

    Raises:
        PolicyRefused: A currency without a rate.
    """
    facts = CustomerFacts(
        jurisdiction=jurisdiction_verdict(screening),
        product=application.product,
        history_months=history_months,
        prior_defaults=prior_defaults,
        amount=_with_owed(today.policy, application.amount, exposure_of(standing)),
    )
    double = max(matched.double_financing, double_financing_in(standing), key=DOUBLE_FINANCINGS.index)
    return Checks(
        screening=screening.verdict,
        screening_codes=screening.codes,
        three_way_match=matched.three_way,
        double_financing=double,
        customer_risk=rate_customer(today.policy, facts).rating,
    )


def _with_owed(policy: PolicySet, asked: Money, exposure: Exposure) -> Money:
    if not exposure.outstanding:
        return asked
    exchange = Exchange(Inquiry(policy))
    total = plus(exchange.currency(asked.currency).in_cny_up(asked.amount), exchange.total_cny_up(exposure.outstanding))
    return Money.of(total, POLICY_CURRENCY)
