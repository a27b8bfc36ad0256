"""The OpenAPI 3.1 document, made from the routes themselves: what is served is what is described."""

import inspect
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.responses import Response

from webmacs.http.access import TABLE, scope_of
from webmacs.http.example import Examples
from webmacs.http.guard import COOKIE, SAFE_METHODS, WRITE_HEADER
from webmacs.http.idempotency import HEADER as IDEMPOTENCY_KEY
from webmacs.http.idempotency import REPLAYED
from webmacs.http.limits import FREE
from webmacs.http.problem import MEDIA_TYPE, FieldError, ProblemDocument
from webmacs.http.problem_pages import PAGES
from webmacs.http.route import DRY_RUN, DRY_RUN_HEADER, Route, SocketRoute, Upload, judging_if_match

REF: Final = "#/components/schemas/{name}"
API_VERSION: Final = "1"
"""Of the interface, not of the software: strangers need not know that."""
ABOUT: Final = Path(__file__).with_suffix(".md")

USUAL: Final = {
    400: "malformed",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    408: "too-slow",
    409: "conflict",
    412: "changed-meanwhile",
    413: "too-large",
    415: "unsupported-media-type",
    422: "unprocessable",
    429: "too-many-attempts",
    503: "unavailable",
}
"""The type of a problem that a route names by its status alone."""

BINARY: Final = {"type": "string", "format": "binary", "description": "The file's bytes, as they are."}

HEADERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "X-Request-ID": {"description": "Names the request in the log: the one that was sent, or a new one.", "schema": {"type": "string"}},
    "Location": {"description": "Address of what was made.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait before trying again.", "schema": {"type": "integer", "minimum": 1}},
    "RateLimit": {
        "description": "The limit that is used up, and in how many seconds there is something left.",
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {"description": "The limit that is used up: `q` in `w` seconds.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "How to say who is asking.", "schema": {"type": "string"}},
    "ETag": {"description": "The version, to be sent as `If-Match` with a change.", "schema": {"type": "string", "examples": ['"3"']}},
    "Deprecation": {"description": "Since when it should not be used, as `@` and seconds since 1970.", "schema": {"type": "string"}},
    "Sunset": {"description": "When it may be gone.", "schema": {"type": "string"}},
    DRY_RUN_HEADER: {"description": "`true`: all of it was judged, and nothing was changed.", "schema": {"const": "true"}},
    REPLAYED: {"description": "`true`: this is the answer of the first request with this key.", "schema": {"const": "true"}},
}
PROBLEM_HEADERS: Final = {401: ("WWW-Authenticate",), 429: ("Retry-After", "RateLimit", "RateLimit-Policy"), 503: ("Retry-After",)}

SECURITY_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "The token of a session, as `POST /api/v1/auth/login` answers it."},
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API token, `wm_...`, with the scope that stands here; also as `Token ...`, or as the password of `Basic ...`.",
    },
    "source": {
        "type": "http",
        "scheme": "bearer",
        "description": "The credential of a source, `wms_...`; also as `Token ...`, or as the password of `Basic ...`.",
    },
    "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "The session of a browser."},
    "writeHeader": {
        "type": "apiKey",
        "in": "header",
        "name": WRITE_HEADER,
        "description": "`1`; needed with the cookie for everything that changes something.",
    },
    "ticket": {"type": "apiKey", "in": "query", "name": "ticket", "description": "For one socket, once, within 30 s."},
}

PARAMETERS: Final[Mapping[str, Mapping[str, Any]]] = {
    DRY_RUN: {
        "name": DRY_RUN,
        "in": "query",
        "description": "Judge and answer as if it were done, and change nothing.",
        "schema": {"type": "boolean", "default": False},
    },
    "If-Match": {
        "name": "If-Match",
        "in": "header",
        "description": "Only if it still has this version, as its `ETag` says it; else a 412. Without it the last change wins.",
        "schema": {"type": "string", "examples": ['"3"']},
    },
    "Content-Encoding": {
        "name": "Content-Encoding",
        "in": "header",
        "description": "How the body comes: what it becomes is at most as large as any body here, and 100 times what was sent.",
        "schema": {"enum": ["identity", "gzip", "x-gzip", ""], "default": "identity"},
    },
    IDEMPOTENCY_KEY: {
        "name": IDEMPOTENCY_KEY,
        "in": "header",
        "description": "Your own name of this request, as a UUID. Sent again within 24 h, it is answered as the first time and done once.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,200}$", "examples": ["019a0d5e-7c00-7a41-9d3c-5b8e2f6a1c04"]},
    },
}

