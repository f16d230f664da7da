"""Small JSON files with one reading: no key twice, no NaN, no binary floats, bounded size and depth."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import BeforeValidator

from policies.closed_model import one_line, read_bounded, shown, shown_path
from policies.errors import UserError

_MAX_DEPTH = 16


class _RepeatedKey(ValueError):
    pass


def _iso_date(value: object) -> object:
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value
    if isinstance(value, str) and len(value) == 10:
        try:
            return dt.date.fromisoformat(value)
        except ValueError:
            pass
    raise ValueError(f"expected a date as 2026-11-25, found {shown(value)}; correct it")


IsoDate = Annotated[dt.date, BeforeValidator(_iso_date)]
"""A date as `2026-11-25`; no time of day and no zone."""


def read_json_object(path: Path, error: type[UserError]) -> dict[str, Any]:
    """Read a small file that holds one JSON object.

    Args:
        path: The file.
        error: What to raise.

    Returns:
        The object; lists are tuples and numbers with a point are decimals.

    Raises:
        UserError: As `error`: unreadable, too large, not UTF-8, not JSON, a key twice, nested beyond reason.
    """
    return parse_json_object(read_bounded(path, error), shown_path(path), error)


def parse_json_object(content: bytes, where: str, error: type[UserError]) -> dict[str, Any]:
    """Parse bytes that hold one JSON object; see `read_json_object`."""
    if content.startswith(b"\xef\xbb\xbf"):
        raise error(f"{where}: expected plain UTF-8, found a byte-order mark; save the file without one.")
    try:
        parsed = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_object,
            parse_float=Decimal,
            parse_int=_bounded_int,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as problem:
        raise error(
            f"{where}: expected UTF-8 text, found other bytes at offset {problem.start}; save it as UTF-8."
        ) from None
    except json.JSONDecodeError as problem:
        raise error(
            f"{where}: expected JSON, found a mistake in line {problem.lineno} ({one_line(problem.msg)}); correct it."
        ) from None
    except RecursionError:
        raise error(f"{where}: expected at most {_MAX_DEPTH} nested levels, found more; flatten the file.") from None
    except ValueError as problem:
        raise error(f"{where}: {one_line(problem)}; correct it.") from None
    if not isinstance(parsed, dict):
        raise error(f"{where}: expected a JSON object in braces, found {shown(parsed)}; check that it is the file.")
    try:
        return {key: _freeze(value, 1) for key, value in parsed.items()}
    except RecursionError:
        raise error(f"{where}: expected at most {_MAX_DEPTH} nested levels, found more; flatten the file.") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _RepeatedKey(f"expected every key once, found {shown(key)} twice in one object")
        found[key] = value
    return found


def _bounded_int(digits: str) -> int:
    if len(digits) > 18:
        raise ValueError("expected numbers of at most 18 digits, found a longer one")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"expected numbers, found {name}")


def _freeze(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise RecursionError
    if isinstance(value, list):
        return tuple(_freeze(item, depth + 1) for item in value)
    if isinstance(value, dict):
        return {key: _freeze(item, depth + 1) for key, item in value.items()}
    return value
