"""Signing in and out, one's own account, and tickets for sockets."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from webmacs import accounts, clock, logs
from webmacs.http import access, guard
from webmacs.http.access import Role
from webmacs.http.problem import Problem, Unprocessable
from webmacs.http.route import Call, route
from webmacs.http.shape import Shape, Timestamp

log = logs.get(__name__)

Password = Annotated[str, Meta(max_length=accounts.PASSWORD_CHARACTERS_MAX)]


class Credentials(Shape, frozen=True):
    email: Annotated[str, Meta(max_length=254, examples=["operator@example.org"])]
    password: Password


class User(msgspec.Struct, frozen=True):
    public_id: UUID
    email: str
    username: str
    role: Role
    registered_on: Timestamp


class Session(msgspec.Struct, frozen=True):
    """For machines the token, to be sent as `Authorization: Bearer`; browsers keep it in a cookie that pages cannot read."""

    access_token: str
    token_type: str
    expires_on: Timestamp
    user: User


class PasswordChange(Shape, frozen=True):
    current_password: Password
    new_password: Annotated[str, Meta(min_length=accounts.PASSWORD_CHARACTERS_MIN, max_length=accounts.PASSWORD_CHARACTERS_MAX)]


class TicketIn(Shape, frozen=True):
    path: Annotated[str, Meta(max_length=200, examples=["/ws/datapoints/stream"])]


class Ticket(msgspec.Struct, frozen=True):
    ticket: str
    expires_on: Timestamp


@route("POST", "/api/v1/auth/login", problems=("wrong-credentials", 429, 503))
async def login(call: Call[Credentials]) -> Session:
    """Sign in. Answers a session of 24 h and sets its cookie."""
    address = _address(call)
    call.parts.throttle.begin(call.body.email, address)
    row = await call.pool.fetchrow(
        "SELECT public_id, email, username, role, registered_on, password_hash, enabled, sessions_valid_from FROM users"
        " WHERE lower(email) = lower($1)",
        call.body.email,
    )
    right = await call.parts.passwords.verify(call.body.password, None if row is None else row["password_hash"])
    if row is None or not right or not row["enabled"]:
        log.info("login_refused", address=address)
        raise _refused()
    call.parts.throttle.succeeded(call.body.email, address)
    log.info("login", user=str(row["public_id"]), address=address)
    user = User(row["public_id"], row["email"], row["username"], row["role"], row["registered_on"])
    return _begin_session(call, user, row["sessions_valid_from"])


@route("POST", "/api/v1/auth/logout")
async def logout(call: Call) -> None:
    """Sign out. The session's token is void from now on, wherever it is."""
    now = clock.to_datetime(clock.now_us())
    async with call.pool.acquire() as conn, conn.transaction():
        await conn.execute("DELETE FROM blacklist_tokens WHERE expires_on < $1", now)
        await conn.execute(
            "INSERT INTO blacklist_tokens (jti, expires_on) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            call.identity.jti,
            call.identity.expires_on,
        )
    call.headers["Set-Cookie"] = _cookie(call, "", 0)


@route("GET", "/api/v1/auth/me")
async def get_me(call: Call) -> User:
    """Who is signed in."""
    row = await call.pool.fetchrow("SELECT public_id, email, username, role, registered_on FROM users WHERE id = $1", call.identity.id)
    if row is None:
        raise _refused()
    return User(**row)


@route("PUT", "/api/v1/auth/me/password", problems=(429,))
async def change_password(call: Call[PasswordChange]) -> Session:
    """Change one's password. Every session that began before ends; the answer is a new one, also as the cookie."""
    me = await call.pool.fetchrow("SELECT email, password_hash FROM users WHERE id = $1", call.identity.id)
    if me is None:
        raise _refused()
    address = _address(call)
    call.parts.throttle.begin(me["email"], address)
    if not await call.parts.passwords.verify(call.body.current_password, me["password_hash"]):
        raise Unprocessable.at("body", "current_password", msg="This is not the current password.")
    call.parts.throttle.succeeded(me["email"], address)
    new_hash = await call.parts.passwords.hash(call.body.new_password)
    row = await call.pool.fetchrow(
        """UPDATE users SET password_hash = $2, sessions_valid_from = now() WHERE id = $1 AND password_hash = $3
           RETURNING public_id, email, username, role, registered_on, sessions_valid_from""",
        call.identity.id,
        new_hash,
        me["password_hash"],
    )
    if row is None:
        raise Unprocessable.at("body", "current_password", msg="The password was changed elsewhere just now.")
    user = User(row["public_id"], row["email"], row["username"], row["role"], row["registered_on"])
    return _begin_session(call, user, row["sessions_valid_from"])


@route("POST", "/api/v1/auth/socket-ticket")
async def make_socket_ticket(call: Call[TicketIn]) -> Ticket:
    """Make a ticket for one socket. It is used once, within 30 s, as `?ticket=` of the path it was made for."""
    if ("WS", call.body.path) not in access.TABLE:
        raise Unprocessable.at("body", "path", msg="There is no socket at this path.")
    async with call.pool.acquire() as conn, conn.transaction():
        ticket, expires_on = await guard.make_ticket(conn, call.identity, call.body.path)
    return Ticket(ticket, expires_on)


def _begin_session(call: Call[Any], user: User, valid_from: datetime) -> Session:
    token = guard.issue_token(call.parts.session_key, user.public_id, valid_from)
    call.headers["Set-Cookie"] = _cookie(call, token.text, guard.SESSION_S)
    return Session(token.text, "bearer", token.expires_on, user)


def _cookie(call: Call[Any], value: str, max_age_s: int) -> str:
    secure = "; Secure" if call.settings.secure_cookies else ""
    return f"{guard.COOKIE}={value}; Max-Age={max_age_s}; Path=/; HttpOnly; SameSite=Strict{secure}"


def _refused() -> Problem:
    return Problem(401, "wrong-credentials", "Not signed in", "E-mail and password do not belong together; check both.")


def _address(call: Call[Any]) -> str:
    """Of the peer itself; forwarded headers are not trusted."""
    client = call.request.client
    return "" if client is None else client.host


routes = [login, logout, get_me, change_password, make_socket_ticket]
