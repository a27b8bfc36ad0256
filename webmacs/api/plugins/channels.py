"""Channels of a plugin instance, each mapped to at most one event: the one whose readings its source delivers under the channel's key."""

from typing import Annotated, Any, Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, Meta, UnsetType

from webmacs import clock
from webmacs.api.events import event as events
from webmacs.api.events.event import EventType, Unit
from webmacs.http.problem import Conflict, NotFound, Unprocessable
from webmacs.http.route import Call, route
from webmacs.http.shape import NAME, Shape, Timestamp
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Connection, Pool

Key = Annotated[
    str, Meta(min_length=1, max_length=100, pattern=NAME, description="The channel's, in its plugin.", examples=["reactor_temperature"])
]
Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=NAME)]
Mapped = Annotated[UUID | None, Meta(description="The event that takes its readings; null: none.")]


class ChannelIn(Shape, frozen=True):
    channel_key: Key
    name: Name
    unit: Unit
    type: EventType = "sensor"
    event_public_id: Mapped = None


class ChannelChange(Shape, frozen=True):
    """What is not given stays as it is. Name, unit and type are the source's to say, as soon as it describes the channel."""

    event_public_id: Annotated[UUID | UnsetType | None, Meta(description="The event that takes its readings; null: none.")] = UNSET
    name: Name | UnsetType = UNSET
    unit: Unit | UnsetType = UNSET
    type: EventType | UnsetType = UNSET


class Channel(msgspec.Struct, frozen=True):
    public_id: UUID
    channel_key: str
    name: str
    unit: str
    type: EventType
    min_value: float | None
    max_value: float | None
    decimals: int | None
    expected_interval_ms: int | None
    described: Annotated[bool, Meta(description="false: its source has (no longer) such a channel.")]
    event_public_id: Mapped
    event: Annotated[str | None, Meta(description="Name of the event.")]
    created_on: Timestamp
    version: Annotated[int, Meta(description="Counts its changes by people; also its ETag.")]


class Channels(msgspec.Struct, frozen=True):
    data: list[Channel]


SELECT: Final = """
    SELECT m.public_id, m.channel_key, m.name, m.unit, m.type, m.min_value, m.max_value, m.decimals, m.expected_interval_ms, m.described,
           e.public_id AS event_public_id, e.name AS event, m.created_on, m.version
      FROM channel_mappings m
      JOIN plugin_instances i ON i.id = m.instance_id
      LEFT JOIN writers w ON w.source_id = i.source_id
      LEFT JOIN events e ON e.writer_id = w.id AND e.channel_key = m.channel_key
     WHERE i.public_id = $1 AND ($2::uuid IS NULL OR m.public_id = $2)
     ORDER BY m.id
"""


@route("GET", "/api/v1/plugins/{public_id}/channels")
async def list_channels(call: Call) -> Channels:
    """List the channels of a plugin instance, in the order in which its source described them."""
    rows = await call.pool.fetch(SELECT, call.public_id, None)
    if not rows and not await call.pool.fetchval("SELECT true FROM plugin_instances WHERE public_id = $1", call.public_id):
        raise NotFound("plugin instance")
    return Channels([Channel(*row) for row in rows])


