"""Read a JSON body: bounded before it is parsed, and parsed strictly.

Python's parser takes more than JSON: NaN, Infinity, a number that overflows to infinity, and of two equal
keys the last. Each of them would let two programs read one body differently; all are refused.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from fastapi import Request

from coordinator.api.problems import ProblemError

MAX_BODY_BYTES = 64 * 1024


async def read_json(request: Request) -> Any:
    """The body of a request as plain data.

    Raises:
        ProblemError: Not JSON by its media type, longer than `MAX_BODY_BYTES`, or not strict JSON in UTF-8.
    """
    require_media_type(request, "application/json")
    return parse_strict(await read_body(request, MAX_BODY_BYTES))


def require_media_type(request: Request, expected: str) -> None:
    """Return if the body is declared as that.

    Raises:
        ProblemError: It is not.
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type != expected:
        raise ProblemError(
            "unsupported-media-type", f"Expected Content-Type {expected}, found another or none; set the header."
        )


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The bytes of a body.

    Raises:
        ProblemError: It is longer than `max_bytes`.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:  # the header may lie, or be absent
            raise _too_large(max_bytes)
    return bytes(body)


def parse_strict(body: bytes) -> Any:
    """Parse JSON; see the module for what is refused.

    Raises:
        ProblemError: The body is not strict JSON in UTF-8.
    """
    try:
        text = body.decode("utf-8")
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise _malformed(f"bytes that are no UTF-8 at offset {error.start}") from None
    except json.JSONDecodeError as error:
        raise _malformed(f"a mistake at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _malformed("too many nested levels") from None
    except ValueError:  # an integer of thousands of digits
        raise _malformed("a number of too many digits") from None


def _malformed(found: str) -> ProblemError:
    return ProblemError("malformed-json", f"Expected one JSON object in UTF-8, found {found}; correct the body.")


def _too_large(max_bytes: int) -> ProblemError:
    return ProblemError(
        "body-too-large", f"Expected a body of at most {max_bytes} bytes, found more; send less in one request."
    )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(keys) != len(set(keys)):
        raise _malformed("one key twice in an object")
    return dict(pairs)


def _refuse_constant(_name: str) -> NoReturn:
    raise _malformed("NaN or Infinity, which JSON does not know")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _malformed("a number beyond what a 64-bit float holds")
    return value
