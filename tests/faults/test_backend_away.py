"""The backend stopped while the real controller samples: it keeps everything, and afterwards no reading is missing."""

import asyncio
import os
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
from parts import stored
from parts.backend import Backend, make_source

AWAY_S = float(os.environ.get("WEBMACS_TEST_AWAY_S", "3"))
STEP_US = 100_000
"""The simulated device is read at 10 Hz."""
NAME = "steady"


async def test_stopping_the_backend_loses_nothing(module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path) -> None:
    backend = Backend(module_database, tmp_path)
    await backend.start()
    credential = tmp_path / "credential"
    credential.write_text(await make_source(module_database, NAME))
    controller = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "webmacs_controller", "run", "--device", "simulated"),
        *("--url", f"{backend.sockets}/ws/controller/telemetry"),
        *("--credential-file", str(credential), "--spool", str(tmp_path / "spool")),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await _until_newer_than(conn, 0)
        assert await backend.stop() == 0
        before = await _newest_us(conn)
        await asyncio.sleep(AWAY_S)  # the length of the absence is what is tried
        assert await _newest_us(conn) == before
        await backend.start()
        await _until_newer_than(conn, before + round(AWAY_S * 1e6) + 2_000_000)
    finally:
        controller.terminate()
        assert await asyncio.wait_for(controller.wait(), 20) == 0
    assert await backend.stop() == 0
    keys = [key for (key,) in await stored.rows(conn, "SELECT channel_key FROM events")]
    steps: defaultdict[int, int] = defaultdict(int)
    for key in keys:
        times = [t for t, _ in await stored.readings(conn, NAME, key)]
        assert times == sorted(set(times))
        for first, second in pairwise(times):
            steps[round((second - first) / STEP_US)] += 1
    assert set(steps) == {1}, f"readings are missing or doubled: {dict(steps)}"
    assert await stored.rows(conn, "SELECT cause FROM gaps") == []
    print(f"away_s={AWAY_S} channels={len(keys)} steps={steps[1]}")


async def _newest_us(conn: "asyncpg.Connection[Any]") -> int:
    return int(await conn.fetchval("SELECT coalesce(extract(epoch FROM max(created_on)) * 1000000, 0)::int8 FROM latest"))


async def _until_newer_than(conn: "asyncpg.Connection[Any]", t_us: int) -> None:
    async with asyncio.timeout(60):
        while await _newest_us(conn) <= t_us:  # noqa: ASYNC110 the table is asked, it does not tell
            await asyncio.sleep(0.05)
