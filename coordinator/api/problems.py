"""Problem documents (RFC 9457) and the only place where an error becomes an HTTP status."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:tallystick:problem:"

# Short name -> (HTTP status, title). The title is the same for every occurrence, the detail is not.
PROBLEMS: Mapping[str, tuple[int, str]] = {
    "malformed-json": (400, "The body is not the JSON that is expected"),
    "bad-request": (400, "The request is malformed"),
    "idempotency-key-missing": (400, "The request needs an Idempotency-Key"),
    "unauthenticated": (401, "The caller is not known"),
    "forbidden": (403, "The caller may not do this"),
    "score-withheld": (403, "The members may not give this score"),
    "not-found": (404, "There is nothing at this address"),
    "method-not-allowed": (405, "This address does not know that method"),
    "conflict": (409, "The request does not fit what there is"),
    "body-too-large": (413, "The body is too large"),
    "unsupported-media-type": (415, "The body must be JSON"),
    "invalid-request": (422, "The request does not say what is needed"),
    "invalid-features": (422, "The features cannot be scored"),
    "idempotency-conflict": (422, "The Idempotency-Key belongs to another request"),
    "no-policy-answer": (422, "The lending policy has no answer to this"),
    "rate-limited": (429, "The caller asks too often"),
    "busy": (429, "More is under way than can be taken on"),
    "internal-error": (500, "Something went wrong here"),
    "unavailable": (503, "It cannot be answered now"),
}


@dataclass(frozen=True)
class FieldProblem:
    """What is wrong with one value; never repeats the value.

    Attributes:
        pointer: Where, as a JSON pointer (RFC 6901) into the body.
        detail: Expected, found, what to do.
    """

    pointer: str
    detail: str


class ProblemError(Exception):
    """A refusal on its way to the caller.

    Attributes:
        name: Key of `PROBLEMS`.
        detail: One sentence about this occurrence.
        errors: One entry for each value that is wrong.
        headers: Of the response.
    """

    def __init__(
        self, name: str, detail: str, errors: Sequence[FieldProblem] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.name = name
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


def pointer(*parts: str | int) -> str:
    """A JSON pointer: `pointer("features", "a/b")` is "/features/a~1b"."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def problem_response(
    name: str,
    detail: str,
    errors: Sequence[FieldProblem] = (),
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem document as a response.

    Args:
        name: Key of `PROBLEMS`.
        detail: One sentence.
        errors: What is wrong with single values.
        status: Another status than the table's.
        headers: For example Allow.
    """
    table_status, title = PROBLEMS[name]
    code = status or table_status
    document: dict[str, Any] = {"type": TYPE_PREFIX + name, "title": title, "status": code, "detail": detail}
    if errors:
        document["errors"] = [{"pointer": error.pointer, "detail": error.detail} for error in errors]
    return JSONResponse(document, status_code=code, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def problem_schema() -> dict[str, Any]:
    """JSON schema of a problem document, for OpenAPI."""
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "format": "uri", "example": TYPE_PREFIX + "invalid-features"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "One sentence: expected, found, what to do"},
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["pointer", "detail"],
                    "properties": {
                        "pointer": {"type": "string", "example": "/features/age"},
                        "detail": {"type": "string"},
                    },
                },
            },
        },
    }


def install_problem_handlers(app: FastAPI) -> None:
    """Make every refusal of an application a problem document, also those of the framework."""

    async def on_problem(_request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, ProblemError):  # registered for that type alone
            raise error
        return problem_response(error.name, error.detail, error.errors, headers=error.headers)

    async def on_http(_request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, HTTPException):
            raise error
        match error.status_code:
            case 404:
                detail = "Expected a path of this API, found another; /v1/openapi.json lists them."
                return problem_response("not-found", detail)
            case 405:
                allowed = (error.headers or {}).get("Allow", "another method")
                detail = f"Expected {allowed} at this address, found another method; use {allowed}."
                return problem_response("method-not-allowed", detail, headers={"Allow": allowed})
            case status:
                detail = "Expected a well-formed HTTP request, found one that is not; correct it."
                name = "bad-request" if status < 500 else "internal-error"
                return problem_response(name, detail, status=status, headers=error.headers)

    async def on_failure(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises the error again after this answer, so the server's log has the traceback.
        log.error("request to %s failed: %s", request.url.path, type(error).__name__)
        return problem_response(
            "internal-error", "The request could not be answered; the operator's log has the cause."
        )

    app.add_exception_handler(ProblemError, on_problem)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_failure)
