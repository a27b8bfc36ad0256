"""Single readings out of runs: pages of a list of them, and the deletion of some.

A page opens the runs that it needs and no others, so that page 10,000 costs what page 1 costs. Deletion rewrites the runs that it touches,
under the same lock as compaction: see docs/decisions/0013-readings-by-rest.md.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from webmacs import ingest_core
from webmacs.clock import from_datetime, to_datetime
from webmacs.storage import runs
from webmacs.storage.copy import copy_out
from webmacs.storage.pool import Connection

REWRITE_LOCK: Final = 7_305_801_003
"""Whoever deletes runs to write others in their place holds this advisory lock meanwhile: compaction and deletion."""
WINDOWS_MAX: Final = 4
"""A page looks into so many windows and is then answered, though it may be short: the next one goes on."""
ERASED_RUNS_MAX: Final = 2_000
"""One deletion opens no more runs; at 10 readings a second these are some minutes before they are compacted, and weeks afterwards."""
ERASED_READINGS_MAX: Final = 4_000_000
MICROSECOND: Final = timedelta(microseconds=1)
EVENT_ID_MAX: Final = 2**31 - 1

Place = tuple[int, int]
"""(µs since 1970, event id): where a reading stands in a list of several events."""
Listed = tuple[int, int, float, int | None]
"""(event id, µs since 1970, value, experiment id)"""


class TooMuch(Exception):
    """A deletion would open more runs than it may."""


@dataclass(frozen=True, slots=True)
class Range:
    """Half open. Both ends are given, so that no page looks at more days than there are partitions for."""

    start: datetime
    end: datetime


async def read_page(
    conn: Connection, events: Sequence[int], within: Range, after: Place | None, newest_first: bool, limit: int
) -> tuple[list[Listed], Place | None]:
    """(at most `limit` readings of these events that come after a place, the place to go on from or None when there are no more)."""
    page: list[Listed] = []
    for _ in range(WINDOWS_MAX):
        window = await _next_window(conn, events, within, after, newest_first, limit)
        if window is None:
            return page, None
        stored = await _read_runs(conn, events, window)
        found = await asyncio.to_thread(
            ingest_core.list_readings,
            stored, from_datetime(window.start), from_datetime(window.end), after, newest_first, limit - len(page),
        )  # fmt: skip
        page += found
        if len(page) == limit:
            return page, (page[-1][1], page[-1][0])
        # The window was read to its end: the next one begins behind it.
        after = (from_datetime(window.start) - 1, EVENT_ID_MAX) if newest_first else (from_datetime(window.end), 0)
    return page, after


async def read_one(conn: Connection, event_id: int, t_us: int) -> Listed | None:
    moment = to_datetime(t_us)
    stored = await _read_runs(conn, [event_id], Range(moment, moment + MICROSECOND))
    found = ingest_core.list_readings(stored, t_us, t_us + 1, None, False, 1)
    return found[0] if found else None


async def _next_window(
    conn: Connection, events: Sequence[int], within: Range, after: Place | None, newest_first: bool, limit: int
) -> Range | None:
    """A stretch of time that holds the next `limit` readings or more of one of these events, and of each other not many more than that;
    None when nothing is left. It is found by the statistics of at most `limit` runs of each event."""
    if after is not None:
        moment = to_datetime(after[0])
        within = (
            Range(within.start, min(within.end, moment + MICROSECOND)) if newest_first else Range(max(within.start, moment), within.end)
        )
    if within.start >= within.end:
        return None
    if newest_first:
        edge = await conn.fetchval(
            """
            SELECT max(edge) FROM unnest($1::int4[]) AS e (id) CROSS JOIN LATERAL (
                SELECT max(created_on) FILTER (WHERE upto >= $4) AS edge FROM (
                    SELECT created_on, sum(n) OVER (ORDER BY created_on DESC, id DESC) AS upto FROM (
                        SELECT created_on, id, n FROM datapoints WHERE event_id = e.id AND created_on >= $2 AND created_on < $3
                         ORDER BY created_on DESC, id DESC LIMIT $4) AS newest) AS counted) AS of_event
            """,
            events, within.start, within.end, limit,
        )  # fmt: skip
        return Range(max(within.start, edge or within.start), within.end)
    edge = await conn.fetchval(
        """
        SELECT min(edge) FROM unnest($1::int4[]) AS e (id) CROSS JOIN LATERAL (
            SELECT min(last_on) FILTER (WHERE upto >= $4) AS edge FROM (
                SELECT last_on, sum(n) OVER (ORDER BY created_on, id) AS upto FROM (
                    SELECT created_on, last_on, id, n FROM datapoints WHERE event_id = e.id AND created_on >= $2 AND created_on < $3
                     ORDER BY created_on, id LIMIT $4) AS oldest) AS counted) AS of_event
        """,
        events, within.start, within.end, limit,
    )  # fmt: skip
    return Range(within.start, within.end if edge is None else min(within.end, edge + MICROSECOND))


COLUMNS: Final = "event_id, created_on, id, n, experiment_id, encoding, overlapping, payload"


async def _read_runs(conn: Connection, events: Sequence[int], window: Range) -> bytes:
    """All runs of these events that touch the window, for the core's `list_readings`."""
    return await copy_out(
        conn,
        f"""
        SELECT {COLUMNS} FROM unnest($1::int4[]) AS e (of_event) CROSS JOIN LATERAL (
            (SELECT * FROM datapoints                                          -- the one that may reach in from before
              WHERE event_id = of_event AND created_on < $2 AND created_on >= $4 AND NOT overlapping ORDER BY created_on DESC LIMIT 1)
            UNION ALL
            (SELECT * FROM datapoints                                          -- few, by their partial index
              WHERE event_id = of_event AND created_on < $2 AND created_on >= $4 AND overlapping AND last_on >= $2)
            UNION ALL
            (SELECT * FROM datapoints WHERE event_id = of_event AND created_on >= $2 AND created_on < $3)) AS touching
         WHERE last_on >= $2
        """,  # noqa: S608 - ours
        events, window.start, window.end, _midnight(window.start),
    )  # fmt: skip