QUERY_FIELDS: Final = {"sort": "The field to sort by; with a leading `-` the greatest first."}
"""Descriptions of parameters that every list has in a form of its own."""

try:
    VERSION: Final = version("webmacs")
except PackageNotFoundError:  # run from a checkout that was never installed
    VERSION = "0+unknown"  # type: ignore[misc]


def document(routes: Iterable[Route], sockets: Iterable[SocketRoute]) -> dict[str, Any]:
    """Every route with its parameters, body, answer and the problems that may come, and every schema by its name."""
    writer = _Writer(list(routes))
    paths = writer.paths()
    listening = [_socket(one) for one in sockets]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "WebMACS",
            "version": API_VERSION,
            "summary": "Sensor monitoring, data acquisition and automation.",
            "description": ABOUT.read_text("utf-8").replace("SOCKETS\n", _socket_list(listening)),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": writer.tags(),
        "paths": paths,
        "components": {
            "schemas": dict(sorted(writer.components.items())),
            "responses": dict(sorted(writer.responses.items())),
            "examples": {slug: {"summary": page.title, "value": _problem(slug)} for slug, page in PAGES.items()},
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "securitySchemes": SECURITY_SCHEMES,
        },
        "x-websockets": listening,
    }


def encode(routes: Iterable[Route], sockets: Iterable[SocketRoute]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document(routes, sockets)), indent=1)


