"""Which tables a lending policy is made of, and what must be true of each whatever its numbers are.

The orders are the promise that more risk never gets the better answer: a folder whose rows break one does not load.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType

from policies.decision_tables.shape import InputColumn, Order, OutputColumn, Shape

PRODUCTS = ("order", "receivable", "warehouse_receipt")
RATINGS = ("low", "medium", "high")
VERDICTS = ("clear", "referred", "blocked")
SEVERITIES = ("approve", "refer", "decline")
WATCH_ACTIONS = ("none", "warn", "freeze")
SIGNALS = ("late_shipment", "refund_spike", "rate_move")
EVIDENCE_STATES = ("sufficient", "missing", "unvalued")
THREE_WAY_MATCHES = ("matched", "not_required", "pending", "mismatched")
DOUBLE_FINANCINGS = ("clear", "unchecked", "suspected", "confirmed")
JURISDICTION_STATUSES = (
    "none",
    "increased_monitoring",
    "call_for_action_due_diligence",
    "call_for_action_countermeasures",
    "unknown",
)
NAME_FORMS = ("full", "partial")
LIST_KINDS = ("full", "sample")

_ZERO, _ONE = Decimal(0), Decimal(1)
_PRODUCT = InputColumn("product", "text", PRODUCTS)
_INDUSTRY = InputColumn("industry", "text")
_RATING = InputColumn("customer_risk", "text", RATINGS)
_PD = InputColumn("pd_12m", "number", high=_ONE)
_OUTCOME = OutputColumn("outcome", "text", SEVERITIES)
_REFERRAL = OutputColumn("outcome", "text", SEVERITIES[1:])
_CODE = OutputColumn("code", "text")
_TEXT = OutputColumn("text", "text")


def _share(name: str) -> OutputColumn:
    return OutputColumn(name, "number", low=_ZERO, high=_ONE)


def _days(name: str, low: int = 0) -> OutputColumn:
    return OutputColumn(name, "number", low=Decimal(low), high=Decimal(3650), whole=True)


def _money(name: str) -> OutputColumn:
    return OutputColumn(name, "number", low=_ZERO, high=Decimal(10) ** 12)


_SHAPES = (
    Shape(
        "product",
        "first",
        (_PRODUCT,),
        (
            OutputColumn("evidence_kind", "text"),
            _share("advance_rate"),
            _money("cap"),
            _money("minimum"),
            _share("rate_floor"),
            _share("rate_ceiling"),
            _share("reserve_rate"),
            _days("max_tenor_days", 1),
        ),
        complete=True,
    ),
    Shape(
        "industry",
        "first",
        (_INDUSTRY,),
        (OutputColumn("profiled", "flag"), _days("max_tenor_days", 1)),
        complete=True,
    ),
    Shape("industry_watch", "collect", (_INDUSTRY,), (OutputColumn("item", "text"), _TEXT)),
    Shape("condition", "collect", (_PRODUCT, _INDUSTRY), (_CODE, _TEXT)),
    Shape(
        "eligibility",
        "collect",
        (
            _PRODUCT,
            InputColumn("screening", "text", VERDICTS),
            InputColumn("three_way_match", "text", THREE_WAY_MATCHES),
            InputColumn("double_financing", "text", DOUBLE_FINANCINGS),
            InputColumn("evidence", "text", EVIDENCE_STATES),
            InputColumn("industry_profiled", "flag"),
            InputColumn("tenor_within", "flag"),
        ),
        (_REFERRAL, _CODE),
        orders=(Order("screening", rising=("outcome",)), Order("double_financing", rising=("outcome",))),
    ),
    Shape(
        "degraded",
        "first",
        (_PRODUCT, InputColumn("role", "text"), InputColumn("roles_missing", "number", low=_ONE)),
        (
            _OUTCOME,
            _share("limit_factor"),
            OutputColumn("pd_multiplier", "number", low=_ONE, high=Decimal(100)),
            _CODE,
        ),
        complete=True,
        orders=(Order("roles_missing", rising=("outcome", "pd_multiplier"), falling=("limit_factor",)),),
    ),
    Shape(
        "appetite",
        "first",
        (_PRODUCT, _PD),
        (_OUTCOME, _share("limit_factor"), _CODE),
        complete=True,
        orders=(Order("pd_12m", rising=("outcome",), falling=("limit_factor",)),),
    ),
    Shape(
        "authority",
        "collect",
        (_PRODUCT, _RATING, InputColumn("exposure_cny", "number")),
        (_REFERRAL, OutputColumn("refer_to", "text", ("two_person_review",)), _CODE),
        orders=(Order("exposure_cny", rising=("outcome",)), Order("customer_risk", rising=("outcome",))),
    ),
    Shape(
        "loss",
        "first",
        (_PRODUCT, _INDUSTRY),
        (_share("lgd"), OutputColumn("ead_factor", "number", low=_ZERO, high=Decimal(2))),
        complete=True,
    ),
    Shape(
        "rate",
        "first",
        (InputColumn("expected_loss_rate", "number"),),
        (_share("base_rate"), OutputColumn("margin_multiplier", "number", low=_ZERO, high=Decimal(100))),
        complete=True,
        orders=(Order("expected_loss_rate", rising=("base_rate", "margin_multiplier")),),
    ),
    Shape(
        "fx",
        "first",
        (InputColumn("currency", "text"),),
        (
            OutputColumn("cny_per_unit", "number", low=Decimal("0.000000000001"), high=Decimal(10) ** 6),
            OutputColumn("minor_digits", "number", low=_ZERO, high=Decimal(4), whole=True),
        ),
    ),
    Shape("score_reason", "first", (InputColumn("score_code", "text"),), (_CODE, _TEXT), complete=True),
    Shape("policy_reason", "first", (InputColumn("code", "text"),), (_TEXT,)),
    Shape(
        "offer",
        "first",
        (_RATING, _INDUSTRY, _PD),
        (
            OutputColumn("offered", "flag"),
            _share("share"),
            _money("minimum_settled"),
            _days("tenor_days", 1),
            _days("valid_days", 1),
        ),
        complete=True,
        orders=(
            Order("pd_12m", falling=("offered", "share")),
            Order("customer_risk", falling=("offered", "share")),
        ),
    ),
    Shape(
        "watch",
        "first",
        (InputColumn("signal", "text", SIGNALS), _INDUSTRY, InputColumn("value", "number")),
        (OutputColumn("action", "text", WATCH_ACTIONS), _CODE, _TEXT),
        complete=True,
        orders=(Order("value", rising=("action",)),),
    ),
    Shape(
        "jurisdiction",
        "first",
        (InputColumn("status", "text", JURISDICTION_STATUSES),),
        (OutputColumn("verdict", "text", VERDICTS), _CODE),
        complete=True,
    ),
    Shape(
        "name_match",
        "first",
        (
            InputColumn("form", "text", NAME_FORMS),
            InputColumn("score", "number", high=Decimal(100)),
            InputColumn("tokens", "number", low=_ONE),
        ),
        (OutputColumn("verdict", "text", VERDICTS), _CODE),
        complete=True,
        orders=(Order("score", rising=("verdict",)), Order("tokens", rising=("verdict",))),
    ),
    Shape(
        "list_age",
        "first",
        (InputColumn("list_kind", "text", LIST_KINDS), InputColumn("age_days", "number")),
        (OutputColumn("current", "flag"),),
        complete=True,
        orders=(Order("age_days", falling=("current",)),),
    ),
    Shape(
        "customer_risk",
        "collect",
        (
            InputColumn("jurisdiction", "text", VERDICTS),
            _PRODUCT,
            InputColumn("history_months", "number"),
            InputColumn("prior_defaults", "number"),
            InputColumn("amount_cny", "number"),
        ),
        (OutputColumn("rating", "text", RATINGS), _CODE),
        orders=(
            Order("jurisdiction", rising=("rating",)),
            Order("prior_defaults", rising=("rating",)),
            Order("amount_cny", rising=("rating",)),
            Order("history_months", falling=("rating",)),
        ),
    ),
)

CATALOGUE: Mapping[str, Shape] = MappingProxyType({shape.name: shape for shape in _SHAPES})
"""Every table that a policy must have, by name; a folder with another one is refused."""
