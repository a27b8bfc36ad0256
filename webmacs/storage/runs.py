"""Every statement on `datapoints`: runs come in as COPY bytes, charts and raw readings are read back.

A run is a stretch of consecutive readings of one event (docs/decisions/0003-runs-not-rows.md). The core makes and reads the
payloads; here bytes only pass through.
"""

from collections.abc import Sequence
from datetime import datetime

from webmacs import ingest_core
from webmacs.clock import from_datetime, to_datetime
from webmacs.storage.copy import copy_rows
from webmacs.storage.pool import Connection


async def copy_runs(conn: Connection, rows: Sequence[bytes]) -> None:
    """Writes the rows of some segments (core's `Segment.rows`) in one COPY, in their order; ids are given in that order."""
    await copy_rows(conn, "datapoints", ingest_core.COPY_COLUMNS, rows)


async def read_series(conn: Connection, event_id: int, start: datetime, end: datetime, max_points: int, grid: bool) -> bytes:
    """At most `max_points` buckets of one event in [start, end), as the JSON columns of the core's `Window.series`.

    Both reads see one state of the database, so a run that compaction replaces meanwhile is seen once.
    """
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        stats = await _copy_out(
            conn,
            """
            SELECT created_on, id, last_on, n, min, max, sum, first, last, encoding, overlapping FROM (
                (SELECT * FROM datapoints                                      -- the one that may reach in from before
                  WHERE event_id = $1 AND created_on < $2 AND created_on >= $4 AND NOT overlapping
                  ORDER BY created_on DESC LIMIT 1)
                UNION ALL
                (SELECT * FROM datapoints                                      -- few, by their partial index
                  WHERE event_id = $1 AND created_on < $2 AND created_on >= $4 AND overlapping AND last_on >= $2)
                UNION ALL
                (SELECT * FROM datapoints
                  WHERE event_id = $1 AND created_on >= $2 AND created_on < $3)) AS runs
             WHERE last_on >= $2 ORDER BY created_on, id
            """,
            event_id,
            start,
            end,
            start.replace(hour=0, minute=0, second=0, microsecond=0),  # no run crosses midnight UTC: older partitions stay shut
        )
        window = ingest_core.Window(stats, from_datetime(start), from_datetime(end), max_points, grid)
        wanted = window.wanted
        payloads = b""
        if wanted:
            payloads = await _copy_out(
                conn,
                """
                SELECT d.created_on, d.id, d.encoding, d.payload
                  FROM unnest($2::timestamptz[], $3::int8[]) AS w (created_on, id)
                  JOIN datapoints d USING (created_on, id)
                 WHERE d.event_id = $1 AND d.created_on BETWEEN $4 AND $5
                """,
                event_id,
                [to_datetime(created_us) for created_us, _ in wanted],
                [run_id for _, run_id in wanted],
                to_datetime(min(wanted)[0]),
                to_datetime(max(wanted)[0]),
            )
    return window.series(payloads)


async def _copy_out(conn: Connection, query: str, *args: object) -> bytes:
    out = bytearray()

    async def write(data: bytes) -> None:
        out.extend(data)

    await conn.copy_from_query(query, *args, output=write, format="binary")
    return bytes(out)