def _midnight(moment: datetime) -> datetime:
    """No run crosses midnight UTC: older partitions stay shut."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


@asynccontextmanager
async def rewriting(conn: Connection) -> AsyncIterator[None]:
    """Nobody else rewrites runs until the block ends. Before a transaction: one that began earlier could not see what they wrote."""
    await conn.execute("SELECT pg_advisory_lock($1)", REWRITE_LOCK)
    try:
        yield
    finally:
        if not conn.is_closed():
            await conn.execute("SELECT pg_advisory_unlock($1)", REWRITE_LOCK)


async def erase(conn: Connection, event_id: int, within: Range) -> int:
    """Deletes what is stored of an event in a range, in the caller's transaction (READ COMMITTED), and answers how many readings that was.
    Waits for a compaction under way, and lets no flush of this event commit from its end until that of the transaction.

    Raises TooMuch, before anything is deleted, and CorruptPayload.
    """
    await conn.execute("SELECT pg_advisory_xact_lock($1)", REWRITE_LOCK)
    touching = "d.event_id = $1 AND d.created_on < $3 AND d.last_on >= $2 AND d.created_on >= $4"
    arguments = (event_id, within.start, within.end, _midnight(within.start))
    count, readings = await conn.fetchrow(
        f"SELECT count(*), coalesce(sum(n), 0) FROM (SELECT n FROM datapoints d WHERE {touching} LIMIT $5) AS touched",  # noqa: S608
        *arguments, ERASED_RUNS_MAX + 1,
    ) or (0, 0)  # fmt: skip
    if count > ERASED_RUNS_MAX or readings > ERASED_READINGS_MAX:
        raise TooMuch
    taken = await copy_out(conn, f"DELETE FROM datapoints d WHERE {touching} RETURNING {COLUMNS}", *arguments)  # noqa: S608 - ours
    left, erased = await asyncio.to_thread(ingest_core.erase_readings, taken, from_datetime(within.start), from_datetime(within.end))
    await runs.copy_rewritten(conn, left)
    await _mend_latest(conn, event_id, within)
    return erased


async def _mend_latest(conn: Connection, event_id: int, within: Range) -> None:
    """`latest` is what is stored last again. Under the writer's lock, which every flush takes: what one commits is seen here, or comes
    after. It is also the event's frontier, which must never lie before anything stored."""
    if not await conn.fetchval(
        "SELECT true FROM latest WHERE event_id = $1 AND created_on >= $2 AND created_on < $3", event_id, within.start, within.end
    ):
        return  # it only moves forward, but for what happens here
    await conn.execute("SELECT FROM writers w JOIN events e ON e.writer_id = w.id WHERE e.id = $1 FOR NO KEY UPDATE OF w", event_id)
    newest = await conn.fetchrow(
        """
        SELECT d.last_on, d.last, d.experiment_id FROM latest l CROSS JOIN LATERAL (
            SELECT max(created_on) AS begun_on FROM datapoints WHERE event_id = $1) AS newest
          LEFT JOIN LATERAL (
            SELECT last_on, last, experiment_id, id FROM datapoints                -- of that day: a longer run may have begun before
             WHERE event_id = $1 AND created_on >= date_trunc('day', begun_on, 'UTC') ORDER BY last_on DESC, id DESC LIMIT 1) AS d ON true
         WHERE l.event_id = $1 AND l.created_on >= $2 AND l.created_on < $3
        """,
        event_id, within.start, within.end,
    )  # fmt: skip
    if newest is None:
        return
    if newest["last_on"] is None:
        await conn.execute("DELETE FROM latest WHERE event_id = $1", event_id)
    else:
        await conn.execute("UPDATE latest SET created_on = $2, value = $3, experiment_id = $4 WHERE event_id = $1", event_id, *newest)
