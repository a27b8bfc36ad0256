"""Readings as charts want them: buckets of any range, and the newest of each event."""

from datetime import UTC, timedelta
from typing import Annotated, Final
from uuid import UUID

import msgspec

from webmacs.http.problem import Unprocessable
from webmacs.http.route import Call, route
from webmacs.http.shape import Shape, Timestamp, check_range
from webmacs.storage import runs

SERIES_EVENTS_MAX: Final = 20
RANGE_MAX: Final = timedelta(days=40)
"""No read touches more than 40 days' partitions; longer ranges come with the rollups."""


class SeriesIn(Shape, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    event_public_ids: Annotated[list[UUID], msgspec.Meta(min_length=1, max_length=SERIES_EVENTS_MAX)]
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
    experiment_public_id: UUID | None


class LatestOut(msgspec.Struct, frozen=True):
    data: list[Latest]


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
        ids = {row["public_id"]: row["id"] for row in rows}
        for index, public_id in enumerate(asked.event_public_ids):
            if public_id not in ids:
                raise Unprocessable.at("body", "event_public_ids", index, msg=f"There is no event {public_id}.")
            columns = await runs.read_series(conn, ids[public_id], start, end, asked.max_points, asked.grid)
            named = b'{"event_public_id":"%s",' % str(public_id).encode() + columns[1:]
            answer.append(msgspec.json.decode(named, type=EventSeries))
    return SeriesOut(answer)


@route("GET", "/api/v1/datapoints/latest")
async def latest(call: Call[None, LatestQuery]) -> LatestOut:
    """Read the newest committed reading of every event, or of those asked for. Events without readings are absent."""
    rows = await call.pool.fetch(
        """SELECT e.public_id, l.created_on, l.value, x.public_id AS experiment_public_id
             FROM latest l JOIN events e ON e.id = l.event_id LEFT JOIN experiments x ON x.id = l.experiment_id
            WHERE $1::uuid[] IS NULL OR e.public_id = ANY($1) ORDER BY e.name""",
        call.query.event_public_ids,
    )
    return LatestOut([Latest(*row) for row in rows])


routes = [series, latest]
