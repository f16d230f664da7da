"""The API's description (OpenAPI 3.1), made from the endpoints: what is not in their table is not served."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter

from coordinator.api.endpoint import EVERYBODY, JSON, Endpoint
from coordinator.api.problems import MEDIA_TYPE, PROBLEMS, problem_schema
from coordinator.identity.principal import SCOPES
from policies.closed_model import ClosedModel

_REF: Final = "#/components/schemas/{model}"
_SECURITY: Final = "clientCredentials"
_ALWAYS: Final = ("bad-request", "busy", "internal-error")
_OF_CALLERS: Final = ("unauthenticated", "forbidden", "rate-limited")
_OF_BODIES: Final = ("malformed-json", "body-too-large", "unsupported-media-type", "invalid-request")
_TEXT: Final[dict[str, Any]] = {"type": "string"}
_PLAIN: Final[dict[str, dict[str, Any]]] = {
    JSON: {"type": "object"},
    "text/event-stream": {  # of one event
        "type": "object",
        "required": ["data"],
        "properties": {"id": _TEXT, "event": _TEXT, "data": _TEXT},
    },
}
_OF_WRITES: Final = ("idempotency-key-missing", "idempotency-conflict", "unavailable")


def description(endpoints: Sequence[Endpoint], *, title: str, version: str, about: str) -> dict[str, Any]:
    """The document.

    Args:
        endpoints: Everything that is served.
        title: Of the API.
        version: Of the API.
        about: What it is for.
    """
    schemas = _Schemas(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": about},
        "paths": paths,
        "components": {
            "schemas": {**schemas.components, "Problem": problem_schema()},
            "securitySchemes": {
                _SECURITY: {
                    "type": "oauth2",
                    "flows": {"clientCredentials": {"tokenUrl": "/oauth/token", "scopes": dict(SCOPES)}},
                }
            },
        },
    }


class _Schemas:
    """JSON schemas of all bodies and answers, shared parts by reference."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        wanted: dict[tuple[str, Any], TypeAdapter[Any]] = {}
        for endpoint in endpoints:
            if endpoint.body is not None:
                wanted[_name(endpoint.body), "validation"] = _adapter(endpoint.body)
            if endpoint.answer is not None:
                wanted[_name(endpoint.answer), "serialization"] = _adapter(endpoint.answer)
        found, whole = TypeAdapter.json_schemas(
            [(name, mode, adapter) for (name, mode), adapter in wanted.items()], ref_template=_REF
        )
        self._found = {(name, mode): schema for (name, mode), schema in found.items()}
        self.components: dict[str, Any] = whole.get("$defs", {})

    def of(self, kind: type[BaseModel] | TypeAdapter[Any], mode: str) -> dict[str, Any]:
        """Schema of one body or answer."""
        return self._found[_name(kind), mode]  # type: ignore[index]  # mode is one of the two above


def _adapter(kind: type[BaseModel] | TypeAdapter[Any]) -> TypeAdapter[Any]:
    return kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)


def _name(kind: type[BaseModel] | TypeAdapter[Any]) -> str:
    return kind.__name__ if isinstance(kind, type) else "Event"


def _operation(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(endpoint),
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "responses": _responses(endpoint, schemas),
    }
    about = (endpoint.handler.__doc__ or "").strip()
    if about:
        operation["description"] = about
    parameters = [*_path_parameters(endpoint), *_query_parameters(endpoint), *_headers(endpoint)]
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": schemas.of(endpoint.body, "validation")}},
        }
    elif endpoint.reads_itself is not None:
        operation["requestBody"] = {"required": True, "content": dict(endpoint.reads_itself)}
    operation["security"] = [] if endpoint.scope == EVERYBODY else [{_SECURITY: [endpoint.scope]}]
    return operation


def _operation_id(endpoint: Endpoint) -> str:
    words = [word for word in endpoint.path.replace(".", "-").split("/") if word]
    return "-".join([endpoint.method.lower(), *(word.strip("{}") for word in words)])


def _responses(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    if endpoint.answer is not None:
        content = {endpoint.media_type: {"schema": schemas.of(endpoint.answer, "serialization")}}
    else:
        content = {endpoint.media_type: {"schema": _PLAIN.get(endpoint.media_type, _TEXT)}}
    good: dict[str, Any] = {"description": "Done", "content": content}
    if endpoint.once:
        good["headers"] = {
            "Idempotency-Replayed": {
                "description": "true when the answer was given before under this Idempotency-Key",
                "schema": {"type": "string"},
            }
        }
    responses: dict[str, Any] = {str(endpoint.status): good}
    if endpoint.once and endpoint.status == 201:
        responses["200"] = {**good, "description": "It was there before"}
    by_status: dict[int, list[str]] = {}
    for name in _problems(endpoint):
        status, title = PROBLEMS[name]
        by_status.setdefault(status, []).append(title)
    for status, titles in sorted(by_status.items()):
        responses[str(status)] = {
            "description": "; ".join(dict.fromkeys(titles)),
            "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}},
        }
    if endpoint.path == "/oauth/token":
        error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
        for oauth in ("400", "401", "429"):
            responses[oauth] = {
                "description": "RFC 6749 section 5.2",
                "content": {JSON: {"schema": error}, MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}},
            }
    return responses


def _problems(endpoint: Endpoint) -> list[str]:
    names = [*_ALWAYS, *endpoint.problems]
    if endpoint.scope != EVERYBODY:
        names += _OF_CALLERS
    if endpoint.method == "POST":
        names += _OF_BODIES
    if endpoint.once:
        names += _OF_WRITES
    if "{id}" in endpoint.path:
        names.append("not-found")
    return [*names, "invalid-request"]


def _path_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    if "{id}" not in endpoint.path:
        return []
    schema = {"type": "string", "minLength": 1, "maxLength": 64}
    return [{"name": "id", "in": "path", "required": True, "schema": schema}]


def _query_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    kind: type[ClosedModel] | None = endpoint.query
    if kind is None:
        return []
    properties = kind.model_json_schema()["properties"]
    found = []
    for name, schema in properties.items():
        options = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
        about = {"description": schema["description"]} if "description" in schema else {}
        plain = {key: value for key, value in options[0].items() if key not in {"title", "description"}}
        found.append({"name": name, "in": "query", "required": False, "schema": plain, **about})
    return found


def _headers(endpoint: Endpoint) -> list[dict[str, Any]]:
    if not endpoint.once:
        return []
    return [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": True,
            "description": "New and random for a new request, the same when it is repeated",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[\\x21-\\x7e]+$"},
            "example": "9f6b2c7e-4a1d-4c2f-8f55-0d7f5b1a3c10",
        }
    ]
