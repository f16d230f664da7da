"""Orders and invoices: which fields name one, how they are written, and what evidence of several members makes of it.

A fingerprint is a keyed hash of six fields, both parties' tax ids and the document's number among them (C8): whoever
has the key can test a guess, and six fields are not guessed. Its key is the quarter's in which the document was dated.
"""

from __future__ import annotations

import datetime as dt
import hmac
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from policies.errors import UserError
from policies.fingerprints import fingerprint, normalise
from policies.token_key import TokenKey

TASK = "three_way_match"
"""By which requests and scoring policies name the match; no agreement has to."""
VERSION = "documents-1"
"""What a request names where a score names a model version: the rules of this page."""
FIELDS = ("seller_tax_id", "buyer_tax_id", "number", "date", "amount", "currency")
KINDS = ("paid", "amount", "shipped", "delivered", "pledged")
"""Kinds of evidence, in the order of the slots: somebody was paid for it, the sum paid is that of the document within
the tolerance, it was shipped, it was delivered, and it was pledged for other financing."""
PLEDGED = "pledged"
DEFAULT_REQUIRED = ("paid", "amount", "shipped")
"""Order, payment and logistics agree: the three ways of the match."""

MatchResult = Literal["matched", "already financed", "not matched"]

_AMOUNT = re.compile(r"0*(\d{1,15})(?:\.(\d{1,4}))?")
_CURRENCY = re.compile(r"[A-Z]{3}")


class DocumentRefused(UserError):
    """A document that cannot be named: a field is absent or not of its form."""


def amount_of(text: str) -> int | None:
    """An amount in ten-thousandths of the currency's unit, or None if it is not a positive decimal number.

    Args:
        text: Digits with a point before up to four decimals; no separators of thousands, which mean different things
            in different countries.
    """
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        return None
    whole, decimals = found[1], found[2] or ""
    return int(whole + decimals.ljust(4, "0")) or None


def document_token(key: TokenKey, fields: Mapping[str, str]) -> bytes:
    """A document's fingerprint, 32 bytes.

    Args:
        key: Of the members.
        fields: All of `FIELDS`, as written: tax ids and number with or without separators, the date as YYYY-MM-DD,
            the amount with a decimal point, the currency by its three letters.

    Raises:
        DocumentRefused: A field is absent or not of its form; the sentence names the field and no value.
    """
    cleaned = {}
    for name in FIELDS:
        cleaned[name] = normalise(fields.get(name) or "")
        if not cleaned[name]:
            raise DocumentRefused(f"expected the field {name!r} of a document, found none; fill it in.")
    try:
        date = dt.date.fromisoformat(fields["date"].strip())
    except ValueError:
        raise DocumentRefused(
            "field 'date': expected a date such as 2026-11-02, found something else; correct it."
        ) from None
    amount = amount_of(fields["amount"])
    if amount is None:
        raise DocumentRefused(
            "field 'amount': expected a positive number with at most four decimals after a point, found something else;"
            " correct it."
        )
    if not _CURRENCY.fullmatch(cleaned["currency"]):
        raise DocumentRefused("field 'currency': expected three letters such as EUR, found others; correct it.")
    cleaned["date"], cleaned["amount"] = date.strftime("%Y%m%d"), str(amount)
    return fingerprint(quarter_key(key, date).raw, cleaned)


def quarter_key(key: TokenKey, date: dt.date) -> TokenKey:
    """The key of fingerprints of documents of one quarter; it says nothing about other quarters' keys."""
    quarter = f"{date.year:04d}q{(date.month + 2) // 3}"
    return TokenKey(hmac.digest(key.raw, b"tallystick/quarter/1/" + quarter.encode(), "sha256"))


def match_of(evidence: Sequence[bool], required: Collection[str]) -> tuple[MatchResult, tuple[str, ...]]:
    """What the evidence of all members together says of a document.

    Args:
        evidence: For each of `KINDS`, whether somebody has it; not who, and not how often (C7).
        required: Kinds without which it is not matched.

    Returns:
        The result, and the required kinds that nobody has.
    """
    found = dict(zip(KINDS, evidence, strict=True))
    missing = tuple(kind for kind in KINDS if kind in required and not found[kind])
    if found[PLEDGED]:
        return "already financed", missing
    return ("not matched" if missing else "matched"), missing
