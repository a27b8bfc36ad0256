"""What the command line makes and changes, each with its row of the audit log and its version in one transaction."""

from typing import Any, TypeAlias

import asyncpg

from webmacs import accounts
from webmacs.accounts import Role
from webmacs.api import sources, users
from webmacs.commands.database import COMMAND_LINE
from webmacs.http import audit
from webmacs.storage.changes import What

Database: TypeAlias = "asyncpg.Connection[Any]"


async def make_user(conn: Database, key: bytes, issuer: str | None, *, email: str, username: str, password: str, role: Role) -> None:
    """With a password that is good for a day. `issuer`: the setting sso_issuer. Raises AccountError like accounts.create_user."""
    async with conn.transaction():
        until = accounts.initial_until()
        public_id = await accounts.create_user(
            conn, key, email=email, username=username, password=password, role=role, initial_password_until=until
        )
        await _account(conn, None, await users.read(conn, issuer, public_id), "user", "create", username, "access")


async def reset_password(conn: Database, key: bytes, issuer: str | None, *, email: str, password: str) -> None:
    """Raises AccountError like accounts.reset_password."""
    async with conn.transaction():
        public_id = await conn.fetchval("SELECT public_id FROM users WHERE lower(email) = lower($1) FOR NO KEY UPDATE", email)
        before = None if public_id is None else await users.read(conn, issuer, public_id)
        await accounts.reset_password(conn, key, email=email, password=password)
        after = await users.read(conn, issuer, public_id)
        await _account(conn, before, after, "user", "password_changed", after.username, "access")


async def make_source(conn: Database, name: str) -> str:
    """Answers its credential. Raises AccountError like accounts.create_source."""
    async with conn.transaction():
        public_id, credential = await accounts.create_source(conn, name)
        await _account(conn, None, await sources.read(conn, public_id), "source", "create", name, "sources")
    return credential


async def renew_credential(conn: Database, name: str) -> str | None:
    """None when there is no such source."""
    async with conn.transaction():
        credential = await accounts.renew_credential(conn, name)
        if credential is not None:
            source = await sources.read(conn, await conn.fetchval("SELECT public_id FROM sources WHERE name = $1", name))
            await _account(conn, source, source, "source", "renew_credential", name, "sources")
    return credential


async def _account(conn: Database, before: Any, after: Any, kind: str, action: str, name: str, announced: What) -> None:
    entry, version = audit.change_of(before, after, kind, action=action, name=name)
    await audit.account(conn, COMMAND_LINE, None, [entry], [] if version is None else [version], [announced])
