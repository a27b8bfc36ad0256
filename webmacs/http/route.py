"""A route in one line: how it is reached, and what its handler takes and gives. Requests are decoded, judged and answered here.

    @route("POST", "/api/v1/events", status=201)
    async def create_event(call: Call[EventIn]) -> Event:
        \"""Create an event.\"""

Body, query and answer are read from the handler's annotations, so the type checker, the decoder and the OpenAPI document see one fact.
A module lists its routes in `routes`; webmacs/app.py composes them, webmacs/http/access.py says who may.

A route that `changes` something runs in one transaction, `call.conn`: what it changes, its audit row (`call.changed`), its new version and
its Idempotency-Key commit together, before it is answered; with `?dry_run=true` all of it is judged, answered and rolled back. So is a
change after which everything is as before: it leaves no version, no audit row and no word to others.
"""

import asyncio
import contextlib
import hashlib
import inspect
import json
import re
import tempfile
import types
import typing
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path as File
from typing import Any, Final, Generic, Literal, TypeAlias
from urllib.parse import quote
from uuid import UUID

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, WebSocketRoute
from starlette.websockets import WebSocket
from typing_extensions import TypeVar

from webmacs import clock, logs
from webmacs.http import access, audit, cors, guard, idempotency
from webmacs.http.audit import Actor, Entry, Insertion, Refusals, Version
from webmacs.http.compressed import decompress, refuse_compressed
from webmacs.http.deprecation import Deprecation
from webmacs.http.faults import field_error
from webmacs.http.guard import Identity, SessionKeys
from webmacs.http.known import Known
from webmacs.http.limits import FREE_OF_CALLERS, Limits
from webmacs.http.passwords import LoginThrottle, Passwords
from webmacs.http.paths import Paths
from webmacs.http.problem import FieldError, Problem, Unauthorized, Unprocessable
from webmacs.oidc import Provider
from webmacs.settings import Settings
from webmacs.storage.changes import What
from webmacs.storage.faults import FAULTS
from webmacs.storage.pool import Connection, Pool
from webmacs.storage.vitals import Pulse, Vitals

BODY_BYTES_MAX: Final = 1024 * 1024
UPLOAD_BYTES_MAX: Final = 256 * 1024 * 1024
BODY_GRACE_S: Final = 10.0
BODY_BYTES_PER_S_MIN: Final = 1_000
"""After the grace a body must keep this pace; the web server itself would wait for ever."""
ITEMS_MAX: Final = 10_000
"""Items of a list whose errors are told."""
HANDLER_S_MAX: Final = 10.0
"""An answer or a 503 within this time."""
HEED_S_MAX: Final = 1.0
"""A change is committed then, and is answered whether or not it is in effect here by now."""
WITHDRAWING: Final = frozenset({"auth", "sessions", "sso", "sources", "tokens", "users"})
"""Tags of routes whose writes may withdraw a credential."""
DRY_RUN: Final = "dry_run"
DRY_RUN_HEADER: Final = "X-WebMACS-Dry-Run"
REFUSED: Final = frozenset({401, 403, 429})
"""Statuses that the audit log tells of."""

NO_VALUES: Final = frozenset({"null", "nan", "inf", "infinity"})
"""Words that would be taken for None, or for a number that no other number can be compared with."""
UTF_8: Final = r' *(; *charset="?utf-?8"?)?'
"""What may follow a media type."""

ENTITY_TAGS: Final = re.compile(r'\s*(W/)?"[^"]*"(\s*,\s*(W/)?"[^"]*")*\s*')
"""What If-Match says, unless it is `*`."""

Method = Literal["GET", "POST", "PUT", "DELETE"]

B = TypeVar("B", default=None)
Q = TypeVar("Q", default=None)
A = TypeVar("A")


@dataclass(slots=True)
class Parts:
    """What handlers and sockets share; made in the lifespan, found at `app.state.parts`."""

    settings: Settings
    pool: Pool
    session_keys: SessionKeys
    known: Known
    sealing_key: bytes
    """For what the database keeps and must not know: see keys.seal."""
    refusals: Refusals
    limits: Limits
    passwords: Passwords
    throttle: LoginThrottle
    vitals: Vitals
    pulse: Pulse
    provider: Provider | None
    """Of single sign-on; None when it is off."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A body that was written to a file, which is removed after the answer unless the handler moves it away."""

    file: File
    size: int
    sha256: str