class _Writer:
    """Writes the operations, and gathers what they refer to."""

    def __init__(self, routes: list[Route]) -> None:
        self._routes = routes
        kinds = [kind for one in routes for kind in (*_bodies(one).values(), _answer_kind(one)) if kind not in (None, bytes, Upload)]
        self._judging = judging_if_match(routes)
        queries = {one.query: None for one in routes if one.query is not None}
        schemas, self.components = msgspec.json.schema_components([*kinds, ProblemDocument], ref_template=REF)
        self._schemas = dict(zip(kinds, schemas[:-1], strict=True))
        schemas, components = msgspec.json.schema_components(queries, ref_template=REF)
        self._queries = {query: components[schema["$ref"].rpartition("/")[2]] for query, schema in zip(queries, schemas, strict=True)}
        self.responses: dict[str, Any] = {}
        """What several operations answer, by its types of problems."""

    def paths(self) -> dict[str, dict[str, Any]]:
        paths: dict[str, dict[str, Any]] = {}
        for one in self._routes:
            paths.setdefault(one.path, {})[one.method.lower()] = self._operation(one)
        return paths

    def tags(self) -> list[dict[str, str]]:
        """The first sentence of a module of webmacs/api, or of its package, says what its routes are about."""
        about = {}
        for one in self._routes:
            module = one.handler.__module__
            home = module[: module.index(one.tag) + len(one.tag)]
            about[one.tag] = sys.modules.get(home, sys.modules[module])
        return [{"name": tag, "description": _sentences(inspect.getdoc(about[tag]))[0]} for tag in sorted(about)]

    def _operation(self, one: Route) -> dict[str, Any]:
        summary, description = _sentences(inspect.getdoc(one.handler))
        problems = problem_types(one, self._matches(one))
        if one.deprecated is not None:
            description = f"{description} {one.deprecated.sentence()}"
        operation: dict[str, Any] = {
            "operationId": one.handler.__name__,
            "tags": [one.tag],
            "summary": summary.removesuffix("."),
            "description": f"{description} {_who(one.method, one.path)}".strip(),
            "security": [] if one.access.public else _security(one.method, one.path),
        }
        parameters = [_path_parameter(one.path, name) for name in _path_parameters(one.path)]
        if one.query is not None:
            parameters += _query_parameters(self._queries[one.query])
        parameters += [{"$ref": f"#/components/parameters/{name}"} for name in self._common_parameters(one)]
        if parameters:
            operation["parameters"] = parameters
        if one.body is not None:
            operation["requestBody"] = {
                "required": True,
                "content": {media: self._body(kind, one.sample) for media, kind in _bodies(one).items()},
            }
        operation["responses"] = {str(one.status): self._success(one)} | self._refusals(problems)
        if one.maybe_nothing:
            shown = (DRY_RUN_HEADER,) if one.changes is not None else ()
            operation["responses"]["204"] = {"description": "Done; there is no body.", "headers": _headers(*shown)}
        if one.path == "/health":  # the one answer that is a success in shape and a failure in status
            operation["responses"]["503"] = self._success(one) | {"description": "Readings cannot be stored now."}
        if one.deprecated is not None:
            operation["deprecated"] = True
        operation["x-problem-types"] = sorted(problems)
        return operation

    def _matches(self, one: Route) -> bool:
        return (one.method, one.path) in self._judging

    def _common_parameters(self, one: Route) -> list[str]:
        asked = {
            DRY_RUN: one.changes is not None,
            "If-Match": self._matches(one),
            "Content-Encoding": one.body not in (None, Upload),
            IDEMPOTENCY_KEY: _once(one),
        }
        return [name for name, true in asked.items() if true]

    def _body(self, kind: Any, sample: str | None) -> dict[str, Any]:
        """The example has every field where these go together, else those that are needed."""
        if kind in (bytes, Upload):
            return {"schema": BINARY} if sample is None else {"schema": {"type": "string"}, "example": sample}
        schema = self._schemas[kind]
        for full in (True, False):
            example = Examples(self.components, full=full).of(schema)
            try:
                msgspec.convert(example, kind)
            except msgspec.ValidationError:
                continue
            break
        return {"schema": schema, "example": example}

    def _success(self, one: Route) -> dict[str, Any]:
        kind = _answer_kind(one)
        shown = {
            "Location": one.status in (201, 302),
            "ETag": one.has_etag,
            DRY_RUN_HEADER: one.changes is not None,
            REPLAYED: _once(one),
            "Deprecation": one.deprecated is not None,
            "Sunset": one.deprecated is not None,
        }
        answer: dict[str, Any] = {
            "description": "Done; there is no body." if one.returns is None else "Sent on." if one.status == 302 else "The answer.",
            "headers": _headers(*(name for name, true in shown.items() if true)),
        }
        if kind is not None:
            schema = self._schemas[kind]
            answer["content"] = {one.produces: {"schema": schema, "example": Examples(self.components).of(schema)}}
        elif one.returns is not None and one.status != 302:
            answer["content"] = {one.produces: {"schema": {} if one.produces == "application/json" else BINARY}}
        return answer

    def _refusals(self, problems: set[str]) -> dict[str, dict[str, str]]:
        """A reference for each status, to an answer that shows each type of problem it can be."""
        by_status: dict[int, list[str]] = {}
        for slug in sorted(problems):
            by_status.setdefault(PAGES[slug].status, []).append(slug)
        refusals = {}
        for status, slugs in sorted(by_status.items()):
            name = "_or_".join(slugs)
            refusals[str(status)] = {"$ref": f"#/components/responses/{name}"}
            self.responses[name] = {
                "description": " ".join(f"{PAGES[slug].title} (`/problems/{slug}`)." for slug in slugs),
                "headers": _headers(*PROBLEM_HEADERS.get(status, ())),
                "content": {
                    MEDIA_TYPE: {
                        "schema": {"$ref": REF.format(name=ProblemDocument.__name__)},
                        "examples": {slug: {"$ref": f"#/components/examples/{slug}"} for slug in slugs},
                    }
                },
            }
        return refusals


def problem_types(one: Route, matches: bool) -> set[str]:
    """The slug of every problem that an operation can answer. `matches`: it heeds If-Match."""
    types = {USUAL[422]}  # parameters that it does not know are refused
    if one.path not in FREE:
        types.add("too-many-requests")
    types |= {USUAL[problem] if isinstance(problem, int) else problem for problem in one.problems}
    if not one.access.public:
        types |= {"unauthorized", "forbidden", "unavailable", "session-needed" if one.access.session else "scope-missing"}
        types |= set() if one.access.initial else {"password-change-needed"}
        types |= {"password-needed"} if one.access.fresh else set()
    if one.method not in SAFE_METHODS:
        types |= {"foreign-origin"} if one.access.public else {"foreign-origin", "write-header-missing"}
    if one.body is not None:
        types |= {"too-slow", "too-large", "unsupported-media-type"}
        types |= set() if one.body is Upload else {"malformed"}
    if "{" in one.path:
        types.add("not-found")
    if matches:
        types.add("changed-meanwhile")
    if _once(one):
        types.add("idempotency-key-reused")
    return types


