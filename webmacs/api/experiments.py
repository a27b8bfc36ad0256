"""Experiments: a name for what was stored between a start and a stop, for every channel or for some."""

import math
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import asyncpg
import msgspec
import orjson
from msgspec import UNSET, Meta, UnsetType

from webmacs import clock
from webmacs.api.jobs import accepted
from webmacs.http.page import Page, PageQuery, fetch_page
from webmacs.http.problem import Conflict, Forbidden, NotFound, Unprocessable
from webmacs.http.route import Call, route
from webmacs.http.shape import NAME, DeleteQuery, Shape, Tags, Timestamp, check_range, of_row, tidy_tags
from webmacs.jobs.deletion import Deletion, delete_readings
from webmacs.jobs.queue import Job
from webmacs.storage import runs
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Connection, Pool

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=NAME)]
Notes = Annotated[str, Meta(max_length=20_000)]
Parameters = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=100)], Any],
    Meta(max_length=200, description="What it was run with, as JSON of up to 64 KiB.", examples=[{"charge": "A 17", "set_point": 80}]),
]
Scope = Annotated[list[UUID], Meta(min_length=1, max_length=10_000, description="Only these channels; null: every channel.")]

PARAMETERS_BYTES_MAX: Final = 64 * 1024
SUMMARY_MAX: Final = timedelta(days=40)
"""No read touches more days than this."""
AHEAD_MAX: Final = timedelta(days=1)
"""A reading's time may lie so far ahead of the server's."""
STARTING: Final = 0x5745_424D  # "WEBM": starts are judged one after the other under this advisory lock


class ExperimentIn(Shape, frozen=True):
    name: Name
    notes: Notes = ""
    tags: Tags = []  # noqa: RUF012 - msgspec copies an empty list for each
    parameters: Parameters = {}  # noqa: RUF012
    event_public_ids: Scope | None = None


class ExperimentChange(Shape, frozen=True):
    """What is not given stays as it is."""

    name: Name | UnsetType = UNSET
    notes: Notes | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    parameters: Parameters | UnsetType = UNSET


class Experiment(msgspec.Struct, frozen=True):
    public_id: UUID
    name: str
    notes: str
    tags: list[str]
    parameters: dict[str, Any]
    started_on: Timestamp
    stopped_on: Annotated[Timestamp | None, Meta(description="null while it runs")]
    started_by: str | None
    event_public_ids: Annotated[
        list[UUID] | None, Meta(description="null: every channel. It is frozen at the start, and names events also after they are deleted.")
    ]
    event_names: Annotated[list[str] | None, Meta(description="What these were called at the start, in the same order.")]
    version: Annotated[int, Meta(description="Counts its changes; also its ETag.")]


class ExperimentsQuery(PageQuery, frozen=True):
    sort: Literal["name", "-name", "started_on", "-started_on", "stopped_on", "-stopped_on"] = "-started_on"
    running: Annotated[bool | None, Meta(description="Only those that run, or only those that have stopped.")] = None
    tag: Annotated[list[str], Meta(max_length=50, description="It has every one of these tags.")] = []  # noqa: RUF012
    start: Annotated[Timestamp | None, Meta(description="Only what ran at this time or later.")] = msgspec.field(default=None, name="from")
    end: Annotated[Timestamp | None, Meta(description="Only what began before this time.")] = msgspec.field(default=None, name="to")

    def __post_init__(self) -> None:
        check_range(self.start, self.end)


class SummaryQuery(PageQuery, frozen=True):
    sort: Literal["name", "-name"] = "name"


class EventSummary(msgspec.Struct, frozen=True):
    """What an experiment holds of one event."""

    event_public_id: UUID
    name: str
    unit: str
    n: int
    min: float | None
    max: float | None
    mean: Annotated[float | None, Meta(description="null without readings, or when their sum is beyond a float64")]
    first: float | None
    first_on: Timestamp | None
    last: float | None
    last_on: Timestamp | None
    gaps: Annotated[int, Meta(description="Gaps that touch the experiment, also those of all channels of the event's source.")]
    missing: Annotated[int | None, Meta(description="Readings that are known to miss in the gaps of this event; null: nothing is known.")]
    exact: Annotated[
        bool,
        Meta(description="false: stored runs cross its start or stop or overlap each other, so readings may count too much; it passes."),
    ]


