"""Lists that are read by cursor: each row once, the newest first, whatever is added meanwhile."""

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from webmacs.http.page import CursorQuery, fetch_after
from webmacs.http.problem import Unprocessable
from webmacs.storage import pool as database
from webmacs.storage.pool import Pool

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
ROWS = "SELECT * FROM things WHERE kind = $1"


@pytest.fixture
async def pool(module_database: str) -> Any:
    opened = await database.open_pool(module_database, 1)
    await opened.execute("CREATE TEMP TABLE things (id int8 GENERATED ALWAYS AS IDENTITY, kind text, at timestamptz)")
    yield opened
    await opened.close()


async def add(pool: Pool, *seconds: int) -> None:
    times = [NOON + timedelta(seconds=one) for one in seconds]
    await pool.executemany("INSERT INTO things (kind, at) VALUES ('a', $1), ('b', $1)", [(at,) for at in times])


async def read_all(pool: Pool, limit: int, time: str | None) -> list[list[int]]:
    pages = []
    cursor = None
    while True:
        cursor, rows = await fetch_after(pool, ROWS, ["a"], CursorQuery(limit=limit, cursor=cursor), time)
        pages.append([row["id"] for row in rows])
        if cursor is None:
            return pages


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seconds=st.lists(st.integers(0, 3), max_size=12), limit=st.integers(1, 5))
def test_the_pages_of_a_list_together_are_the_list(module_database: str, seconds: list[int], limit: int) -> None:
    async def run() -> None:
        opened = await database.open_pool(module_database, 1)
        await opened.execute("CREATE TEMP TABLE things (id int8 GENERATED ALWAYS AS IDENTITY, kind text, at timestamptz)")
        await add(opened, *seconds)
        for time, order in ((None, "id DESC"), ("at", "at DESC, id DESC")):
            expected = [row["id"] for row in await opened.fetch(f"{ROWS} ORDER BY {order}", "a")]
            pages = await read_all(opened, limit, time)
            assert [one for page in pages for one in page] == expected
            assert all(len(page) == limit for page in pages[:-1])
            assert len(pages[-1]) > 0 or not expected
        await opened.close()

    asyncio.run(run())


async def test_what_is_added_while_a_list_is_read_moves_nothing(pool: Pool) -> None:
    await add(pool, 1, 2, 3)
    cursor, first = await fetch_after(pool, ROWS, ["a"], CursorQuery(limit=1), "at")
    await add(pool, 4)
    _, rest = await fetch_after(pool, ROWS, ["a"], CursorQuery(limit=10, cursor=cursor), "at")
    assert [row["at"].second for row in [*first, *rest]] == [3, 2, 1]


@pytest.mark.parametrize(
    "cursor", ["", "x", "!", "AAAA", "é", "\ufeff", "A" * 5_000, base64.urlsafe_b64encode(b"\x7f" + b"\xff" * 15).decode(), "=" * 24]
)
async def test_a_cursor_that_no_list_gave_is_refused(pool: Pool, cursor: str) -> None:
    with pytest.raises(Unprocessable, match=r"query\.cursor"):
        await fetch_after(pool, ROWS, ["a"], CursorQuery(cursor=cursor), "at")
