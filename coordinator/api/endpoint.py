"""An endpoint as data, and the one way from a request to its handler: who, may she, how often, what.

The order is the same for every endpoint: the token, its scope, the client's rate, then the body, bounded before it is
parsed. Whatever lacks a scope is open to everybody and must say so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from coordinator.api.problems import FieldProblem, ProblemError, pointer
from coordinator.api.refusals import problem_of
from coordinator.api.strict_json import parse_strict, read_body, require_media_type
from coordinator.decisions import records
from coordinator.decisions.store import EVERY_TENANT, Scope
from coordinator.identity.principal import Principal
from policies.closed_model import ClosedModel, validation_detail
from policies.errors import UserError

JSON: Final = "application/json"
EVERYBODY: Final = "everybody"
"""In place of a scope: no token is asked for."""

Method = Literal["GET", "POST", "DELETE"]
Services = TypeVar("Services")
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_MAX_QUERY: Final = 4096
MAX_BODY_BYTES: Final = 1 << 18
"""Of one request: two grants' worth."""
_MAX_SHOWN_PROBLEMS: Final = 20


@dataclass(frozen=True)
class Call(Generic[Services]):
    """One request, checked.

    Attributes:
        services: What handlers work with.
        request: The raw request.
        principal: Who calls.
        path: Its path parameters.
        query: The validated query, of the endpoint's type.
        body: The validated body, of the endpoint's type.
        key: The Idempotency-Key.
        request_hash: SHA-256 over method, path and body, 32 bytes.
    """

    services: Services
    request: Request
    principal: Principal
    path: Mapping[str, str]
    query: Any = None
    body: Any = None
    key: str = ""
    request_hash: bytes = b""

    @property
    def tenants(self) -> Scope:
        """Whose records the caller may read: its own tenant's, a regulator every tenant's."""
        return EVERY_TENANT if self.principal.role == "regulator" else self.principal.tenant

    @property
    def id(self) -> str:
        """The id in the path."""
        return self.path["id"]