SELECT: Final = """
    SELECT x.id, x.public_id, x.name, x.notes, x.tags, x.parameters, x.started_on, x.stopped_on, x.started_by, x.version,
           CASE WHEN x.scoped THEN ARRAY(
               SELECT m.event_public_id FROM experiment_events m WHERE m.experiment_id = x.id ORDER BY m.event_id
           ) END AS event_public_ids,
           CASE WHEN x.scoped THEN ARRAY(
               SELECT m.event_name FROM experiment_events m WHERE m.experiment_id = x.id ORDER BY m.event_id
           ) END AS event_names
      FROM experiments x
"""


@route("GET", "/api/v1/experiments")
async def list_experiments(call: Call[None, ExperimentsQuery]) -> Page[Experiment]:
    """List experiments, the newest first. `search` looks into names and notes, ignoring the case of a to z; `from` and `to` find those
    that ran at some time between."""
    query = call.query
    matching = (
        SELECT
        + """ WHERE (strpos(lower(x.name), lower($1)) > 0 OR strpos(lower(x.notes), lower($1)) > 0)
                AND ($2::bool IS NULL OR (x.stopped_on IS NULL) = $2) AND ($3::text[] = '{}' OR x.tags @> $3)
                AND ($4::timestamptz IS NULL OR x.stopped_on IS NULL OR x.stopped_on > $4)
                AND ($5::timestamptz IS NULL OR x.started_on < $5)"""
    )
    wanted = [query.search, query.running, query.tag, query.start, query.end]
    total, rows = await fetch_page(call.pool, matching, wanted, query, query.sort)
    return Page(query.page, query.page_size, total, [_experiment(row) for row in rows])


@route("POST", "/api/v1/experiments", status=201, problems=(409,), changes="experiment")
async def start_experiment(call: Call[ExperimentIn]) -> Experiment:
    """Start an experiment. Refused while another one runs that shares a channel with it."""
    new, public_id = call.body, uuid7()
    _check_parameters(new.parameters)
    await call.conn.execute("SELECT pg_advisory_xact_lock($1)", STARTING)
    scope = None if new.event_public_ids is None else await _resolve(call.conn, new.event_public_ids)
    await _refuse_overlap(call.conn, scope)
    experiment_id = await call.conn.fetchval(
        """INSERT INTO experiments (public_id, name, notes, tags, parameters, started_on, started_by, scoped)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id""",
        public_id, new.name, new.notes, tidy_tags(new.tags), new.parameters, clock.now(), call.identity.name,
        scope is not None,
    )  # fmt: skip
    if scope is not None:
        await call.conn.execute(
            "INSERT INTO experiment_events SELECT $1, id, public_id, name FROM events WHERE id = ANY($2)", experiment_id, scope
        )
    experiment = await _read(call.conn, public_id)
    return call.changed(None, experiment, "experiments", action="start")


@route("GET", "/api/v1/experiments/{public_id}")
async def get_experiment(call: Call) -> Experiment:
    """Read an experiment."""
    return await _read(call.pool, call.public_id)


@route("PUT", "/api/v1/experiments/{public_id}", changes="experiment")
async def change_experiment(call: Call[ExperimentChange]) -> Experiment:
    """Change an experiment's name, notes, tags or parameters. What it covers is frozen at its start; parameters are replaced as a whole."""
    new = call.body
    _check_parameters({} if new.parameters is UNSET else new.parameters)
    before = await _read(call.conn, call.public_id, lock=True)
    call.match(before.version)
    await call.conn.execute(
        """UPDATE experiments SET name = coalesce($2, name), notes = coalesce($3, notes), tags = coalesce($4, tags),
                                  parameters = coalesce($5, parameters), version = version + 1 WHERE public_id = $1""",
        call.public_id,
        None if new.name is UNSET else new.name,
        None if new.notes is UNSET else new.notes,
        None if new.tags is UNSET else tidy_tags(new.tags),
        None if new.parameters is UNSET else new.parameters,
    )
    experiment = await _read(call.conn, call.public_id)
    return call.changed(before, experiment, "experiments")


