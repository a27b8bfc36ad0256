"""What every answer comes in: a request id, the security headers, a log line, and a problem where something was raised.

Pure ASGI and outermost, so that refusals, errors and files pass here too.
"""

import asyncio
import re
import secrets
from collections.abc import Iterable
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webmacs import clock, logs
from webmacs.http import cors
from webmacs.http.problem import Problem, bug, problem_of, render
from webmacs.settings import Settings

log = logs.get(__name__)

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; object-src 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
SEND_S_MAX: Final = 30.0
"""For each piece of an answer in pieces: who reads more slowly than that is cut off, and gives back what the answer holds."""
HSTS: Final = "max-age=31536000"
CUT_OFF: Final = Problem(400, "malformed", "Malformed", "The body ended before its end, or its chunks are not HTTP; send it again.")
NOT_STORED: Final = ("/api/", "/health", "/openapi.json")


class Envelope:
    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        headers = SECURITY_HEADERS | ({"Strict-Transport-Security": HSTS} if settings.secure_cookies else {})
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self._not_stored = [*self._headers, (b"cache-control", b"no-store")]
        self._allowed = cors.answer_headers(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        begun = clock.monotonic()
        given = _header(scope, b"x-request-id")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        token = logs.request_id.set(request_id)
        status: int | None = None

        async def send_wrapped(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                message["headers"] = self._complete(scope, message["headers"], request_id)
            elif message.get("more_body"):
                try:
                    async with asyncio.timeout(SEND_S_MAX):
                        await send(message)
                except TimeoutError:
                    log.info("client_stuck", path=scope["path"])
                    raise ClientDisconnect from None
                return
            elif message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.close" and status is None:
                status = 403
            await send(message)

        try:
            try:
                await self._app(scope, receive, send_wrapped)
            except ClientDisconnect:
                log.debug("client_left", path=scope["path"])
                if status is None:  # or it is still there, and its body is no HTTP: the server says the same of both
                    await _refuse(CUT_OFF, scope, receive, send_wrapped)
            except Exception as error:
                problem = problem_of(error)
                if problem is None:
                    log.exception("request_failed", method=scope.get("method", "WS"), path=scope["path"])
                if status is not None:
                    raise  # the answer has begun: all that is left is to cut it
                await _refuse(problem or bug(), scope, receive, send_wrapped)
                error.__traceback__ = None  # its frames hold it in turn: the server would read on until the cycle is collected
        finally:
            write = log.debug if status is not None and status < 400 else log.info
            ms = round((clock.monotonic() - begun) * 1_000, 1)
            write("request_served", method=scope.get("method", "WS"), path=scope["path"], status=status, ms=ms)
            logs.request_id.reset(token)

    def _complete(self, scope: Scope, headers: Iterable[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
        """An answer's headers with those that all have; they are ours to say, whatever a handler said."""
        ours = self._not_stored if scope["path"].startswith(NOT_STORED) else self._headers
        said = {name for name, _ in ours}
        complete = [pair for pair in headers if pair[0] not in said]
        complete += ours
        complete.append((b"x-request-id", request_id.encode()))
        if self._allowed:
            complete.append((b"vary", b"origin"))
            complete += self._allowed.get(_header(scope, b"origin"), ())
        return complete


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for given, value in scope["headers"] if given == name), "")


async def _refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": problem.title})
        return
    await render(problem)(scope, receive, send)