def _problem(slug: str) -> Any:
    page = PAGES[slug]
    errors = None
    if slug == USUAL[422]:
        place, _, message = page.detail.partition(": ")
        errors = [FieldError([*place.split(".")], message)]
    return msgspec.to_builtins(ProblemDocument(f"/problems/{slug}", page.title, page.status, page.detail, errors, "5f0c6f6e8a3d4b21"))


def _headers(*names: str) -> dict[str, dict[str, str]]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-ID", *names)}


def _security(method: str, path: str) -> list[dict[str, list[str]]]:
    """Any one of these ways."""
    row = TABLE[method, path]
    ways: list[dict[str, list[str]]] = [{"bearer": []}]
    if not row.session:
        ways.append({"token": [scope_of(method, path)]})
    if row.source:
        ways.append({"source": []})
    if method == "WS":
        return [*ways, {"ticket": []}]
    return [*ways, {"cookie": []} if method in SAFE_METHODS else {"cookie": [], "writeHeader": []}]


def _who(method: str, path: str) -> str:
    row = TABLE[method, path]
    if row.public:
        return "Needs no credential."
    token = "no API token" if row.session else f"scope of an API token: {scope_of(method, path)}"
    return f"Role: {row.minimum} or above{', or a source' if row.source else ''}; {token}."


def _socket(one: SocketRoute) -> dict[str, Any]:
    summary, description = _sentences(inspect.getdoc(one.handler))
    return {
        "path": one.path,
        "summary": summary.removesuffix("."),
        "description": f"{description} {_who('WS', one.path)}".strip(),
        "security": _security("WS", one.path),
    }


def _socket_list(listening: list[dict[str, Any]]) -> str:
    """For readers of the description: a viewer does not show extensions."""
    return "".join(f"- `{one['path']}`: {one['summary']}. {one['description']}\n" for one in listening)


def _sentences(text: str | None) -> tuple[str, str]:
    """The first sentence, and the rest in one line each paragraph."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n")]
    first, stop, rest = paragraphs[0].partition(". ")
    return f"{first}." if stop else first, "\n\n".join(part for part in (rest, *paragraphs[1:]) if part)


def _bodies(one: Route) -> Mapping[str, Any]:
    """Media type -> what a body of it holds."""
    if one.body is None:
        return {}
    return {one.accepts: one.body} if isinstance(one.accepts, str) else one.accepts


def _answer_kind(one: Route) -> Any:
    """The answer's type; None where there is none or the handler makes a Response of its own."""
    kind = one.returns
    return None if isinstance(kind, type) and issubclass(kind, Response) else kind


def _once(one: Route) -> bool:
    """Whether it heeds an Idempotency-Key."""
    return one.method == "POST" and (one.changes is not None or one.once) and not one.access.public


def _path_parameters(path: str) -> list[str]:
    return [part[1:-1] for part in path.split("/") if part.startswith("{")]


def _path_parameter(path: str, name: str) -> dict[str, Any]:
    noun = path.partition("/{" + name)[0].rpartition("/")[2]
    by_id = name.endswith("_id")
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": f"Which one of {noun}{', by its public id' if by_id else ''}.",
        "schema": {"type": "string", "format": "uuid"} if by_id else {"type": "string"},
    }


def _query_parameters(schema: dict[str, Any]) -> list[dict[str, Any]]:
    required = schema.get("required", [])
    parameters = []
    for name, field in schema["properties"].items():
        kind = _without_null(field)
        description = kind.pop("description", QUERY_FIELDS.get(name, ""))
        parameter: dict[str, Any] = {"name": name, "in": "query", "required": name in required, "description": description, "schema": kind}
        if kind.get("type") == "array":
            parameter |= {"style": "form", "explode": False}
        parameters.append(parameter)
    return parameters


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """A query cannot say null: what may be null is what may be left out."""
    kind = dict(field)
    if "anyOf" in kind:
        choices = [choice for choice in kind.pop("anyOf") if choice != {"type": "null"}]
        kind |= choices[0] if len(choices) == 1 else {"anyOf": choices}
    if "enum" in kind:
        kind["enum"] = [value for value in kind["enum"] if value is not None]
    if kind.get("default", "") is None:
        del kind["default"]
    return kind
