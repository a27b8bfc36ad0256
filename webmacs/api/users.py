"""Users: who may sign in, and as what. Deleting one deletes nothing else: what they made and wrote stays, with their name."""

from typing import Annotated, Any, Final, Literal
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, Meta, UnsetType

from webmacs import accounts
from webmacs.accounts import AccountError
from webmacs.api.auth import SSO_LINKED, Email, Linked, NewPassword, Username, check_new_password, taken
from webmacs.http.page import Page, PageQuery, fetch_page
from webmacs.http.problem import Conflict, NotFound
from webmacs.http.route import Call, route
from webmacs.http.shape import Shape, Timestamp, of_row
from webmacs.storage.pool import Connection, Pool

PersonRole = Literal["viewer", "operator", "admin"]


class UserIn(Shape, frozen=True):
    email: Email
    username: Username
    role: PersonRole
    enabled: bool = True
    password: Annotated[NewPassword | None, Meta(description="null: one is made, shown once, good for 24 h, to be changed.")] = None


class UserChange(Shape, frozen=True):
    """What is not given stays as it is. Another role or password, or disabling, ends every session of the user."""

    email: Email | UnsetType = UNSET
    username: Username | UnsetType = UNSET
    role: PersonRole | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    password: Annotated[NewPassword | UnsetType | None, Meta(description="null: one is made, shown once, to be changed.")] = UNSET


class User(msgspec.Struct, frozen=True):
    public_id: UUID
    email: str
    username: str
    role: PersonRole
    enabled: bool
    registered_on: Timestamp
    last_login_on: Timestamp | None
    password_changed_on: Timestamp
    must_change_password: bool
    sso_linked: Linked
    version: Annotated[int, Meta(description="Counts its changes; also its ETag.")]


class UserWithPassword(User, frozen=True):
    initial_password: Annotated[str | None, Meta(description="One that was made for them just now; shown this once.")]


class UsersQuery(PageQuery, frozen=True):
    sort: Literal[
        "username", "-username", "email", "-email", "role", "-role", "registered_on", "-registered_on", "last_login_on", "-last_login_on"
    ] = "username"
    role: Annotated[PersonRole | None, Meta(description="Only users of this role.")] = None
    enabled: Annotated[bool | None, Meta(description="Only users who may sign in, or only those who may not.")] = None


SELECT: Final = f"""
    SELECT id, public_id, email, username, role, enabled, registered_on, last_login_on, password_changed_on,
           initial_password_until IS NOT NULL AS must_change_password, {SSO_LINKED}, version
      FROM users
"""  # noqa: S608 - our own columns


@route("GET", "/api/v1/users")
async def list_users(call: Call[None, UsersQuery]) -> Page[User]:
    """List users. `search` looks into names and e-mails, ignoring case."""
    query = call.query
    matching = (
        SELECT + " WHERE (strpos(lower(username), lower($2)) > 0 OR strpos(lower(email), lower($2)) > 0)"
        " AND ($3::text IS NULL OR role = $3) AND ($4::bool IS NULL OR enabled = $4)"
    )
    arguments = [call.settings.sso_issuer, query.search, query.role, query.enabled]
    total, rows = await fetch_page(call.pool, matching, arguments, query, query.sort)
    return Page(query.page, query.page_size, total, [_user(row) for row in rows])


@route("POST", "/api/v1/users", status=201, problems=(409,), changes="user")
async def create_user(call: Call[UserIn]) -> UserWithPassword:
    """Create a user. Without a password one is made: it is in this answer and nowhere else, and the user has to change it."""
    new = call.body
    password_hash, initial, until = await _password(call, new.password, new.email, new.username)
    try:
        public_id = await accounts.insert_user(
            call.conn,
            email=new.email,
            username=new.username,
            password_hash=password_hash,
            role=new.role,
            enabled=new.enabled,
            initial_password_until=until,
        )
    except AccountError as error:
        raise Conflict(str(error)) from None
    user = await read(call.conn, call.settings.sso_issuer, public_id)
    call.changed(None, user, "access", name=user.username)
    return UserWithPassword(**msgspec.structs.asdict(user), initial_password=initial)


@route("GET", "/api/v1/users/{public_id}")
async def get_user(call: Call) -> User:
    """Read a user."""
    return await read(call.pool, call.settings.sso_issuer, call.public_id)


