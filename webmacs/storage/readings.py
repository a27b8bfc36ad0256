"""Single readings out of runs, page by page: a page opens the runs that it needs and no others, so that page 10,000 costs what page 1
costs. See docs/decisions/0015-readings-by-rest.md."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from webmacs import ingest_core
from webmacs.clock import from_datetime, to_datetime
from webmacs.storage.copy import copy_out
from webmacs.storage.pool import Connection

WINDOWS_MAX: Final = 4
"""A page looks into so many windows and is then answered, though it may be short: the next one goes on."""
ERASED_RUNS_MAX: Final = 20_000
"""One request deletes no more; at 10 readings a second these are half an hour before they are compacted, and months afterwards."""
MICROSECOND: Final = timedelta(microseconds=1)
EVENT_ID_MAX: Final = 2**31 - 1

Place = tuple[int, int]
"""(µs since 1970, event id): where a reading stands in a list of several events."""
Listed = tuple[int, int, float, int | None]
"""(event id, µs since 1970, value, experiment id)"""


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


COLUMNS: Final = "event_id, created_on, id, n, experiment_id, encoding, payload"


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


async def has_many_runs(conn: Connection, event_id: int, within: Range) -> bool:
    """Whether more than ERASED_RUNS_MAX runs of an event touch the range."""
    count: int = await conn.fetchval(
        """SELECT count(*) FROM (
               SELECT FROM datapoints WHERE event_id = $1 AND created_on >= $4 AND created_on < $3 AND last_on >= $2
                LIMIT $5) AS touching""",
        event_id, within.start, within.end, _midnight(within.start), ERASED_RUNS_MAX + 1,
    )  # fmt: skip
    return count > ERASED_RUNS_MAX
