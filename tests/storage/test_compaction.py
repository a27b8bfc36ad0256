"""Readings in any order, the same instants again, up to 30 days late: what is stored equals a plain model, whatever is merged meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import pytest
from parts import sabotage, stored
from parts.backend import Backend, make_source
from parts.plant import DAY_US, DAYS_LATE, Model, Plant, differences, tally
from parts.source import Source, data
from parts.stored import readings_of
from parts.torture import Row

from webmacs import ingest_core
from webmacs.clock import to_datetime
from webmacs.storage import compact, partitions, pool, runs
from webmacs.storage.compact import Compactor
from webmacs.storage.vitals import Vitals


@pytest.fixture
async def plant(database: str, request: pytest.FixtureRequest) -> AsyncIterator[Plant]:
    chance = request.getfixturevalue("row").chance if request.node.get_closest_marker("row") else Random(1)
    async with Plant(database, chance) as made:
        yield made


@pytest.fixture
async def compacting(database: str) -> "AsyncIterator[asyncpg.Connection[Any]]":
    connection = await pool.connect(database)
    yield connection
    await connection.close()


async def compact_all(compactor: Compactor, conn: pool.Connection, now_us: int) -> None:
    while await compactor.compact_once(conn, now_us, sweep=True):
        pass


async def write_and_compact(row: Row, plant: Plant, conn: pool.Connection, monkeypatch: pytest.MonkeyPatch, readings: int) -> list[str]:
    """Writes at least so many readings; at random moments compaction runs, with flushes in the middle of its transactions."""
    chance, compactor = row.chance, Compactor("", Vitals())
    take_runs, read_loose = runs.take_runs, runs.read_loose

    async def busy() -> None:
        for _ in range(chance.randrange(3)):
            for _ in range(chance.randrange(1, 40)):
                plant.send()
            await plant.flush()

    async def read_and_flush(*args: Any) -> bytes:
        stats = await read_loose(*args)
        await busy()
        return stats

    async def take_and_flush(*args: Any) -> bytes:
        taken = await take_runs(*args)
        await busy()
        return taken

    monkeypatch.setattr(runs, "read_loose", read_and_flush)
    monkeypatch.setattr(runs, "take_runs", take_and_flush)
    found: list[str] = []
    looks = iter(range(0, readings, readings // 8))
    look = next(looks)
    while plant.sent < readings and not found:
        for _ in range(chance.randrange(1, 40)):
            plant.send()
        await plant.flush()
        if chance.random() < 0.02:
            await plant.take_over()
        if chance.random() < 0.2:
            await compactor.compact_once(conn, plant.now_us, sweep=chance.random() < 0.5)
        if plant.sent >= look:
            found += await differences(plant, plant.conn, chance)
            look = next(looks, readings)
    found += await differences(plant, plant.conn, chance)
    monkeypatch.setattr(runs, "read_loose", read_loose)
    monkeypatch.setattr(runs, "take_runs", take_runs)
    await compact_all(compactor, conn, plant.now_us + 2 * DAY_US)  # every day is over
    return found + await differences(plant, plant.conn, chance)


@pytest.mark.row(20)
async def test_readings_in_any_order_equal_a_plain_model_before_during_and_after_compaction(
    row: Row, plant: Plant, compacting: pool.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await write_and_compact(row, plant, compacting, monkeypatch, row.count(quick=50_000, full=1_000_000))
    counted = await tally(plant.model, plant.conn)
    events = await plant.conn.fetch(
        """SELECT event_id, sum(n)::int8 AS n, sum(sum) AS sum, min(min) AS min, max(max) AS max,
                  bool_or(encoding = 0 OR overlapping) AS loose, count(*) AS runs FROM datapoints GROUP BY event_id ORDER BY event_id"""
    )
    instants = sum(len(model) for model in plant.model.values())
    row.record(
        done=plant.sent, unit="readings", refused=0, unknown=None, lost=counted.lost, twice=sum(one["n"] for one in events) - instants,
        different=counted.different, differences=len(found), instants=instants, runs=sum(one["runs"] for one in events),
        days_late_max=max(DAYS_LATE),
    )  # fmt: skip
    assert found == []
    for one in events:
        values = plant.model[one["event_id"]].values()
        assert (one["n"], one["min"], one["max"]) == (len(values), min(values), max(values))
        assert one["sum"] == pytest.approx(sum(values), rel=0 if one["event_id"] < 3 else 1e-12)
        assert not one["loose"]


@pytest.mark.row(20)
@pytest.mark.parametrize("name", ["forget_marks", "merge_under_new_ids"])
async def test_a_wrong_order_of_writing_is_found(
    row: Row, plant: Plant, compacting: pool.Connection, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with sabotage.applied(name):
        found = await write_and_compact(row, plant, compacting, monkeypatch, 100_000)
    row.caught(name, of=test_readings_in_any_order_equal_a_plain_model_before_during_and_after_compaction, differences=len(found))
    assert found


@pytest.mark.row(20)
async def test_readings_that_come_through_the_socket_in_any_order_equal_a_plain_model(database: str, tmp_path: Path, row: Row) -> None:
    """Down to the oldest that the core takes, less the minutes that this test may last, while a compactor works."""
    chance, channels, frames = row.chance, ("a", "b"), row.count(quick=300, full=20_000)
    oldest_us = time.time_ns() // 1000 - ingest_core.PAST_US_MAX + 300_000_000
    backend = Backend(database, tmp_path, "eager")
    await backend.start()
    conn = await pool.connect(database)
    written: list[dict[int, float]] = [{} for _ in channels]
    sent = 0
    async with Source(backend.sockets, await make_source(database, row.test[:90])) as source:
        await source.hello(channels)
        for seq in range(1, frames + 1):
            columns = {}
            for channel, of_channel in enumerate(written):
                begin_us = oldest_us + chance.choice((0, 0, 9, 29)) * DAY_US + 1_000 * chance.randrange(2_000)
                n, step_us = chance.choice((1, 5, 40)), chance.choice((1, 1_000, 50_000))
                times = range(begin_us, begin_us + n * step_us, step_us)
                columns[channel] = (times, [float(number) for number in range(sent, sent + n)])
                of_channel.update(zip(*columns[channel], strict=True))
                sent += n
            await source.send(data(seq, columns))
            if seq % 50 == 0:
                await source.acknowledged(seq)
        await source.acknowledged(frames)
        refused = len(source.nacks)
    events = await stored.events_of(conn, row.test[:90])
    model: Model = {events[key]: of_channel for key, of_channel in zip(channels, written, strict=True)}
    before = await tally(model, conn)
    async with asyncio.timeout(60):
        while await conn.fetchval("SELECT EXISTS (SELECT FROM datapoints WHERE encoding = 0)"):  # noqa: ASYNC110 a table does not tell
            await asyncio.sleep(0.05)
    after = await tally(model, conn)
    await conn.close()
    assert await backend.stop() == 0
    row.record(
        done=sent, unit="readings", refused=refused, unknown=None, lost=before.lost + after.lost, twice=before.twice + after.twice,
        different=before.different + after.different, instants=sum(map(len, written)),
    )  # fmt: skip
    assert (refused, before, after) == (0, (0, 0, 0), (0, 0, 0))


async def lengths(conn: pool.Connection, event: int) -> list[tuple[int, int]]:
    """(encoding, readings) of an event's runs, in the order of time."""
    rows = await conn.fetch("SELECT encoding, n FROM datapoints WHERE event_id = $1 ORDER BY created_on", event)
    return [(row["encoding"], row["n"]) for row in rows]


