"""Tokens: the embedded issuer's endpoint (RFC 6749 section 4.4), its keys and its metadata (RFC 8414)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_plus

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from coordinator.api.endpoint import EVERYBODY, JSON, Call, Endpoint
from coordinator.api.problems import ProblemError
from coordinator.api.services import Services
from coordinator.api.strict_json import read_body
from coordinator.identity.errors import ClientRefused, RateLimited, ScopeMissing

FORM: Final = "application/x-www-form-urlencoded"
_MAX_FORM: Final = 4096
_FIELDS: Final = frozenset({"grant_type", "client_id", "client_secret", "scope"})


class _Malformed(Exception):
    """The request is not one for a token."""


async def give(call: Call[Services]) -> Response:
    """A token for a client that proves itself; errors are those of RFC 6749 section 5.2."""
    try:
        form = await _form(call.request)
        name, secret = _credentials(call.request, form)
    except (_Malformed, ProblemError) as wrong:
        return _error(400, "invalid_request", str(wrong))
    if form.get("grant_type") != "client_credentials":
        return _error(400, "unsupported_grant_type", "Expected grant_type=client_credentials, found another or none.")
    try:
        token = await run_in_threadpool(call.services.issuer.token, name, secret, form.get("scope"))
    except ClientRefused as refused:
        challenge = {"WWW-Authenticate": 'Basic realm="tallystick"'}
        return _error(401, "invalid_client", str(refused), challenge)
    except ScopeMissing as refused:
        return _error(400, "invalid_scope", str(refused))
    except RateLimited as refused:
        return _error(429, "slow_down", str(refused), {"Retry-After": str(refused.retry_after_s)})
    return JSONResponse(
        {
            "access_token": token.text,
            "token_type": "Bearer",
            "expires_in": token.expires_in_s,
            "scope": token.scope,
        },
        headers={"Pragma": "no-cache"},
    )


async def keys(call: Call[Services]) -> Response:
    """Public keys that verify tokens."""
    return JSONResponse(call.services.issuer.jwks(), headers={"Cache-Control": "public, max-age=60"})


async def metadata(call: Call[Services]) -> Response:
    """Where everything is."""
    return JSONResponse(call.services.issuer.metadata(), headers={"Cache-Control": "public, max-age=60"})


async def _form(request: Request) -> Mapping[str, str]:
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != FORM:
        raise _Malformed(f"Expected Content-Type {FORM}, found another or none.")
    raw = await read_body(request, _MAX_FORM)
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:
        raise _Malformed("Expected a form of name=value pairs, found something else.") from None
    form = dict(pairs)
    if len(form) != len(pairs) or not form.keys() <= _FIELDS:
        raise _Malformed("Expected every field once and none but the known ones, found others.")
    return form


def _credentials(request: Request, form: Mapping[str, str]) -> tuple[str, str]:
    """Name and secret: by HTTP Basic, or in the form, and not by both."""
    header = request.headers.get("authorization")
    inside = "client_secret" in form
    if header is None:
        if "client_id" not in form or not inside:
            raise _Malformed("Expected a client's name and secret by HTTP Basic or in the form, found none.")
        return form["client_id"], form["client_secret"]
    if inside:
        raise _Malformed("Expected the secret in one place, found it in two.")
    scheme, _, encoded = header.partition(" ")
    try:
        name, colon, secret = base64.b64decode(encoded, validate=True).decode("ascii").partition(":")
    except (binascii.Error, ValueError):
        name, colon, secret = "", "", ""
    if scheme.lower() != "basic" or not colon:
        raise _Malformed("Expected Authorization: Basic with name:secret in base64, found something else.")
    return unquote_plus(name), unquote_plus(secret)


def _error(status: int, code: str, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps({"error": code, "error_description": sentence.encode("ascii", "replace").decode()})
    return Response(body, status_code=status, media_type=JSON, headers=dict(headers or {}))


_TEXT: Final = {"type": "string", "maxLength": 512}
_FORM_CONTENT: Final[Mapping[str, Any]] = {
    FORM: {
        "schema": {
            "type": "object",
            "required": ["grant_type"],
            "additionalProperties": False,
            "properties": {
                "grant_type": {"type": "string", "enum": ["client_credentials"]},
                "client_id": _TEXT,
                "client_secret": _TEXT,
                "scope": _TEXT,
            },
        }
    }
}
ENDPOINTS: Final = (
    Endpoint(
        method="POST",
        path="/oauth/token",
        scope=EVERYBODY,
        tag="tokens",
        summary="A token for a client's name and secret",
        handler=give,
        reads_itself=_FORM_CONTENT,
    ),
    Endpoint(
        method="GET",
        path="/.well-known/jwks.json",
        scope=EVERYBODY,
        tag="tokens",
        summary="Keys that verify tokens",
        handler=keys,
    ),
    Endpoint(
        method="GET",
        path="/.well-known/oauth-authorization-server",
        scope=EVERYBODY,
        tag="tokens",
        summary="Where tokens and keys are (RFC 8414)",
        handler=metadata,
    ),
)
