"""A route in one line: how it is reached, and what its handler takes and gives. Requests are decoded, judged and answered here.

    @route("POST", "/api/v1/events", status=201)
    async def create_event(call: Call[EventIn]) -> Event:
        \"""Create an event.\"""

Body, query and answer are read from the handler's annotations, so the type checker, the decoder and the OpenAPI document see one fact.
A module lists its routes in `routes`; webmacs/app.py composes them, webmacs/http/access.py says who may.
"""

import asyncio
import inspect
import json
import re
import types
import typing
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeAlias
from uuid import UUID

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.routing import Route as Path
from starlette.websockets import WebSocket
from typing_extensions import TypeVar

from webmacs import logs
from webmacs.http import access, guard
from webmacs.http.guard import Identity
from webmacs.http.passwords import LoginThrottle, Passwords
from webmacs.http.problem import FieldError, Problem, Unauthorized, Unprocessable
from webmacs.settings import Settings
from webmacs.storage.pool import Pool
from webmacs.storage.vitals import Pulse, Vitals

BODY_BYTES_MAX: Final = 1024 * 1024
BODY_GRACE_S: Final = 10.0
BODY_BYTES_PER_S_MIN: Final = 1_000
"""After the grace a body must keep this pace; the web server itself would wait for ever."""
HANDLER_S_MAX: Final = 10.0
"""An answer or a 503 within this time."""

JSON_TYPE: Final = re.compile(r'application/json *(; *charset="?utf-?8"?)?', re.IGNORECASE)

Method = Literal["GET", "POST", "PUT", "DELETE"]

B = TypeVar("B", default=None)
Q = TypeVar("Q", default=None)


@dataclass(slots=True)
class Parts:
    """What handlers and sockets share; made in the lifespan, found at `app.state.parts`."""

    settings: Settings
    pool: Pool
    session_key: bytes
    passwords: Passwords
    throttle: LoginThrottle
    vitals: Vitals
    pulse: Pulse


@dataclass(slots=True)
class Call(Generic[B, Q]):
    """One request, decoded and admitted. A handler may set `headers` and `status` of its answer."""

    request: Request
    caller: Identity | None
    """None on a public route."""
    body: B
    query: Q
    status: int
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> Parts:
        return typing.cast(Parts, self.request.app.state.parts)

    @property
    def pool(self) -> Pool:
        return self.parts.pool

    @property
    def settings(self) -> Settings:
        return self.parts.settings

    @property
    def identity(self) -> Identity:
        """Who asks, on a route that is not public."""
        if self.caller is None:
            raise Unauthorized
        return self.caller

    @property
    def public_id(self) -> UUID:
        """The `{public_id}` of the path."""
        return typing.cast(UUID, self.request.path_params["public_id"])

    @property
    def request_id(self) -> str | None:
        return logs.request_id.get()


