"""Events: the channels whose readings are kept. One event by REST; many at once are bulk.py's, and files are sheet.py's."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, TypeAlias
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, Meta, UnsetType

from webmacs import clock
from webmacs.api import dashboards, rules, webhooks
from webmacs.api.jobs import accepted
from webmacs.http import kiosk
from webmacs.http.page import Page, PageQuery, fetch_page
from webmacs.http.problem import Conflict, FieldError, NotFound, Unprocessable
from webmacs.http.route import Call, route
from webmacs.http.shape import COLOUR, LINE, NAME, WORD, DeleteQuery, Shape, Timestamp, of_row, tidy_tags
from webmacs.jobs.deletion import ALWAYS, Deletion, delete_readings, find_unfinished
from webmacs.jobs.queue import Job
from webmacs.storage import runs
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Connection, Pool

DAY: Final = timedelta(days=1)
PATH_DEPTH_MAX: Final = 10
PATH_PART_MAX: Final = 100

EventType = Literal["sensor", "actuator", "range", "cmd_button", "cmd_opened", "cmd_closed"]
Name = Annotated[str, Meta(min_length=1, max_length=400, pattern=NAME, examples=["Boiler temperature"])]
Unit = Annotated[str, Meta(max_length=50, pattern=LINE, examples=["°C"])]
Description = Annotated[str, Meta(max_length=2_000)]
Path = Annotated[
    str,
    Meta(
        max_length=500,
        pattern=LINE,
        description=f"The group it belongs to, as plant/line/machine: up to {PATH_DEPTH_MAX} names of up to {PATH_PART_MAX} characters; "
        "empty: none. Spaces around names and superfluous slashes are left out.",
        examples=["plant/line 2/boiler"],
    ),
]
Tags = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=50, pattern=WORD)]],
    Meta(max_length=50, description="Words to find it by, without commas.", examples=[["hot", "audited"]]),
]
Limit = Annotated[float, Meta(description="For alarms and colour bands: limit_lolo ≤ limit_lo ≤ limit_hi ≤ limit_hihi.")]
DeadBand = Annotated[float, Meta(ge=0, description="How far a value comes back over a limit before the alarm clears, in its unit.")]
Decimals = Annotated[int, Meta(ge=0, le=12)]
Colour = Annotated[str, Meta(pattern=COLOUR, max_length=7, description="Of its line in charts.", examples=["#1e88e5"])]
Interval = Annotated[int, Meta(ge=1, le=2**31 - 1, description="How often a reading is expected, in ms.")]
RawDays = Annotated[int, Meta(ge=1, le=36_500, description="Days for which every reading is kept; null: as the settings say.")]
StatisticsDays = Annotated[
    int, Meta(ge=1, le=36_500, description="Days for which statistics are kept, at least raw_retention_days; null: as the settings say.")
]
Critical = Annotated[bool, Meta(description="What happens to it matters more: its alarms and commands are treated so.")]


class EventIn(Shape, frozen=True):
    name: Name
    type: EventType
    unit: Unit
    description: Description = ""
    path: Path = ""
    tags: Tags = []  # noqa: RUF012 - msgspec copies an empty list for each
    min_value: float | None = None
    max_value: float | None = None
    limit_lolo: Limit | None = None
    limit_lo: Limit | None = None
    limit_hi: Limit | None = None
    limit_hihi: Limit | None = None
    dead_band: DeadBand | None = None
    decimals: Decimals | None = None
    colour: Colour | None = None
    expected_interval_ms: Interval | None = None
    raw_retention_days: RawDays | None = None
    statistics_retention_days: StatisticsDays | None = None
    critical: Critical = False


class EventChange(Shape, frozen=True):
    """What is not given stays as it is."""

    name: Name | UnsetType = UNSET
    type: EventType | UnsetType = UNSET
    unit: Unit | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    path: Path | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    min_value: float | UnsetType | None = UNSET
    max_value: float | UnsetType | None = UNSET
    limit_lolo: Limit | UnsetType | None = UNSET
    limit_lo: Limit | UnsetType | None = UNSET
    limit_hi: Limit | UnsetType | None = UNSET
    limit_hihi: Limit | UnsetType | None = UNSET
    dead_band: DeadBand | UnsetType | None = UNSET
    decimals: Decimals | UnsetType | None = UNSET
    colour: Colour | UnsetType | None = UNSET
    expected_interval_ms: Interval | UnsetType | None = UNSET
    raw_retention_days: RawDays | UnsetType | None = UNSET
    statistics_retention_days: StatisticsDays | UnsetType | None = UNSET
    critical: Critical | UnsetType = UNSET


class Event(msgspec.Struct, frozen=True):
    public_id: UUID
    name: str
    type: EventType
    unit: str
    description: str
    path: str
    tags: list[str]
    min_value: float | None
    max_value: float | None
    limit_lolo: float | None
    limit_lo: float | None
    limit_hi: float | None
    limit_hihi: float | None
    dead_band: float | None
    decimals: int | None
    colour: str | None
    expected_interval_ms: int | None
    raw_retention_days: int | None
    statistics_retention_days: int | None
    critical: bool
    source: Annotated[str | None, Meta(description="Name of the source that writes it.")]
    instance: Annotated[str | None, Meta(description="The source's device it belongs to.")]
    channel_key: str | None
    quality: Annotated[str | None, Meta(description="The doubt about its readings that holds now, as `simulated`.")]
    created_on: Timestamp
    changed_on: Timestamp
    deleted_on: Annotated[
        Timestamp | None, Meta(description="Since then nothing writes it, and only its readings are left; null: it lives.")
    ]
    version: Annotated[int, Meta(description="Counts its changes; also its ETag.")]


class Recording(msgspec.Struct, frozen=True):
    first_on: Annotated[Timestamp | None, Meta(description="Of the oldest reading that is stored; null: none is.")]
    last_on: Annotated[Timestamp | None, Meta(description="Of the newest reading.")]
    n: Annotated[int, Meta(description="Readings stored of the last 24 hours; overwritten ones count until they are merged.")]
    bytes: Annotated[int, Meta(description="What these take, without indexes.")]


FIELDS: Final = EventIn.__struct_fields__
"""What people may say of an event; columns of `events` have the same names."""

Fields: TypeAlias = dict[str, Any]
"""Some of FIELDS with their values."""


OfType = Annotated[EventType, Meta(description="Only events of this type.")]
SourceName = Annotated[str, Meta(max_length=100, description="Name of the source that writes it.")]
OnlyCritical = Annotated[bool | None, Meta(description="Only those that are critical, or only the others.")]
EveryTag = Annotated[list[str], Meta(max_length=50, description="It has every one of these tags.")]
Subtree = Annotated[str, Meta(max_length=500, description="It belongs to this group or to one below it.", examples=["plant/line 2"])]


OnlyDeleted = Annotated[bool, Meta(description="Those instead that were deleted and whose readings were kept.")]
Search = Annotated[str, Meta(max_length=200, description="Text that is somewhere in its name or description; a to z in either case.")]


class EventsFilter(Shape, frozen=True):
    search: Search = ""
    type: OfType | None = None
    source: SourceName | None = None
    tag: EveryTag = []  # noqa: RUF012
    path: Subtree = ""
    critical: OnlyCritical = None
    deleted: OnlyDeleted = False


class EventsQuery(PageQuery, frozen=True):
    """What EventsFilter has, by pages: a Struct has one base."""

    sort: Literal[
        "name", "-name", "type", "-type", "path", "-path", "source", "-source", "created_on", "-created_on", "changed_on", "-changed_on"
    ] = "name"
    type: OfType | None = None
    source: SourceName | None = None
    tag: EveryTag = []  # noqa: RUF012
    path: Subtree = ""
    critical: OnlyCritical = None
    deleted: OnlyDeleted = False


SELECT: Final = f"""
    SELECT e.id, e.public_id, {", ".join(f"e.{field}" for field in FIELDS)},
           s.name AS source, e.instance, e.channel_key, q.code AS quality, e.created_on, e.changed_on, e.deleted_on,
           e.version
      FROM events e
      LEFT JOIN writers w ON w.id = e.writer_id
      LEFT JOIN sources s ON s.id = w.source_id
      LEFT JOIN quality q ON q.event_id = e.id AND q.to_on IS NULL
