"""Answers in brotli or gzip, for who can read it: text above 1 KiB that is not compressed already. Files bring their own compressed forms.

Streams are compressed as they come, and what a handler has sent can be read at the other end. What takes longer than a fraction of a
millisecond is done in a thread, where both libraries let others work.
"""

import asyncio
import zlib
from functools import lru_cache
from typing import Final, Protocol

import brotli  # type: ignore[import-untyped]
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BYTES_MIN: Final = 1024
INLINE_BYTES_MAX: Final = 32 * 1024
"""About 0.3 ms; more is compressed in a thread."""
CODINGS: Final = ("br", "gzip")
"""Where a client likes them equally, the first: at these levels it is twice as fast and a tenth smaller."""
GZIP_LEVEL: Final = 3
BROTLI_QUALITY: Final = 1
BROTLI_WINDOW: Final = 18
"""256 KiB, as a bound of memory for each stream under way."""
TYPES: Final = frozenset({"application/json", "application/x-ndjson", "application/javascript", "application/xml", "image/svg+xml"})
HEADERS_REPLACED: Final = frozenset({b"content-length", b"etag", b"content-encoding"})


class Compression:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        accepted = b",".join(value for name, value in scope["headers"] if name == b"accept-encoding")
        await self._app(scope, receive, _Answer(send, next(iter(preferred(accepted.decode("latin-1"))), None)).send)


class _Answer:
    """One answer on its way. Its start waits for the first piece of its body, when it is of a kind that may be compressed."""

    def __init__(self, send: Send, coding: str | None) -> None:
        self._send = send
        self._coding = coding
        self._waiting: Message | None = None
        self._coder: _Coder | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _may_be_compressed(message):
            if all(name != b"vary" for name, _ in message["headers"]):
                message["headers"] = [*message["headers"], (b"vary", b"accept-encoding")]
            if self._coding is not None and message["status"] != 304:
                self._waiting = message
                return
        elif message["type"] == "http.response.body" and self._waiting is not None:
            start, self._waiting = self._waiting, None
            await self._begin(start, message)
            return
        elif message["type"] == "http.response.body" and self._coder is not None:
            more = message.get("more_body", False)
            message = {**message, "body": await _compress(self._coder, message.get("body", b""), last=not more)}
        await self._send(message)

    async def _begin(self, start: Message, first: Message) -> None:
        body, more = first.get("body", b""), first.get("more_body", False)
        if self._coding is not None and (more or len(body) >= BYTES_MIN):
            coder = _Brotli() if self._coding == "br" else _Gzip()
            compressed = await _compress(coder, body, last=not more)
            if more or len(compressed) < len(body):
                start["headers"] = _headers(start, self._coding, None if more else len(compressed))
                first = {**first, "body": compressed}
                self._coder = coder
        await self._send(start)
        await self._send(first)


class _Coder(Protocol):
    def encode(self, data: bytes, last: bool) -> bytes:
        """What the other end needs to read all of `data`."""


class _Gzip:
    def __init__(self) -> None:
        self._stream = zlib.compressobj(GZIP_LEVEL, wbits=31)

    def encode(self, data: bytes, last: bool) -> bytes:
        return self._stream.compress(data) + self._stream.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


class _Brotli:
    def __init__(self) -> None:
        self._stream = brotli.Compressor(quality=BROTLI_QUALITY, lgwin=BROTLI_WINDOW)

    def encode(self, data: bytes, last: bool) -> bytes:
        encoded: bytes = self._stream.process(data) + (self._stream.finish() if last else self._stream.flush())
        return encoded


async def _compress(coder: _Coder, data: bytes, last: bool) -> bytes:
    if len(data) <= INLINE_BYTES_MAX:
        return coder.encode(data, last)
    return await asyncio.to_thread(coder.encode, data, last)


def _may_be_compressed(start: Message) -> bool:
    media_type, status = "", start["status"]
    for name, value in start["headers"]:
        if name == b"content-encoding":
            return False
        if name == b"content-type":
            media_type = value.decode("latin-1")
    return status == 304 or (status not in (204, 206) and _is_text(media_type))


@lru_cache(256)
def _is_text(media_type: str) -> bool:
    kind = media_type.partition(";")[0].strip().lower()
    return kind in TYPES or kind.endswith("+json") or (kind.startswith("text/") and kind != "text/event-stream")


def _headers(start: Message, coding: str, length: int | None) -> list[tuple[bytes, bytes]]:
    """An ETag becomes weak: the same thing, in other bytes."""
    headers = [(name, value) for name, value in start["headers"] if name not in HEADERS_REPLACED]
    headers += [(name, value if value.startswith(b"W/") else b"W/" + value) for name, value in start["headers"] if name == b"etag"]
    headers.append((b"content-encoding", coding.encode()))
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    return headers


@lru_cache(1024)
def preferred(accept_encoding: str) -> tuple[str, ...]:
    """Those of our codings that an Accept-Encoding header would rather have than none, the most welcome first."""
    weights: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        coding, *parameters = (one.strip() for one in part.split(";"))
        if coding:
            weights[coding] = _weight(parameters)
    others = weights.get("*", 0.0)
    plain = weights.get("identity", 0.0)
    known = {coding: weights.get(coding, weights.get("x-gzip", others) if coding == "gzip" else others) for coding in CODINGS}
    welcome = [coding for coding in CODINGS if known[coding] > 0 and known[coding] >= plain]
    return tuple(sorted(welcome, key=lambda coding: -known[coding]))


def _weight(parameters: list[str]) -> float:
    """Of a coding's parameters; a weight that is none counts as 0."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
