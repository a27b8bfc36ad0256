"""What a source's describe says of its devices, remembered for forms and channel lists: plugin instances and their channels."""

import hashlib
from typing import Any, Final

import msgspec
import orjson
from webmacs_controller.wire import Describe, Instance

from webmacs import clock, logs
from webmacs.storage.changes import announce
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Pool

log = logs.get(__name__)

SCHEMA_BYTES_MAX: Final = 256 * 1024
"""A longer settings schema is not remembered."""
INSTANCES: Final = """
    INSERT INTO plugin_instances (public_id, source_id, name, plugin_id, auto_create_events, settings_schema, described_on, created_on,
                                  changed_on)
    SELECT i.public_id, $1, i.name, i.plugin_id, i.auto_create_events, i.schema, $2, $2, $2
      FROM unnest($3::uuid[], $4::text[], $5::text[], $6::bool[], $7::jsonb[]) AS i (public_id, name, plugin_id, auto_create_events, schema)
    ON CONFLICT (source_id, name) DO UPDATE
       SET plugin_id = excluded.plugin_id, settings_schema = excluded.settings_schema, described_on = excluded.described_on
"""
CHANNELS: Final = """
    INSERT INTO channel_mappings (public_id, instance_id, channel_key, name, unit, type, min_value, max_value, decimals,
                                  expected_interval_ms, described, created_on)
    SELECT c.public_id, i.id, c.key, c.name, c.unit, c.type, c.min_value, c.max_value, c.decimals, c.expected_interval_ms, true, $2
      FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::float8[], $10::float8[], $11::int2[],
                  $12::int4[]) AS c (public_id, instance, key, name, unit, type, min_value, max_value, decimals, expected_interval_ms)
      JOIN plugin_instances i ON i.source_id = $1 AND i.name = c.instance
    ON CONFLICT (instance_id, channel_key) DO UPDATE
       SET name = excluded.name, unit = excluded.unit, type = excluded.type, min_value = excluded.min_value, max_value = excluded.max_value,
           decimals = excluded.decimals, expected_interval_ms = excluded.expected_interval_ms, described = true
"""


async def remember(pool: Pool, source_id: int, described: Describe) -> None:
    """One statement when nothing has changed since the source's last describe. What people have set stays. Raises the database's faults."""
    digest = hashlib.sha256(msgspec.msgpack.encode(described)).digest()
    if await pool.fetchval("SELECT described_digest = $2 FROM sources WHERE id = $1", source_id, digest):
        return
    instances = list({instance.name: instance for instance in described.instances}.values())
    channels = {(instance.name, channel.key): channel for instance in instances for channel in instance.channels}
    now = clock.now()
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("UPDATE sources SET described_digest = $2 WHERE id = $1", source_id, digest)
        await conn.execute(
            INSTANCES, source_id, now, [uuid7() for _ in instances], [one.name for one in instances], [one.plugin for one in instances],
            [one.create_events for one in instances], [_schema(one) for one in instances],
        )  # fmt: skip
        await conn.execute(
            "UPDATE channel_mappings m SET described = false FROM plugin_instances i WHERE i.id = m.instance_id AND i.source_id = $1",
            source_id,
        )
        columns: list[list[Any]] = [[uuid7() for _ in channels], [name for name, _ in channels]]
        fields = ("key", "name", "unit", "type", "min_value", "max_value", "decimals", "expected_interval_ms")
        columns.extend([getattr(channel, field) for channel in channels.values()] for field in fields)
        await conn.execute(CHANNELS, source_id, now, *columns)
        await announce(conn, "plugins")


def _schema(instance: Instance) -> dict[str, Any] | None:
    """As JSON; None, with a line in the log, for one that JSON or the database cannot hold."""
    if len(bytes(instance.settings_schema)) > SCHEMA_BYTES_MAX:
        reason = f"it has more than {SCHEMA_BYTES_MAX:,} bytes"
    else:
        try:
            schema: dict[str, Any] = msgspec.msgpack.decode(instance.settings_schema, type=dict[str, Any])
            if b"\\u0000" not in orjson.dumps(schema):  # as the database gets it
                return schema
            reason = "it holds a NUL character"
        except (msgspec.DecodeError, ValueError, TypeError, RecursionError) as error:  # orjson's is a TypeError
            reason = str(error)
    log.warning("settings_schema_left_out", instance=instance.name, plugin=instance.plugin, reason=reason)
    return None
