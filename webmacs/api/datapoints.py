"""Readings: they come in one by one and by the thousand, and are read as charts want them and one by one."""

import contextlib
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta
from starlette.responses import Response

from webmacs import clock, ingest_core
from webmacs.api.events.asked import asked_for
from webmacs.http import access, idempotency, kiosk
from webmacs.http.guard import Identity
from webmacs.http.page import CursorPage, CursorQuery, make_cursor, read_cursor
from webmacs.http.problem import Forbidden, NotFound, Unauthorized, Unprocessable, unavailable
from webmacs.http.route import Call, decode_body, route
from webmacs.http.shape import Shape, Timestamp, check_range
from webmacs.ingest_core import Batch, Taken
from webmacs.storage import readings, runs
from webmacs.storage.erase import erase
from webmacs.storage.ids import read_reading_id, reading_id
from webmacs.storage.pool import Connection
from webmacs.storage.readings import Listed, Range
from webmacs.telemetry.intake import AlreadyStored, Intake, Poster

if TYPE_CHECKING:
    from webmacs.ingest_core import Form  # a name of the stub

EVENTS_MAX: Final = 20
EARLIEST: Final = datetime(1971, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2199, 1, 1, tzinfo=UTC)
RANGE_MAX: Final = timedelta(days=40)
"""No read touches more than 40 days' partitions; longer ranges come with the rollups."""


MAKING: Final = "events:write"
"""The scope with which line protocol makes the events of its series."""
LINES: Final = "application/x-ndjson"
ANY_JSON: Final = msgspec.json.Decoder(Any)
NAMED: Final = re.compile(r"(event_public_id|value|timestamp|datapoints): |(?:missing|unknown) field `(.*?)`")
"""How the core says in which field something is wrong."""


class DatapointIn(Shape, frozen=True):
    event_public_id: UUID
    value: Annotated[float, Meta(description="A number that a float64 holds; integers up to 2^53.", examples=[21.5])]
    timestamp: Annotated[
        Timestamp | None,
        Meta(description="Rounded to µs; at most 30 days old and 24 hours ahead. Without it: now, plus 1 µs for each repeat of an event."),
    ] = None


Item = Annotated[
    Any,
    Meta(
        description="A DatapointIn. One that is none is refused by itself, and the others are taken.",
        examples=[{"event_public_id": "019a0d5e-7c00-7a41-9d3c-5b8e2f6a1c04", "value": 21.5, "timestamp": "2026-11-23T12:00:00Z"}],
    ),
]


class BatchIn(Shape, frozen=True):
    datapoints: Annotated[list[Item], Meta(max_length=ingest_core.BATCH_READINGS_MAX)]


class Created(msgspec.Struct, frozen=True):
    """A reading that is stored."""

    public_id: Annotated[UUID, Meta(description="Made of event and time; it never changes.")]
    event_public_id: UUID
    timestamp: Timestamp
    value: float


class RefusedItem(msgspec.Struct, frozen=True):
    index: Annotated[int, Meta(description="Its place in `datapoints`, or its line, from 0.")]
    field: Annotated[str | None, Meta(description="Its field that cannot be used; null: it is none of them.", examples=["value"])]
    code: Annotated[str, Meta(description="As on the telemetry socket.", examples=["unknown_channel", "out_of_bounds"])]
    detail: str


class BatchOut(msgspec.Struct, frozen=True):
    """Each reading is taken or refused by itself. What is not in `results` was taken and is stored."""

    accepted: int
    refused: int
    results: Annotated[list[RefusedItem], Meta(description="Every reading that was refused, in order.")]


class Datapoint(msgspec.Struct, frozen=True):
    public_id: Annotated[UUID, Meta(description="Made of event and time; it never changes.")]
    event_public_id: UUID
    timestamp: Timestamp
    value: float
    experiment_public_id: Annotated[UUID | None, Meta(description="The experiment that covers this event at this time.")]