@route("POST", "/api/v1/plugins/{public_id}/channels", status=201, problems=(409,), changes="channel")
async def create_channel(call: Call[ChannelIn]) -> Channel:
    """Add a channel that the source has not described yet, mapped to an event or not."""
    new, channel_id = call.body, uuid7()
    instance_id, source_id = await _lock(call.conn, call.public_id)
    try:
        await call.conn.execute(
            """INSERT INTO channel_mappings (public_id, instance_id, channel_key, name, unit, type, described, created_on)
               VALUES ($1, $2, $3, $4, $5, $6, false, $7)""",
            channel_id, instance_id, new.channel_key, new.name, new.unit, new.type, clock.now(),
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise Conflict(f"This instance has a channel {new.channel_key} already.") from None
    if new.event_public_id is not None:
        await _map(call, source_id, new.channel_key, new.event_public_id)
    channel = await _read(call.conn, call.public_id, channel_id)
    return call.changed(None, channel, "plugins")


@route("GET", "/api/v1/plugins/{public_id}/channels/{channel_id}")
async def get_channel(call: Call) -> Channel:
    """Read a channel."""
    return await _read(call.pool, call.public_id, call.path["channel_id"])


@route("PUT", "/api/v1/plugins/{public_id}/channels/{channel_id}", problems=(409,), changes="channel")
async def change_channel(call: Call[ChannelChange]) -> Channel:
    """Map a channel to another event, or to none. Its source is asked to begin anew, and nothing that it has sampled is lost."""
    channel_id, wanted = call.path["channel_id"], call.body
    _, source_id = await _lock(call.conn, call.public_id)
    before = await _read(call.conn, call.public_id, channel_id)
    call.match(before.version)
    named = {name: value for name in ("name", "unit", "type") if (value := getattr(wanted, name)) is not UNSET}
    for name, value in named.items():
        if before.described and value != getattr(before, name):
            raise Unprocessable.at("body", name, msg="Its source describes this channel; change it there.")
    await call.conn.execute(
        "UPDATE channel_mappings SET name = $2, unit = $3, type = $4, version = version + 1 WHERE public_id = $1",
        channel_id, *(named.get(name, getattr(before, name)) for name in ("name", "unit", "type")),
    )  # fmt: skip
    if wanted.event_public_id is not UNSET and wanted.event_public_id != before.event_public_id:
        await _map(call, source_id, before.channel_key, wanted.event_public_id)
    channel = await _read(call.conn, call.public_id, channel_id)
    return call.changed(before, channel, "plugins")


@route("DELETE", "/api/v1/plugins/{public_id}/channels/{channel_id}", problems=(409,), changes="channel")
async def delete_channel(call: Call) -> None:
    """Delete a channel that its source has not. Its event stays, to be written by REST."""
    channel_id = call.path["channel_id"]
    _, source_id = await _lock(call.conn, call.public_id)
    before = await _read(call.conn, call.public_id, channel_id)
    call.match(before.version)
    if before.described:
        raise Conflict("The source has this channel; map it to no event instead.")
    if before.event_public_id is not None:
        await _map(call, source_id, before.channel_key, None)
    await call.conn.execute("DELETE FROM channel_mappings WHERE public_id = $1", channel_id)
    call.changed(before, None, "plugins")


async def _map(call: Call[Any, Any], source_id: int, channel_key: str, event: UUID | None) -> None:
    """Hands the channel's key to the event, which nobody else may write. Raises Unprocessable or Conflict."""
    conn = call.conn
    # the writer's row is locked first: a flush under way ends before, and what comes after it finds the writer in other hands
    writer_id = await conn.fetchval(
        "UPDATE writers SET generation = generation + 1, owner = NULL WHERE source_id = $1 RETURNING id", source_id
    )
    now = clock.now()
    concerned = " WHERE e.public_id = $3 OR e.writer_id = $1 AND e.channel_key = $2"
    rows = await conn.fetch(events.SELECT + concerned, writer_id, channel_key, event)
    before = {row["public_id"]: events.event_of(row) for row in rows}
    await conn.execute(
        """UPDATE events SET writer_id = 1, instance = NULL, channel_key = NULL, changed_on = $3, version = version + 1
            WHERE writer_id = $1 AND channel_key = $2""",
        writer_id, channel_key, now,
    )  # fmt: skip
    if event is not None:
        found = await conn.fetchrow(
            "SELECT id, name, writer_id, channel_key FROM events WHERE public_id = $1 AND deleted_on IS NULL FOR NO KEY UPDATE", event
        )
        if found is None:
            raise Unprocessable.at("body", "event_public_id", msg=f"There is no event {event}.")
        if found["channel_key"] is not None:
            raise Conflict(f"The event {found['name']} takes the readings of channel {found['channel_key']}; map that one to none first.")
        await conn.execute(
            """UPDATE events SET writer_id = $2, channel_key = $3, changed_on = $4, version = version + 1,
                      instance = (SELECT name FROM plugin_instances WHERE public_id = $5) WHERE id = $1""",
            found["id"], writer_id, channel_key, now, call.public_id,
        )  # fmt: skip
    for row in await conn.fetch(events.SELECT + " WHERE e.public_id = ANY($1)", list(before)):
        call.changed(before[row["public_id"]], events.event_of(row), "mappings", "events", kind="event")


async def _lock(conn: Connection, instance: UUID) -> tuple[int, int]:
    """(instance's id, its source's), held until the transaction ends. Raises NotFound."""
    row = await conn.fetchrow("SELECT id, source_id FROM plugin_instances WHERE public_id = $1 FOR NO KEY UPDATE", instance)
    if row is None:
        raise NotFound("plugin instance")
    return row["id"], row["source_id"]


async def _read(database: Pool | Connection, instance: UUID, channel: UUID) -> Channel:
    row = await database.fetchrow(SELECT, instance, channel)
    if row is None:
        raise NotFound("channel")
    return Channel(*row)


routes = [list_channels, create_channel, get_channel, change_channel, delete_channel]