async def test_sixty_four_small_runs_or_ten_minutes_are_worth_a_pass(plant: Plant, compacting: pool.Connection) -> None:
    compactor, begin_us = Compactor("", Vitals()), plant.now_us - 60_000_000
    for k in range(63):
        await plant.write(1, begin_us + k * 1_000, [k])
    assert await compactor.compact_once(compacting, plant.now_us, sweep=True) == 0
    await plant.write(1, begin_us + 63_000, [63])
    assert await compactor.compact_once(compacting, plant.now_us, sweep=False) == 64
    assert await lengths(plant.conn, 1) == [(2, 64)]
    for k in range(3):
        await plant.write(2, begin_us + k * 1_000, [k])
    assert await compactor.compact_once(compacting, plant.now_us + 530_000_000, sweep=True) == 0
    assert await compactor.compact_once(compacting, plant.now_us + 550_000_000, sweep=False) == 0
    assert await compactor.compact_once(compacting, plant.now_us + 550_000_000, sweep=True) == 3
    assert await readings_of(plant.conn, 2) == plant.model[2]


async def test_what_is_newer_than_five_seconds_waits(plant: Plant, compacting: pool.Connection) -> None:
    compactor = Compactor("", Vitals())
    for k in range(200):
        await plant.write(1, plant.now_us - 10_000_000 + k * 50_000, [k])
    assert await compactor.compact_once(compacting, plant.now_us, sweep=False) == 100
    assert (await lengths(plant.conn, 1))[:2] == [(2, 100), (0, 1)]


