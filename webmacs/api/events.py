"""Events: the channels whose readings are kept."""

from typing import Annotated, Any, Final, Literal
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, Meta, UnsetType

from webmacs import clock
from webmacs.http.page import Page, PageQuery, fetch_page
from webmacs.http.problem import Conflict, NotFound, Unprocessable
from webmacs.http.route import Call, route
from webmacs.http.shape import Shape, Timestamp
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Connection, Pool

EventType = Literal["sensor", "actuator", "range", "cmd_button", "cmd_opened", "cmd_closed"]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Unit = Annotated[str, Meta(max_length=50)]
Decimals = Annotated[int, Meta(ge=0, le=12)]
Interval = Annotated[int, Meta(ge=1, le=2**31 - 1, description="How often a reading is expected, in ms.")]


class EventIn(Shape, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=200, examples=["Boiler temperature"])]
    type: EventType
    unit: Annotated[str, Meta(max_length=50, examples=["°C"])]
    min_value: float | None = None
    max_value: float | None = None
    decimals: Decimals | None = None
    expected_interval_ms: Interval | None = None


class EventChange(Shape, frozen=True):
    """What is not given stays as it is."""

    name: Name | UnsetType = UNSET
    type: EventType | UnsetType = UNSET
    unit: Unit | UnsetType = UNSET
    min_value: float | UnsetType | None = UNSET
    max_value: float | UnsetType | None = UNSET
    decimals: Decimals | UnsetType | None = UNSET
    expected_interval_ms: Interval | UnsetType | None = UNSET


class Event(msgspec.Struct, frozen=True):
    public_id: UUID
    name: str
    type: EventType
    unit: str
    min_value: float | None
    max_value: float | None
    decimals: int | None
    expected_interval_ms: int | None
    source: Annotated[str | None, Meta(description="Name of the source that writes it.")]
    instance: Annotated[str | None, Meta(description="The source's device it belongs to.")]
    channel_key: str | None
    quality: Annotated[str | None, Meta(description="The doubt about its readings that holds now, as `simulated`.")]
    created_on: Timestamp
    changed_on: Timestamp
    version: Annotated[int, Meta(description="Counts its changes; also its ETag.")]


class EventsQuery(PageQuery, frozen=True):
    sort: Literal["name", "-name", "type", "-type", "created_on", "-created_on", "changed_on", "-changed_on"] = "name"
    type: Annotated[EventType | None, Meta(description="Only events of this type.")] = None


SELECT: Final = """
    SELECT e.id, e.public_id, e.name, e.type, e.unit, e.min_value, e.max_value, e.decimals, e.expected_interval_ms,
           s.name AS source, e.instance, e.channel_key, q.code AS quality, e.created_on, e.changed_on, e.version
      FROM events e
      LEFT JOIN writers w ON w.id = e.writer_id
      LEFT JOIN sources s ON s.id = w.source_id
      LEFT JOIN quality q ON q.event_id = e.id AND q.to_on IS NULL
"""


@route("GET", "/api/v1/events")
async def list_events(call: Call[None, EventsQuery]) -> Page[Event]:
    """List events. `search` looks into names, ignoring the case of a to z."""
    query = call.query
    matching = SELECT + " WHERE strpos(lower(e.name), lower($1)) > 0 AND ($2::text IS NULL OR e.type = $2)"
    total, rows = await fetch_page(call.pool, matching, [query.search, query.type], query, query.sort)
    return Page(query.page, query.page_size, total, [_event(row) for row in rows])


@route("POST", "/api/v1/events", status=201, problems=(409,), changes="event")
async def create_event(call: Call[EventIn]) -> Event:
    """Create an event. Its readings then come by REST; a source makes events of its own."""
    new = call.body
    _check_bounds(new.min_value, new.max_value)
    public_id, now = uuid7(), clock.to_datetime(clock.now_us())
    try:
        await call.conn.execute(
            """INSERT INTO events (public_id, name, type, unit, min_value, max_value, decimals, expected_interval_ms,
                                   created_on, changed_on)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)""",
            public_id, new.name, new.type, new.unit, new.min_value, new.max_value, new.decimals, new.expected_interval_ms, now,
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise _taken(new.name) from None
    event = await _read(call.conn, public_id)
    call.changed(None, event, "events")
    return event


@route("GET", "/api/v1/events/{public_id}")
async def get_event(call: Call) -> Event:
    """Read an event."""
    return await _read(call.pool, call.public_id)


@route("PUT", "/api/v1/events/{public_id}", problems=(409,), changes="event")
async def change_event(call: Call[EventChange]) -> Event:
    """Change an event. Fields that are not given stay."""
    given = {name: value for name in EventChange.__struct_fields__ if (value := getattr(call.body, name)) is not UNSET}
    before = await _read(call.conn, call.public_id, lock=True)
    call.match(before.version)
    wanted = {name: given.get(name, getattr(before, name)) for name in EventChange.__struct_fields__}
    _check_bounds(wanted["min_value"], wanted["max_value"])
    try:
        await call.conn.execute(
            """UPDATE events SET name = $2, type = $3, unit = $4, min_value = $5, max_value = $6, decimals = $7,
                                 expected_interval_ms = $8, changed_on = $9, version = version + 1 WHERE public_id = $1""",
            call.public_id, *wanted.values(), clock.to_datetime(clock.now_us()),
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise _taken(str(given["name"])) from None
    event = await _read(call.conn, call.public_id)
    call.changed(before, event, "events")
    return event


@route("DELETE", "/api/v1/events/{public_id}", changes="event")
async def delete_event(call: Call) -> None:
    """Delete an event and its rules. Its readings stay in the database."""
    before = await _read(call.conn, call.public_id, lock=True)
    call.match(before.version)
    event_id = await call.conn.fetchval("DELETE FROM events WHERE public_id = $1 RETURNING id", call.public_id)
    await call.conn.execute("DELETE FROM latest WHERE event_id = $1", event_id)
    call.changed(before, None, "events")


async def _read(database: Pool | Connection, public_id: UUID, *, lock: bool = False) -> Event:
    """Raises NotFound. With `lock` nobody else changes it until the transaction ends."""
    row = await database.fetchrow(SELECT + " WHERE e.public_id = $1" + (" FOR NO KEY UPDATE OF e" if lock else ""), public_id)
    if row is None:
        raise NotFound("event")
    return _event(row)


def _event(row: asyncpg.Record) -> Event:
    values: dict[str, Any] = {name: row[name] for name in Event.__struct_fields__}
    return Event(**values)


def _check_bounds(low: float | None, high: float | None) -> None:
    if low is not None and high is not None and low > high:
        raise Unprocessable.at("body", "min_value", msg="It must not be above max_value.")


def _taken(name: str) -> Conflict:
    return Conflict(f"There is an event called {name} already; choose another name.")


routes = [list_events, create_event, get_event, change_event, delete_event]
