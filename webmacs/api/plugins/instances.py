"""Plugin instances: the devices of the sources, and the plugins there are. A source tells what it has; people add to it and change it."""

from typing import Annotated, Any, Final, Literal
from uuid import UUID

import asyncpg
import msgspec
import orjson
from msgspec import UNSET, Meta, UnsetType

from webmacs import clock
from webmacs.api.plugins import schema
from webmacs.http.page import Page, PageQuery, fetch_page
from webmacs.http.problem import Conflict, NotFound, Unprocessable
from webmacs.http.route import Call, route
from webmacs.http.shape import NAME, PLUGIN_ID, Shape, Timestamp, fields_given, of_row
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Connection, Pool

SETTINGS_BYTES_MAX: Final = 64 * 1024

Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=NAME, examples=["boiler house"])]
PluginId = Annotated[str, Meta(min_length=1, max_length=100, pattern=PLUGIN_ID, examples=["simulated"])]
Settings = Annotated[dict[str, Any], Meta(description="Of the plugin's own; `settings_schema` describes them.", examples=[{"seed": 1}])]


class InstanceIn(Shape, frozen=True):
    """Settings and switches are kept here; a controller takes them over with its configuration, which it does not fetch yet."""

    source_public_id: UUID
    plugin_id: PluginId
    name: Name
    enabled: bool = True
    demo_mode: Annotated[bool, Meta(description="The plugin simulates its device.")] = False
    auto_create_events: Annotated[bool, Meta(description="Make an event for each channel that has none.")] = True
    settings: Settings = {}  # noqa: RUF012 - msgspec copies an empty dict for each


class InstanceChange(Shape, frozen=True):
    """What is not given stays as it is."""

    name: Name | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    demo_mode: bool | UnsetType = UNSET
    auto_create_events: bool | UnsetType = UNSET
    settings: Settings | UnsetType = UNSET


class PluginInstance(msgspec.Struct, frozen=True):
    public_id: UUID
    source_public_id: UUID
    source: str
    plugin_id: str
    name: str
    enabled: bool
    demo_mode: bool
    auto_create_events: bool
    settings: dict[str, Any]
    settings_schema: Annotated[dict[str, Any] | None, Meta(description="JSON Schema; null: its source has not described it yet.")]
    channels: Annotated[int, Meta(description="How many its source has described.")]
    mapped: Annotated[int, Meta(description="How many of them have an event.")]
    described_on: Timestamp | None
    created_on: Timestamp
    changed_on: Timestamp
    version: Annotated[int, Meta(description="Counts its changes; also its ETag.")]


class InstancesQuery(PageQuery, frozen=True):
    sort: Literal["name", "-name", "plugin_id", "-plugin_id", "source", "-source", "changed_on", "-changed_on"] = "name"
    plugin_id: Annotated[PluginId | None, Meta(description="Only of this plugin.")] = None
    source_public_id: Annotated[UUID | None, Meta(description="Only of this source.")] = None
    enabled: Annotated[bool | None, Meta(description="Only those that are enabled, or only those that are not.")] = None


class AvailablePlugin(msgspec.Struct, frozen=True):
    plugin_id: Annotated[str, Meta(examples=["simulated"])]
    settings_schema: Annotated[dict[str, Any] | None, Meta(description="JSON Schema, as it was described last.")]
    instances: int
    packages: Annotated[list[str], Meta(description="Uploaded packages that bring it, as `name version`.")]


class AvailablePlugins(msgspec.Struct, frozen=True):
    data: list[AvailablePlugin]


SELECT: Final = """
    SELECT i.id, i.public_id, s.public_id AS source_public_id, s.name AS source, i.plugin_id, i.name, i.enabled, i.demo_mode,
           i.auto_create_events, i.settings, i.settings_schema, counted.channels, counted.mapped, i.described_on, i.created_on,
           i.changed_on, i.version
      FROM plugin_instances i
      JOIN sources s ON s.id = i.source_id
      CROSS JOIN LATERAL (
           SELECT count(*) AS channels, count(e.id) AS mapped
             FROM channel_mappings m LEFT JOIN writers w ON w.source_id = i.source_id
             LEFT JOIN events e ON e.writer_id = w.id AND e.channel_key = m.channel_key
            WHERE m.instance_id = i.id AND m.described) counted
"""


@route("GET", "/api/v1/plugins/available")
async def list_available_plugins(call: Call) -> AvailablePlugins:
    """List the plugins there are: those that sources have described, and those that uploaded packages bring."""
    rows = await call.pool.fetch(
        """
        WITH known AS (
            SELECT plugin_id, count(*) AS instances,
                   (array_agg(settings_schema ORDER BY described_on DESC NULLS LAST))[1] AS settings_schema
              FROM plugin_instances GROUP BY plugin_id),
        packaged AS (
            SELECT plugin_id, array_agg(name || ' ' || version ORDER BY name, created_on DESC) AS packages
              FROM plugin_packages, unnest(plugin_ids) AS plugin_id GROUP BY plugin_id)
        SELECT coalesce(k.plugin_id, p.plugin_id) AS plugin_id, k.settings_schema, coalesce(k.instances, 0) AS instances,
               coalesce(p.packages, '{}') AS packages
          FROM known k FULL JOIN packaged p USING (plugin_id) ORDER BY 1
        """
    )
    return AvailablePlugins([AvailablePlugin(**row) for row in rows])


