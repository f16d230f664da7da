"""Olist (Brazil 2016-2018; CC BY-NC-SA 4.0): orders as a marketplace, its payment side and its carriers see them.

The sides overlap as they do in life: the payment side knows 99,440 orders, platform and logistics 38,073 of them. An
order is scored when its parcel is handed to the carrier, so every feature is known by then, and both outcomes lie
ahead: a complaint (a review of one or two stars, which stands in for a dispute) and a delivery after the promised day.
Columns of the delivery would give the second away; the review, the order's status and all outcomes are no features.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd

from policies.agreement import Feature
from simulations.datasets.data_set import ID_COLUMN, integer, number
from simulations.datasets.locations import required_shared_file
from simulations.datasets.role_data_set import Label, RoleDataSet

NAME: Final = "olist"
DISPUTE, LATE = "dispute", "late"
LABELS: Final[Mapping[str, Label]] = MappingProxyType(
    {DISPUTE: Label("platform", "complaint", 1), LATE: Label("logistics", "delivered_late", 1)}
)

NEVER_A_FEATURE: Final = (
    *("review_score", "order_status", "sample_weight", "y_fail", "y_late", "y_bad_review"),  # outcomes and the sample
    *("logistics_delivery_days", "logistics_delay_days"),  # known after delivery alone
)
"""Columns of the published tables that say how the order ended."""

_ORDERS: Final = (
    "olist/order_level.parquet",
    "643a0fd93ff7e5cb89c82433af3119600807f2ff872b442fc75caf1c9a045cce",
)
_PAYMENTS: Final = (
    "olist/order_payments_full.parquet",
    "39ba35f7e4d33fc684f746da592952c70c49b28fd9fbeefa03d3ea8861d20375",
)
_PRODUCTS: Final = (
    "olist/products_full.parquet",
    "f2341b7064fba37f2fdb2d7145ae888d2576d832bf8a8dc82c09fb25f6bcf0b0",
)

PAYMENT_TYPES: Final[Mapping[str, int]] = MappingProxyType(
    {"credit_card": 0, "debit_card": 1, "boleto": 2, "voucher": 3}
)
"""Number of the means of payment, from the one that is paid at once to the one that is money already."""

# The official numbers of the states (IBGE): the first digit is the region, so that neighbours are near each other.
STATES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "RO": 11,
        "AC": 12,
        "AM": 13,
        "RR": 14,
        "PA": 15,
        "AP": 16,
        "TO": 17,
        "MA": 21,
        "PI": 22,
        "CE": 23,
        "RN": 24,
        "PB": 25,
        "PE": 26,
        "AL": 27,
        "SE": 28,
        "BA": 29,
        "MG": 31,
        "ES": 32,
        "RJ": 33,
        "SP": 35,
        "PR": 41,
        "SC": 42,
        "RS": 43,
        "MS": 50,
        "MT": 51,
        "GO": 52,
        "DF": 53,
    }
)

_PLATFORM: Final[Mapping[str, Feature]] = MappingProxyType(
    {
        "platform_customer_state": integer("customer_state", "IBGE number", 11, 53),
        "platform_category": integer("category_rank", "place by products", 1, 100, missing_allowed=True),
        "platform_price": number("price", "BRL", 0, 20_000, missing_allowed=True),
        "platform_n_items": integer("items", "count", 0, 100, missing_allowed=True),
        "platform_n_sellers": integer("sellers", "count", 0, 50, missing_allowed=True),
        "platform_photos": number("photos", "count, item mean", 0, 50, missing_allowed=True),
        "platform_desc_len": number("description_length", "characters, item mean", 0, 10_000, missing_allowed=True),
        "platform_name_len": number("name_length", "characters, item mean", 0, 200, missing_allowed=True),
        "platform_hour": integer("hour", "hour of the day", 0, 23),
        "platform_dow": integer("weekday", "0 is Monday", 0, 6),
        "seller_prev_orders": integer("seller_orders", "earlier orders", 0, 10_000, missing_allowed=True),
        "seller_age_days": number("seller_age", "days on the platform", 0, 10_000, missing_allowed=True),
    }
)
_LOGISTICS: Final[Mapping[str, Feature]] = MappingProxyType(
    {
        "logistics_seller_state": integer("seller_state", "IBGE number", 11, 53, missing_allowed=True),
        "logistics_freight": number("freight", "BRL", 0, 5_000, missing_allowed=True),
        "logistics_weight_g": number("weight", "g", 0, 500_000, missing_allowed=True),
        "logistics_volume_cm3": number("volume", "cm3", 0, 5_000_000, missing_allowed=True),
        "logistics_distance_km": number("distance", "km", 0, 10_000, missing_allowed=True),
        "logistics_same_state": integer("same_state", "1 is yes", 0, 1, missing_allowed=True),
        "logistics_est_days": number("promised_days", "days from purchase", 0, 1_000),
        "logistics_ship_limit_days": number("handover_limit", "days from purchase", 0, 2_000, missing_allowed=True),
        "logistics_freight_ratio": number("freight_ratio", "of the price", 0, 100, missing_allowed=True),
        "logistics_handover_days": number("handover_days", "days from purchase", -10, 1_000, missing_allowed=True),
        "logistics_handover_late_days": number("handover_delay", "days", -2_000, 1_000, missing_allowed=True),
    }
)
_PAYMENT: Final = (
    number("paid_total", "BRL", 0, 20_000),
    integer("payments", "count", 1, 100),
    integer("instalments", "count", 0, 60),
    integer("payment_kinds", "count", 1, 10),
    integer("payment_type", "number of the largest payment's kind", 0, 3, missing_allowed=True),
    number("voucher_share", "of what was paid", 0, 1),
)


def load_olist(environ: Mapping[str, str]) -> RoleDataSet:
    """Load the three sides from the shared folder.

    Args:
        environ: The process environment (folders).

    Raises:
        DataSetUnavailable: They are not there.
    """
    orders, payments, products = (
        pd.read_parquet(required_shared_file(NAME, *file, environ)) for file in (_ORDERS, _PAYMENTS, _PRODUCTS)
    )
    return data_set_of(orders, payments, products)


def data_set_of(orders: pd.DataFrame, payments: pd.DataFrame, products: pd.DataFrame) -> RoleDataSet:
    """The three sides under the names and types of the contract.

    Args:
        orders: One row per order, `order_level` as published.
        payments: One row per payment, `order_payments_full`.
        products: The catalogue, `products_full`.
    """
    orders = orders.assign(
        platform_customer_state=orders["platform_customer_state"].map(STATES),
        logistics_seller_state=orders["logistics_seller_state"].map(STATES),
        platform_category=orders["platform_category"].map(category_ranks(products)),
    )
    platform, logistics = (_side(orders, columns) for columns in (_PLATFORM, _LOGISTICS))
    # A complaint about an order that never came is another thing: the label is about delivered ones.
    delivered = orders["order_status"].eq("delivered")
    platform[LABELS[DISPUTE].column] = orders["y_bad_review"].where(delivered).to_numpy()
    logistics[LABELS[LATE].column] = orders["y_late"].to_numpy()
    sides = {"platform": _PLATFORM.values(), "payment": _PAYMENT, "logistics": _LOGISTICS.values()}
    return RoleDataSet(
        NAME,
        {"platform": platform, "payment": payment_side(payments), "logistics": logistics},
        tuple(feature.model_copy(update={"role": role}) for role, held in sides.items() for feature in held),
        LABELS,
    )


def category_ranks(products: pd.DataFrame) -> dict[str, int]:
    """Place of each category by its number of products in the catalogue, 1 for the largest; ties by name.

    The catalogue is what anybody can count on the platform's pages, and no outcome has part in it.
    """
    counts = products["product_category_name"].value_counts()
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    return {str(name): place for place, (name, _) in enumerate(ordered, 1)}


def payment_side(payments: pd.DataFrame) -> pd.DataFrame:
    """What a payment institution makes of its payments: one row per order, from the payments alone.

    The published hours to approval are left out: they come from the platform's order table, and would be empty exactly
    where the platform's side has no order.

    Args:
        payments: Columns `order_id`, `payment_sequential`, `payment_type`, `payment_installments`, `payment_value`.
    """
    # The order's first payment wins where two are the largest.
    ordered = payments.sort_values(["payment_value", "payment_sequential"], ascending=[False, True], kind="stable")
    by_order = ordered.groupby("order_id")
    total = by_order["payment_value"].sum()
    vouchers = ordered[ordered["payment_type"].eq("voucher")].groupby("order_id")["payment_value"].sum()
    share = vouchers.reindex(total.index).fillna(0.0).to_numpy() / np.maximum(total.to_numpy(), 1e-9)
    return pd.DataFrame(
        {
            ID_COLUMN: total.index.to_numpy(),
            "paid_total": total.to_numpy(),
            "payments": by_order.size().to_numpy(),
            "instalments": by_order["payment_installments"].max().to_numpy(),
            "payment_kinds": by_order["payment_type"].nunique().to_numpy(),
            "payment_type": by_order["payment_type"].first().map(PAYMENT_TYPES).to_numpy(),
            "voucher_share": np.minimum(share, 1.0),
        }
    )


def _side(orders: pd.DataFrame, columns: Mapping[str, Feature]) -> pd.DataFrame:
    side = pd.DataFrame({ID_COLUMN: orders["order_id"].to_numpy()})
    for published, feature in columns.items():
        side[feature.name] = orders[published].to_numpy(dtype=np.float64)
    return side