@dataclass(slots=True)
class Call(Generic[B, Q]):
    """One request, decoded and admitted. A handler may set `headers` and `status` of its answer."""

    request: Request
    caller: Identity | None
    """None on a public route."""
    body: B
    query: Q
    status: int
    kind: str | None = None
    """What the route changes."""
    dry_run: bool = False
    """Everything in the database is rolled back by itself; what a handler does beside it, as moving a file, it must leave."""
    claim: idempotency.Claim | None = None
    """The Idempotency-Key that came with it."""
    headers: dict[str, str] = field(default_factory=dict)
    transaction: Connection | None = None
    entries: list[Entry] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)
    announced: dict[What, None] = field(default_factory=dict)
    afterwards: list[Callable[[], Any]] = field(default_factory=list)
    """Done in a thread once the change is committed, as removing a file. It must not raise: the change is true already."""
    insertion: Insertion | None = None

    @property
    def parts(self) -> Parts:
        return typing.cast(Parts, self.request.app.state.parts)

    @property
    def pool(self) -> Pool:
        return self.parts.pool

    @property
    def conn(self) -> Connection:
        """The connection in whose transaction a route that `changes` something runs."""
        if self.transaction is None:
            raise RuntimeError("this route does not say that it changes something")
        return self.transaction

    @property
    def settings(self) -> Settings:
        return self.parts.settings

    @property
    def actor(self) -> Actor:
        """Who asks, as the audit log says it."""
        return actor_of(self.caller, self.address)

    @property
    def address(self) -> str:
        """Where the request comes from."""
        return guard.client_address(self.request, self.settings)

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
    def path(self) -> Mapping[str, Any]:
        """The path's parameters: those called `..._id` are UUIDs, the others text."""
        return self.request.path_params

    def changed(
        self,
        before: Any,
        after: A,
        *announced: What,
        action: str | None = None,
        kind: str | None = None,
        name: str | None = None,
        detail: str | None = None,
    ) -> A:
        """Tells what this request has changed: two states of a thing as the API shows them (never a secret), None where there is none.

        It becomes a row of the audit log; a thing with a `version` leaves that version behind. `announced`: whom it concerns in this and
        other processes. The action is create, update or delete when nothing else is said; `kind` is the route's; `detail` says what the
        states do not show. Answers the state that is true afterwards: `before`, where nothing differs.
        """
        entry, version = audit.change_of(before, after, kind or self.kind or "", action=action, name=name, detail=detail)
        self.entries.append(entry)
        self.announced |= dict.fromkeys(announced)
        if version is not None:
            self.versions.append(version)
        return typing.cast(A, before) if entry.says_nothing else after

    @property
    def idle(self) -> bool:
        """Whether it was told of changes, of which none changed anything."""
        return bool(self.entries) and all(entry.says_nothing for entry in self.entries)

    @property
    def if_match(self) -> str | None:
        """The versions for which the request is meant; None: for any."""
        return _if_match(self.request)

    def insert(self, rows: str, *arguments: Any) -> None:
        """On a route that `inserts`, all that it does to the database: INSERTs as they stand in a WITH, with arguments $1..$n. They run
        after the handler, together with what the change leaves behind."""
        self.insertion = Insertion(rows, arguments)

    def match(self, version: int | str) -> None:
        """For a change of what people edit, under its row's lock: If-Match must name this version. Raises a 412, or Unprocessable."""
        asked = self.if_match
        if asked is None:
            return
        if not ENTITY_TAGS.fullmatch(asked):
            raise Unprocessable.at("header", "If-Match", msg=f"An entity tag stands in quotes, as the ETag {etag(version)} of an answer.")
        if etag(version) not in _tags(asked):
            raise Problem(
                412, "changed-meanwhile", "Changed meanwhile",
                f"It has version {version} now, which is not what If-Match says; read it again and make the change anew.",
            )  # fmt: skip

    def shown_once(self, secret: str) -> str:
        """A secret that was made here, for the answer; a dry run's is none, and must not look like one."""
        return "(not made: this was a dry run)" if self.dry_run else secret

    def inner(self, kind: str, body: Any, public_id: UUID | None = None, version: int | None = None) -> "Call[Any, Any]":
        """For another handler, which changes such a `kind`, in this call's transaction: what it changes is told with what this one does.
        `version`: what it changes must still have it, whatever If-Match says of this call."""
        path = {} if public_id is None else {"public_id": public_id}
        scope = {**self.request.scope, "path_params": path}
        if version is not None:
            others = [(name, value) for name, value in scope["headers"] if name != b"if-match"]
            scope["headers"] = [*others, (b"if-match", etag(version).encode())]
        call: Call[Any, Any] = self
        return replace(call, request=Request(scope), body=body, query=None, kind=kind, headers={})

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
    changes: str | None = None
    """The kind of thing that it changes, as the audit log calls it; None: it changes nothing, or keeps its own account."""
    accepts: str | Mapping[str, Any] = "application/json"
    """Media type of the body; of one that the handler reads itself, media types with what each holds."""
    produces: str = "application/json"
    """Media type of the answer."""
    body_bytes_max: int = BODY_BYTES_MAX
    once: bool = False
    """It heeds an Idempotency-Key by itself; what `changes` something does so anyhow."""
    deprecated: Deprecation | None = None
    inserts: bool = False
    """Its change is only `call.insert(...)`: one statement, hence one round trip, and no transaction around it unless something else
    must commit with it."""
    maybe_nothing: bool = False
    """Its handler answers `Answer | None`: None is a 204, whatever the status of the answer."""
    readings: bool = False
    """Whether it counts against the limits of readings."""
    tagged: bool = False
    """Its handler gives the answer an ETag, which is no version in it."""
    sample: str | None = None
    """Example of a body of text that the handler reads itself."""

    @property
    def tag(self) -> str:
        """The resource: its module of webmacs/api, or its package."""
        return self.handler.__module__.removeprefix("webmacs.api.").partition(".")[0]

    @property
    def access(self) -> access.Access:
        return access.TABLE[self.method, self.path]

    @property
    def scope(self) -> str:
        return access.scope_of(self.method, self.path)

    @property
    def has_etag(self) -> bool:
        """Whether its answer has one. An update's version is a text of its own and counts nothing."""
        shaped = isinstance(self.returns, type) and issubclass(self.returns, msgspec.Struct)
        return self.tagged or any(
            one.name == "version" and isinstance(msgspec.inspect.type_info(one.type), msgspec.inspect.IntType | msgspec.inspect.Metadata)
            for one in (msgspec.structs.fields(self.returns) if shaped else ())
        )