"""  # noqa: S608 - our own field names

MATCHING: Final = """
     WHERE ($1::text IS NULL OR e.type = $1) AND ($2::text IS NULL OR s.name = $2) AND ($3::text[] = '{}' OR e.tags @> $3)
       AND ($4 = '' OR e.path = $4 OR e.path ^@ ($4 || '/')) AND ($5::bool IS NULL OR e.critical = $5)
       AND (strpos(lower(e.name), lower($6)) > 0 OR strpos(lower(e.description), lower($6)) > 0) AND (e.deleted_on IS NOT NULL) = $7
"""
"""Goes with `wanted_of`."""


def wanted_of(query: EventsFilter | EventsQuery) -> list[Any]:
    return [query.type, query.source, query.tag, _tidy_path(query.path), query.critical, query.search, query.deleted]


@route("GET", "/api/v1/events")
async def list_events(call: Call[None, EventsQuery]) -> Page[Event]:
    """List events. `search` looks into names and descriptions, ignoring the case of a to z."""
    query = call.query
    matching = SELECT + MATCHING + " AND ($8::int4[] IS NULL OR e.id = ANY($8))"
    shown = await kiosk.events_of(call.pool, call.identity)
    total, rows = await fetch_page(call.pool, matching, [*wanted_of(query), shown], query, query.sort)
    return Page(query.page, query.page_size, total, [event_of(row) for row in rows])


@route("POST", "/api/v1/events", status=201, problems=(409,), changes="event")
async def create_event(call: Call[EventIn]) -> Event:
    """Create an event. Its readings then come by REST; a source makes events of its own."""
    wanted, public_id = settle(fields_of(call.body)), uuid7()
    try:
        await insert(call.conn, [{"public_id": public_id, **wanted}])
    except asyncpg.UniqueViolationError:
        raise taken(call.body.name) from None
    event = await _read(call.conn, public_id)
    return call.changed(None, event, "events")


@route("GET", "/api/v1/events/{public_id}")
async def get_event(call: Call) -> Event:
    """Read an event, also one that was deleted and whose readings were kept."""
    return await _read(call.pool, call.public_id)


@route("GET", "/api/v1/events/{public_id}/recording")
async def get_recording(call: Call) -> Recording:
    """Read whether an event is recorded, since when, and how much. Answered from statistics: it costs the same for a fast channel of years
    and a slow one of days."""
    event = await call.pool.fetchrow(
        "SELECT e.id, l.created_on AS last_on FROM events e LEFT JOIN latest l ON l.event_id = e.id WHERE e.public_id = $1", call.public_id
    )
    if event is None:
        raise NotFound("event")
    first_on = await runs.read_first(call.pool, event["id"])
    now = clock.now()
    (day,) = await runs.read_statistics(call.pool, [event["id"]], now - DAY, now)
    return Recording(first_on, event["last_on"], day["n"], day["bytes"])


@route("PUT", "/api/v1/events/{public_id}", problems=(409,), changes="event")
async def change_event(call: Call[EventChange]) -> Event:
    """Change an event. Fields that are not given stay."""
    before = await _read(call.conn, call.public_id, lock=True)
    if before.deleted_on is not None:
        raise Conflict(
            "This event was deleted, only its readings are left. Bring it back with them by its public_id, with POST /api/v1/events/bulk "
            "or a CSV file; or create another one, which may have the same name."
        )
    call.match(before.version)
    wanted = settle(fields_of(before) | fields_of(call.body))
    try:
        await update(call.conn, [{"public_id": before.public_id, **wanted}])
    except asyncpg.UniqueViolationError:
        raise taken(wanted["name"]) from None
    event = await _read(call.conn, call.public_id)
    return call.changed(before, event, "events")


@route("DELETE", "/api/v1/events/{public_id}", status=202, changes="event")
async def delete_event(call: Call[None, DeleteQuery]) -> Job | None:
    """Delete an event and its rules, and take it from dashboards and webhooks; its name is free then. Its readings stay and are read by its
    public id as before, as is the event itself, with `deleted_on`; POST /api/v1/events/bulk brings it back. With data=delete, also later,
    a job deletes the readings and then the event; it is answered, also when it is under way already. A channel that its source still
    describes gets a new event at once, of the same name, without limits and rules: take the channel from the controller's configuration
    first."""
    conn, keep = call.conn, call.query.data == "keep"
    if not keep:  # before the event's lock, as whoever maps events takes these locks
        await conn.execute(
            "SELECT FROM writers WHERE id = (SELECT writer_id FROM events WHERE public_id = $1) FOR NO KEY UPDATE", call.public_id
        )
    await _lock_naming(conn, call.public_id)
    before = await _read(conn, call.public_id, lock=True)
    if keep and before.deleted_on is not None:
        return None
    call.match(before.version)
    if before.deleted_on is not None and (job := await find_unfinished(conn, [before.public_id])) is not None:
        return accepted(call, job)
    call.changed(before, None, "events", detail=None if keep else "with its readings")
    event_id = await _retire(call, before.public_id)
    if keep:
        return None
    # what is under way to it becomes void and is judged anew, so that nothing comes after the job
    await conn.execute(
        "UPDATE writers SET generation = generation + 1, owner = NULL WHERE id = (SELECT writer_id FROM events WHERE id = $1)", event_id
    )
    deletion = Deletion([event_id], *ALWAYS, event_version=before.version + 1)
    return accepted(call, await delete_readings(conn, deletion, f"readings of {before.name}", call.actor))


async def _lock_naming(conn: Connection, public_id: UUID) -> None:
    """What names the event, before the event itself: whoever changes a rule, a webhook or a dashboard takes these locks in this order."""
    await conn.execute(
        """WITH event AS (SELECT id FROM events WHERE public_id = $1),
                naming_rules AS (SELECT r.id FROM rules r WHERE r.event_id = (TABLE event) ORDER BY r.id FOR UPDATE),
                naming_webhooks AS (
                    SELECT w.id FROM webhooks w WHERE w.id IN (SELECT webhook_id FROM webhook_events WHERE event_id = (TABLE event))
                     ORDER BY w.id FOR UPDATE),
                showing_dashboards AS (
                    SELECT d.id FROM dashboards d
                     WHERE d.id IN (SELECT w.dashboard_id FROM dashboard_widget_events m JOIN dashboard_widgets w ON w.id = m.widget_id
                                     WHERE m.event_id = (TABLE event))
                     ORDER BY d.id FOR UPDATE)
           SELECT (SELECT count(*) FROM naming_rules), (SELECT count(*) FROM naming_webhooks), (SELECT count(*) FROM showing_dashboards)""",
        public_id,
    )


async def _retire(call: Call[Any, Any], public_id: UUID) -> int:
    """Marks an event as deleted, and takes it from whatever names it, which is told. Answers its id."""
    # the strong lock: whoever wants a rule or a widget for it right now waits, and then finds it deleted
    event_id: int = await call.conn.fetchval("SELECT id FROM events WHERE public_id = $1 FOR UPDATE", public_id)
    await call.conn.execute(
        """UPDATE events SET deleted_on = coalesce(deleted_on, $2), channel_key = NULL, changed_on = $2, version = version + 1
            WHERE id = $1""",
        event_id, clock.now(),
    )  # fmt: skip
    await rules.delete_those_of(call, event_id)
    await webhooks.leave_out(call, event_id)
    await dashboards.leave_out(call, event_id)
    return event_id


def fields_of(state: EventIn | EventChange | Event) -> Fields:
    """Those of FIELDS that are given."""
    return {name: value for name in FIELDS if (value := getattr(state, name)) is not UNSET}


def series_key(name: str, source: str | None, channel_key: str | None) -> str | None:
    """The series of line protocol that an event is, where its name does not say it: it was renamed."""
    return channel_key if source is None and channel_key != name else None


def settle(wanted: Fields) -> Fields:
    """An event's fields as they are stored. Raises Unprocessable for what cannot be together."""
    wanted = tidy(wanted)
    if errors := [FieldError(["body", field], msg) for field, msg in faults(wanted)]:
        raise Unprocessable(errors)
    return wanted


