"""kill -9 of the backend in the middle of a merge, while somebody reads: every reading is there, once, at every moment."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from parts.backend import Backend
from parts.plant import Plant, differences
from parts.torture import Row

from webmacs.storage import pool

MERGING = """
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND xact_start IS NOT NULL AND query LIKE 'COPY%datapoints%' AND pid <> pg_backend_pid()
       AND (query LIKE '%DELETE FROM%' OR query LIKE '%"id"%')
"""
"""Transactions that have taken runs away and not yet committed what takes their place."""
WAITING = "SELECT EXISTS (SELECT FROM datapoints WHERE encoding = 0)"
"""Something is left to merge. On a quick machine a merge may be over before anybody saw it."""


class Reader:
    """Reads everything again and again on a connection of its own, and keeps what was not as it must be."""

    def __init__(self, plant: Plant, conn: pool.Connection, row: Row) -> None:
        self.found: list[str] = []
        self._read = asyncio.Event()
        self._plant, self._conn, self._row = plant, conn, row

    async def run(self) -> None:
        while not self.found:
            self.found += await differences(self._plant, self._conn, self._row.chance)
            self._read.set()

    async def rounds(self, count: int) -> None:
        """Waits until it has ended so many rounds from now on, or found something."""
        for _ in range(count):
            if not self.found:
                self._read.clear()
                await self._read.wait()


async def kill_while_merging(database: str, place: Path, row: Row, kills: int, sabotage: str | None = None) -> tuple[list[str], int, Plant]:
    """What readers saw that is not the model, and how many kills met a merge under way: more kills are tried until one has."""
    backend, found, met, killed = Backend(database, place, sabotage), [], 0, 0
    seeing, reading = await pool.connect(database), await pool.connect(database)
    async with Plant(database, row.chance) as plant:
        while killed < kills or (not met and killed < 10 * kills):
            for _ in range(40):
                for _ in range(20):
                    plant.send()
                await plant.flush()
            reader = Reader(plant, reading, row)
            task = asyncio.create_task(reader.run())
            await backend.start()
            async with asyncio.timeout(60):
                while not await seeing.fetchval(MERGING) and await seeing.fetchval(WAITING):
                    pass
            for _ in range(row.chance.choice((0, 0, 3, 20))):  # any moment, early ones more often: a merge is soon over
                await seeing.fetchval(MERGING)
            met += await seeing.fetchval(MERGING)
            await backend.kill()
            killed += 1
            await reader.rounds(2)  # one that began after the kill
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await reading.close()
            reading = await pool.connect(database)
            found += reader.found
    await seeing.close()
    await reading.close()
    return found, met, plant


@pytest.mark.row(21)
async def test_a_merge_that_is_killed_changes_nothing_that_a_reader_sees(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    kills = row.count(quick=3, full=100)
    found, met, plant = await kill_while_merging(module_database, tmp_path, row, kills)
    packed = await conn.fetchval("SELECT count(*) FROM datapoints WHERE encoding <> 0")
    row.record(
        done=plant.sent, unit="readings", refused=None, unknown=None, lost=None, twice=None,
        differences=len(found), kills=kills, kills_within_a_merge=met, packed_runs=packed,
    )  # fmt: skip
    assert found == []
    assert met, "no kill met a merge: the run proves nothing"
    assert packed


@pytest.mark.row(21)
async def test_a_merge_in_two_transactions_is_found(module_database: str, tmp_path: Path, row: Row) -> None:
    sabotage = "merge_in_two_transactions"
    found, _, _ = await kill_while_merging(module_database, tmp_path, row, 1, sabotage)
    row.caught(sabotage, of=test_a_merge_that_is_killed_changes_nothing_that_a_reader_sees, differences=len(found))
    assert found
