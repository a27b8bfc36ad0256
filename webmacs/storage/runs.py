"""Every statement on `datapoints`: runs come in as COPY bytes, charts and raw readings are read back, small runs are rewritten.

A run is a stretch of consecutive readings of one event (docs/decisions/0003-runs-not-rows.md). The core makes and reads the
payloads; here bytes only pass through.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from webmacs import ingest_core
from webmacs.clock import from_datetime, to_datetime
from webmacs.storage.copy import copy_out, copy_rows
from webmacs.storage.pool import Connection, Pool

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


async def lock_rewriting(conn: Connection) -> None:
    """First thing in a transaction that takes runs away and writes others in their place: of these there is one at a time. LOCK TABLE and
    no advisory lock, because it comes before the transaction's snapshot: what is seen then is what the one before left."""
    await conn.execute("LOCK TABLE rewriting IN EXCLUSIVE MODE")


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


async def find_events(conn: Connection, among: Sequence[int] | None, start: datetime, end: datetime) -> list[int]:
    """Those events (of `among`, or None: of all) that have readings in [start, end), within a day."""
    has_some = "created_on >= $1 AND created_on < $3 AND last_on >= $2"
    query = (
        f"SELECT DISTINCT event_id FROM datapoints WHERE {has_some} ORDER BY event_id"  # noqa: S608 - ours
        if among is None
        else f"""SELECT e.id AS event_id FROM unnest($4::int4[]) AS e (id)
                  WHERE EXISTS (SELECT FROM datapoints WHERE event_id = e.id AND {has_some}) ORDER BY e.id"""  # noqa: S608 - ours
    )
    rows = await conn.fetch(query, _midnight(start), start, end, *(() if among is None else (among,)))
    return [row["event_id"] for row in rows]


async def read_newest(conn: Connection, event_id: int, day: datetime) -> tuple[datetime, float, int | None] | None:
    """(time, value, experiment id) of the newest reading that an event has on a day."""
    row = await conn.fetchrow(
        """
        SELECT last_on, last, experiment_id FROM (
            (SELECT * FROM datapoints WHERE event_id = $1 AND created_on >= $2 AND created_on < $3 AND NOT overlapping
              ORDER BY created_on DESC LIMIT 1)                                -- these do not overlap one another
            UNION ALL
            (SELECT * FROM datapoints WHERE event_id = $1 AND created_on >= $2 AND created_on < $3 AND overlapping)) AS runs
         ORDER BY last_on DESC, id DESC LIMIT 1
        """,
        event_id,
        day,
        day + DAY,
    )
    return None if row is None else tuple(row)


async def delete_within(conn: Connection, event_id: int, start: datetime, end: datetime) -> int:
    """Deletes the runs of one event that lie in [start, end) whole. Answers how many readings they held."""
    held: int = await conn.fetchval(
        """
        WITH gone AS (DELETE FROM datapoints WHERE event_id = $1 AND created_on >= $2 AND created_on < $3 AND last_on < $3 RETURNING n)
        SELECT coalesce(sum(n), 0) FROM gone
        """,
        event_id,
        start,
        end,
    )
    return held


async def take_touching(conn: Connection, event_id: int, start: datetime, end: datetime) -> bytes:
    """Deletes the runs of one event that have something of [start, end), within a day, and answers them, for the core's `erase`."""
    return await copy_out(
        conn,
        """
        DELETE FROM datapoints WHERE event_id = $1 AND created_on >= $2 AND created_on < $4 AND last_on >= $3
        RETURNING event_id, created_on, id, n, encoding, overlapping, payload
        """,
        event_id,
        _midnight(start),
        start,
        end,
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
            _midnight(start),
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


async def read_first(conn: Connection | Pool, event_id: int) -> datetime | None:
    """The time of the oldest reading that is stored."""
    first: datetime | None = await conn.fetchval(
        "SELECT created_on FROM datapoints WHERE event_id = $1 ORDER BY created_on LIMIT 1", event_id
    )
    return first


async def read_statistics(conn: Connection | Pool, event_ids: Sequence[int], start: datetime, end: datetime) -> list[asyncpg.Record]:
    """What the runs that begin in [start, end) say without being opened, a row for each event in the order asked for: n, min, max, sum,
    first, first_on, last, last_on, bytes (of payloads), all but n and bytes None without readings, and `exact`.

    It is exact unless a run crosses an edge of the window or overlaps another: until compaction has merged these, what lies outside may be
    counted, and what was overwritten counts twice. `end` lies at most 40 days after `start`.
    """
    return await conn.fetch(
        """
        SELECT coalesce(runs.n, 0) AS n, runs.min, runs.max, runs.sum, runs.first, runs.first_on, runs.last, runs.last_on,
               coalesce(runs.bytes, 0) AS bytes,
               NOT coalesce(runs.loose, false) AND NOT coalesce(before.last_on >= $2, false) AND NOT EXISTS (
                   SELECT FROM datapoints WHERE event_id = e.id AND created_on < $2 AND created_on >= $4 AND overlapping AND last_on >= $2
               ) AS exact
          FROM unnest($1::int4[]) WITH ORDINALITY AS e (id, place)
          CROSS JOIN LATERAL (
              SELECT sum(n)::int8 AS n, min(min) AS min, max(max) AS max, sum(sum) AS sum,
                     (array_agg(first ORDER BY created_on, id))[1] AS first, min(created_on) AS first_on,
                     (array_agg(last ORDER BY last_on DESC, id DESC))[1] AS last, max(last_on) AS last_on,
                     sum(octet_length(payload))::int8 AS bytes, bool_or(overlapping OR last_on >= $3) AS loose
                FROM datapoints WHERE event_id = e.id AND created_on >= $2 AND created_on < $3) AS runs
          LEFT JOIN LATERAL (
              SELECT last_on FROM datapoints
               WHERE event_id = e.id AND created_on < $2 AND created_on >= $4 AND NOT overlapping
               ORDER BY created_on DESC LIMIT 1) AS before ON true
         ORDER BY e.place
        """,
        event_ids,
        start,
        end,
        _midnight(start),
    )


def _midnight(moment: datetime) -> datetime:
    """The beginning of its day UTC: no run crosses it, so older partitions stay shut."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)
