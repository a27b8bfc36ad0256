"""What every answer comes in: a request id, the security headers, a log line, and a problem where something was raised.

Pure ASGI and outermost, so that refusals, errors and files pass here too.
"""

import re
import secrets
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webmacs import clock, logs
from webmacs.http.problem import Problem, bug, problem_of, render

log = logs.get(__name__)

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
GZIP_BYTES_MIN: Final = 1024
GZIP_LEVEL: Final = 3
"""About 100 MB/s; 9 would make a chart's answer 8 % smaller in five times the time."""

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
HSTS: Final = "max-age=31536000"
NOT_STORED: Final = ("/api/", "/health", "/openapi.json")


class Envelope:
    def __init__(self, app: ASGIApp, secure: bool) -> None:
        self._app = app
        self._headers = SECURITY_HEADERS | ({"Strict-Transport-Security": HSTS} if secure else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        begun = clock.monotonic()
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        token = logs.request_id.set(request_id)
        status: int | None = None

        async def send_wrapped(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in self._headers.items():
                    headers[name] = value
                if scope["path"].startswith(NOT_STORED):
                    headers["Cache-Control"] = "no-store"
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
            except Exception as error:
                problem = problem_of(error)
                if problem is None:
                    log.exception("request_failed", method=scope.get("method", "WS"), path=scope["path"])
                if status is not None:
                    raise  # the answer has begun: all that is left is to cut it
                await _refuse(problem or bug(), scope, receive, send_wrapped)
                error.__traceback__ = None  # its frames hold it in turn: the server would read on until the cycle is collected
        finally:
            fields = {
                "method": scope.get("method", "WS"),
                "path": scope["path"],
                "status": status,
                "ms": round((clock.monotonic() - begun) * 1_000, 1),
            }
            (log.debug if status is not None and status < 400 else log.info)("request_served", **fields)
            logs.request_id.reset(token)


async def _refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": problem.title})
        return
    await render(problem)(scope, receive, send)


class Compression:
    """gzip for what is made on request; files bring their own compressed forms."""

    def __init__(self, app: ASGIApp) -> None:
        self._plain = app
        self._gzip = GZipMiddleware(app, GZIP_BYTES_MIN, GZIP_LEVEL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        made_on_request = scope["type"] == "http" and scope["path"].startswith(("/api/", "/openapi.json"))
        await (self._gzip if made_on_request else self._plain)(scope, receive, send)
