"""Who may, for every route and socket of the running application and every kind of caller: each cell is judged.

The cells are made from the running route table; what is right stands here a second time, by resource, so that neither a route without an
entry nor a changed row of webmacs/http/access.py goes unseen.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import jwt
import pytest
from parts.dashboards import make_dashboard
from parts.rest import ORIGIN, Rest, begin_session

from webmacs import accounts, clock
from webmacs.http import access, guard
from webmacs.http.access import ROLES, Access
from webmacs.storage.ids import uuid7

MISSING: Final = "01a20a7a-1b53-79ca-9623-0f2e8d54601f"
STREAM: Final = "/ws/datapoints/stream"

ENTRIES: Final = {
    "annotations": ("viewer", "operator"),
    "audit": ("admin", None),
    "auth": ("viewer", "viewer"),
    "configuration": ("admin", "admin"),
    "controller": (None, "operator"),
    "dashboards": ("viewer", "operator"),
    "datapoints": ("viewer", "operator"),
    "docs": ("public", None),
    "events": ("viewer", "operator"),
    "experiments": ("viewer", "operator"),
    "gaps": ("viewer", None),
    "health": ("public", None),
    "jobs": ("viewer", "viewer"),
    "logging": ("viewer", "operator"),
    "metrics": ("viewer", None),
    "openapi.json": ("public", None),
    "ota": ("viewer", "admin"),
    "plugins": ("viewer", "admin"),
    "problems": ("public", None),
    "rules": ("viewer", "operator"),
    "settings": ("viewer", "admin"),
    "sources": ("viewer", "admin"),
    "tokens": ("viewer", "viewer"),
    "users": ("admin", "admin"),
    "versions": ("viewer", "operator"),
    "webhooks": ("admin", "admin"),
    "write": (None, "operator"),
    "{file}": ("public", None),
}
"""By resource: the least role that reads, and the least that writes; None where there is nothing of the kind."""
EXCEPTIONS: Final = {
    ("GET", "/api/v1/auth/sso/authorize"): "public",
    ("GET", "/api/v1/auth/sso/callback"): "public",
    ("GET", "/api/v1/auth/sso/config"): "public",
    ("POST", "/api/v1/auth/sso/exchange"): "public",
    ("POST", "/api/v1/auth/login"): "public",
    ("POST", "/api/v1/auth/socket-ticket"): "viewer",
    ("POST", "/api/v1/datapoints/series"): "viewer",
    ("DELETE", "/api/v1/datapoints"): "admin",
    ("DELETE", "/api/v1/datapoints/{public_id}"): "admin",
    ("DELETE", "/api/v1/events/{public_id}"): "admin",
    ("GET", "/api/v1/plugins/packages/{public_id}/content"): "admin",
    ("WS", "/ws/datapoints/stream"): "viewer",
}
SOURCES: Final = {
    ("GET", "/api/v1/plugins/packages/{public_id}/content"),
    ("POST", "/api/v1/datapoints"),
    ("POST", "/api/v1/datapoints/batch"),
    ("POST", "/api/v1/write"),
    ("WS", "/ws/controller/telemetry"),
}
"""Where a source's credential opens."""
FRESH: Final = {
    ("DELETE", "/api/v1/auth/sso/link"),
    ("DELETE", "/api/v1/tokens/{public_id}"),
    ("DELETE", "/api/v1/users/{public_id}"),
    ("DELETE", "/api/v1/users/{public_id}/sessions"),
    ("POST", "/api/v1/auth/sso/link"),
    ("POST", "/api/v1/ota/upload"),
    ("POST", "/api/v1/plugins/packages"),
    ("POST", "/api/v1/tokens"),
    ("POST", "/api/v1/users"),
    ("PUT", "/api/v1/users/{public_id}"),
}
"""For these the password is asked again, and a token needs the scope by its own name."""
READ_BY_POST: Final = {
    ("POST", "/api/v1/auth/socket-ticket"),
    ("POST", "/api/v1/datapoints/series"),
}
KIOSK: Final = {
    ("GET", "/api/v1/dashboards/{public_id}"),
    ("GET", "/api/v1/dashboards/{public_id}/widgets/{widget_id}"),
    ("GET", "/api/v1/datapoints/latest"),
    ("GET", "/api/v1/events"),
    ("POST", "/api/v1/auth/socket-ticket"),
    ("POST", "/api/v1/datapoints/series"),
    ("WS", "/ws/datapoints/stream"),
}
FOR_PEOPLE: Final = {
    ("DELETE", "/api/v1/auth/sessions"),
    ("DELETE", "/api/v1/auth/sessions/{session_id}"),
    ("DELETE", "/api/v1/auth/sso/link"),
    ("GET", "/api/v1/auth/sessions"),
    ("POST", "/api/v1/auth/confirm"),
    ("POST", "/api/v1/auth/logout"),
    ("POST", "/api/v1/auth/sso/link"),
    ("PUT", "/api/v1/auth/me"),
    ("PUT", "/api/v1/auth/me/password"),
}
"""Closed to API tokens."""
BEFORE_A_PASSWORD: Final = {
    ("GET", "/api/v1/auth/me"),
    ("POST", "/api/v1/auth/logout"),
    ("PUT", "/api/v1/auth/me/password"),
}
"""Open to whoever still has to choose a password of their own."""
ENDS_SESSIONS: Final = {("DELETE", "/api/v1/auth/sessions"), ("POST", "/api/v1/auth/logout")}

