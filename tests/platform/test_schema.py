"""Migrations and partitions: two at once, nothing to do, back and forth."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from parts.installation import command, environment

from webmacs import clock, ingest_core
from webmacs.accounts import create_source
from webmacs.postgres import Server
from webmacs.storage import migrate
from webmacs.storage.partitions import DAYS_AHEAD, DAYS_BEFORE, ensure_partitions

DAYS = DAYS_BEFORE + 1 + DAYS_AHEAD


async def empty_database(server: Server, name: str) -> str:
    parts = urlsplit(server.url)
    conn = await asyncpg.connect(urlunsplit(parts._replace(path="/postgres")))
    await conn.execute(f"CREATE DATABASE {name}")
    await conn.close()
    return urlunsplit(parts._replace(path=f"/{name}"))


async def partitions(conn: "asyncpg.Connection[Any]") -> list[str]:
    rows = await conn.fetch("SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'datapoints'::regclass ORDER BY 1")
    return [row["name"] for row in rows]


async def test_of_two_migrations_at_once_one_waits_and_finds_nothing_to_do(database_server: Server) -> None:
    url = await empty_database(database_server, "race")
    both = await asyncio.gather(*[asyncio.to_thread(command, "migrate", WEBMACS_DATABASE_URL=url) for _ in range(2)])
    assert [result.returncode for result in both] == [0, 0]
    conn = await asyncpg.connect(url)
    assert await migrate.revision_of(conn) == migrate.head()
    assert len(await partitions(conn)) == DAYS
    assert await conn.fetchval("SELECT count(*) FROM writers") == 1
    await conn.close()


async def test_every_revision_can_be_taken_back_and_brought_again(database_server: Server) -> None:
    url = await empty_database(database_server, "down")
    code = "import sys; from webmacs.storage import migrate as m; m.upgrade(sys.argv[1]); m.downgrade(sys.argv[1], 'base')"
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code, url], env=environment(), check=True)
    conn = await asyncpg.connect(url)
    assert await conn.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'") == 0
    assert await migrate.revision_of(conn) is None
    await conn.close()
    assert command("migrate", WEBMACS_DATABASE_URL=url).stdout == f"The database was brought to schema {migrate.head()}.\n"
    assert command("migrate", WEBMACS_DATABASE_URL=url).stdout == f"The database has schema {migrate.head()} already.\n"


async def upgrade(url: str, revision: str) -> None:
    code = "import sys; from webmacs.storage import migrate as m; m.upgrade(sys.argv[1], sys.argv[2])"
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code, url, revision], env=environment(), check=True)


async def downgrade(url: str, revision: str) -> None:
    code = "import sys; from webmacs.storage import migrate as m; m.downgrade(sys.argv[1], sys.argv[2])"
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code, url, revision], env=environment(), check=True)


async def test_a_schema_that_knows_no_deleted_events_has_them_back_alive_with_their_readings(database_server: Server) -> None:
    url = await empty_database(database_server, "revived")
    await upgrade(url, "head")
    conn = await asyncpg.connect(url)
    await ensure_partitions(conn, clock.now_us())
    long = "x" * 400
    events = [("Boiler", True), ("Pump", False), ("Pump 2", False), ("Pump", True), ("Pump", True), (long, True), (long, True)]
    source, _ = await create_source(conn, "hall")
    await conn.execute("INSERT INTO experiments (public_id, name, started_on) VALUES (gen_random_uuid(), 'Heating', now())")
    for name, deleted in events:
        await conn.execute(
            """WITH e AS (
                   INSERT INTO events (public_id, name, type, unit, writer_id, instance, deleted_on, version)
                   SELECT gen_random_uuid(), $1, 'sensor', '', w.id, 'plc', CASE WHEN $2 THEN now() END, CASE WHEN $2 THEN 2 ELSE 1 END
                     FROM writers w JOIN sources s ON s.id = w.source_id WHERE s.public_id = $3 RETURNING *),
                  kept AS (
                   INSERT INTO versions (kind, object_public_id, version, at, content)
                   SELECT 'event', public_id, number, now(), CASE number WHEN 1 THEN jsonb_build_object('name', $1::text, 'unit', '') END
                     FROM e, generate_series(1, e.version) AS number),
                  covered AS (
                   INSERT INTO experiment_events (experiment_id, event_id, event_public_id, event_name)
                   SELECT 1, id, public_id, name FROM e)
               INSERT INTO datapoints (event_id, created_on, last_on, n, min, max, sum, first, last, encoding, overlapping, payload)
               SELECT id, now(), now(), 1, 1, 1, 1, 1, 1, 0, false, '' FROM e""",
            name, deleted, source,
        )  # fmt: skip
    before = [row["public_id"] for row in await conn.fetch("SELECT public_id FROM events ORDER BY id")]
    await downgrade(url, "0010")
    named = "SELECT e.name, e.public_id, e.version, e.writer_id FROM datapoints d JOIN events e ON e.id = d.event_id ORDER BY e.id"
    rows = await conn.fetch(named)
    assert [(row["name"], row["version"]) for row in rows] == [
        ("Boiler", 3), ("Pump", 1), ("Pump 2", 1), ("Pump 3", 3), ("Pump 4", 3), (long, 3), (f"{'x' * 398} 2", 3),
    ]  # fmt: skip
    assert [row["public_id"] for row in rows] == before
    assert [row["writer_id"] == 1 for row in rows] == [deleted for _, deleted in events]  # nobody's, as of any that is brought back
    assert await conn.fetchval("SELECT count(*) FROM experiment_events") == len(events)
    told = await conn.fetch(
        """SELECT a.object_name, v.content->>'name', v.content->>'version', v.content->>'unit'
             FROM audit_log a JOIN versions v ON v.object_public_id = a.object_public_id AND v.version = 3 ORDER BY a.id"""
    )
    assert [tuple(row) for row in told] == [(row["name"], row["name"], "3", "") for row in rows if row["version"] == 3]
    await upgrade(url, "head")
    assert [row["name"] for row in await conn.fetch(named)] == [row["name"] for row in rows]
    assert await conn.fetchval("SELECT count(*) FROM events WHERE deleted_on IS NULL") == len(events)
    await conn.close()


async def test_dashboards_for_all_of_one_name_are_told_apart_by_numbers(database_server: Server) -> None:
    url = await empty_database(database_server, "dashboards")
    await upgrade(url, "0011")
    conn = await asyncpg.connect(url)
    long = "x" * 200
    for name, everybodys in ("Hall", True), ("Hall 2", True), ("Hall", True), ("Hall", False), ("Hall", True), (long, True), (long, True):
        await conn.execute(
            """WITH d AS (
                   INSERT INTO dashboards (public_id, name, description, tags, is_global, owner_name, created_on, changed_on)
                   VALUES (gen_random_uuid(), $1, '', '{}', $2, 'nobody', now(), now()) RETURNING public_id)
               INSERT INTO versions (kind, object_public_id, version, at, content)
               SELECT 'dashboard', public_id, 1, now(), jsonb_build_object('name', $1::text, 'tags', '{}'::text[]) FROM d""",
            name, everybodys,
        )  # fmt: skip
    await upgrade(url, "head")
    rows = await conn.fetch("SELECT name, version FROM dashboards ORDER BY id")
    assert [(row["name"], row["version"]) for row in rows] == [
        ("Hall", 1), ("Hall 2", 1), ("Hall 3", 2), ("Hall", 1), ("Hall 4", 2), (long, 1), (f"{'x' * 198} 2", 2),
    ]  # fmt: skip
    told = await conn.fetch(
        """SELECT a.object_name, v.content->>'name' AS name, v.content->'tags' AS tags
             FROM audit_log a JOIN versions v ON v.object_public_id = a.object_public_id AND v.version = 2 ORDER BY a.id"""
    )
    assert [tuple(row) for row in told] == [(name, name, "[]") for name in ("Hall 3", "Hall 4", f"{'x' * 198} 2")]
    await conn.close()


async def test_a_version_from_before_brings_its_dead_band_back(database_server: Server) -> None:
    url = await empty_database(database_server, "respelled")
    await upgrade(url, "0012")
    conn = await asyncpg.connect(url)
    await conn.execute(
        """INSERT INTO versions (kind, object_public_id, version, at, content)
           SELECT kind, gen_random_uuid(), 1, now(), '{"name": "Hall", "deadband": 0.5}' FROM unnest(ARRAY['event', 'rule']) AS kind"""
    )
    await upgrade(url, "head")
    kept = await conn.fetch("SELECT content->>'dead_band', content->>'deadband' FROM versions ORDER BY kind")
    assert [tuple(row) for row in kept] == [("0.5", None), (None, "0.5")]
    await conn.close()


async def test_an_email_that_its_user_entered_before_is_not_vouched_for(database_server: Server) -> None:
    url = await empty_database(database_server, "vouched")
    await upgrade(url, "0013")
    conn = await asyncpg.connect(url)
    await conn.execute(
        """WITH u AS (INSERT INTO users (public_id, email, username, role) SELECT gen_random_uuid(), name || '@x.org', name, 'viewer'
                        FROM unnest(ARRAY['own', 'sso', 'theirs', 'untold']) AS name RETURNING public_id, username)
           INSERT INTO audit_log (at, action, kind, object_public_id, actor_kind, actor_public_id, after, n)
           SELECT now(), CASE username WHEN 'sso' THEN 'create' ELSE 'update' END, 'user', public_id, 'user',
                  CASE username WHEN 'theirs' THEN gen_random_uuid() ELSE public_id END, '{"email": "a@x.org"}', 1
             FROM u WHERE username <> 'untold'"""
    )
    await upgrade(url, "head")
    rows = await conn.fetch("SELECT username FROM users WHERE NOT email_vouched")
    assert [row["username"] for row in rows] == ["own"]
    await conn.close()


async def test_a_schema_newer_than_this_version_is_refused(database: str) -> None:
    conn = await asyncpg.connect(database)
    await conn.execute("UPDATE alembic_version SET version_num = '9999'")
    await conn.close()
    result = command("migrate", WEBMACS_DATABASE_URL=database)
    assert result.returncode == 1
    assert result.stderr.startswith(f"webmacs: The database has schema 9999, this version of WebMACS knows {migrate.head()}")


async def test_the_days_that_a_live_reading_may_lie_in_are_there(database: str) -> None:
    conn = await asyncpg.connect(database)
    assert await ensure_partitions(conn, clock.now_us()) == 0
    names = await partitions(conn)
    last = clock.from_datetime(datetime.strptime(names[-1], "datapoints_%Y%m%d").replace(tzinfo=UTC))
    tomorrow = last - (DAYS_AHEAD - 1) * 86_400_000_000
    made = await asyncio.gather(*[_ensure(database, tomorrow) for _ in range(3)])
    assert sorted(made) == [0, 0, 1]
    assert len(await partitions(conn)) == DAYS + 1
    await conn.close()


async def test_a_new_day_numbers_its_rows_and_keeps_payloads_uncompressed(database: str) -> None:
    conn = await asyncpg.connect(database)
    insert = """
        INSERT INTO datapoints (event_id, created_on, last_on, n, min, max, sum, first, last, encoding, overlapping, payload)
        SELECT 1, now() - make_interval(days => day), now(), 1, 0, 0, 0, 0, 0, 0, false, '' FROM generate_series(0, 2) day
        RETURNING id
    """
    ids = [row["id"] for row in await conn.fetch(insert)]
    assert ids == sorted(set(ids))
    child = (await partitions(conn))[0]
    storage = "SELECT attstorage FROM pg_attribute WHERE attrelid = $1::text::regclass AND attname = 'payload'"
    assert await conn.fetchval(storage, child) == b"e"
    options = await conn.fetchval("SELECT reloptions FROM pg_class WHERE oid = $1::text::regclass", child)
    assert set(options) == {"autovacuum_vacuum_threshold=20000", "autovacuum_vacuum_scale_factor=0", "autovacuum_vacuum_cost_delay=0"}
    await conn.close()


async def test_the_index_of_loose_runs_leaves_out_what_the_core_leaves_alone(database: str) -> None:
    conn = await asyncpg.connect(database)
    definition = await conn.fetchval("SELECT pg_get_indexdef('datapoints_loose'::regclass)")
    assert definition.endswith(f"WHERE ((encoding = 0) OR (n < {ingest_core.SETTLED_READINGS_MIN}) OR overlapping)")
    for day in (await partitions(conn))[0], (await partitions(conn))[-1]:
        assert await conn.fetchval("SELECT count(*) FROM pg_indexes WHERE tablename = $1", day) == 3
    await conn.close()


async def test_a_reading_of_a_day_without_partition_is_refused_by_the_database(database: str) -> None:
    conn = await asyncpg.connect(database)
    with pytest.raises(asyncpg.CheckViolationError):
        await conn.execute(
            "INSERT INTO datapoints (event_id, created_on, last_on, n, min, max, sum, first, last, encoding, overlapping, payload)"
            " VALUES (1, now() - interval '40 days', now(), 1, 0, 0, 0, 0, 0, 0, false, '')"
        )
    await conn.close()


async def _ensure(url: str, now_us: int) -> int:
    conn = await asyncpg.connect(url)
    try:
        return await ensure_partitions(conn, now_us)
    finally:
        await conn.close()
