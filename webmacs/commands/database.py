"""The database of this installation, for one command: the configured one, that of a running `webmacs up`, or one started for a moment."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import asyncpg
import uvloop

from webmacs import clock, postgres
from webmacs.http.audit import Actor
from webmacs.settings import Settings
from webmacs.storage import migrate
from webmacs.storage.partitions import ensure_partitions
from webmacs.storage.pool import SERVER_VERSION_MIN, DatabaseError, connect

Result = TypeVar("Result")
COMMAND_LINE: Final = Actor("system", None, "command line", None)
"""As the audit log calls whoever may read the installation's secrets."""
LOCK_S_MAX = 120.0
"""A second migration waits this long for the first."""


@contextmanager
def database_url(settings: Settings) -> Iterator[str]:
    """The URL of the installation's database, which runs until the block ends. Raises PostgresError."""
    if settings.database_url is not None:
        yield settings.database_url
    else:
        with postgres.running(settings.data_dir, settings.postgres_os_user) as url:
            yield url


async def open_connection(url: str) -> "asyncpg.Connection[Any]":
    """A connection to a database that is new enough. Raises DatabaseError with one sentence."""
    conn = await connect(url, command_timeout=LOCK_S_MAX)
    major = conn.get_server_version().major
    if major < SERVER_VERSION_MIN:
        await conn.close()
        raise DatabaseError(
            f"The database is PostgreSQL {major}, WebMACS needs {SERVER_VERSION_MIN} or newer: upgrade it, or correct WEBMACS_DATABASE_URL."
        )
    return conn


async def is_current(conn: "asyncpg.Connection[Any]") -> bool:
    """Whether the schema is the one this version knows. Raises DatabaseError when it is a newer one."""
    present, known = await migrate.revision_of(conn), migrate.head()
    if present is not None and present > known:
        raise DatabaseError(
            f"The database has schema {present}, this version of WebMACS knows {known}: start the newer version again, or restore a backup."
        )
    return present == known


async def make_partitions(conn: "asyncpg.Connection[Any]") -> None:
    await ensure_partitions(conn, clock.now_us())


def with_connection(url: str, work: "Callable[[asyncpg.Connection[Any]], Awaitable[Result]]") -> Result:
    """Runs `work` with a connection of its own and returns what it returns."""

    async def run() -> Result:
        conn = await open_connection(url)
        try:
            return await work(conn)
        finally:
            await conn.close()

    return uvloop.run(run())


def bring_up_to_date(url: str) -> bool:
    """Migrates when needed, then makes the partitions of these days; whether there was anything to migrate."""
    needed = not with_connection(url, is_current)
    if needed:
        migrate.upgrade(url)
    with_connection(url, make_partitions)
    return needed
