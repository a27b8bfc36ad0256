"""A whole installation for one measurement: a database that waits for the disk, and a backend, in a folder of their own."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from parts.backend import Backend
from webmacs import accounts
from webmacs.postgres import Server

ROOT = Path(__file__).parents[1]


class System:
    """`backend` serves, `database` is the address of its PostgreSQL, which runs as production does (fsync on)."""

    def __init__(self, server: Server, backend: Backend) -> None:
        self.server = server
        self.backend = backend
        self.database = backend.database

    async def make_sources(self, count: int) -> list[str]:
        conn = await asyncpg.connect(self.database)
        try:
            return [(await accounts.create_source(conn, f"bench {number}"))[1] for number in range(1, count + 1)]
        finally:
            await conn.close()

    async def stored(self) -> int:
        """The sum of n over every stored run."""
        conn = await asyncpg.connect(self.database)
        try:
            return int(await conn.fetchval("SELECT coalesce(sum(n), 0) FROM datapoints"))
        finally:
            await conn.close()


@asynccontextmanager
async def run_system(*, compacting: bool = True, **settings: str) -> AsyncIterator[System]:
    """`settings` are the backend's, as WEBMACS_<NAME> in its environment."""
    folder = Path(tempfile.mkdtemp(prefix="webmacs-bench-"))
    folder.chmod(0o755)  # the server's user must come in when root measures
    server = Server(folder)
    server.start()
    try:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WEBMACS_")}
        environment["WEBMACS_DATABASE_URL"] = server.url
        migration = await asyncio.create_subprocess_exec(sys.executable, "-m", "webmacs", "migrate", cwd=ROOT, env=environment)
        if await migration.wait() != 0:
            raise SystemExit("the database could not be migrated")
        backend = Backend(server.url, folder, compacting=compacting, **settings)
        await backend.start()
        try:
            yield System(server, backend)
        finally:
            await backend.stop()
    finally:
        await asyncio.to_thread(server.stop)
        shutil.rmtree(folder, ignore_errors=True)
