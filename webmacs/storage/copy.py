"""Rows by COPY: what the core encoded into a table, records into a table, and what a query gives to the core."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import asyncpg

from webmacs import ingest_core
from webmacs.storage.pool import Connection

COPY_S_MAX: Final = 30.0
"""For so long a COPY may take; then its connection is given up."""


async def copy_rows(conn: Connection, table: str, columns: Sequence[str], rows: Iterable[bytes]) -> int:
    """Writes the parts in their order and answers how many rows they held."""

    async def stream() -> AsyncIterator[bytes]:
        yield ingest_core.COPY_HEADER
        for part in rows:
            yield part
        yield ingest_core.COPY_TRAILER

    async with _noticing_its_end(conn):
        status: str = await conn.copy_to_table(table, source=stream(), columns=columns, format="binary")
    return int(status.removeprefix("COPY "))


async def copy_records(conn: Connection, table: str, columns: Sequence[str], records: Iterable[Sequence[object]]) -> None:
    async with _noticing_its_end(conn):
        await conn.copy_records_to_table(table, columns=columns, records=records)


async def copy_out(conn: Connection, query: str, *args: object) -> bytes:
    out = bytearray()

    async def write(data: bytes) -> None:
        out.extend(data)

    await conn.copy_from_query(query, *args, output=write, format="binary")
    return bytes(out)


@asynccontextmanager
async def _noticing_its_end(conn: Connection) -> AsyncIterator[None]:
    """While the server takes nothing, the driver waits for room, without a limit, and does not notice that the connection ended
    meanwhile; what it then writes is an error of the event loop or of its own. Raises ConnectionDoesNotExistError instead."""
    over = False

    def end(_conn: Connection) -> None:
        if not over:
            limit.reschedule(0)

    conn.add_termination_listener(end)
    try:
        async with asyncio.timeout(COPY_S_MAX) as limit:
            try:
                yield
            finally:
                over = True
    except (TimeoutError, RuntimeError, AttributeError) as error:
        with suppress(asyncpg.InterfaceError):  # the pool has taken a connection back that ended
            if not limit.expired() and not conn.is_closed():
                raise
            conn.terminate()
        raise asyncpg.ConnectionDoesNotExistError("the connection ended during COPY, or took nothing for too long") from error
    finally:
        with suppress(asyncpg.InterfaceError):
            conn.remove_termination_listener(end)
