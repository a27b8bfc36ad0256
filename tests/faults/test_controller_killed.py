"""kill -9 of the controller at any moment, with and without a backend: the spool goes on where it was, and what is missing is little
and declared."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from parts.backend import Backend, make_source
from parts.ledger import Ledger, length, read_ledger
from parts.proxy import Proxy
from parts.station import Station
from parts.torture import Row

INTERVAL_MS = 5
CHANNELS = 2
MISSING_MS = 200
"""A killed controller loses at most what it sampled in this time."""
MISSING_MS_QUICK = 800
"""On a machine that has other things to do; frames that were never shared cost at least a second."""


@dataclass
class Outcome:
    ledger: Ledger
    missing: list[int]
    """Readings of one channel that each kill cost."""

    @property
    def missing_ms(self) -> list[int]:
        return [n * INTERVAL_MS for n in self.missing]


async def kill_again_and_again(
    backend: Backend, conn: "asyncpg.Connection[Any]", place: Path, row: Row, kills: int, sabotage: str | None = None
) -> Outcome:
    name = row.test
    async with Proxy(backend.port) as line:
        station = Station(
            place, line.port, await make_source(backend.database, name), sabotage=sabotage, interval_ms=INTERVAL_MS, channels=CHANNELS
        )
        try:
            for kill in range(kills):
                cut = kill % 2 == 0
                if cut:
                    line.shut()
                await station.start()
                await station.read_more(1)
                await station.read_more((300 if cut else 0) + row.chance.randrange(20, 150))
                await station.kill()
                if cut:
                    line.refusing = False
            await station.start()
            await station.read_more(50)
            await station.stop()
        finally:
            await station.end()
    ledger = await read_ledger(conn, name, station.journal, CHANNELS)
    borders = [*ledger.started, ledger.channels[0].given[-1][1]]
    assert len(borders) == kills + 2
    missing = [ledger.channels[0].missing_of(begin, end) for begin, end in pairwise(borders[:-1])]
    assert sum(missing) == length(ledger.channels[0].missing)  # the process that was stopped in order cost nothing
    return Outcome(ledger, missing)


@pytest.mark.row(2)
async def test_kills_of_the_controller_cost_no_more_than_it_sampled_just_now_and_that_is_declared(
    backend: Backend, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    kills = row.count(quick=5, full=200)
    outcome = await kill_again_and_again(backend, conn, tmp_path, row, kills)
    ledger, missing_ms = outcome.ledger, sorted(outcome.missing_ms)
    row.record(
        done=ledger.stored,
        unit="readings",
        refused=ledger.declared("refused"),
        unknown=None,
        lost=0 if max(missing_ms) <= MISSING_MS else ledger.missing,
        twice=ledger.twice,
        kills=kills,
        missing_by_kills=ledger.missing,
        missing_ms_median=missing_ms[len(missing_ms) // 2],
        missing_ms_max=missing_ms[-1],
    )
    assert ledger.true, ledger
    assert missing_ms[-1] <= (MISSING_MS if row.torture else MISSING_MS_QUICK)
    assert set(ledger.causes) <= {"source_stopped", "device_error"}  # a read that came too late is the device's
    stopped = [gap for gap in ledger.gaps if gap.cause == "source_stopped" and gap.channel is None]
    assert len(stopped) == kills
    for gap, missing in zip(stopped, outcome.missing, strict=True):
        assert gap.n >= missing * CHANNELS
        assert gap.from_us is not None
        assert any(gap.from_us == t_us + 1 for t_us in ledger.channels[-1].last_us.values())


@pytest.mark.row(2)
async def test_kills_find_frames_that_are_kept_in_memory_only(
    backend: Backend, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    outcome = await kill_again_and_again(backend, conn, tmp_path, row, 1, "forget_shared")
    row.caught(
        "forget_shared",
        of=test_kills_of_the_controller_cost_no_more_than_it_sampled_just_now_and_that_is_declared,
        missing_ms_max=max(outcome.missing_ms),
    )
    assert max(outcome.missing_ms) > MISSING_MS_QUICK