@route("PUT", "/api/v1/users/{public_id}", problems=(409,), changes="user")
async def change_user(call: Call[UserChange]) -> UserWithPassword:
    """Change a user. Another role or password, or disabling, ends their sessions at once and their sockets within 5 s."""
    new, conn = call.body, call.conn
    initial: str | None = None
    password: tuple[Any, ...] | None = None
    if new.password is not UNSET:
        known = await read(call.pool, call.settings.sso_issuer, call.public_id)  # hashing takes long: nothing is locked yet
        password_hash, initial, until = await _password(call, new.password, known.email, known.username)
        password = (password_hash, until)
    user_id = await _lock(conn, call.public_id)
    before = await read(conn, call.settings.sso_issuer, call.public_id)
    call.match(before.version)
    fields = ("email", "username", "role", "enabled")
    wanted = {name: getattr(before, name) if (value := getattr(new, name)) is UNSET else value for name in fields}
    if before.role == "admin" and before.enabled and not (wanted["role"] == "admin" and wanted["enabled"]):
        await _keep_an_administrator(conn, user_id)
    try:
        await conn.execute(
            """UPDATE users SET email = $2, username = $3, role = $4, enabled = $5, version = version + 1,
                                email_vouched = email_vouched OR lower(email) <> lower($2)
                WHERE id = $1""",
            user_id, *wanted.values(),
        )  # fmt: skip
    except asyncpg.UniqueViolationError as error:
        raise taken(error) from None
    if password is not None:
        await conn.execute(
            "UPDATE users SET password_hash = $2, initial_password_until = $3, password_changed_on = clock_timestamp() WHERE id = $1",
            user_id, *password,
        )  # fmt: skip
    if password is not None or wanted["role"] != before.role or wanted["enabled"] is False:
        await accounts.end_sessions(conn, user_id)
    after = await read(conn, call.settings.sso_issuer, call.public_id)
    user = call.changed(before, after, "access", name=after.username)
    return UserWithPassword(**msgspec.structs.asdict(user), initial_password=initial)


@route("DELETE", "/api/v1/users/{public_id}", problems=(409,), changes="user")
async def delete_user(call: Call) -> None:
    """Delete a user, with their sessions and API tokens. What they made and wrote stays."""
    if call.public_id == call.identity.public_id:
        raise Conflict("Nobody deletes themself; another administrator can.")
    user_id = await _lock(call.conn, call.public_id)
    before = await read(call.conn, call.settings.sso_issuer, call.public_id)
    call.match(before.version)
    if before.role == "admin" and before.enabled:
        await _keep_an_administrator(call.conn, user_id)
    await accounts.end_sessions(call.conn, user_id)
    await call.conn.execute("DELETE FROM users WHERE id = $1", user_id)
    call.changed(before, None, "access", name=before.username)


async def _lock(conn: Connection, public_id: UUID) -> int:
    """Locks the user and every administrator, in one order: of two that take the role from each other one comes second, and sees it.
    Answers the id. Raises NotFound."""
    rows = await conn.fetch(
        "SELECT id, public_id FROM users WHERE public_id = $1 OR (role = 'admin' AND enabled) ORDER BY id FOR UPDATE", public_id
    )
    for row in rows:
        if row["public_id"] == public_id:
            return int(row["id"])
    raise NotFound("user")


async def _keep_an_administrator(conn: Connection, user_id: int) -> None:
    """Under _lock. Raises Conflict when there is no other."""
    if await accounts.is_last_administrator(conn, user_id):
        raise Conflict("This is the last enabled administrator; make another one first.")


async def _password(call: Call[Any], given: str | None, email: str, username: str) -> tuple[str, str | None, Any]:
    """(hash, the password when one was made, until when that is good)"""
    if given is not None:
        check_new_password(given, "password", email, username)
        return await call.parts.passwords.hash(given, call.address), None, None
    made = accounts.new_password()
    return await call.parts.passwords.hash(made, call.address), call.shown_once(made), accounts.initial_until()


async def read(database: Pool | Connection, issuer: str | None, public_id: UUID) -> User:
    """`issuer`: the setting sso_issuer. Raises NotFound."""
    row = await database.fetchrow(SELECT + " WHERE public_id = $2", issuer, public_id)
    if row is None:
        raise NotFound("user")
    return _user(row)


def _user(row: asyncpg.Record) -> User:
    return of_row(User, row)


routes = [list_users, create_user, get_user, change_user, delete_user]
