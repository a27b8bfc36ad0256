"""An older backup of the database is put back: sources send again what they still have, and the rest is a gap that says so."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from parts.backend import make_source
from parts.controlled import stored_since
from parts.journal import Verdict, check
from parts.ledger import NOT_SAMPLED, Ledger, read_ledger
from parts.sender import Senders
from parts.station import Station
from parts.system import System, run_system
from parts.torture import Row


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with run_system(compacting=False) as running:
        yield running


async def put_back(system: System, backup: Path, backend_lives: bool) -> None:
    """The database stops, the backup becomes the data, it starts; the backend stops and starts around it, or lives on."""
    if not backend_lives:
        assert await system.backend.stop() == 0
    await asyncio.to_thread(system.server.stop)
    shutil.rmtree(system.server.data)
    await copy(backup, system.server.data)
    await asyncio.to_thread(system.server.start)
    if not backend_lives:
        await system.backend.start()


async def copy(source: Path, target: Path) -> None:
    process = await asyncio.create_subprocess_exec("cp", "-a", str(source), str(target))
    assert await process.wait() == 0


async def back_up(system: System, backup: Path) -> None:
    """Of the data directory of a server that was stopped in order."""
    await asyncio.to_thread(system.server.stop)
    await copy(system.server.data, backup)
    await asyncio.to_thread(system.server.start)


async def put_back_again_and_again(
    system: System, place: Path, row: Row, times: int, sabotage: str | None = None
) -> tuple[Senders, Verdict, Ledger]:
    """`sabotage` is the controller's."""
    name = f"restored {sabotage}"
    credential = await make_source(system.database, name)
    station = Station(place / "controller", system.backend.port, credential, sabotage=sabotage, interval_ms=20, channels=2)
    senders = await Senders.make(system.backend, row.test, place, count=1, channels=10, readings=20, frames_per_s=50.0)
    async with station, senders:
        for number in range(times):
            await stored_since(system.database, name, time.time_ns() // 1_000)
            await senders.acknowledged(5)
            backup = place / f"backup {number}"
            await back_up(system, backup)
            await senders.acknowledged(5)
            await stored_since(system.database, name, time.time_ns() // 1_000)
            await asyncio.sleep(row.chance.uniform(0.2, 20.0 if row.torture else 0.5))  # how much the backup lacks
            await put_back(system, backup, backend_lives=number % 2 == 0)
            shutil.rmtree(backup)
            await senders.acknowledged(5)
            await stored_since(system.database, name, time.time_ns() // 1_000)
    conn = await asyncpg.connect(system.database)
    verdict, ledger = await check(conn, senders.journals), await read_ledger(conn, name, station.journal, 2)
    await conn.close()
    return senders, verdict, ledger


def undeclared(ledger: Ledger) -> int:
    """Readings that are missing and of which no gap speaks. The gaps count also what a lost gap had counted, a beat that was never sampled:
    so they may say more, never less."""
    return max(0, ledger.missing - ledger.causes["spool_damaged"])


@pytest.mark.row(18)
async def test_an_older_backup_hides_nothing_and_nobody_gets_stuck(system: System, tmp_path: Path, row: Row) -> None:
    times = row.count(quick=2, full=20)
    senders, verdict, ledger = await put_back_again_and_again(system, tmp_path, row, times)
    row.record(
        done=senders.acknowledged_frames, refused=senders.refused, unknown=senders.unknown,
        lost=verdict.lost + undeclared(ledger), twice=verdict.twice + ledger.twice,
        put_back=times, readings=verdict.stored, readings_of_the_controller=ledger.stored, forgotten=ledger.missing,
        declared=ledger.causes["spool_damaged"], not_sampled=ledger.not_sampled,
    )  # fmt: skip
    assert [(of.lost, of.twice, of.foreign) for of in (verdict, verdict.gaps)] == [(0, 0, 0)] * 2, verdict
    assert verdict.retracted, "the backup lacked nothing that this source could send again"
    assert ledger.missing, "the backup lacked nothing that the controller had forgotten"
    assert ledger.true, ledger
    assert undeclared(ledger) == 0
    assert set(ledger.causes) <= {"spool_damaged", *NOT_SAMPLED}


@pytest.mark.row(18)
async def test_an_older_backup_finds_a_gap_that_is_not_counted(system: System, tmp_path: Path, row: Row) -> None:
    _, _, ledger = await put_back_again_and_again(system, tmp_path, row, 1, "swallow_drop")
    row.caught("swallow_drop", of=test_an_older_backup_hides_nothing_and_nobody_gets_stuck, lost=undeclared(ledger))
    assert undeclared(ledger) > 0
