"""Experiments: a name for what was stored between a start and a stop, for every channel or for some."""

from datetime import timedelta
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

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Notes = Annotated[str, Meta(max_length=20_000)]
Tags = Annotated[list[Annotated[str, Meta(min_length=1, max_length=50)]], Meta(max_length=50)]
Scope = Annotated[list[UUID], Meta(min_length=1, max_length=10_000, description="Only these channels; null: every channel.")]

STARTING: Final = 0x5745_424D  # "WEBM": starts are judged one after the other under this advisory lock


class ExperimentIn(Shape, frozen=True):
    name: Name
    notes: Notes = ""
    tags: Tags = []  # noqa: RUF012 - msgspec copies an empty list for each
    event_public_ids: Scope | None = None


class ExperimentChange(Shape, frozen=True):
    """What is not given stays as it is."""

    name: Name | UnsetType = UNSET
    notes: Notes | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET


class Experiment(msgspec.Struct, frozen=True):
    public_id: UUID
    name: str
    notes: str
    tags: list[str]
    started_on: Timestamp
    stopped_on: Annotated[Timestamp | None, Meta(description="null while it runs")]
    started_by: str | None
    event_public_ids: Annotated[list[UUID] | None, Meta(description="null: every channel")]
    version: Annotated[int, Meta(description="Counts its changes; also its ETag.")]


class ExperimentsQuery(PageQuery, frozen=True):
    sort: Literal["name", "-name", "started_on", "-started_on", "stopped_on", "-stopped_on"] = "-started_on"
    running: Annotated[bool | None, Meta(description="Only those that run, or only those that have stopped.")] = None


SELECT: Final = """
    SELECT x.id, x.public_id, x.name, x.notes, x.tags, x.started_on, x.stopped_on, x.started_by, x.version,
           CASE WHEN x.scoped THEN ARRAY(
               SELECT e.public_id FROM experiment_events m JOIN events e ON e.id = m.event_id WHERE m.experiment_id = x.id ORDER BY e.id
           ) END AS event_public_ids
      FROM experiments x
"""


@route("GET", "/api/v1/experiments")
async def list_experiments(call: Call[None, ExperimentsQuery]) -> Page[Experiment]:
    """List experiments, the newest first. `search` looks into names, ignoring the case of a to z."""
    query = call.query
    matching = SELECT + " WHERE strpos(lower(x.name), lower($1)) > 0 AND ($2::bool IS NULL OR (x.stopped_on IS NULL) = $2)"
    total, rows = await fetch_page(call.pool, matching, [query.search, query.running], query, query.sort)
    return Page(query.page, query.page_size, total, [_experiment(row) for row in rows])


@route("POST", "/api/v1/experiments", status=201, problems=(409,), changes="experiment")
async def start_experiment(call: Call[ExperimentIn]) -> Experiment:
    """Start an experiment. Refused while another one runs that shares a channel with it."""
    new, public_id = call.body, uuid7()
    await call.conn.execute("SELECT pg_advisory_xact_lock($1)", STARTING)
    scope = None if new.event_public_ids is None else await _resolve(call.conn, new.event_public_ids)
    await _refuse_overlap(call.conn, scope)
    experiment_id = await call.conn.fetchval(
        """INSERT INTO experiments (public_id, name, notes, tags, started_on, started_by, scoped)
           VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id""",
        public_id, new.name, new.notes, new.tags, clock.to_datetime(clock.now_us()), call.identity.name, scope is not None,
    )  # fmt: skip
    if scope is not None:
        await call.conn.execute("INSERT INTO experiment_events SELECT $1, unnest($2::int4[])", experiment_id, scope)
    experiment = await _read(call.conn, public_id)
    call.changed(None, experiment, "experiments", action="start")
    return experiment


@route("GET", "/api/v1/experiments/{public_id}")
async def get_experiment(call: Call) -> Experiment:
    """Read an experiment."""
    return await _read(call.pool, call.public_id)


@route("PUT", "/api/v1/experiments/{public_id}", changes="experiment")
async def change_experiment(call: Call[ExperimentChange]) -> Experiment:
    """Change an experiment's name, notes or tags. What it covers is frozen at its start."""
    given = [None if value is UNSET else value for value in (call.body.name, call.body.notes, call.body.tags)]
    before = await _read(call.conn, call.public_id, lock=True)
    call.match(before.version)
    await call.conn.execute(
        """UPDATE experiments SET name = coalesce($2, name), notes = coalesce($3, notes), tags = coalesce($4, tags), version = version + 1
            WHERE public_id = $1""",
        call.public_id, *given,
    )  # fmt: skip
    experiment = await _read(call.conn, call.public_id)
    call.changed(before, experiment, "experiments")
    return experiment


@route("PUT", "/api/v1/experiments/{public_id}/stop", changes="experiment")
async def stop_experiment(call: Call) -> Experiment:
    """Stop an experiment. One that has stopped stays as it is."""
    before = await _read(call.conn, call.public_id, lock=True)
    if before.stopped_on is not None:
        return before
    await call.conn.execute(  # a clock that was set back must not stop it before it began
        "UPDATE experiments SET stopped_on = greatest($2, started_on + $3), version = version + 1 WHERE public_id = $1",
        call.public_id, clock.to_datetime(clock.now_us()), timedelta(microseconds=1),
    )  # fmt: skip
    experiment = await _read(call.conn, call.public_id)
    call.changed(before, experiment, "experiments", action="stop")
    return experiment


@route("DELETE", "/api/v1/experiments/{public_id}", problems=(409,), changes="experiment")
async def delete_experiment(call: Call) -> None:
    """Delete an experiment that has stopped. Its readings stay."""
    before = await _read(call.conn, call.public_id, lock=True)
    call.match(before.version)
    if before.stopped_on is None:
        raise Conflict("This experiment is running; stop it first.")
    await call.conn.execute("DELETE FROM experiments WHERE public_id = $1", call.public_id)
    call.changed(before, None, "experiments")


async def _resolve(conn: Connection, public_ids: list[UUID]) -> list[int]:
    """The events' ids. Raises Unprocessable naming the first that does not exist."""
    rows = await conn.fetch("SELECT id, public_id FROM events WHERE public_id = ANY($1::uuid[]) FOR KEY SHARE", public_ids)
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
    values: dict[str, Any] = {name: row[name] for name in Experiment.__struct_fields__}
    return Experiment(**values)


routes = [list_experiments, start_experiment, get_experiment, change_experiment, stop_experiment, delete_experiment]
