"""The whole application in this process, reached as a client would, and one signed-in user of each role."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
    signing_key = keys.load_or_make_signing_key(data_dir)
    password_hash = accounts.hash_password(accounts.password_key(signing_key), PASSWORD)
    conn: asyncpg.Connection[Any] = await asyncpg.connect(database)
    users = {}
    for role in ROLES:
        users[role] = uuid7()
        await conn.execute(
            "INSERT INTO users (public_id, email, username, password_hash, role) VALUES ($1, $2, $3, $4, $3)",
            users[role], f"{role}@example.org", role, password_hash,
        )  # fmt: skip
    source, credential = await accounts.create_source(conn, "source")
    valid_from = await conn.fetchval("SELECT max(sessions_valid_from) FROM users")
    await conn.close()
    key = guard.session_key(signing_key)
    tokens = {role: guard.issue_token(key, users[role], valid_from).text for role in ROLES} | {"source": credential}
    app = create_app(Settings.model_validate({"data_dir": data_dir, "database_url": database, "database_pool_size": 3} | UNLIMITED | given))
    async with app.router.lifespan_context(app):
        yield Rest(app, data_dir, database, users, source, tokens)


@pytest.fixture(scope="module")
async def rest(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rest]:
    """One application for all tests of a module: starting it costs more than most of them."""
    async with serve(module_database, tmp_path_factory.mktemp("data")) as served:
        yield served
