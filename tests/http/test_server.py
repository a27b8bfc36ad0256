"""The same promises through the real server: who may open a socket, and what reaches a client over the wire."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import jwt
import pytest
import websockets
from parts.backend import Backend, make_source
from parts.raw_socket import RawSocket
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from webmacs import accounts, clock, keys
from webmacs.http import access, guard
from webmacs.http.envelope import SECURITY_HEADERS
from webmacs.storage.ids import uuid7

STREAM = "/ws/datapoints/stream"
SOCKETS = sorted(path for method, path in access.TABLE if method == "WS")


@dataclass
class Installation:
    backend: Backend
    database: str
    tokens: dict[str, str]


@pytest.fixture(scope="module")
async def installation(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    data_dir = Path(tmp_path_factory.mktemp("data"))
    key = guard.session_key(keys.load_or_make_signing_key(data_dir))
    tokens = {"source": await make_source(module_database, "source"), "unknown": accounts.new_credential()}
    conn: asyncpg.Connection[Any] = await asyncpg.connect(module_database)
    for role in ("viewer", "operator", "admin"):
        user = uuid7()
        valid_from = await conn.fetchval(
            "INSERT INTO users (public_id, email, username, password_hash, role) VALUES ($1, $2, $2, '', $3) RETURNING sessions_valid_from",
            user, f"{role}@example.org", role,
        )  # fmt: skip
        tokens[role] = guard.issue_token(key, user, valid_from).text
    await conn.close()
    claims = jwt.decode(tokens["admin"], options={"verify_signature": False})
    tokens["forged"] = jwt.encode(claims, b"x" * 32, "HS256")
    tokens["expired"] = jwt.encode(claims | {"exp": clock.now_us() / 1e6 - 1}, key, "HS256")
    backend = Backend(module_database, data_dir)
    await backend.start()
    yield Installation(backend, module_database, tokens)
    await backend.stop()


def client(installation: Installation, role: str | None = None) -> httpx.AsyncClient:
    headers = {} if role is None else {"Authorization": f"Bearer {installation.tokens[role]}"}
    return httpx.AsyncClient(base_url=installation.backend.url, headers=headers)


def connect(installation: Installation, path: str, role: str | None = None, **more: str) -> Any:
    headers = more if role is None else more | {"Authorization": f"Bearer {installation.tokens[role]}"}
    return websockets.connect(installation.backend.sockets + path, additional_headers=headers, compression=None)


async def refusal(opening: Any) -> tuple[int, dict[str, Any]]:
    """The status and problem with which an opening was refused, before the upgrade."""
    with pytest.raises(InvalidStatus) as refused:
        await opening
    response = refused.value.response
    for name, value in SECURITY_HEADERS.items():
        assert response.headers[name] == value
    problem: dict[str, Any] = json.loads(response.body or b"{}")
    assert problem["request_id"] == response.headers["x-request-id"]
    return response.status_code, problem


async def ticket(installation: Installation, role: str = "viewer", path: str = STREAM) -> str:
    async with client(installation, role) as asking:
        return str((await asking.post("/api/v1/auth/socket-ticket", json={"path": path})).json()["ticket"])


@pytest.mark.parametrize("path", SOCKETS)
@pytest.mark.parametrize("role", ["viewer", "operator", "admin", "source"])
async def test_a_socket_admits_exactly_the_roles_of_its_row(installation: Installation, path: str, role: Any) -> None:
    if access.TABLE["WS", path].admits(role):
        async with connect(installation, path, role) as opened:
            assert isinstance(opened, ClientConnection)
    else:
        assert (await refusal(connect(installation, path, role)))[0] == 403


@pytest.mark.parametrize("path", SOCKETS)
@pytest.mark.parametrize("stranger", [None, "forged", "expired", "unknown"])
async def test_a_stranger_opens_no_socket(installation: Installation, path: str, stranger: str | None) -> None:
    assert (await refusal(connect(installation, path, stranger)))[0] == 401


async def test_a_session_cookie_alone_opens_no_socket(installation: Installation) -> None:
    cookie = f"{guard.COOKIE}={installation.tokens['admin']}"
    assert (await refusal(connect(installation, STREAM, Cookie=cookie)))[0] == 401


async def test_a_ticket_opens_one_socket_once(installation: Installation) -> None:
    path = f"{STREAM}?ticket={await ticket(installation)}"
    async with connect(installation, path) as opened:
        assert json.loads(await opened.recv())["type"] == "connected"
    assert (await refusal(connect(installation, path)))[0] == 401
    other = f"{STREAM}?ticket={await ticket(installation, 'operator', '/ws/controller/telemetry')}"
    assert (await refusal(connect(installation, other)))[0] == 401
    assert "ticket=" not in installation.backend.log


async def test_pages_of_a_foreign_origin_open_no_socket(installation: Installation) -> None:
    own = installation.backend.url
    for origin in ("http://evil.test", "null", f"{own}.evil.test"):
        status, problem = await refusal(connect(installation, STREAM, "viewer", Origin=origin))
        assert (status, problem["type"]) == (403, "/problems/foreign-origin")
    async with connect(installation, STREAM, "viewer", Origin=own):
        pass


async def test_signing_out_closes_the_sockets_of_the_session(installation: Installation) -> None:
    async with (
        connect(installation, f"{STREAM}?ticket={await ticket(installation, 'admin')}") as opened,
        client(installation, "admin") as me,
    ):
        assert (await me.post("/api/v1/auth/logout")).status_code == 204
        async with asyncio.timeout(10):
            await opened.wait_closed()
        assert opened.close_code == 4401


async def test_answers_over_the_wire_carry_the_headers_and_no_server_version(installation: Installation) -> None:
    async with client(installation, "viewer") as viewer:
        for path in ("/api/v1/events", "/health", "/nothing.txt", "/api/v1/nothing", "/docs"):
            response = await viewer.get(path)
            for name, value in SECURITY_HEADERS.items():
                assert response.headers[name] == value
            assert not any(character.isdigit() for character in response.headers.get("server", ""))
        assert (await viewer.head("/api/v1/events")).status_code == 200


async def test_a_body_beyond_its_limit_is_refused_while_it_comes(installation: Installation) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b" " * 65_536

    async with client(installation, "operator") as operator:
        with contextlib.suppress(httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):  # the rest is cut; the answer may be missed
            assert (await operator.post("/api/v1/events", content=endless())).status_code == 413
        assert (await operator.get("/api/v1/events")).status_code == 200


@pytest.mark.parametrize("broken", [b"ZZ\r\n", b"4\r\n{   ZZ", b"4\r\n{   \r\n-1\r\n"])
async def test_a_chunked_body_that_is_broken_is_a_problem(installation: Installation, broken: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", installation.backend.port)
    head = "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-ID: broken\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head.encode() + broken)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    status, _, rest = answer.partition(b"\r\n")
    headers, _, body = rest.partition(b"\r\n\r\n")
    assert status == b"HTTP/1.1 400 Bad Request", answer
    assert b"application/problem+json" in headers
    problem = json.loads(body)
    assert (problem["type"], problem["request_id"]) == ("/problems/malformed", "broken")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [("no HTTP", 400), (f"GET /{'x' * 70_000} HTTP/1.1", 414), ("GET / HTTP/1.1\r\nHost: x" + "\r\nX-More: x" * 1_000, 431)],
)
async def test_what_is_no_request_yet_is_answered_by_its_status_alone(installation: Installation, request_head: str, status: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", installation.backend.port)
    writer.write(request_head.encode() + b"\r\n\r\n")
    async with asyncio.timeout(20):
        answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"content-length: 0" in answer


async def test_a_target_that_is_no_path_is_not_redirected_anywhere(installation: Installation) -> None:
    async with RawSocket(installation.backend.sockets) as raw:
        await raw.send(b"CONNECT a:1 HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n")
        answer = await raw.reader.read()
    assert answer.startswith(b"HTTP/1.1 404"), answer
    assert b"elsewhere" not in answer
