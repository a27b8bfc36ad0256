"""What every test may use: one PostgreSQL for each session (each xdist worker has its own), and migrated databases cloned in it."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
import uvloop
from parts import processes
from parts.backend import Backend
from parts.torture import pytest_addoption, pytest_collection_modifyitems, pytest_configure, row  # noqa: F401

from webmacs.postgres import Server

ROOT = Path(__file__).parents[1]
TEMPLATE = "webmacs"
"""The database that the server makes; here it is migrated once and then only copied."""


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session", autouse=True)
async def nothing_left_running() -> AsyncIterator[None]:
    """What a failed test left running is ended, or the event loop would wait for it for ever."""
    yield
    processes.end_all()


@pytest.fixture(scope="session")
def database_server() -> Iterator[Server]:
    """A running PostgreSQL 17, made for this session. It does not wait for the disk: no test here cuts the power."""
    folder = Path(tempfile.mkdtemp(prefix="webmacs-test-"))
    folder.chmod(0o755)  # the server's user must come in when root runs the tests
    server = Server(folder, configuration={"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"})
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def migrated_server(database_server: Server) -> Server:
    """The same server; its database `webmacs` has every table and today's partitions. Copy it, do not connect to it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WEBMACS_")}
    environment |= {"WEBMACS_DATABASE_URL": database_server.url, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "webmacs", "migrate"], env=environment, check=True, capture_output=True)
    return database_server


@pytest.fixture
async def database(migrated_server: Server) -> AsyncIterator[str]:
    """The URL of an empty, migrated database of this test's own."""
    async for url in _clone(migrated_server):
        yield url


@pytest.fixture(scope="module")
async def module_database(migrated_server: Server) -> AsyncIterator[str]:
    """The URL of an empty, migrated database that the tests of one module share."""
    async for url in _clone(migrated_server):
        yield url


async def _clone(server: Server) -> AsyncIterator[str]:
    name = f"test_{uuid4().hex}"
    parts = urlsplit(server.url)
    conn: asyncpg.Connection[Any] = await asyncpg.connect(urlunsplit(parts._replace(path="/postgres")))
    await conn.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield urlunsplit(parts._replace(path=f"/{name}"))
    await conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await conn.close()


@pytest.fixture(scope="module")
async def backend(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backend]:
    """A backend process that the tests of one module share, on `module_database`."""
    process = Backend(module_database, tmp_path_factory.mktemp("backend"))
    await process.start()
    yield process
    assert await process.stop() == 0, process.log


@pytest.fixture
async def conn(module_database: str) -> "AsyncIterator[asyncpg.Connection[Any]]":
    """A connection of the test's own to `module_database`: what is really stored."""
    connection = await asyncpg.connect(module_database)
    yield connection
    await connection.close()
