"""The whole application in this process, reached as a client would, and one signed-in user of each role."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import httpx
import pytest
from starlette.applications import Starlette

from parts.limits import UNLIMITED
from webmacs import accounts, keys
from webmacs.app import create_app
from webmacs.http import guard
from webmacs.settings import Settings
from webmacs.storage.ids import uuid7

PASSWORD: Final = "correct horse battery"
ORIGIN: Final = "http://webmacs.test"
ROLES: Final = ("viewer", "operator", "admin")


@dataclass
class Rest:
    app: Starlette
    data_dir: Path
    database: str
    users: dict[str, UUID]
    source: UUID
    tokens: dict[str, str]
    """By role; "source" is the source's credential."""

    def client(self, role: str | None = None, address: str = "127.0.0.1") -> httpx.AsyncClient:
        """Without a role: somebody with no credential."""
        headers = {} if role is None else {"Authorization": f"Bearer {self.tokens[role]}"}
        transport = httpx.ASGITransport(self.app, client=(address, 50_000))
        return httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers)

    @property
    def session_key(self) -> bytes:
        return guard.session_key(keys.load_or_make_signing_key(self.data_dir))

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        conn = await asyncpg.connect(self.database)
        try:
            yield conn
        finally:
            await conn.close()


@asynccontextmanager
async def serve(database: str, data_dir: Path, **given: Any) -> AsyncIterator[Rest]:
    """Runs the application's lifespan around the block. Users are called as their role, with PASSWORD."""
    password_hash = accounts.hash_password(accounts.password_key(keys.load_or_make_installation_key(data_dir)), PASSWORD)
    conn: asyncpg.Connection[Any] = await asyncpg.connect(database)
    users = {}
    for role in ROLES:
        users[role] = uuid7()
        await conn.execute(
            "INSERT INTO users (public_id, email, username, password_hash, role) VALUES ($1, $2, $3, $4, $3)",
            users[role], f"{role}@example.org", role, password_hash,
        )  # fmt: skip
    source, credential = await accounts.create_source(conn, "source")
    key = guard.session_key(keys.load_or_make_signing_key(data_dir))
    tokens = {role: await begin_session(conn, key, users[role]) for role in ROLES} | {"source": credential}
    await conn.close()
    app = create_app(Settings.model_validate({"data_dir": data_dir, "database_url": database, "database_pool_size": 3} | UNLIMITED | given))
    async with app.router.lifespan_context(app):
        yield Rest(app, data_dir, database, users, source, tokens)


async def begin_session(conn: Any, key: bytes, user: UUID, *, confirmed_for: timedelta = timedelta(days=1)) -> str:
    """A session's token. However long the tests take, the password counts as given just now."""
    user_id, valid_from = await conn.fetchrow("SELECT id, sessions_valid_from FROM users WHERE public_id = $1", user)
    token = guard.issue_token(key, user, valid_from)
    await conn.execute(
        """INSERT INTO sessions (jti, user_id, begun_on, last_used_on, expires_on, confirmed_on, address, user_agent)
           VALUES ($1, $2, $3, $3, $4, $5, '127.0.0.1', 'test')""",
        token.jti, user_id, token.issued_on, token.expires_on, token.issued_on + confirmed_for,
    )  # fmt: skip
    return token.text


@pytest.fixture(scope="module")
async def rest(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rest]:
    """One application for all tests of a module: starting it costs more than most of them."""
    async with serve(module_database, tmp_path_factory.mktemp("data")) as served:
        yield served
