"""The backend stopped while the real controller samples: it keeps everything, and afterwards no reading is missing."""

import asyncio
import os
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
from parts import stored
from parts.backend import Backend
from parts.controlled import BEAT_US, Controller, newest_us, stored_since

AWAY_S = float(os.environ.get("WEBMACS_TEST_AWAY_S", "3"))
NAME = "steady"


async def test_stopping_the_backend_loses_nothing(module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path) -> None:
    backend = Backend(module_database, tmp_path, compacting=False)
    await backend.start()
    async with Controller(tmp_path, NAME, module_database, backend.port):
        await stored_since(module_database, NAME, 0)
        assert await backend.stop() == 0
        before = await newest_us(conn, NAME)
        await asyncio.sleep(AWAY_S)  # the length of the absence is what is tried
        assert await newest_us(conn, NAME) == before
        await backend.start()
        await stored_since(module_database, NAME, before + round(AWAY_S * 1e6) + 2_000_000)
    assert await backend.stop() == 0
    keys = [key for (key,) in await stored.rows(conn, "SELECT channel_key FROM events")]
    steps: defaultdict[int, int] = defaultdict(int)
    for key in keys:
        times = [t for t, _ in await stored.readings(conn, NAME, key)]
        assert times == sorted(set(times))
        for first, second in pairwise(times):
            steps[round((second - first) / BEAT_US)] += 1
    assert set(steps) == {1}, f"readings are missing or doubled: {dict(steps)}"
    assert await stored.rows(conn, "SELECT cause FROM gaps") == []
    print(f"away_s={AWAY_S} channels={len(keys)} steps={steps[1]}")
