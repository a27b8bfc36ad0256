"""People and sources as rows: password hashes and credentials, and how the first of each is made. The command line and the API use it."""

import base64
import hashlib
import hmac
import secrets
from typing import Final, Literal
from uuid import UUID

import asyncpg
import bcrypt

from webmacs import keys
from webmacs.storage.ids import uuid7

PASSWORD_CHARACTERS_MIN: Final = 12
PASSWORD_CHARACTERS_MAX: Final = 256
BCRYPT_COST: Final = 12
"""248 ms of one core: hash in a thread, one at a time."""
CREDENTIAL_PREFIX: Final = "wms_"

Role = Literal["viewer", "operator", "admin"]


class AccountError(Exception):
    """An account or a source cannot be made or changed as asked; the message says why and what to do."""


def password_key(signing_key: bytes) -> bytes:
    """The key of `hash_password` and `verify_password`."""
    return keys.derive(signing_key, "passwords")


def hash_password(key: bytes, password: str) -> str:
    """bcrypt over base64(HMAC-SHA256(key, password)): a stolen table is worthless without the key file, and the length stays below
    bcrypt's 72 bytes. `key` is `password_key(...)`. Takes about 250 ms of CPU."""
    return bcrypt.hashpw(_digest(key, password), bcrypt.gensalt(BCRYPT_COST)).decode("ascii")


def verify_password(key: bytes, password: str, password_hash: str) -> bool:
    """Whether the password is the one that was hashed. Takes about 250 ms of CPU."""
    return bcrypt.checkpw(_digest(key, password), password_hash.encode("ascii"))


def check_password(password: str) -> None:
    """Raises AccountError unless it has 12 to 256 characters."""
    if not PASSWORD_CHARACTERS_MIN <= len(password) <= PASSWORD_CHARACTERS_MAX:
        raise AccountError(f"A password has {PASSWORD_CHARACTERS_MIN} to {PASSWORD_CHARACTERS_MAX} characters.")


def new_password() -> str:
    """128 random bits, url-safe."""
    return secrets.token_urlsafe(16)


def new_credential() -> str:
    """What a source shows: 256 random bits behind a prefix by which a leaked one is recognised."""
    return CREDENTIAL_PREFIX + secrets.token_urlsafe(32)


def credential_hash(credential: str) -> bytes:
    """What is stored of a credential; a slow hash would add nothing to 256 random bits."""
    return hashlib.sha256(credential.encode()).digest()


async def has_users(conn: asyncpg.Connection) -> bool:
    """False only before the first start has ended."""
    return bool(await conn.fetchval("SELECT EXISTS (SELECT FROM users)"))


async def create_user(conn: asyncpg.Connection, key: bytes, *, email: str, username: str, password: str, role: Role) -> UUID:
    """Makes a user and returns the public id. Raises AccountError when the e-mail or the name is taken or out of bounds."""
    check_password(password)
    public_id = uuid7()
    try:
        await conn.execute(
            "INSERT INTO users (public_id, email, username, password_hash, role) VALUES ($1, $2, $3, $4, $5)",
            public_id, email, username, hash_password(key, password), role,
        )  # fmt: skip
    except asyncpg.UniqueViolationError as error:
        taken = f"e-mail {email}" if error.constraint_name == "users_email" else f"name {username}"
        raise AccountError(f"There is a user with the {taken} already; choose another.") from None
    except asyncpg.CheckViolationError:
        raise AccountError("An e-mail has 3 to 254 characters, a user's name 2 to 50.") from None
    return public_id


async def reset_password(conn: asyncpg.Connection, key: bytes, *, email: str, password: str) -> None:
    """Sets a user's password and ends the sessions that began before. Raises AccountError when there is no such user."""
    check_password(password)
    changed = await conn.fetchval(
        "UPDATE users SET password_hash = $2, sessions_valid_from = now() WHERE lower(email) = lower($1) RETURNING id",
        email, hash_password(key, password),
    )  # fmt: skip
    if changed is None:
        raise AccountError(f"There is no user with the e-mail {email}.")


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
