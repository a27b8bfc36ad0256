"""Signing in and out, one's own account, the password given again, and tickets for sockets."""

import zoneinfo
from datetime import timedelta
from functools import cache
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, Meta, UnsetType

from webmacs import accounts, clock, logs
from webmacs.http import access, audit, guard
from webmacs.http.access import Role
from webmacs.http.audit import Actor, Entry
from webmacs.http.problem import Conflict, Problem, Unauthorized, Unprocessable
from webmacs.http.route import Call, route
from webmacs.http.shape import EMAIL, LANGUAGE, NAME, Shape, Timestamp, of_row
from webmacs.storage.changes import announce
from webmacs.storage.pool import Connection, Pool

log = logs.get(__name__)

SESSIONS_MAX: Final = 50
"""Of a user; whoever begins another ends the one that was used longest ago."""
USER_AGENT_CHARACTERS_MAX: Final = 200
OVER: Final = (
    f"The {accounts.INITIAL_PASSWORD_H} h of this made password are over; an administrator makes a new one, or "
    "`webmacs admin reset-password` does."
)

Password = Annotated[str, Meta(max_length=accounts.PASSWORD_CHARACTERS_MAX)]
NewPassword = Annotated[str, Meta(min_length=accounts.PASSWORD_CHARACTERS_MIN, max_length=accounts.PASSWORD_CHARACTERS_MAX)]
Email = Annotated[str, Meta(min_length=3, max_length=254, pattern=EMAIL, examples=["operator@example.org"])]
Username = Annotated[str, Meta(min_length=2, max_length=50, pattern=NAME, examples=["Maria Weber"])]
Language = Annotated[str, Meta(max_length=35, pattern=LANGUAGE, examples=["en", "de-CH"])]
TimeZone = Annotated[str, Meta(max_length=64, description="An IANA name; null is the browser's.", examples=["Europe/Berlin"])]
Theme = Literal["light", "dark", "auto"]
Linked = Annotated[bool, Meta(description="It is linked to a person of the sign-on provider, who may sign in there (docs/sso.md).")]


class Credentials(Shape, frozen=True):
    email: Annotated[str, Meta(max_length=254, examples=["operator@example.org"])]
    password: Password


class Me(msgspec.Struct, frozen=True):
    public_id: UUID
    email: str
    username: str
    role: Annotated[Role, Meta(description="Of an API token the role that it has.")]
    registered_on: Timestamp
    language: Language
    time_zone: TimeZone | None
    theme: Theme
    last_login_on: Timestamp | None
    password_changed_on: Timestamp
    must_change_password: Annotated[bool, Meta(description="The password was made for them; nothing else is open before it is changed.")]
    sso_linked: Linked
    version: Annotated[int, Meta(description="Counts its changes; also its ETag.")]


class Session(msgspec.Struct, frozen=True):
    """For machines the token, to be sent as `Authorization: Bearer`; browsers keep it in a cookie that pages cannot read."""

    access_token: str
    token_type: str
    expires_on: Timestamp
    user: Me


class ProfileChange(Shape, frozen=True):
    """What is not given stays as it is. Another e-mail needs the password."""

    username: Username | UnsetType = UNSET
    email: Email | UnsetType = UNSET
    password: Password | UnsetType = UNSET
    language: Language | UnsetType = UNSET
    time_zone: TimeZone | UnsetType | None = UNSET
    theme: Theme | UnsetType = UNSET


class PasswordChange(Shape, frozen=True):
    current_password: Password
    new_password: NewPassword


class PasswordAgain(Shape, frozen=True):
    password: Password


class Confirmation(msgspec.Struct, frozen=True):
    confirmed_until: Annotated[Timestamp, Meta(description="Until then the password counts as given just now.")]


class TicketIn(Shape, frozen=True):
    path: Annotated[str, Meta(max_length=200, examples=["/ws/datapoints/stream"])]