def judging_if_match(routes: Sequence[Route]) -> frozenset[tuple[Method, str]]:
    """Those that change what has an ETag where it is read, and those that say so by a 412."""
    tagged = {one.path for one in routes if one.method == "GET" and one.has_etag}
    return frozenset(
        (one.method, one.path) for one in routes if 412 in one.problems or (one.method in ("PUT", "DELETE") and one.path in tagged)
    )


def route(
    method: Method,
    path: str,
    *,
    status: int | None = None,
    problems: tuple[int | str, ...] = (),
    changes: str | None = None,
    accepts: str | Mapping[str, Any] = "application/json",
    produces: str = "application/json",
    body_bytes_max: int | None = None,
    answers: Any = None,
    once: bool = False,
    deprecated: Deprecation | None = None,
    inserts: bool = False,
    readings: bool = False,
    tagged: bool = False,
    sample: str | None = None,
) -> Callable[[Handler], Route]:
    """Makes a Route of an async handler `(call: Call[Body, Query]) -> Answer`; both default to None, an answer None is a 204.

    Path parameters called `..._id` are UUIDs, the others text. A 201 gets its Location from the answer's public_id, an answer with a
    `version` its ETag. A body is a Struct, or `bytes` as they came, or an `Upload`; an answer is anything msgspec encodes, or a Response of
    the handler's own making, of which `answers` is what it holds.
    """

    def make(handler: Handler) -> Route:
        hints = typing.get_type_hints(handler, include_extras=True)
        (parameter,) = inspect.signature(handler).parameters
        asked = (*typing.get_args(hints[parameter]), None, None)
        body, query = (None if kind is types.NoneType else kind for kind in asked[:2])
        maybe_nothing = types.NoneType in typing.get_args(hints["return"])
        returns = typing.get_args(hints["return"])[0] if maybe_nothing else hints["return"]
        returns = None if returns is types.NoneType or status == 204 else answers or returns
        answer_status = status or (200 if returns is not None else 204)
        bytes_max = body_bytes_max or (UPLOAD_BYTES_MAX if body is Upload else BODY_BYTES_MAX)
        return Route(
            method, path, handler, body, query, returns, answer_status, problems, changes, accepts, produces, bytes_max, once,
            deprecated, inserts, maybe_nothing, readings, tagged, sample,
        )  # fmt: skip

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


