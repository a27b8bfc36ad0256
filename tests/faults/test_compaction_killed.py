"""The backend, PostgreSQL, a session or an answer is killed in the middle of a merge: every reading is there, once, before and after, and
while the backend dies somebody reads all the time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from parts.backend import Backend
from parts.plant import Plant, Tally, differences, tally
from parts.proxy import CommitProxy
from parts.system import System, run_system
from parts.torture import Row

from webmacs.storage import pool

UNDER_WAY = """
      FROM pg_stat_activity
     WHERE datname = current_database() AND xact_start IS NOT NULL AND query LIKE 'COPY%datapoints%' AND pid <> pg_backend_pid()
       AND (query LIKE '%DELETE FROM%' OR query LIKE '%"id"%')
"""
MERGING = f"SELECT count(*) {UNDER_WAY}"
"""Transactions that have taken runs away and not yet committed what takes their place."""
END_MERGING = f"SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) {UNDER_WAY}"
WAITING = "SELECT EXISTS (SELECT FROM datapoints WHERE encoding = 0)"
"""Something is left to merge. On a quick machine a merge may be over before anybody saw it."""


@dataclass
class Outcome:
    """What was not as it must be, over all looks: what was found is counted again in the next look."""

    found: list[str] = field(default_factory=list)
    lost: int = 0
    twice: int = 0
    different: int = 0
    met: int = 0
    """Faults that met a merge under way."""
    readings: int = 0

    def add(self, counted: Tally) -> None:
        self.lost = max(self.lost, counted.lost)
        self.twice = max(self.twice, counted.twice)
        self.different = max(self.different, counted.different)

    @property
    def clean(self) -> bool:
        return (self.found, self.lost, self.twice, self.different) == ([], 0, 0, 0)


# kill -9 of the backend


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


async def kill_while_merging(database: str, place: Path, row: Row, kills: int, sabotage: str | None = None) -> Outcome:
    """What readers saw that is not the model, and how many kills met a merge under way: more kills are tried until one has."""
    backend, outcome, killed = Backend(database, place, sabotage), Outcome(), 0
    seeing, reading = await pool.connect(database), await pool.connect(database)
    async with Plant(database, row.chance) as plant:
        while killed < kills or (not outcome.met and killed < 10 * kills):
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
            outcome.met += await seeing.fetchval(MERGING)
            await backend.kill()
            killed += 1
            await reader.rounds(2)  # one that began after the kill
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await reading.close()
            reading = await pool.connect(database)
            outcome.found += reader.found
        outcome.add(await tally(plant.model, reading))
        outcome.readings = plant.sent
    await seeing.close()
    await reading.close()
    return outcome


@pytest.mark.row(21)
async def test_a_merge_that_is_killed_changes_nothing_that_a_reader_sees(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    kills = row.count(quick=3, full=100)
    outcome = await kill_while_merging(module_database, tmp_path, row, kills)
    packed = await conn.fetchval("SELECT count(*) FROM datapoints WHERE encoding <> 0")
    row.record(
        done=outcome.readings, unit="readings", refused=None, unknown=None, lost=outcome.lost, twice=outcome.twice,
        different=outcome.different, seen_differently=len(outcome.found), kills=kills, kills_within_a_merge=outcome.met, packed_runs=packed,
    )  # fmt: skip
    assert outcome.clean, outcome
    assert outcome.met, "no kill met a merge: the run proves nothing"
    assert packed


@pytest.mark.row(21)
async def test_a_merge_in_two_transactions_is_found(module_database: str, tmp_path: Path, row: Row) -> None:
    sabotage = "merge_in_two_transactions"
    outcome = await kill_while_merging(module_database, tmp_path, row, 1, sabotage)
    row.caught(
        sabotage,
        of=test_a_merge_that_is_killed_changes_nothing_that_a_reader_sees,
        seen_differently=len(outcome.found),
        lost=outcome.lost,
    )
    assert outcome.found


# faults of PostgreSQL and of the way to it, under a compactor that lives on


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with run_system(compacting=False) as running:
        yield running


class Merges:
    """A compactor that works all the while, behind a proxy, and the plant that gives it work."""

    def __init__(self, system: System, proxy: CommitProxy, plant: Plant, row: Row) -> None:
        self.system, self.proxy, self.plant = system, proxy, plant
        self._row = row

    async def go_on(self) -> None:
        for _ in range(20):
            self.plant.send()
        await self.plant.flush()

    async def until(self, reached: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(60):
            while not await reached():
                await self.go_on()

    async def met(self) -> bool:
        """Returns at some moment of a merge, or when it has just ended; answers which."""

        async def under_way() -> bool:
            return bool(await self.plant.conn.fetchval(MERGING))

        await self.until(under_way)
        for _ in range(self._row.chance.choice((0, 0, 1, 3))):
            await under_way()
        return await under_way()

    async def settled(self) -> None:
        """Waits until everything is merged."""
        async with asyncio.timeout(60):
            while await self.plant.conn.fetchval(WAITING):  # noqa: ASYNC110 the table is asked, it does not tell
                await asyncio.sleep(0.05)


async def postmaster_killed(merges: Merges) -> bool:
    return await _kill(merges, with_children=False)


async def everything_killed(merges: Merges) -> bool:
    return await _kill(merges, with_children=True)


async def _kill(merges: Merges, with_children: bool) -> bool:
    server = merges.system.server
    met = await merges.met()
    assert server.process is not None
    postmaster = psutil.Process(server.process.pid)
    children = postmaster.children(recursive=True) if with_children else []
    for process in (postmaster, *children):
        if process.is_running():
            process.kill()
    server.process.wait()
    await asyncio.to_thread(server.start)
    return met


async def session_ended(merges: Merges) -> bool:
    async def ended() -> bool:
        return bool(await merges.plant.conn.fetchval(END_MERGING))

    await merges.until(ended)
    return True


async def commit_lost(merges: Merges) -> bool:
    before, merges.proxy.lose = merges.proxy.lost, 1

    async def lost() -> bool:
        return merges.proxy.lost > before

    await merges.until(lost)
    return True


async def answer_lost(merges: Merges) -> bool:
    before, merges.proxy.swallow = merges.proxy.swallowed, 1

    async def lost() -> bool:
        return merges.proxy.swallowed > before

    await merges.until(lost)
    return True


Fault = Callable[[Merges], Awaitable[bool]]
"""Answers whether it struck a merge under way."""
FAULTS: Sequence[Fault] = (postmaster_killed, everything_killed, session_ended, commit_lost, answer_lost)


async def strike_merges(system: System, place: Path, row: Row, faults: Sequence[Fault], sabotage: str = "") -> Outcome:
    """After each fault what is stored is compared with the model as it was left, and again when the same backend has merged the rest."""
    outcome = Outcome()
    async with CommitProxy(system.database, after=b"DELETE FROM datapoints") as proxy, Plant(system.database, row.chance) as plant:
        await plant.conn.execute("TRUNCATE datapoints")
        backend = Backend(proxy.database, place, "+".join(filter(None, ("eager", sabotage))))
        await backend.start()
        merges = Merges(system, proxy, plant, row)
        for fault in faults:
            outcome.met += await fault(merges)
            await plant.reconnect()
            outcome.found += await differences(plant, plant.conn, row.chance)
            outcome.add(await tally(plant.model, plant.conn))
            await merges.settled()
            outcome.found += await differences(plant, plant.conn, row.chance)
            outcome.add(await tally(plant.model, plant.conn))
        outcome.readings = plant.sent
        assert await backend.stop() == 0
    return outcome


@pytest.mark.row(21)
async def test_merges_that_meet_an_end_of_the_database_or_lose_a_commit_change_no_reading(system: System, tmp_path: Path, row: Row) -> None:
    each = row.count(quick=1, full=6)
    outcome = await strike_merges(system, tmp_path, row, FAULTS * each)
    row.record(
        done=outcome.readings, unit="readings", refused=None, unknown=None, lost=outcome.lost, twice=outcome.twice,
        different=outcome.different, seen_differently=len(outcome.found), faults=len(FAULTS) * each, within_a_merge=outcome.met,
        postmaster_killed=each, all_processes_killed=each, sessions_ended=each, commits_lost=each, answers_lost=each,
    )  # fmt: skip
    assert outcome.clean, outcome


@pytest.mark.row(21)
async def test_lost_commits_find_a_merge_in_two_transactions(system: System, tmp_path: Path, row: Row) -> None:
    outcome = await strike_merges(system, tmp_path, row, [commit_lost], "merge_in_two_transactions")
    row.caught(
        "merge_in_two_transactions", of=test_merges_that_meet_an_end_of_the_database_or_lose_a_commit_change_no_reading, lost=outcome.lost
    )
    assert outcome.lost


@pytest.mark.row(21)
async def test_ends_of_sessions_find_what_is_merged_twice(system: System, tmp_path: Path, row: Row) -> None:
    outcome = await strike_merges(system, tmp_path, row, [session_ended], "merge_twice")
    row.caught("merge_twice", of=test_merges_that_meet_an_end_of_the_database_or_lose_a_commit_change_no_reading, twice=outcome.twice)
    assert outcome.twice