def tidy(wanted: Fields) -> Fields:
    """One spelling of each path and of each list of tags."""
    return wanted | {"path": _tidy_path(wanted["path"]), "tags": tidy_tags(wanted["tags"])}


def faults(wanted: Fields) -> Iterator[tuple[str, str]]:
    """(field, what is wrong with it) of an event's tidy fields; types and bounds of each alone were judged when they were read."""
    if _above(wanted["min_value"], wanted["max_value"]):
        yield "min_value", "It must not be above max_value."
    limits = [(name, wanted[name]) for name in ("limit_lolo", "limit_lo", "limit_hi", "limit_hihi") if wanted[name] is not None]
    for (low, below), (high, above) in pairwise(limits):
        if below > above:
            yield low, f"It must not be above {high}."
    if _above(wanted["raw_retention_days"], wanted["statistics_retention_days"]):
        yield "statistics_retention_days", "Statistics are kept at least as long as the readings."
    parts = wanted["path"].split("/")
    if len(parts) > PATH_DEPTH_MAX or max(map(len, parts)) > PATH_PART_MAX:
        yield "path", f"It has at most {PATH_DEPTH_MAX} names of at most {PATH_PART_MAX} characters."


def _above(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and low > high


def _tidy_path(path: str) -> str:
    return "/".join(name for part in path.split("/") if (name := part.strip()))


_COLUMNS: Final = ", ".join(FIELDS)
_NEW: Final = ", ".join(f"n.{field}" for field in FIELDS)


async def insert(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Makes events of `public_id` and all of FIELDS, in one statement; one that was deleted before goes on with its versions.
    Raises UniqueViolationError."""
    await conn.execute(
        f"""INSERT INTO events (public_id, {_COLUMNS}, created_on, changed_on, version)
            SELECT n.public_id, {_NEW}, $2, $2,
                   1 + coalesce((SELECT max(v.version) FROM versions v WHERE v.kind = 'event' AND v.object_public_id = n.public_id), 0)
              FROM jsonb_populate_recordset(NULL::events, $1) n""",  # noqa: S608 - our own field names
        rows, clock.now(),
    )  # fmt: skip


async def update(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Changes events to the fields given with each `public_id`, in one statement. Raises UniqueViolationError."""
    await conn.execute(
        f"""UPDATE events e SET ({_COLUMNS}) = ROW ({_NEW}), changed_on = $2, version = e.version + 1
              FROM jsonb_populate_recordset(NULL::events, $1) n WHERE e.public_id = n.public_id""",  # noqa: S608 - our own field names
        rows, clock.now(),
    )  # fmt: skip


async def _read(database: Pool | Connection, public_id: UUID, *, lock: bool = False) -> Event:
    """Raises NotFound. With `lock` nobody else changes it until the transaction ends."""
    row = await database.fetchrow(SELECT + " WHERE e.public_id = $1" + (" FOR NO KEY UPDATE OF e" if lock else ""), public_id)
    if row is None:
        raise NotFound("event")
    return event_of(row)


def event_of(row: asyncpg.Record) -> Event:
    return of_row(Event, row)


def taken(name: str) -> Conflict:
    return Conflict(f"There is an event called {name} already; choose another name.")


routes = [list_events, create_event, get_event, get_recording, change_event, delete_event]