def compose(routes: Sequence[Route], sockets: Iterable[SocketRoute]) -> list[BaseRoute]:
    """Starlette's routes. A path is one place with its methods, so that a wrong one is told which there are."""
    by_path: dict[str, dict[str, _Endpoint]] = {}
    judging = judging_if_match(routes)
    for one in routes:
        by_path.setdefault(one.path, {})[one.method] = _Endpoint(one, judges_if_match=(one.method, one.path) in judging)
    dispatchers = {path: _Dispatcher(endpoints) for path, endpoints in by_path.items()}
    return [Paths(dispatchers), *(WebSocketRoute(one.path, _judged(one)) for one in sockets), Mount("/api", _nothing)]


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """What no route answers below /api is nothing at all: an id that is no UUID must not lead to the pages, which know only GET."""
    raise HTTPException(404)


def etag(version: int | str) -> str:
    return f'"{version}"'


def _if_match(request: Request) -> str | None:
    asked = request.headers.get("if-match")
    return None if asked is None or asked.strip() == "*" else asked


def _tags(header: str) -> list[str]:
    """The entity tags of If-Match. A weak one is as good: a version is the same, in whatever coding it was read."""
    return [one.strip().removeprefix("W/") for one in header.split(",")]


def actor_of(caller: Identity | None, address: str | None) -> Actor:
    address = address or None
    return Actor("nobody", None, None, address) if caller is None else Actor(caller.kind, caller.public_id, caller.name, address)


class _Dispatcher:
    """The methods of one path."""

    def __init__(self, endpoints: Mapping[str, "_Endpoint"]) -> None:
        self._endpoints = endpoints
        self._allowed = ", ".join(sorted(endpoints))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        endpoint = self._endpoints.get(method)
        request = Request(scope, receive, send)
        if endpoint is not None:
            response = await endpoint.answer(request)
        elif (permitted := cors.preflight(request, request.app.state.parts.settings, self._endpoints)) is not None:
            response = permitted
        else:
            raise HTTPException(405, headers={"Allow": self._allowed})
        try:
            await response(scope, receive, send)
        finally:
            if isinstance(response, StreamingResponse) and isinstance(response.body_iterator, AsyncGenerator):
                await response.body_iterator.aclose()  # however it ended: what the answer holds is given back now


