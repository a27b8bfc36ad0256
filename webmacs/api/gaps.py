"""Gaps: readings that are missing, as the sources declared them or as frames were refused."""

from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from webmacs.http.problem import NotFound
from webmacs.http.route import Call, route
from webmacs.http.shape import Shape, Timestamp, check_range

ROWS_MAX: Final = 1_000


class GapsQuery(Shape, frozen=True):
    event_public_id: Annotated[UUID | None, Meta(description="Only what is missing of this event.")] = None
    start: Annotated[Timestamp | None, Meta(description="Only what ended at this time or later.")] = msgspec.field(
        default=None, name="from"
    )
    end: Annotated[Timestamp | None, Meta(description="Only what began before this time.")] = msgspec.field(default=None, name="to")

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


class Gaps(msgspec.Struct, frozen=True):
    data: list[Gap]
    truncated: Annotated[bool, Meta(description=f"There are more than these {ROWS_MAX:,}; ask for a shorter time.")]


@route("GET", "/api/v1/gaps", problems=(404,))
async def list_gaps(call: Call[None, GapsQuery]) -> Gaps:
    """List what is missing, the newest first: of one event (with what concerns all channels of its source), or of all."""
    query = call.query
    event_id: int | None = None
    source_id: int | None = None
    if query.event_public_id is not None:
        event = await call.pool.fetchrow(
            "SELECT e.id, w.source_id FROM events e LEFT JOIN writers w ON w.id = e.writer_id WHERE e.public_id = $1", query.event_public_id
        )
        if event is None:
            raise NotFound("event")
        event_id, source_id = event
    rows = await call.pool.fetch(
        """
        SELECT e.public_id, s.name, g.from_on, g.to_on, g.n, g.cause, coalesce(g.detail, g.code) AS detail
          FROM gaps g LEFT JOIN events e ON e.id = g.event_id LEFT JOIN sources s ON s.id = g.source_id
         WHERE (g.event_id IS NULL OR e.id IS NOT NULL)   -- of a deleted event: it must not look like all channels
           AND ($1::int4 IS NULL OR g.event_id = $1 OR (g.event_id IS NULL AND g.source_id = $2
                AND g.cause <> 'disabled'))                 -- readings of channels that have no event miss in none
           AND ($3::timestamptz IS NULL OR coalesce(g.to_on, g.created_on) >= $3)
           AND ($4::timestamptz IS NULL OR coalesce(g.from_on, g.created_on) < $4)
         ORDER BY coalesce(g.from_on, g.created_on) DESC, g.id DESC LIMIT $5
        """,
        event_id, source_id, query.start, query.end, ROWS_MAX + 1,
    )  # fmt: skip
    return Gaps([Gap(*row) for row in rows[:ROWS_MAX]], len(rows) > ROWS_MAX)


routes = [list_gaps]
