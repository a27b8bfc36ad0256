"""The readings of a range are deleted: of an experiment, of events that go, or as somebody asks. Event by event, a day at a time."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from webmacs.http.audit import Actor
from webmacs.http.problem import Conflict, Problem
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
    event_version: int | None = None
    """These events were deleted with this version, nothing comes to them any more, and [start, end) is everything: they go when their
    readings are gone. Made to live again, they have another version, and nothing more of them is deleted."""


async def delete_readings(conn: Connection, deletion: Deletion, subject: str, owner: Actor) -> Job:
    """Asks for it, in the transaction of whatever it belongs to; it begins after the commit."""
    return await queue.enqueue(conn, DELETE_READINGS, subject, deletion, owner)


async def find_unfinished(conn: Connection, deleted: Sequence[UUID]) -> Job | None:
    """A job by which one of these deleted events goes. With the events' rows locked, nobody asks for another one."""
    rows = await conn.fetch("SELECT id, version FROM events WHERE public_id = ANY($1)", deleted)
    sought = [{"event_ids": [row["id"]], "event_version": row["version"]} for row in rows]
    return await queue.find_unfinished(conn, DELETE_READINGS, sought)


async def _work(work: Work) -> dict[str, Any]:
    asked = msgspec.convert(dict(work.parameters), Deletion)
    erased, touched = 0, set()
    days = list(days_within(await partitions.present(work.conn), asked.start, asked.end))
    for number, (start, end) in enumerate(days):
        events = await runs.find_events(work.conn, asked.event_ids, start, end)
        for index, event_id in enumerate(events):
            work.at((number + index / len(events)) / len(days), f"{start.date()}: {erased:,} readings deleted so far")
            try:
                async with work.conn.transaction():
                    if asked.event_version is not None:
                        await _hold(work.conn, event_id, asked.event_version)
                    erased += await erase(work.conn, event_id, start, end)
            except CoreError as error:
                raise Problem(
                    500, "unreadable-run", "A run cannot be read",
                    f"{error}. What is before {start.isoformat()} is deleted; a range that holds this run whole can be deleted unread.",
                ) from None  # fmt: skip
            touched.add(event_id)
    if asked.event_version is not None:
        await work.conn.execute(
            "DELETE FROM events WHERE id = ANY($1) AND deleted_on IS NOT NULL AND version = $2", asked.event_ids, asked.event_version
        )
    return {"readings": erased, "events": len(touched)}


async def _hold(conn: Connection, event_id: int, version: int) -> None:
    """The event stays deleted until the transaction ends: whoever makes it live again takes a lock that waits for this one. That is refused
    while the job is open; but a process that was taken for dead may still be at work. Raises Conflict."""
    deleted = await conn.fetchval(
        "SELECT deleted_on IS NOT NULL AND version = $2 FROM events WHERE id = $1 FOR KEY SHARE", event_id, version
    )
    if deleted is False:  # None: a try before this one has come to its end
        raise Conflict("The event lives again, or was deleted anew since this was asked for; what is left of its readings stays.")


KIND: Final = Kind(_work, repeatable=True)
