"""What the database really holds, reading by reading: read without the system's own queries and counters."""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import asyncpg

from webmacs import ingest_core
from webmacs.clock import from_datetime


async def readings(conn: "asyncpg.Connection[Any]", source: str, key: str) -> list[tuple[int, float]]:
    """Every stored (time in µs, value) of a source's channel in the order of writing, duplicates included."""
    rows = await conn.fetch(
        """SELECT d.created_on, d.encoding, d.payload, d.n FROM datapoints d
             JOIN events e ON e.id = d.event_id JOIN writers w ON w.id = e.writer_id JOIN sources s ON s.id = w.source_id
            WHERE s.name = $1 AND e.channel_key = $2 ORDER BY d.id""",
        source,
        key,
    )
    found: list[tuple[int, float]] = []
    for row in rows:
        times, values = ingest_core.decode_run(from_datetime(row["created_on"]), row["encoding"], row["payload"])
        assert len(times) == 8 * row["n"]
        found += zip(struct.unpack(f"<{row['n']}q", times), struct.unpack(f"<{row['n']}d", values), strict=True)
    return found


async def events_of(conn: "asyncpg.Connection[Any]", source: str) -> dict[str, int]:
    """Channel key -> id of the events that a source writes."""
    found = await conn.fetch(
        """SELECT e.channel_key, e.id FROM events e JOIN writers w ON w.id = e.writer_id JOIN sources s ON s.id = w.source_id
            WHERE s.name = $1 AND e.deleted_on IS NULL""",
        source,
    )
    return {row["channel_key"]: row["id"] for row in found}


class Gap(NamedTuple):
    stream: bytes
    seq: int
    event_id: int | None
    from_us: int | None
    to_us: int | None
    n: int | None
    cause: str


async def gaps(conn: "asyncpg.Connection[Any]", source: str) -> list[Gap]:
    """Everything that is declared as missing by a source, duplicates included; of a refusal the times are not known."""
    found = await conn.fetch(
        """SELECT g.stream, g.seq, g.event_id, g.from_on, g.to_on, g.n, g.cause FROM gaps g JOIN sources s ON s.id = g.source_id
            WHERE s.name = $1 ORDER BY g.id""",
        source,
    )
    return [Gap(*row[:3], *(None if at is None else from_datetime(at) for at in row[3:5]), *row[5:]) for row in found]


async def rows(conn: "asyncpg.Connection[Any]", query: str, *args: object) -> Sequence[tuple[Any, ...]]:
    return [tuple(row) for row in await conn.fetch(query, *args)]


async def readings_of(conn: "asyncpg.Connection[Any]", event_id: int) -> dict[int, float]:
    """Time in µs -> the value that the newest written run has there. Raises as `pairs_of`."""
    return dict(await pairs_of(conn, event_id))


async def pairs_of(conn: "asyncpg.Connection[Any]", event_id: int) -> list[tuple[int, float]]:
    """Every stored (time in µs, value) of an event in the order of writing, duplicates included. Raises AssertionError for a run whose
    statistics are not those of its readings."""
    found: list[tuple[int, float]] = []
    for run in await conn.fetch("SELECT * FROM datapoints WHERE event_id = $1 ORDER BY id, created_on", event_id):
        times, values = ingest_core.decode_run(from_datetime(run["created_on"]), run["encoding"], run["payload"])
        own = dict(zip(struct.unpack(f"<{run['n']}q", times), struct.unpack(f"<{run['n']}d", values), strict=True))
        assert (run["n"], run["min"], run["max"]) == (len(own), min(own.values()), max(own.values()))
        assert (from_datetime(run["created_on"]), from_datetime(run["last_on"])) == (min(own), max(own))
        found += own.items()
    return found