ROWS: Final = sorted(access.TABLE)
STRANGERS: Final = (
    "nobody", "expired session", "signed-out session", "ended session", "forged session", "unsigned session",
    "session of before the change",
    "session of a disabled user", "session of a deleted user", "session as basic", "unknown source", "disabled source", "unknown token",
    "expired token", "deleted token", "token of a disabled user", "token of a deleted user", "cut token",
)  # fmt: skip
"""Who shows nothing, or nothing that is (still) valid."""
TICKETS: Final = ("used ticket", "ticket for another socket", "late ticket", "ticket of a session that ended", "ticket of a deleted token")


@dataclass(frozen=True)
class Caller:
    """Somebody who is known, as what they show is expected to count."""

    role: str
    kind: str = "session"
    fresh: bool = True
    initial: bool = False
    scopes: tuple[str, ...] = ()
    owner: str | None = None
    """Of a token: the owner's role, when it is another than the token's."""


def every_scope(*, but: str = "") -> tuple[str, ...]:
    return tuple(scope for scope in access.scopes() if ":" in scope and scope.partition(":")[0] != but)


CALLERS: Final = {
    **{role: Caller(role) for role in ROLES},
    **{f"{role}, signed in an hour ago": Caller(role, fresh=False) for role in ROLES},
    "admin with a password made for them": Caller("admin", initial=True),
    "source": Caller("source", "source"),
    **{f"token of {role}, write": Caller(role, "token", scopes=("write",)) for role in ROLES},
    **{f"token of {role}, read": Caller(role, "token", scopes=("read",)) for role in ROLES},
    "token of admin, every scope by name": Caller("admin", "token", scopes=every_scope()),
    "token of admin, every scope but this": Caller("admin", "token"),
    "token of admin, this scope to read": Caller("admin", "token"),
    "token of a viewer, made as admin": Caller("admin", "token", scopes=every_scope(), owner="viewer"),
    "kiosk": Caller("viewer", "kiosk"),
}


def resource_of(path: str) -> str:
    parts = [part for part in path.split("/") if part]
    return parts[2] if path.startswith("/api/v1/") else parts[1] if path.startswith("/ws/") else parts[0]


def scope_resource(path: str) -> str:
    """The telemetry socket writes datapoints."""
    return {"controller": "datapoints", "write": "datapoints"}.get(resource_of(path), resource_of(path))


def least_role(method: str, path: str) -> str:
    """Raises KeyError for a resource without an entry."""
    reads, writes = ENTRIES[resource_of(path)]
    exception = EXCEPTIONS.get((method, path))
    least = exception or (reads if method == "GET" else writes)
    assert least is not None, f"{method} {path} has no entry"
    return least


