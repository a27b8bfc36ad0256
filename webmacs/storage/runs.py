"""Every statement on `datapoints`: runs come in as COPY bytes, charts and raw readings are read back, small runs are rewritten.

A run is a stretch of consecutive readings of one event (docs/decisions/0003-runs-not-rows.md). The core makes and reads the
payloads; here bytes only pass through.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from webmacs import ingest_core
from webmacs.clock import from_datetime, to_datetime
from webmacs.storage.copy import copy_out, copy_rows
from webmacs.storage.pool import Connection

DAY: Final = timedelta(days=1)


async def copy_runs(conn: Connection, rows: Sequence[bytes]) -> None:
    """Writes the rows of some segments (core's `Segment.rows`) in one COPY, in their order; ids are given in that order."""
    await copy_rows(conn, "datapoints", ingest_core.COPY_COLUMNS, rows)


async def copy_rewritten(conn: Connection, rows: bytes) -> None:
    """Writes runs that were written before (core's `Merged.rows`): each brings its id."""
    await copy_rows(conn, "datapoints", (*ingest_core.COPY_COLUMNS, "id"), [rows])


# Loose is what compaction may have to do with: raw, small or marked. The index `datapoints_loose` holds these runs and no others, so its
# condition stands in these statements as it stands there; 2048 is the core's SETTLED_READINGS_MIN.


async def find_loose(conn: Connection, day: datetime, before: datetime, runs_min: int, raw_before: datetime | None) -> list[int]:
    """Events with at least `runs_min` raw runs, or as many small packed ones, among those of a day that begin before an instant; and, with
    `raw_before`, those with a raw run that begins before that. Whoever has the oldest comes first."""
    rows = await conn.fetch(
        """
        SELECT event_id FROM datapoints
         WHERE created_on >= $1 AND created_on < $2 AND created_on < $3 AND (encoding = 0 OR n < 2048 OR overlapping)
         GROUP BY event_id
        HAVING count(*) FILTER (WHERE encoding = 0) >= $4 OR count(*) FILTER (WHERE encoding <> 0) >= $4
            OR min(created_on) FILTER (WHERE encoding = 0) < $5
         ORDER BY min(created_on)
        """,
        day,
        day + DAY,
        before,
        runs_min,
        raw_before,
    )
    return [row["event_id"] for row in rows]


async def read_loose(conn: Connection, day: datetime, events: Sequence[int]) -> bytes:
    """Statistics of the runs of a day from each event's first loose run on, and of the run before it, which may reach into it; all others
    before are settled and end earlier. For the core's `Compaction`."""
    return await copy_out(
        conn,
        """
        SELECT run.* FROM unnest($1::int4[]) AS e (id)
          CROSS JOIN LATERAL (
              SELECT min(created_on) AS first_on FROM datapoints
               WHERE event_id = e.id AND created_on >= $2 AND created_on < $3 AND (encoding = 0 OR n < 2048 OR overlapping)) AS loose
          CROSS JOIN LATERAL (
              SELECT coalesce(max(created_on), first_on) AS from_on FROM datapoints
               WHERE event_id = e.id AND created_on >= $2 AND created_on < $3 AND created_on < first_on) AS before
          CROSS JOIN LATERAL (
              SELECT event_id, created_on, last_on, n, experiment_id, encoding, overlapping FROM datapoints
               WHERE event_id = e.id AND created_on >= $2 AND created_on < $3 AND created_on >= from_on
               ORDER BY created_on, id LIMIT $4) AS run
         ORDER BY event_id, created_on
        """,
        events,
        day,
        day + DAY,
        ingest_core.COMPACTION_RUNS_MAX,
    )


async def take_runs(conn: Connection, day: datetime, ranges: Sequence[tuple[int, int, int]]) -> bytes:
    """Deletes the runs of a day that begin in (event id, from_us, to_us) and answers them, for the core's `Compaction.merge`."""
    return await copy_out(
        conn,
        """
        DELETE FROM datapoints AS d USING unnest($1::int4[], $2::timestamptz[], $3::timestamptz[]) AS r (event_id, from_on, to_on)
         WHERE d.event_id = r.event_id AND d.created_on >= r.from_on AND d.created_on < r.to_on
           AND d.created_on >= $4 AND d.created_on < $5
        RETURNING d.event_id, d.created_on, d.id, d.n, d.encoding, d.overlapping, d.payload
        """,
        [event_id for event_id, _, _ in ranges],
        [to_datetime(from_us) for _, from_us, _ in ranges],
        [to_datetime(to_us) for _, _, to_us in ranges],
        day,
        day + DAY,
    )


async def read_series(conn: Connection, event_id: int, start: datetime, end: datetime, max_points: int, grid: bool) -> bytes:
    """At most `max_points` buckets of one event in [start, end), as the JSON columns of the core's `Window.series`.

    Both reads see one state of the database, so a run that compaction replaces meanwhile is seen once.
    """
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        stats = await copy_out(
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
            payloads = await copy_out(
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
