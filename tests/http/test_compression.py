"""Answers are compressed for who can read it, and say the same as the plain ones."""

import asyncio
import gzip
import random
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import brotli
import httpx
import pytest
from parts.rest import Rest
from starlette.responses import Response, StreamingResponse

from webmacs.http import compression
from webmacs.http.compression import BYTES_MIN, INLINE_BYTES_MAX, Compression, preferred

DECODE: dict[str, Callable[[bytes], bytes]] = {"br": brotli.decompress, "gzip": gzip.decompress}
TEXT = b"pressure 4.2 bar\n"


def text(size: int) -> bytes:
    return (TEXT * (size // len(TEXT) + 1))[:size]


async def ask(response: Response, accept: str = "br") -> tuple[httpx.Response, bytes]:
    """The answer as a client gets it, and its body as it came over the wire."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await response(scope, receive, send)

    transport = httpx.ASGITransport(Compression(app))
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://t", headers={"Accept-Encoding": accept}) as client,
        client.stream("GET", "/") as answer,
    ):
        return answer, b"".join([piece async for piece in answer.aiter_raw()])


@pytest.mark.parametrize(
    ("header", "codings"),
    [
        ("gzip, deflate, br", ("br", "gzip")),
        ("gzip", ("gzip",)),
        ("x-gzip", ("gzip",)),
        ("GZIP;Q=1.0 , BR ; q=0.5", ("gzip", "br")),
        ("br;q=0, gzip;q=0", ()),
        ("br;q=0.000, gzip;q=0.001", ("gzip",)),
        ("*", ("br", "gzip")),
        ("br;q=0, *", ("gzip",)),
        ("gzip;q=0.5, *;q=0.8", ("br", "gzip")),
        ("identity", ()),
        ("identity;q=1, gzip;q=0.5", ()),
        ("identity;q=0.5, gzip;q=0.5, br;q=0.4", ("gzip",)),
        ("identity;q=0", ()),
        ("deflate, zstd", ()),
        ("gzip;q=x, br;q=nan", ()),
        ("", ()),
        (", ;q=1,,", ()),
    ],
)
def test_what_a_client_would_rather_have_comes_first(header: str, codings: tuple[str, ...]) -> None:
    assert preferred(header) == codings


@pytest.mark.parametrize("coding", ["br", "gzip"])
@pytest.mark.parametrize("size", [BYTES_MIN, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 1_000_000])
async def test_a_long_answer_is_compressed_to_the_same_text(coding: str, size: int) -> None:
    answer, raw = await ask(Response(text(size), headers={"ETag": '"7"'}, media_type="application/json"), coding)
    assert DECODE[coding](raw) == text(size)
    assert len(raw) < size / 2
    assert (answer.headers["content-encoding"], answer.headers["content-length"]) == (coding, str(len(raw)))
    assert (answer.headers["etag"], answer.headers["vary"]) == ('W/"7"', "accept-encoding")


PLAIN: dict[str, tuple[Response, str]] = {
    "short": (Response(text(BYTES_MIN - 1), media_type="application/json", headers={"ETag": '"7"'}), "br"),
    "not asked for": (Response(text(5_000), media_type="application/json", headers={"ETag": '"7"'}), ""),
    "incompressible": (Response(random.Random(1).randbytes(2_000), media_type="text/plain"), "br"),
    "an image": (Response(text(5_000), media_type="image/png"), "br"),
    "Parquet": (Response(text(5_000), media_type="application/vnd.apache.parquet"), "br"),
    "a wheel": (Response(text(5_000), media_type="application/octet-stream"), "br"),
    "of no type": (Response(text(5_000)), "br"),
    "compressed already": (Response(text(5_000), media_type="text/plain", headers={"Content-Encoding": "gzip"}), "br"),
    "a part": (Response(text(5_000), 206, media_type="text/plain"), "br"),
}


@pytest.mark.parametrize(("response", "accept"), PLAIN.values(), ids=PLAIN)
async def test_what_is_better_left_alone_is(response: Response, accept: str) -> None:
    answer, raw = await ask(response, accept)
    assert raw == response.body
    assert answer.headers["content-length"] == str(len(raw))
    assert answer.headers.get("content-encoding", "") == response.headers.get("content-encoding", "")
    assert answer.headers.get("etag") == response.headers.get("etag")


async def test_caches_are_told_that_it_depends_whatever_this_client_got() -> None:
    for accept in ("br", "", "identity"):
        answer, _ = await ask(Response(text(5_000), media_type="application/problem+json; charset=utf-8"), accept)
        assert answer.headers["vary"] == "accept-encoding"
    answer, _ = await ask(Response(status_code=304, headers={"ETag": '"7"'}))
    assert (answer.headers["vary"], answer.headers["etag"]) == ("accept-encoding", '"7"')
    answer, _ = await ask(Response(text(9), headers={"Vary": "Accept-Encoding"}, media_type="text/plain"))
    assert answer.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize("coding", ["br", "gzip"])
async def test_what_a_stream_has_sent_can_be_read_at_once(coding: str) -> None:
    decoder: Any = brotli.Decompressor() if coding == "br" else zlib.decompressobj(31)
    decode = decoder.process if coding == "br" else decoder.decompress
    pieces = [text(10), b"", text(20_000), text(1)]
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/csv"), (b"content-length", b"9")]})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            assert decode(sent[-1]["body"]) == piece
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send(message: Any) -> None:
        sent.append(message)

    await Compression(app)({"type": "http", "headers": [(b"accept-encoding", coding.encode())]}, asyncio.sleep, send)
    assert (b"content-length", b"9") not in sent[0]["headers"]
    assert [message.get("more_body") for message in sent[1:]] == [True] * 4 + [False]
    assert decode(sent[-1]["body"]) == b""


async def test_binary_streams_are_not_touched() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield text(5_000)

    for media_type in ("application/vnd.apache.parquet", "application/vnd.apache.arrow.stream", "application/zip", "text/event-stream"):
        answer, raw = await ask(StreamingResponse(pieces(), media_type=media_type))
        assert "content-encoding" not in answer.headers
        assert raw == text(5_000) * 3


async def test_others_are_served_while_a_large_answer_is_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = 0

    class Held(compression._Brotli):
        def encode(self, data: bytes, last: bool) -> bytes:
            asyncio.run_coroutine_threadsafe(tick(), loop).result(10)
            return super().encode(data, last)

    async def tick() -> None:
        nonlocal ticks
        ticks += 1

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(compression, "_Brotli", Held)
    _, raw = await ask(Response(text(INLINE_BYTES_MAX + 1), media_type="text/plain"))
    assert brotli.decompress(raw) == text(INLINE_BYTES_MAX + 1)
    assert ticks == 1


async def test_a_version_read_compressed_can_be_named(rest: Rest) -> None:
    async with rest.client("operator") as operator:
        operator.headers["Accept-Encoding"] = "gzip"
        made = await operator.post("/api/v1/experiments", json={"name": "long", "notes": text(3_000).decode()})
        assert (made.headers["content-encoding"], made.headers["etag"]) == ("gzip", 'W/"1"')
        address = made.headers["location"]
        changed = await operator.put(address, json={"name": "longer"}, headers={"If-Match": made.headers["etag"]})
        assert (changed.status_code, changed.headers["etag"]) == (200, 'W/"2"')
        stale = await operator.put(address, json={"name": "longest"}, headers={"If-Match": made.headers["etag"]})
        assert stale.status_code == 412


async def test_every_long_answer_of_the_application_is_compressed(rest: Rest) -> None:
    async with rest.client("admin") as admin:
        answer = await admin.get("/openapi.json", headers={"Accept-Encoding": "br"})
        assert answer.headers["content-encoding"] == "br"
        assert answer.json()["openapi"] == "3.1.0"
