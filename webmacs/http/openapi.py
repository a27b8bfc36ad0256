"""The OpenAPI 3.1 document, made from the routes themselves: what is served is what is described."""

from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec
from starlette.responses import Response

from webmacs.http.guard import COOKIE, WRITE_HEADER
from webmacs.http.problem import MEDIA_TYPE, ProblemDocument
from webmacs.http.route import Route

REF: Final = "#/components/schemas/{name}"
PROBLEMS: Final = {
    400: "The body is no JSON in UTF-8.",
    401: "No credential, or one that is not (any more) valid.",
    403: "The role does not allow it, or the page is of a foreign origin.",
    404: "There is no such object.",
    408: "The body came too slowly.",
    409: "It conflicts with what exists; the detail says with what.",
    412: "It was changed since it was read: If-Match names another version.",
    413: "The body is too large.",
    415: "The body comes in a form that is not known here.",
    422: "A field cannot be used; `errors` names it.",
    429: "Too many attempts; Retry-After says when to come again.",
    503: "The database cannot be reached or is too slow now; Retry-After says when to come again.",
}
SECURITY: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"cookie": [], "writeHeader": []}]

try:
    VERSION: Final = version("webmacs")
except PackageNotFoundError:  # run from a checkout that was never installed
    VERSION = "0+unknown"  # type: ignore[misc]


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """Every route with its parameters, body, answer and the problems that may come, and every schema by its name."""
    listed = list(routes)
    kinds = [kind for one in listed for kind in (*_bodies(one).values(), _answer_kind(one)) if kind is not None]
    queries = [one.query for one in listed if one.query is not None]
    _, components = msgspec.json.schema_components([*kinds, ProblemDocument], ref_template=REF)
    (_, query_components) = msgspec.json.schema_components(queries, ref_template=REF)
    schemas = {kind: _schema(kind) for kind in kinds}
    paths: dict[str, dict[str, Any]] = {}
    for one in listed:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schemas, query_components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "WebMACS",
            "version": VERSION,
            "summary": "Sensor monitoring, data acquisition and automation.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A session's token, or a source's credential (wms_...)."},
                "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "The session of a browser."},
                "writeHeader": {
                    "type": "apiKey",
                    "in": "header",
                    "name": WRITE_HEADER,
                    "description": "`1`; needed with the cookie for everything but GET.",
                },
            },
        },
    }


def encode(routes: Iterable[Route]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document(routes)), indent=1)


def _operation(one: Route, schemas: dict[Any, Any], query_components: dict[str, Any]) -> dict[str, Any]:
    summary, _, description = (one.handler.__doc__ or "").strip().partition("\n")
    if ". " in summary:
        summary, _, rest = summary.partition(". ")
        description = f"{rest} {description}"
    who = "Needs no credential." if one.access.public else f"Role: {one.access.minimum} or above."
    operation: dict[str, Any] = {
        "operationId": one.handler.__name__,
        "tags": [one.tag],
        "summary": summary.rstrip("."),
        "description": " ".join(f"{description} {who}".split()),
        "security": [] if one.access.public else SECURITY,
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
        for name in _path_parameters(one.path)
    ]
    if one.query is not None:
        parameters += _query_parameters(query_components[one.query.__name__])
    if parameters:
        operation["parameters"] = parameters
    if one.body is not None:
        content = {media: {"schema": schemas[kind]} for media, kind in _bodies(one).items()}
        operation["requestBody"] = {"required": True, "content": content}
    operation["responses"] = _responses(one, schemas)
    return operation


def _responses(one: Route, schemas: dict[Any, Any]) -> dict[str, Any]:
    kind = _answer_kind(one)
    success: dict[str, Any] = {"description": "Done." if kind is None else "The answer."}
    if kind is not None:
        success["content"] = {"application/json": {"schema": schemas[kind]}}
    if one.status == 201:
        success["headers"] = {"Location": {"description": "Address of what was made.", "schema": {"type": "string"}}}
    responses = {str(one.status): success}
    for status in sorted(_problem_statuses(one)):
        content = {MEDIA_TYPE: {"schema": {"$ref": REF.format(name=ProblemDocument.__name__)}}}
        responses[str(status)] = {"description": PROBLEMS[status], "content": content}
        if status in (429, 503):
            responses[str(status)]["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    if one.path == "/health":  # the one answer that is a success in shape and a failure in status
        responses["503"] = {"description": "Readings cannot be stored now.", "content": success["content"]}
    return responses


def _problem_statuses(one: Route) -> set[int]:
    statuses = set(one.problems)
    if not one.access.public:
        statuses |= {401, 403, 503}
    if one.method != "GET":
        statuses.add(403)
    if one.query is not None:
        statuses.add(422)
    if one.body is not None:
        statuses |= {400, 408, 413, 422}
    if "{" in one.path:
        statuses.add(404)
    return statuses


def _bodies(one: Route) -> Mapping[str, Any]:
    """Media type -> what a body of it holds."""
    if one.body is None:
        return {}
    return {one.accepts: one.body} if isinstance(one.accepts, str) else one.accepts


def _answer_kind(one: Route) -> Any:
    """The answer's type; None where there is none or the handler makes a Response of its own."""
    kind = one.returns
    return None if isinstance(kind, type) and issubclass(kind, Response) else kind


def _schema(kind: Any) -> Any:
    ((schema,), _) = msgspec.json.schema_components([kind], ref_template=REF)
    return schema


def _path_parameters(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def _query_parameters(schema: dict[str, Any]) -> list[dict[str, Any]]:
    required = schema.get("required", [])
    parameters = []
    for name, kind in schema["properties"].items():
        parameter: dict[str, Any] = {"name": name, "in": "query", "required": name in required, "schema": kind}
        if "array" in str(kind):
            parameter |= {"style": "form", "explode": False}
        parameters.append(parameter)
    return parameters
