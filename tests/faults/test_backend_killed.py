"""kill -9 of the backend at any moment, while four sources send: what was acknowledged is stored once, reading by reading."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from parts.backend import Backend, make_source
from parts.journal import Journal, Verdict, check
from parts.sender import Sender
from parts.torture import Row

SOURCES = 4
CHANNELS = 20
READINGS = 50
"""In a channel's part of a frame; at 1 ms a step that is 20 frames a second, and 50 with the frame rate below:"""
FRAMES_PER_S = 50.0
"""4 sources x 20 channels x 50 readings x 50 frames: 200 thousand readings a second"""
WINDOW = 32


@dataclass
class Outcome:
    verdict: Verdict
    senders: list[Sender]
    worst_s: float
    """from a kill to the next acknowledgement"""

    @property
    def unknown(self) -> int:
        return sum(map(sum, (sender.unknown for sender in self.senders)))


async def kill_again_and_again(
    database: str,
    conn: "asyncpg.Connection[Any]",
    place: Path,
    row: Row,
    kills: int,
    pause_s: tuple[float, float],
    sabotage: str | None = None,
) -> Outcome:
    backend = Backend(database, place, sabotage)
    await backend.start()
    start_us = time.time_ns() // 1_000 - 3_600_000_000
    senders = []
    for number in range(SOURCES):
        name = f"{row.test} {number}"
        journal = Journal(place / f"journal {number}", name, number, [f"{name} {c}" for c in range(CHANNELS)], READINGS, start_us)
        senders.append(Sender(lambda: backend.sockets, await make_source(database, name), journal, WINDOW, FRAMES_PER_S))
    sending = [asyncio.create_task(sender.run()) for sender in senders]
    worst_s = 0.0
    for _ in range(kills):
        await asyncio.gather(*(sender.acknowledged(1) for sender in senders))
        await asyncio.sleep(row.chance.uniform(*pause_s))  # the moment of the kill is what is tried
        killed = time.monotonic()
        await backend.kill()
        await backend.start()
        await asyncio.gather(*(sender.acknowledged(1) for sender in senders))
        worst_s = max(worst_s, time.monotonic() - killed)
    for sender in senders:
        sender.finish()
    await asyncio.gather(*sending)
    assert await backend.stop() == 0
    return Outcome(await check(conn, [sender.journal for sender in senders]), senders, worst_s)


@pytest.mark.row(1)
async def test_kills_of_the_backend_lose_nothing_and_store_nothing_twice(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    kills = row.count(quick=5, full=200)
    outcome = await kill_again_and_again(module_database, conn, tmp_path, row, kills, (0.2, 3.0) if row.torture else (0.05, 0.4))
    verdict = outcome.verdict
    row.record(
        done=sum(sender.journal.acknowledged_max for sender in outcome.senders),
        refused=sum(sender.refused for sender in outcome.senders),
        unknown=outcome.unknown,
        lost=verdict.lost,
        twice=verdict.twice,
        kills=kills,
        readings=verdict.stored,
        storing_again_s_max=round(outcome.worst_s, 2),
    )
    assert verdict.clean, verdict
    assert outcome.unknown, "no kill hit a frame under way: the run proves nothing"
    overlapping = "SELECT count(*) FROM datapoints WHERE overlapping"
    assert await conn.fetchval(overlapping) == 0
    if row.torture:
        assert outcome.worst_s <= 5


@pytest.mark.row(1)
async def test_kills_find_an_acknowledgement_before_the_commit(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    outcome = await kill_again_and_again(module_database, conn, tmp_path, row, 4, (0.05, 0.3), "acknowledge_before_commit")
    row.caught("acknowledge_before_commit", lost=outcome.verdict.lost)
    assert outcome.verdict.lost
