"""kill -9 of the backend at any moment, while four sources send: what was acknowledged is stored once, reading by reading."""

import asyncio
import time
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from parts.backend import Backend
from parts.journal import Verdict, check
from parts.sender import Senders
from parts.torture import Row

SHAPE = {"count": 4, "channels": 20, "readings": 50, "frames_per_s": 50.0}
"""200 thousand readings a second"""


class Outcome:
    verdict: Verdict
    senders: Senders
    worst_s = 0.0
    """From a kill to the first acknowledgement that each source had from the next process. Of it the sources themselves wait at most
    PAUSE_S (0.05 s) until they try again; the rest is the backend's start, which shares the machine with them."""


async def kill_again_and_again(backend: Backend, conn: "asyncpg.Connection[Any]", place: Path, row: Row, kills: int) -> Outcome:
    outcome = Outcome()
    await backend.start()
    outcome.senders = await Senders.make(backend, row.test, place, **SHAPE)
    async with outcome.senders as senders:
        for _ in range(kills):
            await senders.acknowledged()
            await asyncio.sleep(row.chance.uniform(0.2, 3.0) if row.torture else row.chance.uniform(0.05, 0.3))  # any moment
            killed = time.monotonic()
            await backend.kill()
            _, stored = await asyncio.gather(backend.start(), senders.storing_again(killed))
            outcome.worst_s = max(outcome.worst_s, stored - killed)
    assert await backend.stop() == 0
    outcome.verdict = await check(conn, outcome.senders.journals)
    return outcome


@pytest.mark.row(1)
async def test_kills_of_the_backend_lose_nothing_and_store_nothing_twice(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    kills = row.count(quick=5, full=200)
    outcome = await kill_again_and_again(Backend(module_database, tmp_path, compacting=False), conn, tmp_path, row, kills)
    outcome.senders.record(row, outcome.verdict, kills=kills, storing_again_s_max=round(outcome.worst_s, 2))
    assert outcome.verdict.clean, outcome.verdict
    assert outcome.senders.unknown, "no kill hit a frame under way: the run proves nothing"
    assert await conn.fetchval("SELECT count(*) FROM datapoints WHERE overlapping") == 0
    if row.torture:
        assert outcome.worst_s <= 5


@pytest.mark.row(1)
async def test_kills_find_an_acknowledgement_before_the_commit(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    sabotage = "acknowledge_before_commit"
    outcome = await kill_again_and_again(Backend(module_database, tmp_path, sabotage, compacting=False), conn, tmp_path, row, kills=2)
    row.caught(
        sabotage, of=test_kills_of_the_backend_lose_nothing_and_store_nothing_twice, lost=outcome.verdict.lost + outcome.verdict.retracted
    )
    assert outcome.verdict.lost + outcome.verdict.retracted


@pytest.mark.row(1)
async def test_kills_find_gaps_that_are_declared_outside_the_transaction(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    sabotage = "declare_outside"
    outcome = await kill_again_and_again(Backend(module_database, tmp_path, sabotage, compacting=False), conn, tmp_path, row, kills=3)
    row.caught(sabotage, of=test_kills_of_the_backend_lose_nothing_and_store_nothing_twice, gaps_twice=outcome.verdict.gaps.twice)
    assert outcome.verdict.gaps.twice
