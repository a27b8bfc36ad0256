"""People and sources as rows: password hashes and credentials, and how the first of each is made. The command line and the API use it."""

import base64
import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

import asyncpg
import bcrypt

from webmacs import clock, guessable, keys
from webmacs.storage.changes import announce
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Connection

PASSWORD_CHARACTERS_MIN: Final = 12
PASSWORD_CHARACTERS_MAX: Final = 256
INITIAL_PASSWORD_H: Final = 24
"""So long a password that was made for somebody is good."""
BCRYPT_COST: Final = 12
"""248 ms of one core: hash in a thread, one at a time."""
CREDENTIAL_PREFIX: Final = "wms_"
"""Of sources."""
TOKEN_PREFIX: Final = "wm_"  # noqa: S105  (how a token begins)
"""Of API tokens."""

Role = Literal["viewer", "operator", "admin"]


class AccountError(Exception):
    """An account or a source cannot be made or changed as asked; the message says why and what to do."""


def password_key(installation_key: bytes) -> bytes:
    """The key of `hash_password` and `verify_password`."""
    return keys.derive(installation_key, "passwords")


def hash_password(key: bytes, password: str) -> str:
    """bcrypt over base64(HMAC-SHA256(key, password)): a stolen table is worthless without the key file, and the length stays below
    bcrypt's 72 bytes. `key` is `password_key(...)`. Takes about 250 ms of CPU."""
    return bcrypt.hashpw(_digest(key, password), bcrypt.gensalt(BCRYPT_COST)).decode("ascii")


def verify_password(key: bytes, password: str, password_hash: str) -> bool:
    """Whether the password is the one that was hashed. Takes about 250 ms of CPU."""
    return bcrypt.checkpw(_digest(key, password), password_hash.encode("ascii"))


def check_password(password: str, *own: str) -> None:
    """Raises AccountError unless it has 12 to 256 characters and is not guessed first. `own`: words of the user's, as the e-mail."""
    if not PASSWORD_CHARACTERS_MIN <= len(password) <= PASSWORD_CHARACTERS_MAX:
        raise AccountError(f"A password has {PASSWORD_CHARACTERS_MIN} to {PASSWORD_CHARACTERS_MAX} characters.")
    if (reason := guessable.reason(password, *own)) is not None:
        raise AccountError(reason)


def new_password() -> str:
    """128 random bits, url-safe."""
    return secrets.token_urlsafe(16)


def initial_until() -> datetime:
    """Until when a password that is made now is good."""
    return clock.now() + timedelta(hours=INITIAL_PASSWORD_H)


def new_credential() -> str:
    """What a source shows: 256 random bits behind a prefix by which a leaked one is recognised."""
    return CREDENTIAL_PREFIX + secrets.token_urlsafe(32)