def expected(method: str, path: str, caller: Caller) -> str | None:
    """The slug of the refusal; None: they come in."""
    least = least_role(method, path)
    if least == "public":
        return None
    if caller.kind == "source":
        return None if (method, path) in SOURCES else "forbidden"
    role = min(caller.role, caller.owner or caller.role, key=ROLES.index)
    if ROLES.index(role) < ROLES.index(least):
        return "forbidden"
    if caller.kind == "kiosk":
        return None if (method, path) in KIOSK else "forbidden"
    if caller.kind == "token":
        return expected_of_token(method, path, caller)
    if caller.initial and (method, path) not in BEFORE_A_PASSWORD:
        return "password-change-needed"
    return "password-needed" if (method, path) in FRESH and not caller.fresh else None


def expected_of_token(method: str, path: str, caller: Caller) -> str | None:
    if (method, path) in FOR_PEOPLE:
        return "session-needed"
    resource = scope_resource(path)
    reads = method == "GET" or (method, path) in READ_BY_POST or (method, path) == ("WS", STREAM)
    enough = {f"{resource}:write"} if not reads else {f"{resource}:write", f"{resource}:read"}
    if (method, path) not in FRESH:
        enough |= {"write", "read"} if reads else {"write"}
    return None if enough & set(caller.scopes) else "scope-missing"


def of_route(caller_name: str, path: str) -> Caller:
    """A caller whose scopes depend on the route that they ask."""
    caller = CALLERS[caller_name]
    if caller_name == "token of admin, every scope but this":
        return replace(caller, scopes=every_scope(but=scope_resource(path)))
    if caller_name == "token of admin, this scope to read":
        return replace(caller, scopes=(f"{scope_resource(path)}:read",))
    return caller


class Gate:
    """The application with one user for each caller, so that what one of them ends concerns no other."""

    def __init__(self, rest: Rest, conn: Any) -> None:
        self._rest = rest
        self._conn = conn
        self._users: dict[str, UUID] = {}

    async def user(self, name: str, role: str, *, initial: bool = False) -> UUID:
        if name in self._users:
            return self._users[name]
        public_id = self._users[name] = uuid7()
        await self._conn.execute(
            """INSERT INTO users (public_id, email, username, password_hash, role, initial_password_until)
               VALUES ($1, $2, $2, '', $3, CASE WHEN $4 THEN now() + interval '1 day' END)""",
            public_id, f"{public_id}@x.org", role, initial,
        )  # fmt: skip
        return public_id

    async def session(self, name: str, role: str = "admin", **more: Any) -> str:
        user = await self.user(name, role, initial=more.pop("initial", False))
        return await begin_session(self._conn, self._rest.session_key, user, **more)

    async def token(self, name: str, role: str, scopes: tuple[str, ...], *, owner: str | None = None, **columns: Any) -> str:
        user = await self.user(name, owner or role)
        plain = accounts.new_token()
        await self._conn.execute(
            """INSERT INTO api_tokens (public_id, user_id, name, hash, role, scopes, dashboard_public_id, created_on, expires_on)
               SELECT $1, id, 'token', $2, $3, $4, $5, now(), $6 FROM users WHERE public_id = $7""",
            uuid7(), accounts.credential_hash(plain), role, list(scopes), columns.get("dashboard"), columns.get("expires_on"), user,
        )  # fmt: skip
        return plain

    async def credential(self, name: str, caller: Caller) -> str:
        """What this caller shows."""
        if caller.kind == "source":
            return self._rest.tokens["source"]
        if caller.kind == "kiosk":
            owner = await self.user(name, "viewer")
            return await self.token(name, "viewer", (), dashboard=await make_dashboard(self._conn, owner, []))
        if caller.kind == "token":
            return await self.token(name, caller.role, caller.scopes, owner=caller.owner)
        given = timedelta(days=1) if caller.fresh else timedelta(hours=-1)
        return await self.session(name, caller.role, initial=caller.initial, confirmed_for=given)

    async def ask(self, method: str, path: str, headers: dict[str, str], query: str = "") -> tuple[int, str]:
        """(status, slug of the problem) of a request or an upgrade; 101 for one that was accepted."""
        path = re.sub(r"\{\w*_id\}", MISSING, path).replace("{file}", "nothing.txt")
        if method == "WS":
            return await self._knock(path, headers, query)
        async with self._rest.client() as client:
            response = await client.request(method, path, headers=headers)
        return response.status_code, slug_of(response.text)

    async def _knock(self, path: str, headers: dict[str, str], query: str) -> tuple[int, str]:
        status, body = 0, b""

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.disconnect", "code": 1000} if status else {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            nonlocal status, body
            status = 101 if message["type"] == "websocket.accept" else message.get("status", status)
            body += message.get("body", b"")

        shown = [(b"host", ORIGIN.partition("//")[2].encode()), *((k.lower().encode(), v.encode()) for k, v in headers.items())]
        await self._rest.app(
            {
                "type": "websocket", "path": path, "raw_path": path.encode(), "query_string": query.encode(), "headers": shown,
                "client": ("127.0.0.1", 50_000), "server": ("webmacs.test", 80), "scheme": "ws", "root_path": "", "subprotocols": [],
                "extensions": {"websocket.http.response": {}},
            },
            receive,
            send,
        )  # fmt: skip
        return status, slug_of(body.decode())