class Ticket(msgspec.Struct, frozen=True):
    ticket: str
    expires_on: Timestamp


SSO_LINKED: Final = "EXISTS (SELECT FROM sso_identities i WHERE i.user_id = users.id AND i.issuer = $1) AS sso_linked"
"""Column of a SELECT of users; $1 is the issuer that is configured, or NULL."""
SELECT: Final = f"""
    SELECT id, public_id, email, username, role, registered_on, language, time_zone, theme, last_login_on, password_changed_on,
           initial_password_until IS NOT NULL AS must_change_password, {SSO_LINKED}, version
      FROM users
"""  # noqa: S608 - our own columns


@route("POST", "/api/v1/auth/login", problems=("wrong-credentials", 429, 503))
async def login(call: Call[Credentials]) -> Session:
    """Sign in. Answers a session of 24 h and sets its cookie."""
    with call.parts.throttle.judging(call.body.email, call.address):
        row = await call.pool.fetchrow(
            "SELECT id, username, password_hash, enabled, initial_password_until FROM users WHERE lower(email) = lower($1)", call.body.email
        )
        password_hash = None if row is None else row["password_hash"]
        right = await call.parts.passwords.verify(call.body.password, password_hash, call.address)
    if row is None or not right or not row["enabled"] or _is_over(row["initial_password_until"]):
        log.info("login_refused", address=call.address)
        raise _note(call, "no such user" if row is None else f"user {row['username']}")
    call.parts.throttle.succeeded(call.body.email, call.address)
    async with call.pool.acquire() as conn, conn.transaction():
        session = await begin_session(conn, call, row["id"], row["password_hash"])
    log.info("login", user=str(session.user.public_id), address=call.address)
    return session


@route("POST", "/api/v1/auth/logout")
async def logout(call: Call) -> None:
    """Sign out. The session's token is void from now on, wherever it is."""
    jti, expires_on = call.identity.jti, call.identity.expires_on
    if jti is None or expires_on is None:  # the access table admits sessions only
        raise Unauthorized
    async with call.pool.acquire() as conn, conn.transaction():
        await accounts.end_session(conn, jti, expires_on)
        await audit.write(conn, call.actor, call.request_id, [Entry("logout", "session", jti)])
    call.headers["Set-Cookie"] = _cookie(call, "", 0)


@route("POST", "/api/v1/auth/confirm", problems=(422, 429, 503))
async def confirm(call: Call[PasswordAgain]) -> Confirmation:
    """Give the password again. For 5 minutes this session may then do what asks for it, as managing users and tokens."""
    await _check_own(call, call.body.password, "password")
    now = clock.now()
    async with call.pool.acquire() as conn, conn.transaction():
        await conn.execute("UPDATE sessions SET confirmed_on = $2 WHERE jti = $1", call.identity.jti, now)
        await audit.write(conn, call.actor, call.request_id, [Entry("confirm", "session", call.identity.jti, call.identity.name)])
        await announce(conn, "access")
    return Confirmation(now + timedelta(seconds=guard.FRESH_S))


@route("GET", "/api/v1/auth/me")
async def get_me(call: Call) -> Me:
    """Who is signed in."""
    me = await _read(call, call.pool, call.identity.id)
    return msgspec.structs.replace(me, role=call.identity.role)


