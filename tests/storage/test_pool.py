"""Connections: what comes back as what, and one clear sentence when there is no database to use."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from webmacs import clock
from webmacs.storage import pool
from webmacs.storage.ids import uuid7


async def test_ids_times_and_objects_come_back_as_they_went(module_database: str) -> None:
    opened = await pool.open_pool(module_database, 2)
    public_id, moment = uuid7(), datetime(2026, 11, 23, 12, 0, 0, 123_456, tzinfo=UTC)
    row = await opened.fetchrow(
        "SELECT $1::uuid, $2::uuid[], $3::timestamptz, $4::jsonb", public_id, [public_id], moment, {"a": [1, None, "ä"]}
    )
    assert row is not None
    assert list(row) == [public_id, [public_id], moment, {"a": [1, None, "ä"]}]
    assert isinstance(row[0], UUID)
    assert isinstance(row[1][0], UUID)
    assert await opened.fetchval("SHOW timezone") == "GMT"
    await opened.close()


async def test_a_statement_that_takes_too_long_is_ended_by_the_server(module_database: str) -> None:
    conn = await pool.connect(module_database, command_timeout=12.5)
    assert await conn.fetchval("SHOW statement_timeout") == "12500ms"
    await conn.close()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda dsn: dsn.replace("webmacs:", "webmacs:not-"), "refuses this user or password; correct WEBMACS_DATABASE_URL"),
        (lambda dsn: dsn.replace("/test_", "/missing_"), "There is no database"),
        (lambda dsn: "postgresql://webmacs:secret@127.0.0.1:1/plant", "127.0.0.1:1/plant cannot be reached"),
        (lambda dsn: "postgresql://webmacs:secret@/plant?host=/nowhere", "cannot be reached"),
    ],
)
async def test_what_is_wrong_is_said_in_one_sentence_without_the_password(module_database: str, change: object, sentence: str) -> None:
    for opening in (pool.open_pool(change(module_database), 2), pool.connect(change(module_database))):  # type: ignore[operator]
        with pytest.raises(pool.DatabaseError, match=sentence) as failed:
            await opening
        assert "secret" not in str(failed.value)
        assert "\n" not in str(failed.value)


async def test_an_older_server_is_refused(module_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SERVER_VERSION_MIN", 99)
    with pytest.raises(pool.DatabaseError, match=r"is PostgreSQL \d+; WebMACS needs 99 or newer"):
        await pool.open_pool(module_database, 2)


def test_public_ids_are_uuid7_and_sort_by_the_time_they_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for now_us in (0, 1, 999, 1_000, 1_795_471_506_123_456, 1_795_471_506_123_457):
        monkeypatch.setattr(clock, "now_us", lambda now_us=now_us: now_us)
        made.append(uuid7())
    assert made == sorted(made)
    assert {(one.version, one.variant) for one in made} == {(7, "specified in RFC 4122")}
    assert made[-1].int >> 80 == 1_795_471_506_123
    assert len({uuid7() for _ in range(1_000)}) == 1_000