class _Endpoint:
    """A route as it runs: admit, decode, call, encode."""

    def __init__(self, route: Route, *, judges_if_match: bool) -> None:
        self._route = route
        self._deaf = route.method not in guard.SAFE_METHODS and not judges_if_match
        self._access = route.access
        self._free = (route.method, route.path) in FREE_OF_CALLERS
        self._withdraws = route.method not in guard.SAFE_METHODS and route.tag in WITHDRAWING
        self._scope = route.scope
        self._decoder = None if route.body in (None, bytes, Upload) else msgspec.json.Decoder(route.body)
        self._query = _QueryReader(route.query or _NoQuery)

    async def answer(self, request: Request) -> Response:
        parts: Parts = request.app.state.parts
        caller: Identity | None = None
        begun = clock.monotonic()
        address = guard.client_address(request, parts.settings)
        try:
            if request.method not in guard.SAFE_METHODS:
                guard.check_origin(request, parts.settings)
            if not self._access.public:
                caller = parts.known.recall(request)
                if caller is None:
                    async with asyncio.timeout(HANDLER_S_MAX):
                        caller = await parts.known.identify(request, address)
                caller = guard.admit(caller, self._access, self._scope)
                if not self._free:
                    parts.limits.admit_caller(caller, readings=self._route.readings)
            try:
                response = await self._serve(request, caller, HANDLER_S_MAX - (clock.monotonic() - begun))
            finally:
                if self._withdraws:  # also when it failed: the answer to a commit may be lost
                    parts.known.forget()
            if self._route.deprecated is not None:
                response.headers.update(self._route.deprecated.headers())
            return response
        except Problem as problem:
            if problem.status in REFUSED and not problem.noted:
                what = f"{request.method} {self._route.path}: {problem.detail}"
                parts.refusals.note(actor_of(caller, address), logs.request_id.get(), "refused", "request", what)
            raise

    async def _serve(self, request: Request, caller: Identity | None, patience_s: float) -> Response:
        """`patience_s`: for the handler; a slow body has limits of its own."""
        route = self._route
        if self._deaf and _if_match(request) is not None:  # whoever sends it relies on it
            raise Unprocessable.at("header", "If-Match", msg="Nothing here is compared with it; leave it out.")
        asked, dry_run = self._query.read(request, with_dry_run=route.changes is not None)
        call: Call[Any, Any] = Call(request, caller, None, asked if route.query else None, route.status, route.changes, dry_run)
        if route.body is Upload:
            async with _uploaded(request, route.body_bytes_max) as upload:
                call.body = upload
                return await self._respond(call, bytes.fromhex(upload.sha256), patience_s)
        if route.body is None:
            return await self._respond(call, b"", patience_s)
        if isinstance(route.accepts, str):  # of several forms the handler knows which it is
            _check_media_type(request, route.accepts)
        sent = await _read_body(request, route.body_bytes_max)
        if route.readings and caller is not None:
            call.parts.limits.charge_readings(caller, len(sent))
        raw = await decompress(sent, request.headers.get("content-encoding", ""), route.body_bytes_max)
        call.body = raw if self._decoder is None else decode_body(self._decoder, raw)
        return await self._respond(call, raw, patience_s)  # compressed anew it is still the same

    async def _respond(self, call: Call[Any, Any], content: bytes, patience_s: float) -> Response:
        """`content` is the body or what stands for it: by it a call is known as the same one again."""
        call.claim = self._claim(call, content)
        async with asyncio.timeout(patience_s):
            return await (self._answer(call) if self._route.changes is None else self._change(call))

    async def _answer(self, call: Call[Any, Any]) -> Response:
        result = await self._route.handler(call)
        if isinstance(result, Response):
            return result
        if call.status == 201:
            call.headers.setdefault("Location", f"{quote(call.request.scope['path'])}/{result.public_id}")
        if isinstance(version := getattr(result, "version", None), int):
            call.headers.setdefault("ETag", etag(version))
        if result is None:
            return Response(b"", 204 if self._route.maybe_nothing else call.status, call.headers)
        return Response(msgspec.json.encode(result), call.status, call.headers, "application/json")

    async def _change(self, call: Call[Any, Any]) -> Response:
        """The handler in a transaction of its own, which commits before the answer goes out."""
        parts, claim = call.parts, call.claim
        try:
            alone = self._route.inserts and claim is None and not call.dry_run
            async with parts.pool.acquire() as conn, contextlib.nullcontext() if alone else conn.transaction():
                call.transaction = conn
                if claim is not None and (known := await idempotency.take(conn, claim, parts.sealing_key)) is not None:
                    return known
                response = await self._answer(call)
                if call.idle:
                    raise _NotMeant(response)
                await audit.account(conn, call.actor, call.request_id, call.entries, call.versions, call.announced, call.insertion)
                if call.dry_run:
                    raise _NotMeant(response)
                if claim is not None:
                    await idempotency.keep(conn, claim, parts.sealing_key, response)
        except _NotMeant as judged:
            if call.dry_run:
                judged.response.headers[DRY_RUN_HEADER] = "true"
            elif claim is not None:
                return await self._keep_answer(parts, claim, judged.response)
            return judged.response
        if call.announced:
            await self._heed(call)
        for act in call.afterwards:
            await asyncio.to_thread(act)
        return response

    async def _heed(self, call: Call[Any, Any]) -> None:
        """What was changed is in effect here before it is answered. Other processes, and this one when it fails, hear of it by NOTIFY."""
        with contextlib.suppress(*FAULTS):
            async with asyncio.timeout(HEED_S_MAX):
                await call.request.app.state.catalogue.heed(call.announced)

    async def _keep_answer(self, parts: Parts, claim: idempotency.Claim, response: Response) -> Response:
        """Under its key, when nothing else of the transaction stays; or the answer that the key was given meanwhile."""
        async with parts.pool.acquire() as conn, conn.transaction():
            if (known := await idempotency.take(conn, claim, parts.sealing_key)) is not None:
                return known
            await idempotency.keep(conn, claim, parts.sealing_key, response)
        return response

    def _claim(self, call: Call[Any, Any], content: bytes) -> idempotency.Claim | None:
        key = call.request.headers.get(idempotency.HEADER)
        if key is None or self._route.method != "POST" or call.caller is None:
            return None
        idempotency.check(key)
        if call.dry_run:
            return None
        place = f"{call.request.url.path}?{call.request.url.query}\n".encode()
        return idempotency.Claim(idempotency.owner_of(call.caller), key, hashlib.sha256(place + content).digest())