@route("PUT", "/api/v1/experiments/{public_id}/stop", problems=(412,), changes="experiment")
async def stop_experiment(call: Call) -> Experiment:
    """Stop an experiment. One that has stopped stays as it is."""
    before = await _read(call.conn, call.public_id, lock=True)
    call.match(before.version)
    if before.stopped_on is not None:
        return before
    await call.conn.execute(  # a clock that was set back must not stop it before it began
        "UPDATE experiments SET stopped_on = greatest($2, started_on + $3), version = version + 1 WHERE public_id = $1",
        call.public_id, clock.now(), timedelta(microseconds=1),
    )  # fmt: skip
    experiment = await _read(call.conn, call.public_id)
    return call.changed(before, experiment, "experiments", action="stop")


@route("DELETE", "/api/v1/experiments/{public_id}", status=202, problems=(409,), changes="experiment")
async def delete_experiment(call: Call[None, DeleteQuery]) -> Job | None:
    """Delete an experiment that has stopped. Its readings stay, or with data=delete a job deletes them, which is answered; that is an
    admin's."""
    if call.query.data == "delete" and call.identity.role != "admin":
        raise Forbidden("Only an admin deletes readings; delete the experiment with data=keep, or ask an admin.")
    before = await _read(call.conn, call.public_id, lock=True)
    call.match(before.version)
    if before.stopped_on is None:
        raise Conflict("This experiment is running; stop it first.")
    scope = await call.conn.fetchval(
        """SELECT CASE WHEN scoped THEN ARRAY(SELECT event_id FROM experiment_events m WHERE m.experiment_id = x.id) END
             FROM experiments x WHERE public_id = $1""",
        call.public_id,
    )
    await call.conn.execute("DELETE FROM experiments WHERE public_id = $1", call.public_id)
    call.changed(before, None, "experiments", detail=None if call.query.data == "keep" else "with its readings")
    if call.query.data == "keep":
        return None
    deletion = Deletion(scope, before.started_on, before.stopped_on)
    return accepted(call, await delete_readings(call.conn, deletion, f"readings of {before.name}", call.actor))


@route("GET", "/api/v1/experiments/{public_id}/summary", problems=(409,))
async def summarize_experiment(call: Call[None, SummaryQuery]) -> Page[EventSummary]:
    """Summarise what an experiment holds of each of its events, by pages. A running one is summarised up to now; `search` looks into the
    names of events. Deleted ones are there while their readings are kept. It is answered from statistics, so it costs little however many
    readings there are."""
    query = call.query
    matching = """SELECT e.id, e.public_id, coalesce(m.event_name, e.name) AS name, e.unit, x.started_on, x.stopped_on
                    FROM experiments x CROSS JOIN events e
                    LEFT JOIN experiment_events m ON m.experiment_id = x.id AND m.event_id = e.id
                   WHERE x.public_id = $1 AND strpos(lower(coalesce(m.event_name, e.name)), lower($2)) > 0
                     AND CASE WHEN x.scoped THEN m.event_id IS NOT NULL ELSE coalesce(e.deleted_on > x.started_on, true) END"""
    total, events = await fetch_page(call.pool, matching, [call.public_id, query.search], query, query.sort)
    if not events:
        await _read(call.pool, call.public_id)
        return Page(query.page, query.page_size, total, [])
    start, end = events[0]["started_on"], events[0]["stopped_on"] or clock.now() + AHEAD_MAX
    if end - start > SUMMARY_MAX:
        raise Conflict(
            f"This experiment is longer than {SUMMARY_MAX.days} days, of which no summary is made; read a series of a part of it."
        )
    ids = [event["id"] for event in events]
    statistics = await runs.read_statistics(call.pool, ids, start, end)
    gaps = await _count_gaps(call.pool, ids, start, end)
    summaries = [_summary(*three) for three in zip(events, statistics, gaps, strict=True)]
    return Page(query.page, query.page_size, total, summaries)


