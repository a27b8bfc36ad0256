"""Gaps: readings that are missing, as the sources declared them or as frames were refused."""

from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from webmacs.api.events.asked import asked_for
from webmacs.http.page import Cursor, CursorPage, CursorQuery, Limit, fetch_after
from webmacs.http.route import Call, route
from webmacs.http.shape import Shape, Timestamp, check_range


class GapsQuery(Shape, frozen=True):
    event_public_id: Annotated[UUID | None, Meta(description="Only what is missing of this event.")] = None
    start: Annotated[Timestamp | None, Meta(description="Only what ended at this time or later.")] = msgspec.field(
        default=None, name="from"
    )
    end: Annotated[Timestamp | None, Meta(description="Only what began before this time.")] = msgspec.field(default=None, name="to")

    limit: Limit = 100
    cursor: Cursor = None

    def __post_init__(self) -> None:
        check_range(self.start, self.end)


class Gap(msgspec.Struct, frozen=True):
    event_public_id: Annotated[UUID | None, Meta(description="null: all channels of the source")]
    source: str | None
    start: Annotated[Timestamp | None, Meta(description="null: the refused frame did not say")] = msgspec.field(name="from")
    end: Timestamp | None = msgspec.field(name="to")
    n: Annotated[int | None, Meta(description="How many readings; null: unknown.")]
    cause: str
    detail: str | None
    declared_on: Annotated[Timestamp, Meta(description="When it became known here: the list is in this order.")]


SELECT: Final = """
    SELECT g.id, e.public_id, s.name, g.from_on, g.to_on, g.n, g.cause, coalesce(g.detail, g.code) AS detail, g.created_on
      FROM gaps g LEFT JOIN events e ON e.id = g.event_id LEFT JOIN sources s ON s.id = g.source_id
     WHERE (g.event_id IS NULL OR e.id IS NOT NULL)   -- of a deleted event: it must not look like all channels
"""
OF_EVENT: Final = """
       AND (g.event_id = $1 OR (g.event_id IS NULL AND g.cause <> 'disabled'   -- readings of channels that have no event miss in none
            AND g.source_id = (SELECT w.source_id FROM events v JOIN writers w ON w.id = v.writer_id WHERE v.id = $1)))
"""


@route("GET", "/api/v1/gaps")
async def list_gaps(call: Call[None, GapsQuery]) -> CursorPage[Gap]:
    """List what is missing, what was declared last first: of one event (with what concerns all channels of its source), or of all."""
    query = call.query
    matching, arguments = SELECT, list[Any]()
    if query.event_public_id is not None:
        asked = await asked_for(call.pool, "event_public_id", query.event_public_id)
        matching, arguments = SELECT + OF_EVENT, [asked[query.event_public_id]]
    for condition, moment in (
        ("coalesce(g.to_on, g.created_on) >=", query.start),
        ("coalesce(g.from_on, g.created_on) <", query.end),
    ):
        if moment is not None:
            arguments.append(moment)
            matching += f" AND {condition} ${len(arguments)}"
    page = CursorQuery(limit=query.limit, cursor=query.cursor)
    following, rows = await fetch_after(call.pool, matching, arguments, page)
    return CursorPage(following, [Gap(*list(row)[1:]) for row in rows])


routes = [list_gaps]