def slug_of(text: str) -> str:
    found = re.search(r'"type":"/problems/([a-z-]+)"', text)
    return found[1] if found else ""


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


@pytest.fixture(scope="module")
async def gate(rest: Rest) -> AsyncIterator[Gate]:
    async with rest.connection() as conn:
        yield Gate(rest, conn)


@pytest.fixture(scope="module")
async def known(gate: Gate) -> dict[str, dict[str, str]]:
    """Headers of every caller that is the same for every route."""
    return {name: bearer(await gate.credential(name, caller)) for name, caller in CALLERS.items()}


@pytest.fixture(scope="module")
async def strangers(gate: Gate, rest: Rest) -> dict[str, dict[str, str]]:
    conn, now = gate._conn, clock.to_datetime(clock.now_us())
    lasting = await gate.session("a session")
    claims = jwt.decode(lasting, options={"verify_signature": False})

    async def session(name: str, statement: str) -> str:
        token = await gate.session(name)
        await conn.execute(statement.replace("USER", f"(SELECT id FROM users WHERE public_id = '{gate._users[name]}')"))
        return token

    async def token(name: str, statement: str, expires_on: datetime | None = None) -> str:
        plain = await gate.token(name, "admin", ("write",), expires_on=expires_on)
        await conn.execute(statement.replace("USER", f"(SELECT id FROM users WHERE public_id = '{gate._users[name]}')"))
        return plain

    signed_out = await gate.session("signed out")
    async with rest.client() as client:
        assert (await client.post("/api/v1/auth/logout", headers=bearer(signed_out))).status_code == 204
    ended = await gate.session("ended")
    async with rest.client() as client:
        asking = bearer(await gate.session("ended"))
        assert (await client.delete("/api/v1/auth/sessions", headers=asking)).status_code == 204
    _, disabled_source = await accounts.create_source(conn, "disabled")
    await conn.execute("UPDATE sources SET enabled = false WHERE name = 'disabled'")
    nothing = "SELECT USER"
    disable, delete = "UPDATE users SET enabled = false WHERE id = USER", "DELETE FROM users WHERE id = USER"
    shown = {
        "expired session": jwt.encode(claims | {"iat": claims["iat"] - 90_000, "exp": claims["iat"] - 1}, rest.session_key, "HS256"),
        "signed-out session": signed_out,
        "ended session": ended,
        "forged session": jwt.encode(claims, b"k" * 32, "HS256"),
        "unsigned session": jwt.encode(claims, None, "none"),
        "session of before the change": await session(
            "changed", "UPDATE users SET sessions_valid_from = now() + interval '1 min' WHERE id = USER"
        ),
        "session of a disabled user": await session("disabled", disable),
        "session of a deleted user": await session("deleted", delete),
        "unknown source": accounts.new_credential(),
        "disabled source": disabled_source,
        "unknown token": accounts.new_token(),
        "expired token": await token("expired token", nothing, now - timedelta(seconds=1)),
        "deleted token": await token("deleted token", "DELETE FROM api_tokens WHERE user_id = USER"),
        "token of a disabled user": await token("disabled owner", disable),
        "token of a deleted user": await token("deleted owner", delete),
        "cut token": (await token("cut token", nothing))[:-1],
    }
    headers = {name: bearer(credential) for name, credential in shown.items()}
    return headers | {"nobody": {}, "session as basic": {"Authorization": f"Basic {lasting}"}}