@route("GET", "/api/v1/plugins")
async def list_plugin_instances(call: Call[None, InstancesQuery]) -> Page[PluginInstance]:
    """List plugin instances. `search` looks into names, ignoring the case of a to z."""
    query = call.query
    matching = SELECT + (
        " WHERE strpos(lower(i.name), lower($1)) > 0 AND ($2::text IS NULL OR i.plugin_id = $2) AND ($3::uuid IS NULL OR s.public_id = $3)"
        " AND ($4::bool IS NULL OR i.enabled = $4)"
    )
    arguments = [query.search, query.plugin_id, query.source_public_id, query.enabled]
    total, rows = await fetch_page(call.pool, matching, arguments, query, query.sort)
    return Page(query.page, query.page_size, total, [_instance(row) for row in rows])


@route("POST", "/api/v1/plugins", status=201, problems=(409,), changes="plugin instance")
async def create_plugin_instance(call: Call[InstanceIn]) -> PluginInstance:
    """Create a plugin instance on a source. Its channels come when the source describes it, or are added by hand."""
    new, public_id = call.body, uuid7()
    _check_settings(new.settings)
    source_id = await call.conn.fetchval("SELECT id FROM sources WHERE public_id = $1 FOR KEY SHARE", new.source_public_id)
    if source_id is None:
        raise Unprocessable.at("body", "source_public_id", msg=f"There is no source {new.source_public_id}.")
    try:
        await call.conn.execute(
            """INSERT INTO plugin_instances (public_id, source_id, name, plugin_id, enabled, demo_mode, auto_create_events, settings,
                                             created_on, changed_on)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)""",
            public_id, source_id, new.name, new.plugin_id, new.enabled, new.demo_mode, new.auto_create_events, new.settings, clock.now(),
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise _taken(new.name) from None
    instance = await read_instance(call.conn, public_id)
    return call.changed(None, instance, "plugins")


@route("GET", "/api/v1/plugins/{public_id}")
async def get_plugin_instance(call: Call) -> PluginInstance:
    """Read a plugin instance."""
    return await read_instance(call.pool, call.public_id)


@route("PUT", "/api/v1/plugins/{public_id}", problems=(409,), changes="plugin instance")
async def change_plugin_instance(call: Call[InstanceChange]) -> PluginInstance:
    """Change a plugin instance. Fields that are not given stay. New settings are judged by the schema that the source has described."""
    given = fields_given(call.body)
    _check_settings(given.get("settings", {}))
    before = await read_instance(call.conn, call.public_id, lock=True)
    call.match(before.version)
    if before.settings_schema is not None and given.get("settings", before.settings) != before.settings:
        await schema.check(given["settings"], before.settings_schema, "body", "settings")
    wanted = [given.get(name, getattr(before, name)) for name in InstanceChange.__struct_fields__]
    try:
        await call.conn.execute(
            """UPDATE plugin_instances SET name = $2, enabled = $3, demo_mode = $4, auto_create_events = $5, settings = $6, changed_on = $7,
                                           version = version + 1 WHERE public_id = $1""",
            call.public_id, *wanted, clock.now(),
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise _taken(str(given["name"])) from None
    instance = await read_instance(call.conn, call.public_id)
    return call.changed(before, instance, "plugins")


@route("DELETE", "/api/v1/plugins/{public_id}", changes="plugin instance")
async def delete_plugin_instance(call: Call) -> None:
    """Delete a plugin instance and its channels. Events and their readings stay; a source that still has it describes it again."""
    before = await read_instance(call.conn, call.public_id, lock=True)
    call.match(before.version)
    await call.conn.execute(
        "UPDATE sources s SET described_digest = NULL FROM plugin_instances i WHERE i.public_id = $1 AND s.id = i.source_id", call.public_id
    )
    await call.conn.execute("DELETE FROM plugin_instances WHERE public_id = $1", call.public_id)
    call.changed(before, None, "plugins")


async def read_instance(database: Pool | Connection, public_id: UUID, *, lock: bool = False) -> PluginInstance:
    """Raises NotFound. With `lock` nobody else changes it until the transaction ends."""
    row = await database.fetchrow(SELECT + " WHERE i.public_id = $1" + (" FOR UPDATE OF i" if lock else ""), public_id)
    if row is None:
        raise NotFound("plugin instance")
    return _instance(row)


def _instance(row: asyncpg.Record) -> PluginInstance:
    return of_row(PluginInstance, row)


def _check_settings(settings: dict[str, Any]) -> None:
    """What orjson cannot write the database cannot keep."""
    try:
        size = len(orjson.dumps(settings))
    except TypeError as error:
        raise Unprocessable.at("body", "settings", msg=f"They cannot be kept: {error}.") from None
    if size > SETTINGS_BYTES_MAX:
        raise Unprocessable.at("body", "settings", msg=f"They have at most {SETTINGS_BYTES_MAX:,} bytes.")


def _taken(name: str) -> Conflict:
    return Conflict(f"This source has an instance called {name} already; choose another name.")


routes = [
    list_available_plugins,
    list_plugin_instances,
    create_plugin_instance,
    get_plugin_instance,
    change_plugin_instance,
    delete_plugin_instance,
]
