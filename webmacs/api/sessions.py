"""Sessions: where one is signed in, and how it ends there."""

from typing import Annotated, Any, Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Meta

from webmacs import accounts, clock
from webmacs.http.audit import Entry
from webmacs.http.problem import NotFound
from webmacs.http.route import Call, route
from webmacs.http.shape import Timestamp
from webmacs.storage.pool import Connection, Pool


class OpenSession(msgspec.Struct, frozen=True):
    public_id: UUID
    begun_on: Timestamp
    last_used_on: Annotated[Timestamp, Meta(description="To the minute.")]
    expires_on: Timestamp
    address: Annotated[str, Meta(description="Where it began.")]
    user_agent: str
    current: Annotated[bool, Meta(description="It is the one that asks.")]


class OpenSessions(msgspec.Struct, frozen=True):
    data: list[OpenSession]


SELECT: Final = """
    SELECT jti AS public_id, begun_on, last_used_on, expires_on, address, user_agent, jti IS NOT DISTINCT FROM $2 AS current
      FROM sessions WHERE user_id = $1 AND expires_on > $3 AND ($4::uuid IS NULL OR jti = $4)
     ORDER BY last_used_on DESC, jti
"""
USER: Final = "SELECT id, username FROM users WHERE public_id = $1"


@route("GET", "/api/v1/auth/sessions")
async def list_own_sessions(call: Call) -> OpenSessions:
    """List one's own sessions. The one that was used last comes first; there are 50 at most."""
    return OpenSessions(await _read(call.pool, call, call.identity.id))


@route("DELETE", "/api/v1/auth/sessions", changes="session")
async def end_other_sessions(call: Call) -> None:
    """End all of one's sessions but this one."""
    await call.conn.execute("SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE", call.identity.id)
    for session in await _read(call.conn, call, call.identity.id):
        if not session.current:
            call.changed(session, None, action="session_ended", name=call.identity.name)
    await accounts.end_sessions(call.conn, call.identity.id, but=call.identity.jti)


@route("DELETE", "/api/v1/auth/sessions/{session_id}", changes="session")
async def end_own_session(call: Call) -> None:
    """End one of one's sessions. Its token is void at once, and its sockets end within 5 s."""
    found = await _read(call.conn, call, call.identity.id, call.path["session_id"])
    if not found:
        raise NotFound("session")
    await accounts.end_session(call.conn, found[0].public_id, found[0].expires_on)
    call.changed(found[0], None, action="session_ended", name=call.identity.name)


@route("GET", "/api/v1/users/{public_id}/sessions")
async def list_sessions_of_user(call: Call) -> OpenSessions:
    """List a user's sessions."""
    row = await _user(call.pool, call.public_id)
    return OpenSessions(await _read(call.pool, call, row["id"]))


@route("DELETE", "/api/v1/users/{public_id}/sessions", changes="session")
async def end_sessions_of_user(call: Call) -> None:
    """End every session of a user."""
    row = await _user(call.conn, call.public_id, lock=True)
    n = await accounts.end_sessions(call.conn, row["id"])
    call.entries.append(Entry("sessions_ended", "user", call.public_id, row["username"], detail=f"{n} sessions"))


async def _read(database: Pool | Connection, call: Call, user_id: int, jti: UUID | None = None) -> list[OpenSession]:
    rows = await database.fetch(SELECT, user_id, call.identity.jti, clock.now(), jti)
    return [_session(row) for row in rows]


def _session(row: asyncpg.Record) -> OpenSession:
    values: dict[str, Any] = dict(row)
    return OpenSession(**values)


async def _user(database: Pool | Connection, public_id: UUID, *, lock: bool = False) -> asyncpg.Record:
    """Raises NotFound."""
    row = await database.fetchrow(USER + (" FOR NO KEY UPDATE" if lock else ""), public_id)
    if row is None:
        raise NotFound("user")
    return row


routes = [list_own_sessions, end_other_sessions, end_own_session, list_sessions_of_user, end_sessions_of_user]