async def test_membership_of_an_experiment_is_repaired_by_the_time_of_a_reading(plant: Plant, compacting: pool.Connection) -> None:
    begin_us = plant.now_us - 3_600_000_000
    for k in range(100):
        await plant.write(1, begin_us + k * 1_000_000, [k])
        await plant.write(2, begin_us + k * 1_000_000, [k])
    started, stopped = to_datetime(begin_us + 30_000_000), to_datetime(begin_us + 70_000_000)
    experiment = await plant.conn.fetchval(
        """INSERT INTO experiments (public_id, name, started_on, stopped_on, scoped)
           VALUES (gen_random_uuid(), 'late', $1, $2, true) RETURNING id""",
        started,
        stopped,
    )
    await plant.conn.execute(
        """INSERT INTO events (public_id, name, type, unit) OVERRIDING SYSTEM VALUE
           SELECT gen_random_uuid(), 'event ' || i, 'sensor', '' FROM generate_series(1, 1) i"""
    )
    await plant.conn.execute("INSERT INTO experiment_events VALUES ($1, 1, gen_random_uuid(), '')", experiment)
    await compact_all(Compactor("", Vitals()), compacting, plant.now_us)
    query = "SELECT experiment_id, n, created_on FROM datapoints WHERE event_id = $1 ORDER BY created_on"
    rows = [tuple(row) for row in await plant.conn.fetch(query, 1)]
    assert rows == [(None, 30, to_datetime(begin_us)), (experiment, 40, started), (None, 30, stopped)]
    assert [row["n"] for row in await plant.conn.fetch(query, 2)] == [100]
    assert await Compactor("", Vitals()).compact_once(compacting, plant.now_us, sweep=True) == 0


async def test_a_run_that_cannot_be_read_is_said_and_holds_nobody_up(
    plant: Plant, compacting: pool.Connection, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(compact.log, "error", lambda name, **fields: said.append({"name": name, **fields}))
    for k in range(64):
        for event in (1, 2, 3):
            await plant.write(event, plant.now_us - 60_000_000 + k * 1_000, [k])
    await plant.conn.execute("UPDATE datapoints SET payload = '\\x0100' WHERE event_id = 2 AND first = 5")
    compactor = Compactor("", Vitals())
    assert await compactor.compact_once(compacting, plant.now_us, sweep=False) == 128
    assert await compactor.compact_once(compacting, plant.now_us, sweep=False) == 0
    assert [len(await lengths(plant.conn, event)) for event in (1, 2, 3)] == [1, 64, 1]
    assert [(one["name"], one["event"]) for one in said] == [("run_not_compacted", 2)]
    assert "the run" in said[0]["reason"]


async def test_of_two_compactors_one_works_and_the_other_takes_over(database: str, plant: Plant) -> None:
    holder, other = await pool.connect(database), await pool.connect(database)
    await holder.execute("SELECT pg_advisory_lock($1)", compact.COMPACTION_LOCK)
    await asyncio.wait_for(Compactor(database, Vitals())._work(other), 5)  # returns at once
    for k in range(64):
        await plant.write(1, plant.now_us - 60_000_000 + k * 1_000, [k])
    await holder.close()
    task = asyncio.create_task(Compactor(database, Vitals())._work(other))
    while await lengths(plant.conn, 1) != [(2, 64)]:
        assert not task.done()
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await other.close()


async def test_days_without_readings_cost_a_look_and_nothing_else(plant: Plant, compacting: pool.Connection) -> None:
    await plant.write(1, plant.now_us - 20 * DAY_US, [1.0])
    compactor = Compactor("", Vitals())
    assert await compactor.compact_once(compacting, plant.now_us, sweep=False) == 0
    assert await compactor.compact_once(compacting, plant.now_us, sweep=True) == 1
    assert await compactor.compact_once(compacting, plant.now_us, sweep=True) == 0
    assert await lengths(plant.conn, 1) == [(2, 1)]
    assert len(await partitions.present(plant.conn)) > 30
    assert timedelta(days=1) == runs.DAY