class _NotMeant(Exception):
    """Ends a transaction of which nothing is to stay: a dry run's, or one that changed nothing."""

    def __init__(self, response: Response) -> None:
        self.response = response


class _NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a route that knows no parameters."""


@asynccontextmanager
async def _uploaded(request: Request, bytes_max: int) -> AsyncIterator[Upload]:
    """Raises a 413, a 408 or a 415."""
    refuse_compressed(request.headers.get("content-encoding", ""))
    with tempfile.TemporaryDirectory(dir=_uploads_dir(request), prefix="upload-") as folder:
        yield await _save_body(request, File(folder) / "body", bytes_max)


def _uploads_dir(request: Request) -> File:
    """On the file system of the data, so that an upload can be moved to its place in one step."""
    folder = typing.cast(Parts, request.app.state.parts).settings.data_dir / "uploads"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


async def _save_body(request: Request, file: File, bytes_max: int) -> Upload:
    """Raises a 413 or a 408."""
    digest, size = hashlib.sha256(), 0
    with file.open("wb") as out:
        async for chunk in _chunks(request, bytes_max):
            digest.update(chunk)
            size += len(chunk)
            await asyncio.to_thread(out.write, chunk)
    return Upload(file, size, digest.hexdigest())


def _judged(one: SocketRoute) -> Callable[[WebSocket], Awaitable[None]]:
    row, scope = access.TABLE["WS", one.path], access.scope_of("WS", one.path)

    async def admit(websocket: WebSocket, parts: Parts) -> Identity:
        address = guard.client_address(websocket, parts.settings)
        identity: Identity | None = None
        try:
            guard.check_origin(websocket, parts.settings)
            ticket = websocket.query_params.get("ticket")
            async with asyncio.timeout(HANDLER_S_MAX):
                if ticket is None:
                    identity = await guard.identify(parts.pool, parts.session_keys, websocket, address)
                else:
                    identity = await guard.redeem_ticket(parts.pool, ticket, one.path, address)
            return guard.admit(identity, row, scope)
        except Problem as problem:
            if problem.status in REFUSED:
                what = f"WS {one.path}: {problem.detail}"
                parts.refusals.note(actor_of(identity, address), logs.request_id.get(), "refused", "request", what)
            raise

    async def endpoint(websocket: WebSocket) -> None:
        await one.handler(websocket, await admit(websocket, websocket.app.state.parts))

    return endpoint


@cache
def _form_of(media_type: str) -> re.Pattern[str]:
    """As a request may spell it."""
    return re.compile(re.escape(media_type) + UTF_8, re.IGNORECASE)


def _check_media_type(request: Request, accepted: str) -> None:
    """A body that does not say what it is is taken for what is wanted. Raises a 415."""
    said = request.headers.get("content-type", "")
    if said and not _form_of(accepted).fullmatch(said):
        raise Problem(
            415, "unsupported-media-type", "Unsupported media type",
            f"The body is {said[:100]}; send {accepted} in UTF-8, and say so in Content-Type.",
        )  # fmt: skip


async def _read_body(request: Request, bytes_max: int) -> bytes:
    """The whole body. Raises a 413 or a 408."""
    body = bytearray()
    async for chunk in _chunks(request, bytes_max):
        body += chunk
    return bytes(body)


async def _chunks(request: Request, bytes_max: int) -> AsyncIterator[bytes]:
    """The body as it comes, counted. Raises a 413 or a 408."""
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared[:20]) > bytes_max:
        raise _too_large(bytes_max)
    size = 0
    loop = asyncio.get_running_loop()
    begun = loop.time()
    more = True
    while more:
        try:
            async with asyncio.timeout_at(begun + BODY_GRACE_S + size / BODY_BYTES_PER_S_MIN):
                message = await request.receive()
        except TimeoutError:
            raise Problem(408, "too-slow", "Too slow", "The body came too slowly; send it again.") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if size > bytes_max:
            raise _too_large(bytes_max)
        yield chunk


def _too_large(bytes_max: int) -> Problem:
    return Problem(413, "too-large", "Too large", f"A body here has at most {bytes_max:,} bytes; send less at a time.")


def decode_body(decoder: "msgspec.json.Decoder[Any]", raw: bytes) -> Any:
    """Raises a 400 for what is no JSON, Unprocessable for JSON of another shape, with repeated keys or text that cannot be stored."""
    try:
        body = decoder.decode(raw)
        _refuse_repeated_keys(raw)
    except msgspec.ValidationError as error:
        first = field_error(["body"], error, decoder.type)
        raise Unprocessable(_errors_of_items(decoder.type, raw, first) or [first]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if b"\\ud" in raw.lower():
            _refuse_lone_surrogates(raw)
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Problem(400, "malformed", "Malformed", f"The body is no JSON in UTF-8: {reason}.") from None
    if b"\\u0000" in raw:
        _refuse_nul(msgspec.to_builtins(body, str_keys=True), ["body"])
    return body


def _errors_of_items(kind: Any, raw: bytes, first: FieldError) -> list[FieldError]:
    """Where a Struct's list holds a wrong item: an error for each wrong item, so that thousands can be mended at once."""
    match first.loc:
        case ["body", str(name), int(), *_] if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            (item_type,) = [_item_type(one.type) for one in msgspec.structs.fields(kind) if one.encode_name == name]
        case _:
            return []
    errors = []
    try:
        items = msgspec.json.decode(raw)[name]
    except msgspec.ValidationError:  # a number beyond float64, which has no place of its own
        return []
    for index, item in enumerate(items[:ITEMS_MAX]):
        try:
            msgspec.convert(item, item_type)
        except msgspec.ValidationError as error:
            errors.append(field_error(["body"], error, kind, [name, index]))
    return errors


