"""The readings of a range are deleted: of an experiment, of events that go, or as somebody asks. Event by event, a day at a time."""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from webmacs.http.audit import Actor
from webmacs.http.problem import Problem
from webmacs.ingest_core import CoreError
from webmacs.jobs import queue
from webmacs.jobs.queue import Job
from webmacs.jobs.runner import Kind, Work
from webmacs.storage import partitions, runs
from webmacs.storage.erase import days_within, erase
from webmacs.storage.pool import Connection

DELETE_READINGS: Final = "delete_readings"
ALWAYS: Final = (datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC))
"""From before the first to after the last reading there can be."""


class Deletion(msgspec.Struct, frozen=True):
    """What to delete: the readings in [start, end)."""

    event_ids: list[int] | None
    """None: of every event. Ids, because an event may be gone by then."""
    start: datetime
    end: datetime
    with_events: bool = False
    """These events were deleted, nothing comes to them any more, and [start, end) is everything: they go when their readings are gone."""


async def delete_readings(conn: Connection, deletion: Deletion, subject: str, owner: Actor) -> Job:
    """Asks for it, in the transaction of whatever it belongs to; it begins after the commit."""
    return await queue.enqueue(conn, DELETE_READINGS, subject, deletion, owner)


async def _work(work: Work) -> dict[str, Any]:
    asked = msgspec.convert(dict(work.parameters), Deletion)
    erased, touched = 0, set()
    days = list(days_within(await partitions.present(work.conn), asked.start, asked.end))
    for number, (start, end) in enumerate(days):
        events = await runs.find_events(work.conn, asked.event_ids, start, end)
        for index, event_id in enumerate(events):
            work.at((number + index / len(events)) / len(days), f"{start.date()}: {erased:,} readings deleted so far")
            try:
                erased += await erase(work.conn, event_id, start, end)
            except CoreError as error:
                raise Problem(
                    500, "unreadable-run", "A run cannot be read",
                    f"{error}. What is before {start.isoformat()} is deleted; a range that holds this run whole can be deleted unread.",
                ) from None  # fmt: skip
            touched.add(event_id)
    if asked.with_events:
        await work.conn.execute("DELETE FROM events WHERE id = ANY($1) AND deleted_on IS NOT NULL", asked.event_ids)
    return {"readings": erased, "events": len(touched)}


KIND: Final = Kind(_work, repeatable=True)
