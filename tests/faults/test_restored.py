"""An older backup of the database is put back: sources send again what they still have, and the rest is a gap that says so."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from parts.controlled import Account, Controller, account, stored_since
from parts.journal import Verdict, check
from parts.sender import Senders
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
) -> tuple[Senders, Verdict, Account]:
    """`sabotage` is the controller's."""
    controller = Controller(place / "controller", f"restored {sabotage}", system.database, system.backend.port, sabotage)
    senders = await Senders.make(system.backend, row.test, place, count=1, channels=10, readings=20, frames_per_s=50.0)
    async with controller, senders:
        for number in range(times):
            await stored_since(system.database, controller.name, time.time_ns() // 1_000)
            await senders.acknowledged(5)
            backup = place / f"backup {number}"
            await back_up(system, backup)
            await senders.acknowledged(5)
            await stored_since(system.database, controller.name, time.time_ns() // 1_000)
            await asyncio.sleep(row.chance.uniform(0.2, 20.0 if row.torture else 0.5))  # how much the backup lacks
            await put_back(system, backup, backend_lives=number % 2 == 0)
            shutil.rmtree(backup)
            await senders.acknowledged(5)
            await stored_since(system.database, controller.name, time.time_ns() // 1_000)
    conn = await asyncpg.connect(system.database)
    verdict, found = await check(conn, senders.journals), await account(conn, controller.name)
    await conn.close()
    return senders, verdict, found


@pytest.mark.row(18)
async def test_an_older_backup_hides_nothing_and_nobody_gets_stuck(system: System, tmp_path: Path, row: Row) -> None:
    times = row.count(quick=2, full=20)
    senders, verdict, found = await put_back_again_and_again(system, tmp_path, row, times)
    row.record(
        done=senders.acknowledged_frames, refused=senders.refused, unknown=senders.unknown,
        lost=verdict.lost + found.lost, twice=verdict.twice + found.twice,
        put_back=times, readings=verdict.stored, readings_of_the_controller=found.stored, forgotten_and_declared=found.declared,
    )  # fmt: skip
    assert (verdict.lost, verdict.twice, verdict.foreign) == (0, 0, 0), verdict
    assert verdict.retracted, "the backup lacked nothing that this source could send again"
    assert found.declared, "the backup lacked nothing that the controller had forgotten"
    assert (found.lost, found.twice) == (0, 0)


@pytest.mark.row(18)
async def test_an_older_backup_finds_a_gap_that_is_not_counted(system: System, tmp_path: Path, row: Row) -> None:
    _, _, found = await put_back_again_and_again(system, tmp_path, row, 1, "swallow_drop")
    row.caught("swallow_drop", of=test_an_older_backup_hides_nothing_and_nobody_gets_stuck, lost=found.lost)
    assert found.lost > 0
