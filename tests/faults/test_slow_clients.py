"""Clients that are slow on purpose or by fate: each is ended by its limit, and those who are quick notice nothing."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
import websockets
from parts.backend import Backend, make_source, make_user, sign_in
from parts.journal import check
from parts.sender import Senders
from parts.source import Source, data
from parts.torture import Row

from webmacs.http.socket import CLOSE_SILENT, CLOSE_SLOW

HELD_BYTES_MAX = 1 << 20
"""For one slow reader"""


@asynccontextmanager
async def backend_for(row: Row, database: str, place: Path, sabotage: str | None = None) -> AsyncIterator[Backend]:
    """With the real limits in torture, with short ones otherwise. Not compacting, so that a reading that is stored twice is seen."""
    backend = Backend(database, place, sabotage or (None if row.torture else "hurried"), compacting=False)
    await backend.start()
    yield backend
    assert await backend.stop() == 0


# slow senders: raw sockets, because no library is as slow as that


async def dial(backend: Backend, receive_bytes: int = 1 << 16) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of which the system and we hold at most so many unread bytes each."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", backend.port))
    return await asyncio.open_connection(sock=sock, limit=receive_bytes)


async def until_cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, trickle: bytes) -> bytes:
    """Sends a byte of `trickle` again and again until the other end is done with the connection; answers what it said."""
    said = bytearray()

    async def listen() -> None:
        while data := await reader.read(1 << 16):
            said.extend(data)

    listening = asyncio.create_task(listen())
    try:
        while not listening.done():
            for byte in trickle:
                writer.write(bytes((byte,)))
            await asyncio.wait({listening}, timeout=0.2)
        await listening
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return bytes(said)


async def trickled_headers(backend: Backend, credential: str) -> None:
    reader, writer = await dial(backend)
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    assert b" 200 " not in await until_cut(reader, writer, b"s")


async def nothing_at_all(backend: Backend, credential: str) -> None:
    assert b" 200 " not in await until_cut(*await dial(backend), b"")


async def trickled_body(backend: Backend, credential: str) -> None:
    reader, writer = await dial(backend)
    writer.write(b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
    said = await until_cut(reader, writer, b" ")
    assert said.startswith(b"HTTP/1.1 408 "), said


async def body_that_nobody_reads(backend: Backend, credential: str) -> None:
    reader, writer = await dial(backend)
    writer.write(b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
    said = await until_cut(reader, writer, b" ")
    assert said.startswith(b"HTTP/1.1 401 "), said


async def silent_socket(backend: Backend, credential: str) -> None:
    reader, writer = await upgrade(backend, "/ws/controller/telemetry", credential)
    said = await until_cut(reader, writer, b"")
    assert CLOSE_SILENT.to_bytes(2, "big") in said, said


async def trickled_message(backend: Backend, credential: str) -> None:
    reader, writer = await upgrade(backend, "/ws/controller/telemetry", credential)
    writer.write(b"\x82\xff" + struct.pack(">Q", 100_000) + bytes(4))
    said = await until_cut(reader, writer, b"\x01")
    assert CLOSE_SILENT.to_bytes(2, "big") in said, said


async def upgrade(
    backend: Backend, path: str, credential: str, receive_bytes: int = 1 << 16
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await dial(backend, receive_bytes)
    key = "AAAAAAAAAAAAAAAAAAAAAA=="
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\nAuthorization: Bearer {credential}\r\n\r\n".encode()
    )
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    return reader, writer


SLOW: list[Callable[[Backend, str], Awaitable[None]]] = [
    trickled_headers, nothing_at_all, trickled_body, body_that_nobody_reads, silent_socket, trickled_message,
]  # fmt: skip


async def open_slow_ones(backend: Backend, count: int) -> list["asyncio.Future[None]"]:
    """So many slow ones at once, of every kind."""
    credentials = [await make_source(backend.database, f"{backend.port} slow {number}") for number in range((count + 3) // 4)]
    return [asyncio.ensure_future(SLOW[number % len(SLOW)](backend, credentials[number // 4])) for number in range(count)]


async def quick_answers(backend: Backend, enough: Callable[[int], bool]) -> float:
    """Asks one thing after the other until `enough(asked)`; answers the 99th percentile of the time it took, in ms."""
    taken_ms: list[float] = []
    async with httpx.AsyncClient(base_url=backend.url) as client:
        while not enough(len(taken_ms)):
            began = time.monotonic()
            assert (await client.get("/health")).status_code == 200
            taken_ms.append((time.monotonic() - began) * 1e3)
            await asyncio.sleep(0.005)
    return round(sorted(taken_ms)[int(len(taken_ms) * 0.99)], 1)


@pytest.mark.row(9)
async def test_who_sends_too_slowly_is_cut_and_nobody_else_notices(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    count = row.count(quick=24, full=500)
    async with backend_for(row, module_database, tmp_path) as backend:
        senders = await Senders.make(backend, row.test, tmp_path, count=1, channels=20, readings=20, frames_per_s=50.0)
        async with senders:
            usual_ms = await quick_answers(backend, lambda asked: asked == row.count(quick=20, full=2_000))
            slow = await open_slow_ones(backend, count)
            meanwhile_ms = await quick_answers(backend, lambda _: all(one.done() for one in slow))
            await senders.acknowledged()
    ended = await asyncio.gather(*slow, return_exceptions=True)
    verdict = await check(conn, senders.journals)
    senders.record(row, verdict, slow=count, ended=ended.count(None), p99_ms=meanwhile_ms, p99_ms_without=usual_ms)
    assert verdict.clean, verdict
    assert [end for end in ended if end is not None] == []
    assert senders.all[0].connections == 1
    if row.torture:
        assert meanwhile_ms < 2 * usual_ms


@pytest.mark.row(9)
async def test_a_backend_that_never_loses_patience_is_found_by_the_slow_ones(module_database: str, tmp_path: Path, row: Row) -> None:
    async with backend_for(row, module_database, tmp_path, "endless_patience") as backend:
        slow = await open_slow_ones(backend, len(SLOW))
        await quick_answers(backend, lambda asked: asked == 100)
        waiting = sum(not one.done() for one in slow)
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
    row.caught("endless_patience", of=test_who_sends_too_slowly_is_cut_and_nobody_else_notices, slow=len(slow), not_ended=waiting)
    assert waiting >= len(SLOW) - 1  # one was answered at once


# slow readers


WIDE = 400
"""Channels: a tick of all of them is some 60 kB"""
PACE_S = 0.1
"""Between two rounds of readings: the watchers share one loop with their sender, and what is to be late is the backend, not they"""
SUBSCRIBE = b'{"type": "subscribe", "events": "all", "interval_ms": 50}'
PING = b'{"type": "ping"}'


class Point(msgspec.Struct):
    event_public_id: str
    timestamp: datetime
    n: int


class Message(msgspec.Struct):
    type: str
    datapoints: list[Point] = []


class Watcher:
    """A client that reads what it gets: `seen` readings of the first channel, each so many ms after it was sent."""

    def __init__(self) -> None:
        self.subscribed = asyncio.Event()
        self.seen = 0
        self.late_ms: list[float] = []
        self._changed = asyncio.Condition()

    async def watch(self, backend: Backend, token: str, event: str) -> None:
        address = f"{backend.sockets}/ws/datapoints/stream"
        headers = {"Authorization": f"Bearer {token}"}
        async with websockets.connect(address, additional_headers=headers, compression=None, close_timeout=0.5) as watching:
            await watching.send(SUBSCRIBE.decode())
            async for message in watching:
                batch = msgspec.json.decode(message, type=Message)
                if batch.type != "pong":
                    await watching.send(PING.decode())
                if batch.type == "snapshot":
                    self.subscribed.set()
                elif batch.type == "datapoints_batch":
                    await self._take([point for point in batch.datapoints if point.event_public_id == event])

    async def _take(self, points: list[Point]) -> None:
        for point in points:
            self.seen += point.n
            self.late_ms.append((datetime.now(UTC) - point.timestamp).total_seconds() * 1e3)
        async with self._changed:
            self._changed.notify_all()

    async def saw(self, readings: int) -> None:
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(lambda: self.seen >= readings)


async def watching(backend: Backend, token: str) -> int:
    """How many watch, as the backend counts them."""
    async with httpx.AsyncClient(base_url=backend.url, headers={"Authorization": f"Bearer {token}"}) as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    (count,) = (line.split()[1] for line in answer.text.splitlines() if line.startswith("webmacs_dashboards "))
    return int(float(count))


async def read_slowly(backend: Backend, token: str, pause_s: float, all_ended: asyncio.Event) -> bytes:
    """Subscribes and reads one byte after each pause, until the backend has had enough of all the slow; then all that is left: its end."""
    reader, writer = await upgrade(backend, "/ws/datapoints/stream", token, receive_bytes=4_096)
    said = b""
    try:
        for message in (SUBSCRIBE, PING):
            writer.write(bytes((0x81, 0x80 | len(message))) + bytes(4) + message)
        while not all_ended.is_set():
            await asyncio.sleep(pause_s)
            await reader.readexactly(1)
            writer.write(bytes((0x81, 0x80 | len(PING))) + bytes(4) + PING)
        while rest := await reader.read(1 << 16):
            said = (said + rest)[-200:]
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.transport.abort()
    return said


@dataclass
class Crowd:
    seen: list[int]
    rounds: int
    ended: int
    told: int
    """of the slow: those that the backend is rid of, and those that a close frame reached, which says why"""
    held_bytes: float
    """for each slow reader"""
    usual_ms: float
    meanwhile_ms: float
    """99th percentile of the age at which the quick ones see a reading"""


async def watch_beside_slow_readers(backend: Backend, row: Row, slow: int, rounds_max: int | None = None) -> Crowd:
    email, name = f"{backend.port}@example.org", f"watched {backend.port}"
    token = await sign_in(backend, email, await make_user(backend.database, backend.data_dir, email, "viewer"))
    rounds = 0
    async with Source(backend.sockets, await make_source(backend.database, name)) as source:
        welcome = await source.hello([f"{name} {channel}" for channel in range(WIDE)])
        watchers = [Watcher(), Watcher()]
        tasks = [asyncio.create_task(watcher.watch(backend, token, dict(welcome.accepted)[0])) for watcher in watchers]
        await asyncio.gather(*(watcher.subscribed.wait() for watcher in watchers))

        async def send(enough: Callable[[int], Awaitable[bool]]) -> float:
            nonlocal rounds
            first = rounds
            for watcher in watchers:
                watcher.late_ms.clear()
            while not await enough(rounds - first):
                rounds += 1
                t_us = time.time_ns() // 1_000
                await source.send(data(rounds, {channel: ([t_us], [float(rounds)]) for channel in range(WIDE)}))
                await source.acknowledged(rounds)
                await asyncio.sleep(PACE_S)
            await asyncio.gather(*(watcher.saw(rounds) for watcher in watchers))
            late_ms = sorted(ms for watcher in watchers for ms in watcher.late_ms)
            return late_ms[int(len(late_ms) * 0.99)]

        async def without_slow_ones(sent: int) -> bool:
            return sent == row.count(quick=20, full=1_000)

        async def until_rid_of_them(sent: int) -> bool:
            return sent == rounds_max or await watching(backend, token) == len(watchers)

        usual_ms = await send(without_slow_ones)
        before_mb = backend.rss_mb()
        all_ended = asyncio.Event()
        reading = [asyncio.create_task(read_slowly(backend, token, 1.0 if row.torture else 0.1, all_ended)) for _ in range(slow)]
        async with asyncio.timeout(10):
            while await watching(backend, token) < len(watchers) + slow:
                pass
        meanwhile_ms = await send(until_rid_of_them)
        held_bytes = (backend.rss_mb() - before_mb) * 1e6 / slow
        ended = len(watchers) + slow - await watching(backend, token)
        all_ended.set()
        told = 0
        if ended == slow:
            told = sum(CLOSE_SLOW.to_bytes(2, "big") in said for said in await asyncio.gather(*reading))
        for task in (*reading, *tasks):
            task.cancel()
        await asyncio.gather(*reading, *tasks, return_exceptions=True)
    return Crowd([watcher.seen for watcher in watchers], rounds, ended, told, held_bytes, round(usual_ms, 1), round(meanwhile_ms, 1))


@pytest.mark.row(8)
async def test_who_reads_too_slowly_is_ended_and_who_watches_beside_misses_nothing(module_database: str, tmp_path: Path, row: Row) -> None:
    slow = row.count(quick=2, full=15)
    async with backend_for(row, module_database, tmp_path) as backend:
        crowd = await watch_beside_slow_readers(backend, row, slow)
    held_kib = round(crowd.held_bytes / 1024)
    row.record(
        done=crowd.rounds, unit="rounds", refused=None, unknown=None, lost=None, twice=None,
        slow=slow, ended=crowd.ended, told=crowd.told, held_kib=held_kib, p99_ms=crowd.meanwhile_ms, p99_ms_without=crowd.usual_ms,
    )  # fmt: skip
    assert crowd.seen == [crowd.rounds] * 2
    assert crowd.ended == slow
    if row.torture:
        assert crowd.held_bytes <= HELD_BYTES_MAX
        assert crowd.meanwhile_ms <= 1.2 * crowd.usual_ms


@pytest.mark.row(8)
async def test_a_backend_that_never_loses_patience_is_found_by_a_slow_reader(module_database: str, tmp_path: Path, row: Row) -> None:
    async with backend_for(row, module_database, tmp_path, "endless_patience") as backend:
        crowd = await watch_beside_slow_readers(backend, row, 1, rounds_max=30)
    row.caught("endless_patience", of=test_who_reads_too_slowly_is_ended_and_who_watches_beside_misses_nothing, not_ended=1 - crowd.ended)
    assert crowd.ended == 0
