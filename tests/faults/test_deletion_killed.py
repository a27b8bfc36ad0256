"""kill -9 of the backend in the middle of a job that deletes readings: the next process does the rest, and what was to stay is there."""

import asyncio
from pathlib import Path
from random import Random

from parts.backend import Backend
from parts.plant import Plant
from parts.stored import readings_of

from webmacs.clock import to_datetime
from webmacs.http.audit import NOBODY
from webmacs.jobs.deletion import Deletion, delete_readings
from webmacs.storage import pool

COPIES = range(101, 401)
COLUMNS = "created_on, last_on, n, min, max, sum, first, last, experiment_id, encoding, overlapping, payload"
LEFT = "SELECT count(DISTINCT event_id) FROM datapoints WHERE event_id > 100 AND last_on >= $1"


async def test_a_deletion_that_is_killed_is_done_by_the_next_process(module_database: str, tmp_path: Path) -> None:
    backend, conn = Backend(module_database, tmp_path), await pool.connect(module_database)
    async with Plant(module_database, Random(3)) as plant:
        begin_us = plant.now_us - 7_200_000_000
        cut_us = begin_us + 50_000
        await plant.write(1, begin_us, [float(k) for k in range(100)])
        await conn.execute(
            f"INSERT INTO datapoints (event_id, {COLUMNS}) SELECT copy, {COLUMNS} FROM datapoints, generate_series($1::int4, $2) copy",
            COPIES[0], COPIES[-1],
        )  # fmt: skip
        async with conn.transaction():
            job = await delete_readings(conn, Deletion(list(COPIES), to_datetime(cut_us), to_datetime(plant.now_us)), "copies", NOBODY)
        await backend.start()
        async with asyncio.timeout(60):
            while (left := await conn.fetchval(LEFT, to_datetime(cut_us))) == len(COPIES):
                pass
        await backend.kill()
        assert 0 < left < len(COPIES)
        assert await conn.fetchval("SELECT state FROM jobs WHERE public_id = $1", job.public_id) == "running"
        await backend.start()
        async with asyncio.timeout(90):
            while await conn.fetchval("SELECT finished_on IS NULL FROM jobs WHERE public_id = $1", job.public_id):
                pass
        ended = await conn.fetchrow("SELECT state, attempts FROM jobs WHERE public_id = $1", job.public_id)
        assert tuple(ended) == ("done", 2)
        kept = {t_us: value for t_us, value in plant.model[1].items() if t_us < cut_us}
        assert await readings_of(conn, 1) == plant.model[1]
        for copy in COPIES[::20]:
            assert await readings_of(conn, copy) == kept
        assert await conn.fetchval(LEFT, to_datetime(cut_us)) == 0
        assert await conn.fetchval("SELECT sum(n) FROM datapoints WHERE event_id > 100") == len(COPIES) * len(kept)
    assert await backend.stop() == 0, backend.log
    await conn.close()
