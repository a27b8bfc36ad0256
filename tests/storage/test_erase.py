"""Readings of a range are deleted, whatever runs they lie in and whatever is written and merged meanwhile: what is left equals a model."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from random import Random
from typing import Any

import asyncpg
import pytest
from parts.plant import DAY_US, DAYS_LATE, EVENTS, Plant, differences
from parts.stored import readings_of

from webmacs.clock import to_datetime
from webmacs.ingest_core import CorruptPayload
from webmacs.storage import pool
from webmacs.storage.compact import Compactor
from webmacs.storage.erase import erase
from webmacs.storage.vitals import Vitals


@pytest.fixture
async def plant(database: str) -> AsyncIterator[Plant]:
    async with Plant(database, Random(20)) as made:
        yield made


@pytest.fixture
async def erasing(database: str) -> "AsyncIterator[asyncpg.Connection[Any]]":
    connection = await pool.connect(database)
    yield connection
    await connection.close()


async def erase_both(plant: Plant, conn: pool.Connection, event: int, start_us: int, end_us: int) -> int:
    """Answers how many stored readings were deleted."""
    erased = await erase(conn, event, to_datetime(start_us), to_datetime(end_us))
    model = plant.model[event]
    plant.model[event] = {t_us: value for t_us, value in model.items() if not start_us <= t_us < end_us}
    assert erased >= len(model) - len(plant.model[event])
    return erased


@pytest.mark.parametrize("seed", range(2))
async def test_what_is_left_equals_a_model_while_readings_come_late_and_runs_are_merged(
    plant: Plant, erasing: pool.Connection, database: str, seed: int
) -> None:
    chance = plant._chance = Random(seed)
    compacting, compactor = await pool.connect(database), Compactor("", Vitals())

    async def merge() -> None:
        while True:
            await compactor.compact_once(compacting, plant.now_us, sweep=chance.random() < 0.5)
            await asyncio.sleep(0)

    merging = asyncio.create_task(merge())
    found: list[str] = []
    erased = 0
    for step in range(30):
        for _ in range(chance.randrange(1, 30)):
            plant.send()
        await plant.flush()
        if chance.random() < 0.2:
            await plant.take_over()
        times = sorted(plant.model[event := chance.choice(EVENTS)])
        if times:
            start_us = chance.choice(times) + chance.choice((0, 0, 1, -1))
            length_us = chance.choice((1, 5_000, 1_000_000, 3_600_000_000, (chance.choice(DAYS_LATE) + 1) * DAY_US))
            if length_us < DAY_US or step % 20 == 0:
                erased += await erase_both(plant, erasing, event, start_us, start_us + length_us)
        if step % 10 == 9:
            found += await differences(plant, plant.conn, chance)
    assert not merging.done(), merging.exception()
    merging.cancel()
    await asyncio.gather(merging, return_exceptions=True)
    await compacting.close()
    assert found == []
    assert erased > 500


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 99), (99, 99), (40, 59), (50, 50), (-5, 3), (97, 105), (200, 300)])
async def test_a_run_is_cut_at_both_edges_of_the_range(plant: Plant, erasing: pool.Connection, first: int, last: int, packed: bool) -> None:
    begin_us = plant.now_us - 4 * 3_600_000_000
    await plant.write(1, begin_us, [float(k) for k in range(100)])
    if packed:
        assert await Compactor("", Vitals()).compact_once(erasing, plant.now_us + 2 * DAY_US, sweep=True) == 1
    erased = await erase_both(plant, erasing, 1, begin_us + first * 1_000, begin_us + last * 1_000 + 1)
    assert erased == len(set(range(100)) & set(range(first, last + 1)))
    assert await readings_of(erasing, 1) == plant.model[1]
    loose = await erasing.fetch("SELECT encoding FROM datapoints")
    assert {row["encoding"] > 0 for row in loose} <= {packed}


async def test_an_overwritten_reading_does_not_come_back(plant: Plant, erasing: pool.Connection) -> None:
    begin_us = plant.now_us - 4 * 3_600_000_000
    await plant.write(1, begin_us, [1.0] * 10)
    await plant.write(1, begin_us + 2_000, [2.0] * 3)
    assert await erase_both(plant, erasing, 1, begin_us + 3_000, begin_us + 4_000) == 2
    assert await readings_of(erasing, 1) == plant.model[1]
    assert len(plant.model[1]) == 9


async def test_readings_of_other_events_stay(plant: Plant, erasing: pool.Connection) -> None:
    begin_us = plant.now_us - 4 * 3_600_000_000
    for event in (1, 2):
        await plant.write(event, begin_us, [1.0, 2.0])
    await erase_both(plant, erasing, 1, 0, plant.now_us)
    assert await readings_of(erasing, 2) == plant.model[2]


async def newest(conn: pool.Connection) -> Any:
    return await conn.fetchrow("SELECT created_on, value FROM latest WHERE event_id = 1")


@pytest.fixture
async def event(plant: Plant) -> Plant:
    """Event 1 as a row, with readings of three days ago and of four hours ago."""
    await plant.conn.execute("INSERT INTO events (public_id, name, type, unit) VALUES (gen_random_uuid(), 'one', 'sensor', '')")
    await plant.write(1, plant.now_us - 3 * DAY_US, [1.0, 2.0])
    await plant.write(1, plant.now_us - DAY_US // 6, [3.0, 4.0])
    await plant.conn.execute("INSERT INTO latest VALUES (1, $1, 4.0)", to_datetime(plant.now_us - DAY_US // 6 + 1_000))
    return plant


async def test_the_newest_that_is_left_becomes_the_latest(event: Plant, erasing: pool.Connection) -> None:
    begin_us = event.now_us - DAY_US // 6
    await erase_both(event, erasing, 1, begin_us + 1_000, event.now_us)
    assert tuple(await newest(erasing)) == (to_datetime(begin_us), 3.0)
    await erase_both(event, erasing, 1, begin_us - 1_000, event.now_us)
    assert tuple(await newest(erasing)) == (to_datetime(event.now_us - 3 * DAY_US + 1_000), 2.0)
    await erase_both(event, erasing, 1, 0, event.now_us)
    assert await newest(erasing) is None


async def test_the_latest_stays_where_older_readings_go(event: Plant, erasing: pool.Connection) -> None:
    await erase_both(event, erasing, 1, 0, event.now_us - DAY_US)
    assert (await newest(erasing))["value"] == 4.0


async def test_the_latest_waits_for_a_flush_that_is_under_way(event: Plant, erasing: pool.Connection, database: str) -> None:
    flushing = await pool.connect(database)
    late_us = event.now_us - DAY_US // 6 - 5_000
    flush = flushing.transaction()
    await flush.start()
    await flushing.execute("SELECT FROM writers FOR NO KEY UPDATE")
    plant_conn, event.conn = event.conn, flushing  # a late reading below what is stored, in a transaction that has not ended
    await event.write(1, late_us, [7.0])
    event.conn = plant_conn
    deletion = asyncio.create_task(erase_both(event, erasing, 1, event.now_us - DAY_US // 6, event.now_us))
    waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')"
    async with asyncio.timeout(10):
        while not await event.conn.fetchval(waiting):
            pass
    await flush.commit()
    await flushing.close()
    await deletion
    assert tuple(await newest(erasing)) == (to_datetime(late_us), 7.0)


async def test_a_run_that_cannot_be_read_leaves_its_day_as_it_was(plant: Plant, erasing: pool.Connection) -> None:
    begin_us = plant.now_us - 4 * 3_600_000_000
    await plant.write(1, begin_us, [1.0, 2.0])
    await plant.write(1, begin_us + 1_000_000, [1.0, 2.0])
    await erasing.execute("UPDATE datapoints SET payload = '\\x00' WHERE id = (SELECT max(id) FROM datapoints)")
    with pytest.raises(CorruptPayload):
        await erase(erasing, 1, to_datetime(begin_us), to_datetime(begin_us + 1_000_000) + timedelta(microseconds=1))
    assert await erasing.fetchval("SELECT count(*) FROM datapoints") == 2
    await erase(erasing, 1, to_datetime(begin_us), to_datetime(begin_us + 2_000_000))  # as a whole it need not be read
    assert await erasing.fetchval("SELECT count(*) FROM datapoints") == 0
