"""Readings are deleted: the runs that lie in the range go whole, those at its edges are written anew without what lies in it.

Each part of a run keeps the run's id and mark, so that readers and compaction judge what is left as before
(docs/decisions/0010-compaction.md). What a flush commits meanwhile was written later, and stays.
"""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from webmacs import ingest_core
from webmacs.clock import from_datetime
from webmacs.storage import latest, partitions, runs
from webmacs.storage.compact import experiments_of
from webmacs.storage.pool import Connection


async def erase(conn: Connection, event_id: int, start: datetime, end: datetime) -> int:
    """Deletes the readings of one event in [start, end), each day in a transaction (or in the caller's), and mends `latest`. Answers how
    many were stored there, those that had been overwritten included. Raises CorruptPayload when a run at an edge cannot be read; that day
    then stays as it was."""
    erased = 0
    for begin, until in days_within(await partitions.present(conn), start, end):
        async with conn.transaction():
            await runs.lock_rewriting(conn)
            erased += await runs.delete_within(conn, event_id, begin, until)
            erased += await _cut(conn, event_id, begin, until)
            await latest.mend(conn, event_id, begin, until)
    return erased


def days_within(days: Sequence[datetime], start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The parts of [start, end) that lie in these days, in UTC."""
    for day in days:
        begin, until = max(start.astimezone(UTC), day), min(end.astimezone(UTC), day + runs.DAY)
        if begin < until:
            yield begin, until


async def _cut(conn: Connection, event_id: int, start: datetime, end: datetime) -> int:
    """The runs that reach over an edge of [start, end), which lies within a day."""
    touching = await runs.take_touching(conn, event_id, start, end)
    experiments = await experiments_of(conn, start.replace(hour=0, minute=0, second=0, microsecond=0))
    left, erased = await asyncio.to_thread(ingest_core.erase, touching, from_datetime(start), from_datetime(end), experiments)
    if left:
        await runs.copy_rewritten(conn, left)
    return erased