class DatapointsQuery(CursorQuery, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    event_public_ids: Annotated[list[UUID], Meta(min_length=1, max_length=EVENTS_MAX, description="Whose readings.")]
    start: Annotated[Timestamp | None, Meta(description="Readings at or after it.")] = None
    end: Annotated[Timestamp | None, Meta(description="Readings before it.")] = None
    experiment_public_id: Annotated[UUID | None, Meta(description="Only readings that this experiment covers.")] = None
    sort: Annotated[Literal["timestamp", "-timestamp"], Meta(description="The oldest or the newest first.")] = "-timestamp"

    def __post_init__(self) -> None:
        check_range(self.start, self.end)


class EraseQuery(Shape, frozen=True, rename={"start": "from", "end": "to"}):
    event_public_id: Annotated[UUID, Meta(description="Whose readings.")]
    start: Annotated[Timestamp, Meta(description="Readings at or after it.")]
    end: Annotated[Timestamp, Meta(description="Readings before it.")]

    def __post_init__(self) -> None:
        check_range(self.start, self.end)


class Erased(msgspec.Struct, frozen=True, rename={"start": "from", "end": "to"}):
    event_public_id: UUID
    start: Timestamp
    end: Timestamp
    deleted: Annotated[int, Meta(description="How many readings, those that had been overwritten included.")]


class SeriesIn(Shape, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    event_public_ids: Annotated[list[UUID], msgspec.Meta(min_length=1, max_length=EVENTS_MAX)]
    start: Timestamp
    end: Timestamp
    max_points: Annotated[int, msgspec.Meta(ge=10, le=5_000)] = 500
    grid: Annotated[
        bool, msgspec.Meta(description="Cut buckets at equal widths, though it costs decoding; otherwise edges snap to stored runs.")
    ] = False

    def __post_init__(self) -> None:
        check_range(self.start, self.end)


class EventSeries(msgspec.Struct, frozen=True):
    """Columns of the same length, a place for each bucket. t0 and t1 are µs since 1970 UTC: its first and last reading."""

    event_public_id: UUID
    t0: list[int]
    t1: list[int]
    min: list[float]
    max: list[float]
    avg: Annotated[list[float | None], msgspec.Meta(description="null where the sum of the readings is beyond a float64.")]
    last: list[float]
    n: list[int]


class SeriesOut(msgspec.Struct, frozen=True):
    series: Annotated[
        list[EventSeries], msgspec.Meta(description="In the order asked for; an event without readings in the range has empty columns.")
    ]


class LatestQuery(Shape, frozen=True, kw_only=True):
    event_public_ids: Annotated[list[UUID] | None, msgspec.Meta(description="Only of these events.")] = None


class Latest(msgspec.Struct, frozen=True):
    event_public_id: UUID
    timestamp: Timestamp
    value: float
    experiment_public_id: Annotated[
        UUID | None,
        Meta(
            description="The experiment that covers it, as known when it was stored: null also for a reading right after the start of one"
            " through another process, which took up to 0.1 s to be heard of."
        ),
    ]


class LatestOut(msgspec.Struct, frozen=True):
    data: list[Latest]


@route(
    "POST",
    "/api/v1/datapoints",
    status=201,
    accepts={"application/json": DatapointIn},
    answers=Created,
    problems=(400,),
    once=True,
    readings=True,
)
async def create_datapoint(call: Call[bytes]) -> Response:
    """Store one reading. It is answered when it is committed."""
    batch = await read_body(call, "reading", call.body)
    state = call.request.app.state
    now_us = state.intake.stamp(batch.untimed)
    known = None if batch.first is None else state.catalogue.event_id(UUID(bytes=batch.first[0]))

    def answer(taken: Taken) -> Response:
        if batch.first is None or taken.refused:
            raise _refusal_of_one(call.body, *taken.refused[0][1:])
        public_id, t_us, value = batch.first
        event_id = state.catalogue.event_id(UUID(bytes=public_id)) or known
        if event_id is None:
            raise Unprocessable.at("body", "event_public_id", msg="This event was deleted just now.")
        moment = now_us if t_us is None else t_us
        created = Created(reading_id(event_id, moment), UUID(bytes=public_id), clock.to_datetime(moment), value)
        headers = {"Location": f"/api/v1/datapoints/{created.public_id}"}
        return Response(msgspec.json.encode(created), 201, headers, "application/json")

    return await store(call, batch, now_us, answer)


@route(
    "POST",
    "/api/v1/datapoints/batch",
    accepts={"application/json": BatchIn, LINES: Item},
    answers=BatchOut,
    problems=(400, 415),
    body_bytes_max=ingest_core.BATCH_BYTES_MAX,
    once=True,
    readings=True,
)
async def create_datapoints(call: Call[bytes]) -> Response:
    """Store up to 10,000 readings. A good one is taken whatever is wrong with the others, and the answer comes when they are committed.

    As JSON, or with `Content-Type: application/x-ndjson` one reading a line.
    """
    lines = call.request.headers.get("content-type", "").partition(";")[0].strip().lower() in (LINES, "application/jsonl")
    batch = await read_body(call, "lines" if lines else "batch", call.body)

    def answer(taken: Taken) -> Response:
        results = [RefusedItem(index, _field(code, detail), code, detail) for index, code, detail in taken.refused]
        return Response(msgspec.json.encode(BatchOut(taken.readings, taken.refused_count, results)), 200, None, "application/json")

    return await store(call, batch, call.request.app.state.intake.stamp(batch.untimed), answer)


async def read_body(call: Call[bytes, Any], form: "Form", body: bytes) -> Batch:
    """Raises Problem for a body that is no such text at all, or too much."""
    intake: Intake = call.request.app.state.intake
    read = await intake.read(form, body)
    if isinstance(read, Batch):
        return read
    if read.code == "malformed":
        _check_json(body)
    field = "datapoints" if read.code == "too_large" and form == "batch" else _field(read.code, read.detail)
    raise Unprocessable.at("body", *([] if field is None else [field]), msg=read.detail)


async def store(call: Call[bytes, Any], batch: Batch, now_us: int, answer: Callable[[Taken], Response]) -> Response:
    """Stores what is good of a batch, once under its Idempotency-Key, and answers after the commit. A Problem that `answer` raises is the
    answer of a batch of which nothing was taken."""
    claim, sealing = call.claim, call.parts.sealing_key
    if claim is not None and (known := await idempotency.find(call.pool, claim, sealing)) is not None:
        return known
    identity = call.identity
    source_id = identity.id if identity.kind == "source" else None
    poster = Poster(source_id, source_id is None and may_make_events(identity), call.actor, call.request_id)
    intake: Intake = call.request.app.state.intake

    receipt = None if claim is None else lambda taken: idempotency.seal(claim, sealing, answer(taken))
    try:
        return answer(await intake.store(batch, poster, now_us, receipt))
    except LookupError:
        raise Unauthorized("This source was removed.") from None
    except AlreadyStored:
        if claim is None or (known := await idempotency.find(call.pool, claim, sealing)) is None:
            raise unavailable("A request with the same Idempotency-Key was under way; send this one again.") from None
        return known


def may_make_events(identity: Identity) -> bool:
    """Of who is no source: whether its token says so, if it is one."""
    return identity.scopes is None or access.covers(identity.scopes, MAKING, by_name=False)


def _refusal_of_one(body: bytes, code: str, detail: str) -> Exception:
    """Of the only reading of a request."""
    if code == "not_granted":
        return Forbidden(detail)
    if code == "malformed":
        _check_json(body)
    field = _field(code, detail)
    return Unprocessable.at("body", *([] if field is None else [field]), msg=detail)


def _field(code: str, detail: str) -> str | None:
    """Of a reading or of the body, where one of its fields is what is wrong."""
    match code:
        case "unknown_channel" | "not_granted":
            return "event_public_id"
        case "out_of_bounds":
            return "timestamp"
    named = NAMED.match(detail)
    return None if named is None else named[1] or named[2]


def _check_json(body: bytes) -> None:
    """Raises a 400 for what is no JSON at all; what is wrong with other JSON the core has said."""
    with contextlib.suppress(Unprocessable):
        decode_body(ANY_JSON, body)


@route("GET", "/api/v1/datapoints")
async def list_datapoints(call: Call[None, DatapointsQuery]) -> CursorPage[Datapoint]:
    """List readings of up to 20 events, in the order of time. A page may be short though more follow: read on while there is a `next`."""
    query = call.query
    asked = await asked_for(call.pool, "event_public_ids", query.event_public_ids)
    events = {event_id: public_id for public_id, event_id in asked.items()}
    within = Range((query.start or EARLIEST).astimezone(UTC), (query.end or LATEST).astimezone(UTC))
    if query.experiment_public_id is not None:
        within, covered = await _within_experiment(call, query.experiment_public_id, within)
        events = {event_id: public_id for event_id, public_id in events.items() if covered is None or event_id in covered}
    place = None if query.cursor is None else _place(query.cursor)
    async with call.pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
        page, further = await readings.read_page(conn, list(events), within, place, query.sort == "-timestamp", query.limit)
        shown = await _datapoints(conn, page, events)
    return CursorPage(None if further is None else make_cursor(*further), shown)


@route("GET", "/api/v1/datapoints/{public_id}")
async def get_datapoint(call: Call) -> Datapoint:
    """Read one reading."""
    async with call.pool.acquire() as conn:
        return await _read(conn, call.public_id)


@route("DELETE", "/api/v1/datapoints/{public_id}", changes="datapoint")
async def delete_datapoint(call: Call) -> None:
    """Delete one reading. What was written at the same instant before it is deleted with it."""
    known = await _read(call.conn, call.public_id)
    moment = known.timestamp
    await _erase(call.conn, known.event_public_id, Range(moment, moment + readings.MICROSECOND))
    call.changed(known, None)


@route("DELETE", "/api/v1/datapoints", changes="datapoint", problems=(404,))
async def delete_datapoints(call: Call[None, EraseQuery]) -> Erased:
    """Delete an event's readings of a stretch of time. Answers how many there were; a stretch with too many is refused."""
    query = call.query
    within = Range(query.start.astimezone(UTC), query.end.astimezone(UTC))
    name, deleted = await _erase(call.conn, query.event_public_id, within)
    erased = Erased(query.event_public_id, query.start, query.end, deleted)
    if deleted:
        call.changed(erased, None, name=name)
    return erased


async def _erase(conn: Connection, event: UUID, within: Range) -> tuple[str, int]:
    """(the event's name, how many readings were deleted). Raises Problem."""
    row = await conn.fetchrow("SELECT id, name FROM events WHERE public_id = $1", event)
    if row is None:
        raise NotFound("event")
    if await readings.has_many_runs(conn, row["id"], within):
        raise Unprocessable.at("query", "to", msg="These are too many stored runs for one request; delete a shorter time at a time.")
    return row["name"], await erase(conn, row["id"], within.start, within.end)


async def _read(conn: Connection, public_id: UUID) -> Datapoint:
    """Raises NotFound."""
    place = read_reading_id(public_id)
    event = None if place is None else await conn.fetchval("SELECT public_id FROM events WHERE id = $1", place[0])
    found = None if place is None or event is None else await readings.read_one(conn, *place)
    if found is None or event is None:
        raise NotFound("reading")
    return (await _datapoints(conn, [found], {found[0]: event}))[0]


def _place(cursor: str) -> readings.Place:
    """Raises Unprocessable."""
    moment, event_id = read_cursor(cursor)
    if not (EARLIEST - timedelta(days=1) <= moment <= LATEST and 0 <= event_id <= readings.EVENT_ID_MAX):
        raise Unprocessable.at("query", "cursor", msg="It is none that this list gave; leave it away to begin anew.")
    return clock.from_datetime(moment), event_id


async def _within_experiment(call: Call[Any, Any], experiment: UUID, within: Range) -> tuple[Range, list[int] | None]:
    """(its time, the ids of the events that it covers or None for all). Raises Unprocessable."""
    row = await call.pool.fetchrow(
        """SELECT started_on, stopped_on,
                  CASE WHEN scoped THEN ARRAY(SELECT event_id FROM experiment_events m WHERE m.experiment_id = x.id) END AS covered
             FROM experiments x WHERE public_id = $1""",
        experiment,
    )
    if row is None:
        raise Unprocessable.at("query", "experiment_public_id", msg=f"There is no experiment {experiment}.")
    return Range(max(within.start, row["started_on"]), min(within.end, row["stopped_on"] or within.end)), row["covered"]


async def _datapoints(conn: Connection, page: Sequence[Listed], events: Mapping[int, UUID]) -> list[Datapoint]:
    """As they are shown. Of which experiment one is its own time says: what its run says was true as far as known when it was stored."""
    if not page:
        return []
    times = [t_us for _, t_us, _, _ in page]
    concerned = {event_id for event_id, _, _, _ in page}
    rows = await conn.fetch(
        """SELECT public_id, started_on, stopped_on,
                  CASE WHEN scoped THEN ARRAY(
                      SELECT event_id FROM experiment_events m WHERE m.experiment_id = x.id AND m.event_id = ANY($3)) END AS covered
             FROM experiments x WHERE started_on <= $2 AND (stopped_on IS NULL OR stopped_on > $1) ORDER BY started_on, id""",
        clock.to_datetime(min(times)), clock.to_datetime(max(times)), list(concerned),
    )  # fmt: skip
    covering = {event: [row for row in rows if row["covered"] is None or event in row["covered"]] for event in concerned}

    def experiment_at(event_id: int, moment: datetime) -> UUID | None:
        """Of one event only one runs at a time, so it is the last that was started by then, or none."""
        started = bisect_right(covering[event_id], moment, key=itemgetter("started_on"))
        last = covering[event_id][started - 1] if started else None
        return None if last is None or (last["stopped_on"] is not None and last["stopped_on"] <= moment) else last["public_id"]

    shown = []
    for event_id, t_us, value, _ in page:
        moment = clock.to_datetime(t_us)
        shown.append(Datapoint(reading_id(event_id, t_us), events[event_id], moment, value, experiment_at(event_id, moment)))
    return shown


@route("POST", "/api/v1/datapoints/series")
async def series(call: Call[SeriesIn]) -> SeriesOut:
    """Read charts of up to 20 events over any range of 40 days: at most max_points buckets each, and no bucket hides a spike."""
    asked = call.body
    start, end = asked.start.astimezone(UTC), asked.end.astimezone(UTC)
    if start == end:
        raise Unprocessable.at("body", "to", msg="A range ends after it begins.")
    if end - start > RANGE_MAX:
        raise Unprocessable.at("body", "to", msg=f"A range has at most {RANGE_MAX.days} days.")
    answer = []
    async with call.pool.acquire() as conn:
        rows = await conn.fetch("SELECT public_id, id FROM events WHERE public_id = ANY($1)", asked.event_public_ids)
        shown = await kiosk.events_of(conn, call.identity)
        ids = {row["public_id"]: row["id"] for row in rows if shown is None or row["id"] in shown}
        for index, public_id in enumerate(asked.event_public_ids):
            if public_id not in ids:
                raise Unprocessable.at("body", "event_public_ids", index, msg=f"There is no event {public_id}.")
            columns = await runs.read_series(conn, ids[public_id], start, end, asked.max_points, asked.grid)
            named = b'{"event_public_id":"%s",' % str(public_id).encode() + columns[1:]
            answer.append(msgspec.json.decode(named, type=EventSeries))
    return SeriesOut(answer)


@route("GET", "/api/v1/datapoints/latest")
async def latest(call: Call[None, LatestQuery]) -> LatestOut:
    """Read the newest committed reading of every event, or of those asked for, which may be deleted ones. Events without readings are
    absent."""
    if call.query.event_public_ids is not None:
        await asked_for(call.pool, "event_public_ids", call.query.event_public_ids)
    rows = await call.pool.fetch(
        """SELECT e.public_id, l.created_on, l.value, x.public_id AS experiment_public_id
             FROM latest l JOIN events e ON e.id = l.event_id
             LEFT JOIN experiments x ON x.id = l.experiment_id AND l.created_on >= x.started_on
                                    AND (x.stopped_on IS NULL OR l.created_on < x.stopped_on)
            WHERE CASE WHEN $1::uuid[] IS NULL THEN e.deleted_on IS NULL ELSE e.public_id = ANY($1) END
              AND ($2::int4[] IS NULL OR e.id = ANY($2)) ORDER BY e.name""",
        call.query.event_public_ids,
        await kiosk.events_of(call.pool, call.identity),
    )
    return LatestOut([Latest(*row) for row in rows])


routes = [
    create_datapoint,
    create_datapoints,
    list_datapoints,
    delete_datapoints,
    series,
    latest,
    get_datapoint,
    delete_datapoint,
]
