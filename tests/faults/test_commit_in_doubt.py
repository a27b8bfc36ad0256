"""A COMMIT is lost, or only its answer: whether it took place is asked, before anything is written again."""

import time
from pathlib import Path
from typing import Any

import asyncpg
from parts import stored
from parts.backend import Backend, make_source
from parts.proxy import Proxy
from parts.source import Source, data

CUTS = 20
CHANNELS = 10


async def test_lost_commits_and_lost_answers_store_everything_once(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path
) -> None:
    start_us = time.time_ns() // 1_000
    async with Proxy(module_database) as proxy:
        backend = Backend(proxy.database, tmp_path)
        await backend.start()
        credential = await make_source(module_database, "doubted")
        async with Source(backend.sockets, credential) as source:
            await source.hello([f"d{channel}" for channel in range(CHANNELS)])
            for seq in range(1, CUTS + 1):
                proxy.swallow, proxy.lose = seq % 2, 1 - seq % 2
                values = {channel: ([start_us + seq * 1_000], [float(seq * 100 + channel)]) for channel in range(CHANNELS)}
                await source.send(data(seq, values))
                await source.acknowledged(seq)
        assert await backend.stop() == 0
    assert (proxy.swallowed, proxy.lost) == (CUTS // 2, CUTS // 2)
    assert "commit_was_in_doubt" in backend.log
    for channel in range(CHANNELS):
        expected = [(start_us + seq * 1_000, float(seq * 100 + channel)) for seq in range(1, CUTS + 1)]
        assert await stored.readings(conn, "doubted", f"d{channel}") == expected
    assert await conn.fetchval("SELECT sum(readings) FROM receipts") == CUTS * CHANNELS
