"""Two connections hold the same source, in one backend or in two: the newer one writes, and nothing of the older one counts any more.
It lives, or dies about then with its backend."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from parts.backend import Backend, make_source
from parts.journal import Journal, Verdict, check
from parts.sender import GAP_EVERY, Sender, Senders
from parts.torture import Row

from webmacs.http.socket import CLOSE_FENCED

CHANNELS = 10
READINGS = 20
FRAMES_PER_S = 50.0
APART_US = 10_000_000
"""From one stream's readings to the next one's"""
KILL_EVERY = 3
"""Of so many takeovers one is from a backend that is killed."""


@dataclass
class Outcome:
    senders: Senders
    """Of the source, in their order."""
    neighbours: Senders
    """One at each backend."""
    kills: list[int]
    """Of each backend."""
    outlived: list[Sender]
    """Whoever was taken over from while its backend lived, and ..."""
    died: list[Sender]
    """... whose backend was killed about then."""
    verdict: Verdict


async def take_over_again_and_again(
    database: str, conn: "asyncpg.Connection[Any]", place: Path, row: Row, takeovers: int, sabotage: str | None = None
) -> Outcome:
    """With a sabotage every takeover is of the same frames by the other backend, which lives: there the fence is all there is."""
    backends = []
    for number in range(2):
        folder = place / f"backend {number}"
        folder.mkdir()
        backends.append(Backend(database, folder, sabotage, compacting=False))
        await backends[-1].start()
    name = row.test[:60]
    credential = await make_source(database, name)
    keys = [f"{name} {channel}" for channel in range(CHANNELS)]
    start_us = time.time_ns() // 1_000 - 3_600_000_000

    def sender(number: int, at: Backend, older: Sender | None) -> Sender:
        if older is not None:
            return Sender(lambda: at.sockets, credential, older.journal, frames_per_s=FRAMES_PER_S)
        start = start_us + number * APART_US
        journal = Journal(place / f"stream {number}", name, number, keys, READINGS, start, gap_every=GAP_EVERY)
        return Sender(lambda: at.sockets, credential, journal, frames_per_s=FRAMES_PER_S)

    shape = {"count": 1, "channels": CHANNELS, "readings": READINGS, "frames_per_s": FRAMES_PER_S}
    neighbours = Senders(
        *(await Senders.make(backends[0], f"{name} left", place, **shape)).all,
        *(await Senders.make(backends[1], f"{name} right", place, **shape)).all,
    )
    senders = [sender(0, backends[0], None)]
    where, kills = 0, [0, 0]
    outlived: list[Sender] = []
    died: list[Sender] = []
    async with neighbours:
        task = asyncio.create_task(senders[0].run(connections=1))
        await senders[0].acknowledged()
        for number in range(1, takeovers + 1):
            older, killing = where, not sabotage and number % KILL_EVERY == 0
            where = 1 - where if sabotage or killing or row.chance.random() < 0.7 else where
            same = sabotage or row.chance.random() < 0.5
            await asyncio.sleep(row.chance.uniform(0, 0.05))  # any moment
            senders.append(sender(number, backends[where], senders[-1] if same else None))
            newer_task = asyncio.create_task(senders[-1].run(connections=1))
            (died if killing else outlived).append(senders[-2])
            if killing:
                await asyncio.sleep(row.chance.uniform(0, 0.05))  # before the takeover, within it or after it
                killed = time.monotonic()
                await backends[older].kill()
                kills[older] += 1
            await senders[-1].acknowledged(3)
            if sabotage:
                task.cancel()
            await asyncio.gather(task, return_exceptions=bool(sabotage))
            task = newer_task
            if killing:
                await backends[older].start()
                await neighbours.all[older].storing_again(killed)
        senders[-1].finish()
        await task
        await neighbours.acknowledged()
    for backend in backends:
        assert await backend.stop() == 0
    journals = {sender.journal.source: sender.journal for sender in senders}
    verdict = await check(conn, [*journals.values(), *neighbours.journals])
    return Outcome(Senders(*senders), neighbours, kills, outlived, died, verdict)


@pytest.mark.row(6)
async def test_takeovers_void_what_the_older_connection_had_under_way_and_nothing_of_others(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    takeovers = row.count(quick=10, full=200)
    outcome = await take_over_again_and_again(module_database, conn, tmp_path, row, takeovers)
    senders, killed, unknown_when_killed = outcome.senders, sum(outcome.kills), Senders(*outcome.died).unknown
    senders.record(
        row, outcome.verdict,
        takeovers=takeovers, streams=len(senders.journals), killed=killed, unknown_when_killed=unknown_when_killed,
    )  # fmt: skip
    assert outcome.verdict.clean, outcome.verdict
    assert [sender.closes for sender in outcome.outlived] == [[CLOSE_FENCED]] * (takeovers - killed)
    assert senders.unknown, "no takeover met a frame under way: the run proves nothing"
    assert unknown_when_killed or not row.torture, "no kill met one"
    assert [sender.connections for sender in outcome.neighbours.all] == [1 + kills for kills in outcome.kills]


@pytest.mark.row(6)
async def test_takeovers_find_a_backend_that_forgets_the_fence(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    outcome = await take_over_again_and_again(module_database, conn, tmp_path, row, 3, "forget_fence")
    twice = outcome.verdict.twice
    row.caught("forget_fence", of=test_takeovers_void_what_the_older_connection_had_under_way_and_nothing_of_others, twice=twice)
    assert twice
