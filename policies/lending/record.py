"""Canonical JSON of frozen types, and its SHA-256: the same input has one hash, however its decimals were written."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from policies.decision_tables.cells import plain


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no white space, UTF-8; decimals as text without exponent and trailing zeros."""
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def sha256_of(value: Any) -> str:
    """SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _plain(value: Any) -> Any:
    match value:
        case BaseModel():
            return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case Decimal():
            return plain(value)
        case dt.date():
            return value.isoformat()
        case bool() | int() | str() | None:
            return value
        case _:
            raise TypeError(f"no canonical form for {type(value).__name__}")