def new_token() -> str:
    """An API token, made like a credential."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def credential_hash(credential: str) -> bytes:
    """What is stored of a credential; a slow hash would add nothing to 256 random bits."""
    return hashlib.sha256(credential.encode()).digest()


async def has_users(conn: asyncpg.Connection) -> bool:
    """False only before the first start has ended."""
    return bool(await conn.fetchval("SELECT EXISTS (SELECT FROM users)"))


async def create_user(
    conn: Connection,
    key: bytes,
    *,
    email: str,
    username: str,
    password: str,
    role: Role,
    initial_password_until: datetime | None = None,
) -> UUID:
    """Makes a user and returns the public id. Raises AccountError when the e-mail or the name is taken or out of bounds."""
    check_password(password)
    password_hash = hash_password(key, password)
    return await insert_user(
        conn, email=email, username=username, password_hash=password_hash, role=role, initial_password_until=initial_password_until
    )


async def insert_user(
    conn: Connection,
    *,
    email: str,
    username: str,
    password_hash: str,
    role: Role,
    enabled: bool = True,
    initial_password_until: datetime | None = None,
) -> UUID:
    """Raises AccountError like create_user."""
    public_id = uuid7()
    try:
        await conn.execute(
            """INSERT INTO users (public_id, email, username, password_hash, role, enabled, initial_password_until)
               VALUES ($1, $2, $3, $4, $5, $6, $7)""",
            public_id, email, username, password_hash, role, enabled, initial_password_until,
        )  # fmt: skip
    except asyncpg.UniqueViolationError as error:
        taken = f"e-mail {email}" if error.constraint_name == "users_email" else f"name {username}"
        raise AccountError(f"There is a user with the {taken} already; choose another.") from None
    except asyncpg.CheckViolationError:
        raise AccountError("An e-mail has 3 to 254 characters, a user's name 2 to 50.") from None
    return public_id


async def reset_password(conn: asyncpg.Connection, key: bytes, *, email: str, password: str) -> None:
    """Gives a user a password that was made for them, and ends the sessions that began before. Raises AccountError when there is no such
    user."""
    check_password(password)
    password_hash = hash_password(key, password)
    async with conn.transaction():
        user = await conn.fetchval(
            """UPDATE users SET password_hash = $2, password_changed_on = clock_timestamp(), initial_password_until = $3,
                                version = version + 1
                WHERE lower(email) = lower($1) RETURNING id""",
            email, password_hash, initial_until(),
        )  # fmt: skip
        if user is None:
            raise AccountError(f"There is no user with the e-mail {email}.")
        await end_sessions(conn, user)


async def is_last_administrator(conn: Connection, user_id: int) -> bool:
    """Whether nobody else who may sign in is one. Of two who lose the role at the same moment the second waits, and sees it."""
    rows = await conn.fetch("SELECT id FROM users WHERE role = 'admin' AND enabled ORDER BY id FOR UPDATE")
    return [row["id"] for row in rows] == [user_id]


async def end_session(conn: Connection, jti: UUID, expires_on: datetime) -> None:
    """Its token is void from the commit on, wherever it is, and its sockets within 5 s."""
    await conn.execute("DELETE FROM sessions WHERE jti = $1", jti)
    await conn.execute("INSERT INTO blacklist_tokens (jti, expires_on) VALUES ($1, $2) ON CONFLICT DO NOTHING", jti, expires_on)
    await announce(conn, "access")


async def end_sessions(conn: Connection, user_id: int, *, but: UUID | None = None) -> int:
    """Ends every session of a user, or all `but` one; answers how many there were. Call it with the user's row locked."""
    ended = await conn.fetchval(
        """
        WITH ended AS (DELETE FROM sessions WHERE user_id = $1 AND jti IS DISTINCT FROM $2 RETURNING jti, expires_on),
             listed AS (INSERT INTO blacklist_tokens SELECT jti, expires_on FROM ended ON CONFLICT DO NOTHING)
        SELECT count(*) FROM ended
        """,
        user_id, but,
    )  # fmt: skip
    if but is None:
        await conn.execute("UPDATE users SET sessions_valid_from = clock_timestamp() WHERE id = $1", user_id)
    await announce(conn, "access")
    return int(ended)


async def forget_ended(conn: Connection, now: datetime) -> None:
    """Removes what has expired: sessions, tickets, and the blacklist's tokens, which no longer need to be on it."""
    await conn.execute("DELETE FROM sessions WHERE expires_on <= $1", now)
    await conn.execute("DELETE FROM socket_tickets WHERE expires_on <= $1", now)
    await conn.execute("DELETE FROM blacklist_tokens WHERE expires_on <= $1", now)


async def create_source(conn: asyncpg.Connection, name: str) -> tuple[UUID, str]:
    """Makes a source and its writer; returns its public id and its credential, which is stored nowhere. Raises AccountError."""
    public_id, credential = uuid7(), new_credential()
    try:
        async with conn.transaction():
            source = await conn.fetchval(
                "INSERT INTO sources (public_id, name, credential_hash) VALUES ($1, $2, $3) RETURNING id",
                public_id, name, credential_hash(credential),
            )  # fmt: skip
            await conn.execute("INSERT INTO writers (source_id) VALUES ($1)", source)
    except asyncpg.UniqueViolationError:
        raise AccountError(f"There is a source called {name} already; choose another name.") from None
    except asyncpg.CheckViolationError:
        raise AccountError("A source's name has 1 to 100 characters.") from None
    return public_id, credential


async def renew_credential(conn: asyncpg.Connection, name: str) -> str | None:
    """A new credential for an existing source, which voids the old one; None when there is no such source."""
    credential = new_credential()
    found = await conn.fetchval("UPDATE sources SET credential_hash = $2 WHERE name = $1 RETURNING id", name, credential_hash(credential))
    return None if found is None else credential


def _digest(key: bytes, password: str) -> bytes:
    return base64.b64encode(hmac.new(key, password.encode(), hashlib.sha256).digest())
