"""An answer or a 503 in time, and nothing is held for who does not read."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest
from parts.backend import Backend, make_user, sign_in
from parts.rest import Rest

from webmacs.http import audit, route

ROWS = 60_000
"""Of 300 bytes: more than the system's own buffers take."""


@dataclass
class Export:
    backend: Backend
    token: str
    conn: Any

    @property
    def request(self) -> bytes:
        return f"GET /api/v1/audit/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.token}\r\n\r\n".encode()

    async def given_back(self) -> None:
        """Waits until no session of the database works for an export."""
        async with asyncio.timeout(20):
            while await self.conn.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%FROM audit_log%' AND pid <> pg_backend_pid()"
            ):
                pass


@pytest.fixture(scope="module")
async def export(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Export]:
    backend = Backend(module_database, tmp_path_factory.mktemp("backend"), "hurried")
    await backend.start()
    password = await make_user(module_database, backend.data_dir, "ann@example.org")
    conn: asyncpg.Connection[Any] = await asyncpg.connect(module_database)
    await conn.execute(
        "INSERT INTO audit_log (at, action, kind, actor_kind, detail)"
        " SELECT now(), 'read', 'row', 'system', repeat('x', 250) FROM generate_series(1, $1::int)",
        ROWS,
    )
    yield Export(backend, await sign_in(backend, "ann@example.org", password), conn)
    await conn.close()
    await backend.stop()


async def dial(backend: Backend) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", backend.port))
    return await asyncio.open_connection(sock=sock, limit=1 << 16)


async def test_who_reads_a_stream_gets_all_of_it(export: Export) -> None:
    async with httpx.AsyncClient(base_url=export.backend.url, headers={"Authorization": f"Bearer {export.token}"}) as client:
        for coding in ("identity", "gzip"):
            answer = await client.get("/api/v1/audit/export", headers={"Accept-Encoding": coding})
            assert len(answer.text.splitlines()) >= ROWS
    await export.given_back()


async def test_who_stops_reading_is_cut_off_and_can_tell_that_it_was_not_all(export: Export) -> None:
    reader, writer = await dial(export.backend)
    writer.write(export.request)
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    await export.given_back()
    read = b""
    while piece := await reader.read(1 << 16):
        read = read[-100:] + piece
    assert not read.endswith(b"0\r\n\r\n")
    writer.transport.abort()
    assert any(json.loads(line)["event"] == "client_stuck" for line in export.backend.log.splitlines() if line.startswith("{"))
    assert "Traceback" not in export.backend.log


async def test_who_goes_leaves_nothing_behind(export: Export) -> None:
    reader, writer = await dial(export.backend)
    writer.write(export.request)
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    await export.given_back()


async def test_a_handler_that_takes_too_long_is_a_503_and_changes_nothing(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "HANDLER_S_MAX", 0.2)
    account = audit.account

    async def slow(conn: Any, *told: Any) -> None:
        await account(conn, *told)
        await conn.execute("SELECT pg_sleep(20)")

    monkeypatch.setattr(audit, "account", slow)
    async with rest.client("admin") as admin:
        answer = await admin.post("/api/v1/events", json={"name": "late", "type": "sensor", "unit": ""})
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")
        assert answer.headers["retry-after"]
        assert (await admin.get("/api/v1/events?search=late")).json()["total"] == 0


async def test_who_asks_and_what_is_asked_share_one_limit(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[float] = []
    monkeypatch.setattr(route, "HANDLER_S_MAX", 7.0)
    timeout = asyncio.timeout

    def noting(delay: float | None) -> asyncio.Timeout:
        left.append(delay or 0.0)
        return timeout(delay)

    monkeypatch.setattr(asyncio, "timeout", noting)
    rest.app.state.parts.known.forget()
    async with rest.client("admin") as admin:
        assert (await admin.get("/api/v1/events")).status_code == 200
    assert left.count(7.0) == 1  # who asks; the handler has what that left of it