@pytest.mark.parametrize(("method", "path"), ROWS, ids=[" ".join(row) for row in ROWS])
async def test_a_route_admits_exactly_those_who_may(gate: Gate, known: dict[str, dict[str, str]], method: str, path: str) -> None:
    wrong = []
    for name in CALLERS:
        caller = of_route(name, path)
        again = caller is not CALLERS[name] or (method, path) in ENDS_SESSIONS
        headers = bearer(await gate.credential(f"{name}, another", caller)) if again else known[name]
        status, slug = await gate.ask(method, path, headers)
        right = expected(method, path, caller)
        if (status in (401, 403), slug if status in (401, 403) else None) != (right is not None, right) or status >= 500:
            wrong.append(f"{name}: {status} {slug}, expected {right or 'to come in'}")
    assert not wrong


@pytest.mark.parametrize(("method", "path"), ROWS, ids=[" ".join(row) for row in ROWS])
async def test_a_stranger_comes_in_only_where_it_is_public(
    gate: Gate, strangers: dict[str, dict[str, str]], method: str, path: str
) -> None:
    assert tuple(sorted(strangers)) == tuple(sorted(STRANGERS))
    public = least_role(method, path) == "public"
    answers = {name: await gate.ask(method, path, headers) for name, headers in strangers.items()}
    assert not {name: answer for name, answer in answers.items() if (answer[0] == 401) is public or answer[0] >= 500}


SOCKETS: Final = [path for method, path in ROWS if method == "WS"]


@pytest.mark.parametrize("path", SOCKETS)
async def test_a_ticket_that_is_not_for_now_and_here_opens_no_socket(
    gate: Gate, rest: Rest, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ticket(credential: str, path: str = path) -> str:
        async with rest.client() as client:
            made = await client.post("/api/v1/auth/socket-ticket", json={"path": path}, headers=bearer(credential))
            return f"ticket={made.json()['ticket']}"

    def later() -> None:
        now = clock.now_us() + guard.TICKET_S * 1_000_000
        monkeypatch.setattr(clock, "now_us", lambda: now)

    async def sign_out(credential: str) -> None:
        async with rest.client() as client:
            await client.post("/api/v1/auth/logout", headers=bearer(credential))

    async def use() -> str:
        good = await ticket(await gate.session("with a ticket"))
        assert (await gate.ask("WS", path, {}, good))[0] == 101
        return good

    async def of_ended() -> str:
        session = await gate.session("leaving")
        made = await ticket(session)
        await sign_out(session)
        return made

    async def of_deleted() -> str:
        made = await ticket(await gate.token("token's owner", "admin", ("write",)))
        await gate._conn.execute(
            "DELETE FROM api_tokens WHERE user_id = (SELECT id FROM users WHERE public_id = $1)", gate._users["token's owner"]
        )
        return made

    async def late() -> str:
        made = await ticket(await gate.session("late"))
        later()
        return made

    async def of_another() -> str:
        return await ticket(await gate.session("elsewhere"), next(other for other in SOCKETS if other != path))

    cases: dict[str, Callable[[], Awaitable[str]]] = dict(zip(TICKETS, (use, of_another, late, of_ended, of_deleted), strict=True))
    for name, make in cases.items():
        assert (await gate.ask("WS", path, {}, await make()))[0] == 401, name
        monkeypatch.undo()


def test_every_row_says_what_its_entry_says() -> None:
    for (method, path), row in access.TABLE.items():
        least = least_role(method, path)
        assert row == Access(
            None if least == "public" else least,  # type: ignore[arg-type]
            source=least == "public" or (method, path) in SOURCES,
            reads=(method, path) in READ_BY_POST or (method, path) == ("WS", STREAM),
            kiosk=(method, path) in KIOSK,
            session=(method, path) in FOR_PEOPLE,
            fresh=(method, path) in FRESH,
            initial=(method, path) in BEFORE_A_PASSWORD,
        ), f"{method} {path}"


def test_every_cell_is_judged(record_testsuite_property: Callable[[str, object], None]) -> None:
    cells = len(ROWS) * (len(CALLERS) + len(STRANGERS)) + len(SOCKETS) * len(TICKETS)
    record_testsuite_property("access_cells", cells)
    print(f"\naccess matrix: {len(ROWS)} routes and sockets, {cells} cells")
    assert len(ROWS) == len(access.TABLE)
