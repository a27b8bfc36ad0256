"""PostgreSQL ends sessions at any moment: the flush goes on with a new one, in the same process."""

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import asyncpg
from parts import stored
from parts.backend import Backend, make_source
from parts.source import Source, data

ENDED = 40


async def test_sessions_that_are_ended_cost_neither_a_reading_nor_the_process(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path
) -> None:
    backend = Backend(module_database, tmp_path)
    await backend.start()
    start_us, seq, chance = time.time_ns() // 1_000, 0, random.Random(1)
    async with Source(backend.sockets, await make_source(module_database, "interrupted")) as source:
        await source.hello(["i"])
        for _ in range(ENDED):
            for _ in range(chance.randrange(1, 6)):
                seq += 1
                await source.send(data(seq, {0: ([start_us + seq * 1_000], [float(seq)])}))
            await asyncio.sleep(chance.uniform(0, 0.02))
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await source.acknowledged(seq)  # over the same connection: the process lived
        assert source.nacks == []
    assert await backend.stop() == 0
    assert await stored.readings(conn, "interrupted", "i") == [(start_us + n * 1_000, float(n)) for n in range(1, seq + 1)]