@route("PUT", "/api/v1/auth/me", problems=(409, 422, 429, 503), changes="user")
async def change_me(call: Call[ProfileChange]) -> Me:
    """Change one's own profile. Another e-mail needs the password beside it, and links nobody who signs in at the provider."""
    new = call.body
    if new.email is not UNSET:
        if new.password is UNSET:
            raise Unprocessable.at("body", "password", msg="Another e-mail needs the password.")
        await _check_own(call, new.password, "password")
    if new.time_zone is not UNSET and new.time_zone is not None and new.time_zone not in _time_zones():
        raise Unprocessable.at("body", "time_zone", msg="There is no such time zone; a name is as Europe/Berlin.")
    before = await _read(call, call.conn, call.identity.id, lock=True)
    call.match(before.version)
    fields = ("username", "email", "language", "time_zone", "theme")
    wanted = [getattr(before, name) if (value := getattr(new, name)) is UNSET else value for name in fields]
    try:
        await call.conn.execute(
            """UPDATE users SET username = $2, email = $3, language = $4, time_zone = $5, theme = $6, version = version + 1,
                                email_vouched = email_vouched AND lower(email) = lower($3)
                WHERE id = $1""",
            call.identity.id, *wanted,
        )  # fmt: skip
    except asyncpg.UniqueViolationError as error:
        raise taken(error) from None
    me = await _read(call, call.conn, call.identity.id)
    return call.changed(before, me, "access", name=me.username)


@route("PUT", "/api/v1/auth/me/password", problems=(422, 429, 503))
async def change_password(call: Call[PasswordChange]) -> Session:
    """Change one's password. Every session that began before ends; the answer is a new one, also as the cookie."""
    me = await _check_own(call, call.body.current_password, "current_password")
    if call.body.new_password == call.body.current_password:  # one that was made for them would stay for ever
        raise Unprocessable.at("body", "new_password", msg="This is the current password; choose another one.")
    check_new_password(call.body.new_password, "new_password", me["email"], me["username"])
    new_hash = await call.parts.passwords.hash(call.body.new_password, call.address)
    async with call.pool.acquire() as conn, conn.transaction():
        before = await _read(call, conn, call.identity.id, lock=True)
        changed = await conn.fetchval(
            """UPDATE users SET password_hash = $2, password_changed_on = clock_timestamp(), initial_password_until = NULL,
                                version = version + 1
                WHERE id = $1 AND password_hash = $3 RETURNING true""",
            call.identity.id, new_hash, me["password_hash"],
        )  # fmt: skip
        if changed is None:
            raise Unprocessable.at("body", "current_password", msg="The password was changed elsewhere just now.")
        await accounts.end_sessions(conn, call.identity.id)
        call.changed(before, await _read(call, conn, call.identity.id), action="password_changed", kind="user", name=before.username)
        await audit.account(conn, call.actor, call.request_id, call.entries, call.versions, call.announced)
        return await begin_session(conn, call, call.identity.id, new_hash)


@route("POST", "/api/v1/auth/socket-ticket")
async def make_socket_ticket(call: Call[TicketIn]) -> Ticket:
    """Make a ticket for one socket. It is used once, within 30 s, as `?ticket=` of the path it was made for."""
    if ("WS", call.body.path) not in access.TABLE:
        raise Unprocessable.at("body", "path", msg="There is no socket at this path.")
    async with call.pool.acquire() as conn:
        ticket, expires_on = await guard.make_ticket(conn, call.identity, call.body.path)
    return Ticket(ticket, expires_on)


