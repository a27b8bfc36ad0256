"""Sources: the controllers that may deliver readings, each with a credential of its own."""

from datetime import datetime, timedelta
from typing import Annotated, Final, Literal, TypeAlias, cast
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, Meta, UnsetType
from webmacs_controller.wire import SILENCE_S_MAX

from webmacs import accounts, clock
from webmacs.http.page import Page, PageQuery, fetch_page
from webmacs.http.problem import Conflict, NotFound
from webmacs.http.route import Call, route
from webmacs.http.shape import NAME, Shape, Timestamp, of_row
from webmacs.storage.pool import Connection, Pool

State: TypeAlias = Literal["live", "offline", "never_seen"]
Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=NAME, examples=["press-hall"])]


class SourceIn(Shape, frozen=True):
    name: Name


class SourceChange(Shape, frozen=True):
    """What is not given stays as it is."""

    name: Name | UnsetType = UNSET
    enabled: Annotated[
        bool | UnsetType, Meta(description="A source that is disabled is not let in; what it has not delivered it keeps.")
    ] = UNSET


class Source(msgspec.Struct, frozen=True):
    public_id: UUID
    name: str
    enabled: bool
    state: State
    software: str | None
    last_seen_on: Timestamp | None
    clock_offset_us: Annotated[int | None, Meta(description="The source's clock less the server's.")]
    committed_seq: Annotated[int | None, Meta(description="The newest stored frame of its newest stream.")]
    lag_ms: Annotated[
        float | None,
        Meta(description="How old its newest reading was when it was stored, as of some seconds ago."),
    ]
    readings_lost: Annotated[
        int, Meta(description="Readings that it took and that are not stored: its spool dropped them, or they were refused.")
    ]
    created_on: Timestamp
    version: Annotated[int, Meta(description="Counts its changes; also its ETag.")]


class SourceCreated(Source, frozen=True):
    credential: Annotated[str, Meta(description="Shown this once; only its SHA-256 is kept.")]


class SourcesQuery(PageQuery, frozen=True):
    sort: Literal["name", "-name", "created_on", "-created_on", "last_seen_on", "-last_seen_on"] = "name"
    enabled: Annotated[bool | None, Meta(description="Only those that are enabled, or only those that are not.")] = None
    state: Annotated[State | None, Meta(description="Only those in this state.")] = None


STATE: Final = "CASE WHEN s.last_seen_on IS NULL THEN 'never_seen' WHEN s.last_seen_on >= $2 THEN 'live' ELSE 'offline' END"
SELECT: Final = f"""
    SELECT s.id, s.public_id, s.name, s.enabled, s.software, s.last_seen_on, s.clock_offset_us, s.lag_ms, s.created_on, s.version,
           {STATE} AS state,
           (SELECT t.committed_seq FROM streams t WHERE t.source_id = s.id ORDER BY t.started_on DESC LIMIT 1) AS committed_seq,
           (SELECT coalesce(sum(g.n), 0)::int8 FROM gaps g
             WHERE g.source_id = s.id AND g.cause IN ('spool_overflow', 'spool_damaged', 'refused')) AS readings_lost
      FROM sources s
"""  # noqa: S608 - ours


@route("GET", "/api/v1/sources")
async def list_sources(call: Call[None, SourcesQuery]) -> Page[Source]:
    """List sources. One that was heard within 30 s is live."""
    query = call.query
    matching = SELECT + (
        f" WHERE strpos(lower(s.name), lower($1)) > 0 AND ($3::bool IS NULL OR s.enabled = $3) AND ($4::text IS NULL OR {STATE} = $4)"
    )
    arguments = [query.search, _live_since(), query.enabled, query.state]
    total, rows = await fetch_page(call.pool, matching, arguments, query, query.sort)
    return Page(query.page, query.page_size, total, [of_row(Source, row) for row in rows])


@route("POST", "/api/v1/sources", status=201, problems=(409,), changes="source")
async def create_source(call: Call[SourceIn]) -> SourceCreated:
    """Create a source. Its credential is in this answer and nowhere else."""
    try:
        public_id, credential = await accounts.create_source(cast("asyncpg.Connection[asyncpg.Record]", call.conn), call.body.name)
    except accounts.AccountError as error:
        raise Conflict(str(error)) from None
    source = await read(call.conn, public_id)
    call.changed(None, source, "sources")
    return SourceCreated(**msgspec.structs.asdict(source), credential=call.shown_once(credential))


@route("GET", "/api/v1/sources/{public_id}")
async def get_source(call: Call) -> Source:
    """Read a source."""
    return await read(call.pool, call.public_id)


@route("PUT", "/api/v1/sources/{public_id}", problems=(409,), changes="source")
async def change_source(call: Call[SourceChange]) -> Source:
    """Rename a source, or disable and enable it. One that is disabled is cut off within 5 s."""
    before = await read(call.conn, call.public_id, lock=True)
    call.match(before.version)
    given = [None if value is UNSET else value for value in (call.body.name, call.body.enabled)]
    try:
        await call.conn.execute(
            "UPDATE sources SET name = coalesce($2, name), enabled = coalesce($3, enabled), version = version + 1 WHERE public_id = $1",
            call.public_id, *given,
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise Conflict(f"There is a source called {call.body.name} already; choose another name.") from None
    return call.changed(before, await read(call.conn, call.public_id), "sources")


@route("POST", "/api/v1/sources/{public_id}/credential", status=200, problems=(412,), changes="source")
async def renew_credential(call: Call) -> SourceCreated:
    """Give a source a new credential. It is in this answer and nowhere else; the old one is void at once."""
    source = await read(call.conn, call.public_id, lock=True)
    call.match(source.version)
    credential = accounts.new_credential()
    await call.conn.execute(
        "UPDATE sources SET credential_hash = $2 WHERE public_id = $1", call.public_id, accounts.credential_hash(credential)
    )
    call.changed(source, source, "sources", action="renew_credential")
    return SourceCreated(**msgspec.structs.asdict(source), credential=call.shown_once(credential))


@route("DELETE", "/api/v1/sources/{public_id}", changes="source")
async def delete_source(call: Call) -> None:
    """Delete a source. Its credential is void at once; its events and their readings stay, to be written by REST."""
    conn = call.conn
    before = await read(conn, call.public_id, lock=True)
    call.match(before.version)
    source_id = await conn.fetchval("SELECT id FROM sources WHERE public_id = $1", call.public_id)
    # the writer's row is locked first: a flush under way ends before, a later one finds the row gone and is void
    writer_id = await conn.fetchval("SELECT id FROM writers WHERE source_id = $1 FOR UPDATE", source_id)
    await conn.execute(
        "UPDATE events SET writer_id = 1, instance = NULL, channel_key = NULL, changed_on = $2 WHERE writer_id = $1",
        writer_id, clock.now(),
    )  # fmt: skip
    await conn.execute("DELETE FROM writers WHERE id = $1", writer_id)
    await conn.execute("DELETE FROM sources WHERE id = $1", source_id)
    call.changed(before, None, "sources", "events")


async def read(database: Pool | Connection, public_id: UUID, *, lock: bool = False) -> Source:
    """Raises NotFound. With `lock` nobody else changes it until the transaction ends."""
    row = await database.fetchrow(SELECT + " WHERE s.public_id = $1" + (" FOR UPDATE OF s" if lock else ""), public_id, _live_since())
    if row is None:
        raise NotFound("source")
    return of_row(Source, row)


def _live_since() -> datetime:
    return clock.now() - timedelta(seconds=SILENCE_S_MAX)


routes = [list_sources, create_source, get_source, change_source, renew_credential, delete_source]