Handler: TypeAlias = Callable[[Call[Any, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the API. `body`, `query` and `returns` are types, or None where there is none."""

    method: Method
    path: str
    handler: Handler
    body: Any
    query: Any
    returns: Any
    status: int
    problems: tuple[int | str, ...]
    """Those that only this route knows, as 409, or the type of one that is not the usual of its status; the common ones follow."""

    @property
    def tag(self) -> str:
        return self.handler.__module__.rpartition(".")[2]

    @property
    def access(self) -> access.Access:
        return access.TABLE[self.method, self.path]


def route(method: Method, path: str, *, status: int | None = None, problems: tuple[int | str, ...] = ()) -> Callable[[Handler], Route]:
    """Makes a Route of an async handler `(call: Call[Body, Query]) -> Answer`; both default to None, an answer None is a 204.

    Path parameters are `{public_id}` and UUIDs. A 201 gets its Location from the answer's public_id.
    An answer is anything msgspec encodes, or a Response of the handler's own making.
    """

    def make(handler: Handler) -> Route:
        hints = typing.get_type_hints(handler, include_extras=True)
        (parameter,) = inspect.signature(handler).parameters
        asked = (*typing.get_args(hints[parameter]), None, None)
        body, query = (None if kind is types.NoneType else kind for kind in asked[:2])
        returns = None if hints["return"] is types.NoneType else hints["return"]
        answer_status = status or (200 if returns is not None else 204)
        return Route(method, path, handler, body, query, returns, answer_status, problems)

    return make


Socket: TypeAlias = Callable[[WebSocket, Identity], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SocketRoute:
    path: str
    handler: Socket

    @property
    def access(self) -> access.Access:
        return access.TABLE["WS", self.path]


def socket(path: str) -> Callable[[Socket], SocketRoute]:
    """Makes a SocketRoute of `async def handler(websocket, identity)`, which is called before the upgrade is accepted, for those only
    whom the access table admits: by `?ticket=`, or by the Authorization header. A Problem raised before accept() is the refusal."""
    return lambda handler: SocketRoute(path, handler)


def compose(routes: Iterable[Route], sockets: Iterable[SocketRoute]) -> list[BaseRoute]:
    """Starlette's routes: one per path, so that a wrong method is told which there are."""
    by_path: dict[str, dict[str, _Endpoint]] = {}
    for one in routes:
        by_path.setdefault(one.path, {})[one.method] = _Endpoint(one)
    composed: list[BaseRoute] = [
        Path(_typed(path), _Dispatcher(endpoints), methods=None, include_in_schema=False) for path, endpoints in by_path.items()
    ]
    composed += [WebSocketRoute(one.path, _judged(one)) for one in sockets]
    return composed


def _typed(path: str) -> str:
    return path.replace("}", ":uuid}")


class _Dispatcher:
    """The methods of one path. A class, because Starlette hands a class instance every method and a function only those listed."""

    def __init__(self, endpoints: Mapping[str, "_Endpoint"]) -> None:
        self._endpoints = endpoints
        self._allowed = ", ".join(sorted(endpoints))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        endpoint = self._endpoints.get(method)
        if endpoint is None:
            raise HTTPException(405, headers={"Allow": self._allowed})
        request = Request(scope, receive, send)
        response = await endpoint.answer(request)
        await response(scope, receive, send)


class _Endpoint:
    """A route as it runs: admit, decode, call, encode."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._access = route.access
        self._decoder = None if route.body is None else msgspec.json.Decoder(route.body)
        self._query = None if route.query is None else _QueryReader(route.query)

    async def answer(self, request: Request) -> Response:
        parts: Parts = request.app.state.parts
        if request.method not in guard.SAFE_METHODS:
            guard.check_origin(request, parts.settings)
        async with asyncio.timeout(HANDLER_S_MAX):
            caller = await guard.require(parts.pool, parts.session_key, request, self._access)
        query = None if self._query is None else self._query.read(request)
        body = None if self._decoder is None else decode_body(self._decoder, await _read_json(request, BODY_BYTES_MAX))
        call: Call[Any, Any] = Call(request, caller, body, query, self._route.status)
        async with asyncio.timeout(HANDLER_S_MAX):
            result = await self._route.handler(call)
        if isinstance(result, Response):
            return result
        if call.status == 201:
            call.headers.setdefault("Location", f"{self._route.path}/{result.public_id}")
        content = b"" if result is None else msgspec.json.encode(result)
        return Response(content, call.status, call.headers, None if result is None else "application/json")


def _judged(one: SocketRoute) -> Callable[[WebSocket], Awaitable[None]]:
    row = access.TABLE["WS", one.path]

    async def endpoint(websocket: WebSocket) -> None:
        parts: Parts = websocket.app.state.parts
        guard.check_origin(websocket, parts.settings)
        ticket = websocket.query_params.get("ticket")
        async with asyncio.timeout(HANDLER_S_MAX):
            if ticket is None:
                identity = await guard.identify(parts.pool, parts.session_key, websocket)
            else:
                identity = await guard.redeem_ticket(parts.pool, ticket, one.path)
        await one.handler(websocket, guard.admit(identity, row))

    return endpoint


async def _read_json(request: Request, bytes_max: int) -> bytes:
    """The whole body of what says that it is JSON in UTF-8, or says nothing. Raises a 415, a 413 or a 408."""
    said = request.headers.get("content-type", "")
    if said and not JSON_TYPE.fullmatch(said):
        raise Problem(
            415,
            "unsupported-media-type",
            "Unsupported media type",
            f"The body is {said[:100]}; send application/json in UTF-8, and say so in Content-Type.",
        )
    return await _read_body(request, bytes_max)


async def _read_body(request: Request, bytes_max: int) -> bytes:
    """The whole body, counted as it comes. Raises a 413 or a 408."""
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared[:20]) > bytes_max:
        raise _too_large(bytes_max)
    body = bytearray()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        async with asyncio.timeout_at(begun + BODY_GRACE_S) as limit:
            async for chunk in request.stream():
                body += chunk
                if len(body) > bytes_max:
                    raise _too_large(bytes_max)
                limit.reschedule(begun + BODY_GRACE_S + len(body) / BODY_BYTES_PER_S_MIN)
    except TimeoutError:
        raise Problem(408, "too-slow", "Too slow", "The body came too slowly; send it again.") from None
    return bytes(body)


def _too_large(bytes_max: int) -> Problem:
    return Problem(413, "too-large", "Too large", f"A body here has at most {bytes_max:,} bytes; send less at a time.")


def decode_body(decoder: "msgspec.json.Decoder[Any]", raw: bytes) -> Any:
    """Raises a 400 for what is no JSON, Unprocessable for JSON of another shape, with repeated keys or text that cannot be stored."""
    try:
        body = decoder.decode(raw)
        _refuse_repeated_keys(raw)
    except msgspec.ValidationError as error:
        raise Unprocessable([_field_error("body", error)]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if b"\\ud" in raw.lower():
            _refuse_lone_surrogates(raw)
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Problem(400, "malformed", "Malformed", f"The body is no JSON in UTF-8: {reason}.") from None
    if b"\\u0000" in raw:
        _refuse_nul(msgspec.to_builtins(body, str_keys=True), ["body"])
    return body


class _QueryReader:
    """Reads a query into its Struct. A list comes repeated or with commas."""

    def __init__(self, query: Any) -> None:
        self._query = query
        self._lists = _fields_of(query, msgspec.inspect.ListType)
        self._times = _fields_of(query, msgspec.inspect.DateTimeType)

    def read(self, request: Request) -> Any:
        """Raises Unprocessable."""
        values: dict[str, Any] = {}
        for name, text in request.query_params.multi_items():
            if "\0" in name + text or not _storable(name + text):
                raise Unprocessable.at("query", msg="Text holds no NUL and no lone surrogate.")
            if name in self._lists:
                values.setdefault(name, []).extend(part for part in text.split(",") if part)
            elif name in values:
                raise Unprocessable.at("query", name, msg="It may be given once.")
            elif name in self._times and "T" not in text.upper():  # a bare number would be taken for seconds since 1970
                raise Unprocessable.at("query", name, msg="A time is written as 2026-11-23T12:00:00Z.")
            else:
                values[name] = text
        try:
            return msgspec.convert(values, self._query, strict=False)
        except msgspec.ValidationError as error:
            raise Unprocessable([_field_error("query", error)]) from None


def _fields_of(query: Any, kind: type[msgspec.inspect.Type]) -> frozenset[str]:
    described = typing.cast(msgspec.inspect.StructType, msgspec.inspect.type_info(query))
    found = set()
    for one in described.fields:
        members = one.type.types if isinstance(one.type, msgspec.inspect.UnionType) else (one.type,)
        if any(isinstance(member, kind) for member in members):
            found.add(one.encode_name)
    return frozenset(found)


def _field_error(place: str, error: msgspec.ValidationError) -> FieldError:
    """msgspec says `<message> - at `$.path[0]``; an unknown or missing field is reported at its parent."""
    message, _, path = str(error).partition(" - at `$")
    loc: list[str | int] = [place]
    for part in path.rstrip("`").replace("[", ".[").split("."):
        if part.startswith("[") and part[1:-1].isdecimal():
            loc.append(int(part[1:-1]))
        elif part:
            loc.append(part)
    if message.startswith(("Object contains unknown field `", "Object missing required field `")):
        loc.append(message.split("`")[1])
    return FieldError(loc, message)


def _refuse_nul(value: Any, loc: list[str | int]) -> None:
    if isinstance(value, str) and "\0" in value:
        raise Unprocessable([FieldError(loc, "Text holds no NUL character.")])
    if isinstance(value, Mapping):
        for key, part in value.items():
            _refuse_nul(key, [*loc, str(key)])
            _refuse_nul(part, [*loc, str(key)])
    elif isinstance(value, list):
        for index, part in enumerate(value):
            _refuse_nul(part, [*loc, index])


def _refuse_repeated_keys(raw: bytes) -> None:
    """The decoder would take the last, another reader the first: what the sender meant is not known. 7 us, or 14 ms for 1 MB."""

    def judge(pairs: list[tuple[str, Any]]) -> None:
        if len({key for key, _ in pairs}) < len(pairs):
            ((key, times),) = Counter(key for key, _ in pairs).most_common(1)
            raise Unprocessable.at("body", key, msg=f"It is there {times} times in the same object.")

    json.loads(raw, object_pairs_hook=judge, parse_int=len, parse_float=len)


def _refuse_lone_surrogates(raw: bytes) -> None:
    """JSON whose only fault is half a character is a wrong text, not broken JSON."""
    try:
        text = json.dumps(json.loads(raw), ensure_ascii=False)
    except (ValueError, RecursionError):
        return
    if not _storable(text):
        raise Unprocessable.at("body", msg="Text holds no lone surrogate.")


def _storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
