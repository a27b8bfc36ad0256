"""A full spool: the oldest readings go and are declared, range and count, the newest stay."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest
from parts.backend import Backend, make_source
from parts.ledger import Ledger, length, read_ledger
from parts.proxy import Proxy
from parts.station import Station
from parts.torture import Row

SPOOL_MIB = 8
INTERVAL_MS = 50
BURST = 12_500
"""Readings with times of their own in each read, 4 us apart: 2 MB of frames a second."""
BEYOND_MIB = 3
"""What is sampled beyond the spool's size."""


async def overflow(
    backend: Backend, conn: "asyncpg.Connection[Any]", place: Path, source: str, spool_mib: int, sabotage: str | None = None
) -> Ledger:
    async with Proxy(backend.port) as line:
        credential = await make_source(backend.database, source)
        station = Station(
            place, line.port, credential, sabotage=sabotage, spool_mib=spool_mib, interval_ms=INTERVAL_MS, channels=1, burst=BURST
        )
        try:
            await station.start()
            await station.connected(1)
            await station.read_more(10)
            line.shut()
            await station.read_more((spool_mib + BEYOND_MIB) * (1 << 20) // (8 * BURST))
            line.refusing = False
            await station.connected(2)
            await station.read_more(10)
            await station.stop()
            held = sum(path.stat().st_size for path in station.spool.iterdir())
            assert held < 1 << 16, "it stopped before everything was delivered"
        finally:
            await station.end()
    return await read_ledger(conn, source, station.journal, 1)


@pytest.mark.row(14)
async def test_a_full_spool_drops_the_oldest_and_declares_exactly_what(
    backend: Backend, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    lost = twice = stored = declared = 0
    for time in range(row.count(quick=1, full=10)):
        ledger = await overflow(backend, conn, tmp_path / str(time), f"{row.test} {time}", SPOOL_MIB)
        (channel,) = ledger.channels
        gaps = [gap for gap in ledger.gaps if gap.cause == "spool_overflow"]
        lost += ledger.missing - ledger.declared("spool_overflow")
        twice, stored, declared = twice + ledger.twice, stored + ledger.stored, declared + ledger.missing
        assert ledger.true, ledger
        assert gaps
        for gap, (first, end) in zip(gaps, channel.missing, strict=True):  # what was under way when the backend came back was spared
            assert (gap.n, gap.channel) == (end - first, None)
            assert gap.from_us is not None
            assert gap.to_us is not None
            assert channel.last_us[first - 1] < gap.from_us <= gap.to_us < channel.first_us[end]
        assert channel.stored[-1][1] == channel.given[-1][1]
    row.record(done=stored, unit="readings", refused=None, unknown=None, lost=lost, twice=twice, dropped_and_declared=declared)
    assert lost == 0


@pytest.mark.row(14)
async def test_a_drop_that_is_not_declared_is_found(backend: Backend, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row) -> None:
    ledger = await overflow(backend, conn, tmp_path, row.test, 1, "swallow_drop")
    row.caught(
        "swallow_drop",
        of=test_a_full_spool_drops_the_oldest_and_declares_exactly_what,
        lost=ledger.missing - ledger.declared("spool_overflow"),
    )
    assert length(ledger.channels[0].missing) != ledger.declared("spool_overflow")
