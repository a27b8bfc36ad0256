"""Rows by binary COPY: what the core encoded into a table, and what a query gives to the core."""

from collections.abc import AsyncIterator, Sequence

from webmacs import ingest_core
from webmacs.storage.pool import Connection


async def copy_rows(conn: Connection, table: str, columns: Sequence[str], rows: Sequence[bytes]) -> int:
    """Writes the parts in their order and answers how many rows they held."""

    async def stream() -> AsyncIterator[bytes]:
        yield ingest_core.COPY_HEADER
        for part in rows:
            yield part
        yield ingest_core.COPY_TRAILER

    status: str = await conn.copy_to_table(table, source=stream(), columns=columns, format="binary")
    return int(status.removeprefix("COPY "))


async def copy_out(conn: Connection, query: str, *args: object) -> bytes:
    out = bytearray()

    async def write(data: bytes) -> None:
        out.extend(data)

    await conn.copy_from_query(query, *args, output=write, format="binary")
    return bytes(out)