def _summary(event: asyncpg.Record, found: asyncpg.Record, gaps: asyncpg.Record) -> EventSummary:
    mean = found["sum"] / found["n"] if found["n"] and math.isfinite(found["sum"]) else None
    return EventSummary(
        event["public_id"], event["name"], event["unit"], found["n"], found["min"], found["max"], mean, found["first"], found["first_on"],
        found["last"], found["last_on"], gaps["gaps"], gaps["missing"], found["exact"],
    )  # fmt: skip


async def _count_gaps(pool: Pool, event_ids: list[int], start: datetime, end: datetime) -> list[asyncpg.Record]:
    """(gaps, missing) of each event in their order, of what touches [start, end)."""
    return await pool.fetch(
        """
        SELECT count(g.id) AS gaps, sum(g.n) FILTER (WHERE g.event_id IS NOT NULL)::int8 AS missing
          FROM unnest($1::int4[]) WITH ORDINALITY AS e (id, place)
          LEFT JOIN events ON events.id = e.id
          LEFT JOIN writers w ON w.id = events.writer_id
          LEFT JOIN gaps g ON (g.event_id = e.id OR (g.event_id IS NULL AND g.source_id = w.source_id AND g.cause <> 'disabled'))
               AND coalesce(g.to_on, g.created_on) >= $2 AND coalesce(g.from_on, g.created_on) < $3
         GROUP BY e.place ORDER BY e.place
        """,
        event_ids, start, end,
    )  # fmt: skip


def _check_parameters(parameters: dict[str, Any]) -> None:
    try:
        size = len(orjson.dumps(parameters))  # as the database gets them
    except TypeError as error:
        raise Unprocessable.at("body", "parameters", msg=f"They cannot be kept: {error}.") from None
    if size > PARAMETERS_BYTES_MAX:
        raise Unprocessable.at("body", "parameters", msg=f"They have at most {PARAMETERS_BYTES_MAX:,} bytes as JSON.")


async def _resolve(conn: Connection, public_ids: list[UUID]) -> list[int]:
    """The events' ids. Raises Unprocessable naming the first that does not exist."""
    rows = await conn.fetch(
        "SELECT id, public_id FROM events WHERE public_id = ANY($1::uuid[]) AND deleted_on IS NULL FOR KEY SHARE", public_ids
    )
    known = {row["public_id"]: row["id"] for row in rows}
    for index, public_id in enumerate(public_ids):
        if public_id not in known:
            raise Unprocessable.at("body", "event_public_ids", index, msg=f"There is no event {public_id}.")
    return sorted(known.values())


async def _refuse_overlap(conn: Connection, scope: list[int] | None) -> None:
    running = await conn.fetchval(
        """SELECT x.name FROM experiments x
            WHERE x.stopped_on IS NULL
              AND ($1::int4[] IS NULL OR NOT x.scoped
                   OR EXISTS (SELECT FROM experiment_events m WHERE m.experiment_id = x.id AND m.event_id = ANY($1)))
            ORDER BY x.id LIMIT 1""",
        scope,
    )
    if running is not None:
        raise Conflict(f"The experiment {running} is running on some of these channels; stop it first, or choose other channels.")


async def _read(database: Pool | Connection, public_id: UUID, *, lock: bool = False) -> Experiment:
    """Raises NotFound. With `lock` nobody else changes it until the transaction ends."""
    row = await database.fetchrow(SELECT + " WHERE x.public_id = $1" + (" FOR UPDATE OF x" if lock else ""), public_id)
    if row is None:
        raise NotFound("experiment")
    return _experiment(row)


def _experiment(row: asyncpg.Record) -> Experiment:
    return of_row(Experiment, row)


routes = [list_experiments, start_experiment, get_experiment, change_experiment, stop_experiment, delete_experiment, summarize_experiment]