Handler = Callable[[Call[Any]], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One method of one path.

    Attributes:
        method: Of HTTP.
        path: With `{id}` where there is one.
        scope: What the token must hold, or `EVERYBODY`.
        tag: Chapter of the API description.
        summary: One line of it.
        handler: Answers.
        answer: Type of the answer's JSON; None where it is something else.
        status: Of a good answer.
        media_type: Of a good answer.
        body: Type of the body.
        query: Type of the query.
        once: Whether the request takes an Idempotency-Key.
        reads_itself: Content of the body for the description, where the handler reads it: a form, a stream.
        problems: Names of problems beyond those that every endpoint of its kind has.
    """

    method: Method
    path: str
    scope: str
    tag: str
    summary: str
    handler: Handler
    answer: type[BaseModel] | None = None
    status: int = 200
    media_type: str = JSON
    body: type[BaseModel] | TypeAdapter[Any] | None = None
    query: type[ClosedModel] | None = None
    once: bool = False
    reads_itself: Mapping[str, Any] | None = None
    problems: tuple[str, ...] = field(default=())


class Admission:
    """Who may call: token, scope and rate; made by the composition root.

    Args:
        authenticate: The Authorization header to who that is.
        authorise: Refuses a caller without the scope.
        take: Counts against the caller's rate.
        welcome: Called with a caller once it is admitted, for example to have its tenant written.
    """

    def __init__(
        self,
        authenticate: Callable[[str | None], Principal],
        authorise: Callable[[Principal, str], None],
        take: Callable[[Principal], None],
        welcome: Callable[[Principal], Awaitable[None]],
    ) -> None:
        self._authenticate = authenticate
        self._authorise = authorise
        self._take = take
        self._welcome = welcome

    async def admit(self, request: Request, scope: str) -> Principal:
        """Who calls.

        Raises:
            AuthenticationRefused, ScopeMissing, RateLimited: It may not.
        """
        principal = self._authenticate(request.headers.get("authorization"))
        self._authorise(principal, scope)
        self._take(principal)
        await self._welcome(principal)
        return principal


NOBODY: Final = Principal(client_id="", tenant="", role="operator", scopes=frozenset())
"""The caller of an endpoint that is open to everybody."""


async def answer(endpoint: Endpoint, admission: Admission, services: Any, request: Request) -> Response:
    """Take a request all the way.

    Raises:
        ProblemError: What is to be told to the caller.
    """
    try:
        principal = NOBODY
        if endpoint.scope != EVERYBODY:
            principal = await admission.admit(request, endpoint.scope)
        query = _query(endpoint, request)
        raw, body = b"", None
        if endpoint.method == "POST" and endpoint.reads_itself is None:
            if endpoint.body is not None:
                require_media_type(request, JSON)
            raw = await read_body(request, MAX_BODY_BYTES)
            body = _body(endpoint.body, raw)
        key, request_hash = "", b""
        if endpoint.once:
            key = _key(request)
            digest = hashlib.sha256(f"{endpoint.method} {request.url.path}\n".encode())
            digest.update(raw)
            request_hash = digest.digest()
        return await endpoint.handler(
            Call(services, request, principal, request.path_params, query, body, key, request_hash)
        )
    except UserError as refused:
        problem = problem_of(refused)
        if problem is None:
            raise
        raise problem from None


def kept(answered: records.Response) -> Response:
    """An answer that is kept under its Idempotency-Key, as a response."""
    headers = dict(answered.headers)
    if answered.replayed:
        headers["Idempotency-Replayed"] = "true"
    return Response(answered.body, status_code=answered.status, headers=headers, media_type=JSON)


def shown(model: BaseModel, *, status: int = 200) -> Response:
    """An answer as a response."""
    return Response(model.model_dump_json(), status_code=status, media_type=JSON)


def _key(request: Request) -> str:
    given = request.headers.getlist("idempotency-key")
    if len(given) != 1 or not _KEY.fullmatch(given[0]):
        found = "none" if not given else "another form" if len(given) == 1 else "several"
        raise ProblemError(
            "idempotency-key-missing",
            f"Expected one Idempotency-Key of 1 to 255 visible ASCII characters, found {found}; send a new random one"
            " with every new request, the same one when you repeat it.",
        )
    return given[0]


def _query(endpoint: Endpoint, request: Request) -> Any:
    raw: bytes = request.scope["query_string"]
    if not raw and endpoint.query is None:
        return None
    if len(raw) > _MAX_QUERY:
        raise ProblemError("bad-request", f"Expected a query of at most {_MAX_QUERY} bytes, found more; shorten it.")
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, strict_parsing=bool(raw), errors="strict")
    except ValueError:
        raise ProblemError("bad-request", "Expected name=value pairs after the ?, found something else.") from None
    given = dict(pairs)
    if len(given) != len(pairs):
        raise ProblemError("invalid-request", "Expected every query parameter once, found one twice; send it once.")
    if endpoint.query is None:
        raise ProblemError("invalid-request", "Expected no query parameters here, found some; remove them.")
    try:
        return endpoint.query.model_validate_strings(given)
    except ValidationError as wrong:
        raise _invalid(wrong, "query") from None


def _body(kind: type[BaseModel] | TypeAdapter[Any] | None, raw: bytes) -> Any:
    if kind is None:
        if raw:
            raise ProblemError("invalid-request", "Expected no body here, found one; send none.")
        return None
    parse_strict(raw)  # refuses what pydantic's parser lets pass: a key twice, NaN
    try:
        return kind.validate_json(raw) if isinstance(kind, TypeAdapter) else kind.model_validate_json(raw)
    except ValidationError as wrong:
        raise _invalid(wrong, tagged=isinstance(kind, TypeAdapter)) from None


def _invalid(wrong: ValidationError, *where: str, tagged: bool = False) -> ProblemError:
    """Names every value that is wrong by its place, without the key or the value that somebody made up."""
    problems = [
        # pydantic puts the tag of a union before the place; nobody wrote it there.
        FieldProblem(pointer(*where, *one["loc"][1 if tagged else 0 :]), validation_detail(one))
        for one in wrong.errors(include_url=False)
    ]
    first, more = problems[0], len(problems) - 1
    sentence = f"{first.pointer or 'The body'}: {first.detail}" + (f" and {more} more" if more else "")
    return ProblemError("invalid-request", sentence + ".", problems[:_MAX_SHOWN_PROBLEMS])