async def begin_session(
    conn: Connection, call: Call[Any, Any], user_id: int, password_hash: str | None, detail: str | None = None
) -> Session:
    """A new session of a user who has proved who they are, with its cookie. `password_hash`: the one that was verified, None where it was
    something else. In a transaction. Raises a 401 when the user was disabled, or the password changed, meanwhile."""
    row = await conn.fetchrow(
        """SELECT public_id, username, sessions_valid_from FROM users
            WHERE id = $1 AND enabled AND ($2::text IS NULL OR password_hash = $2) FOR UPDATE""",
        user_id, password_hash,
    )  # fmt: skip
    if row is None:
        raise _refused()
    token = guard.issue_token(call.parts.session_keys.signing(), row["public_id"], row["sessions_valid_from"])
    agent = call.request.headers.get("user-agent", "")[:USER_AGENT_CHARACTERS_MAX]
    await conn.execute(
        """INSERT INTO sessions (jti, user_id, begun_on, last_used_on, expires_on, confirmed_on, address, user_agent)
           VALUES ($1, $2, $3, $3, $4, $3, $5, $6)""",
        token.jti, user_id, token.issued_on, token.expires_on, call.address, agent,
    )  # fmt: skip
    await conn.execute("UPDATE users SET last_login_on = $2 WHERE id = $1", user_id, token.issued_on)
    oldest = await conn.fetch(
        "SELECT jti, expires_on FROM sessions WHERE user_id = $1 ORDER BY last_used_on DESC, begun_on DESC OFFSET $2", user_id, SESSIONS_MAX
    )
    for one in oldest:
        await accounts.end_session(conn, one["jti"], one["expires_on"])
    actor = Actor("user", row["public_id"], row["username"], call.address)
    entries = [Entry("login", "session", token.jti, row["username"], detail=detail)]
    entries += [Entry("session_ended", "session", one["jti"], row["username"], detail=f"the {SESSIONS_MAX + 1}th began") for one in oldest]
    await audit.write(conn, actor, call.request_id, entries)
    call.headers["Set-Cookie"] = _cookie(call, token.text, guard.SESSION_S)
    return Session(token.text, "bearer", token.expires_on, await _read(call, conn, user_id))


def check_new_password(password: str, field: str, *own: str) -> None:
    """`own`: words that are theirs, as the e-mail. Raises Unprocessable."""
    try:
        accounts.check_password(password, *own)
    except accounts.AccountError as error:
        raise Unprocessable.at("body", field, msg=str(error)) from None


def taken(error: asyncpg.UniqueViolationError) -> Conflict:
    what = "e-mail" if error.constraint_name == "users_email" else "name"
    return Conflict(f"There is a user with this {what} already; choose another.")


async def _check_own(call: Call[Any], password: str, field: str) -> asyncpg.Record:
    """The caller's row (email, username, password_hash). Raises a 429, or Unprocessable when it is not their password, or a made one
    whose time is over."""
    me = await call.pool.fetchrow(
        "SELECT email, username, password_hash, initial_password_until FROM users WHERE id = $1", call.identity.id
    )
    if me is None:
        raise Unauthorized(guard.ENDED)
    with call.parts.throttle.judging(me["email"], call.address):
        right = await call.parts.passwords.verify(password, me["password_hash"], call.address)
    if not right:
        call.parts.refusals.note(call.actor, call.request_id, "password_refused", "user", None)
        raise Unprocessable.at("body", field, msg="This is not the current password.")
    if _is_over(me["initial_password_until"]):
        call.parts.refusals.note(call.actor, call.request_id, "password_refused", "user", "made, and its time is over")
        raise Unprocessable.at("body", field, msg=OVER)
    call.parts.throttle.succeeded(me["email"], call.address)
    return me


async def _read(call: Call[Any, Any], database: Pool | Connection, user_id: int, *, lock: bool = False) -> Me:
    matching = SELECT + " WHERE id = $2" + (" FOR NO KEY UPDATE" if lock else "")
    row = await database.fetchrow(matching, call.settings.sso_issuer, user_id)
    if row is None:
        raise Unauthorized(guard.ENDED)
    return of_row(Me, row)


def _is_over(until: Any) -> bool:
    return until is not None and until <= clock.now()


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def _cookie(call: Call[Any], value: str, max_age_s: int) -> str:
    secure = "; Secure" if call.settings.secure_cookies else ""
    return f"{guard.COOKIE}={value}; Max-Age={max_age_s}; Path=/; HttpOnly; SameSite=Strict{secure}"


def _note(call: Call[Any], detail: str) -> Problem:
    problem = _refused()
    call.parts.refusals.note(call.actor, call.request_id, "login_refused", "session", detail)
    problem.noted = True
    return problem


def _refused() -> Problem:
    return Problem(401, "wrong-credentials", "Not signed in", "E-mail and password do not belong together; check both.")


routes = [login, logout, confirm, get_me, change_me, change_password, make_socket_ticket]