def _item_type(annotation: Any) -> Any:
    """X of a list[X], also within Annotated and unions."""
    if typing.get_origin(annotation) is list:
        return typing.get_args(annotation)[0]
    return next((found for part in typing.get_args(annotation) if (found := _item_type(part)) is not None), None)


class _QueryReader:
    """Reads a query into its Struct. A list comes repeated or with commas."""

    def __init__(self, query: Any) -> None:
        self._query = query
        self._lists = _fields_of(query, msgspec.inspect.ListType)
        self._times = _fields_of(query, msgspec.inspect.DateTimeType)
        self._texts = _fields_of(query, msgspec.inspect.StrType)
        self._nothing: Any = None
        """What no query at all means; None where something must be given."""
        with contextlib.suppress(msgspec.ValidationError):
            self._nothing = msgspec.convert({}, query)

    def read(self, request: Request, *, with_dry_run: bool) -> tuple[Any, bool]:
        """(the query, whether it is a dry run). Raises Unprocessable."""
        if not request.scope["query_string"] and self._nothing is not None:
            return self._nothing, False
        values: dict[str, Any] = {}
        for name, text in request.query_params.multi_items():
            if "\0" in name + text or not _storable(name + text):
                raise Unprocessable.at("query", msg="Text holds no NUL and no lone surrogate.")
            if name in self._lists:
                values.setdefault(name, []).extend(text.split(","))
            elif name in values:
                raise Unprocessable.at("query", name, msg="It may be given once.")
            elif name in self._times and "T" not in text.upper():  # a bare number would be taken for seconds since 1970
                raise Unprocessable.at("query", name, msg="A time is written as 2026-11-23T12:00:00Z.")
            elif name not in self._texts and text.lower().strip("+-") in NO_VALUES:
                raise Unprocessable.at("query", name, msg="It has a value, or is left out.")
            else:
                values[name] = text
        dry_run = values.pop(DRY_RUN, "false") if with_dry_run else "false"
        if dry_run not in ("true", "false"):
            raise Unprocessable.at("query", DRY_RUN, msg="It is true or false.")
        try:
            return msgspec.convert(values, self._query, strict=False), dry_run == "true"
        except msgspec.ValidationError as error:
            raise Unprocessable([field_error(["query"], error, self._query, text=True, also=[DRY_RUN] if with_dry_run else [])]) from None


def _fields_of(query: Any, kind: type[msgspec.inspect.Type]) -> frozenset[str]:
    described = typing.cast(msgspec.inspect.StructType, msgspec.inspect.type_info(query))
    found = set()
    for one in described.fields:
        bare = one.type.type if isinstance(one.type, msgspec.inspect.Metadata) else one.type
        members = bare.types if isinstance(bare, msgspec.inspect.UnionType) else (bare,)
        if any(isinstance(member, kind) for member in members):
            found.add(one.encode_name)
    return frozenset(found)


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
