"""The controller's disk is full, read-only or loses what it was told to keep: readings wait in memory and go on to the backend, and what
does not fit there is counted exactly."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from parts import shim
from parts.backend import Backend, make_source
from parts.ledger import Ledger, read_ledger
from parts.proxy import Proxy
from parts.shim import Shim
from parts.station import Station
from parts.torture import Row

INTERVAL_MS = 10
FAULTS: dict[str, Callable[[Shim], None]] = {
    "full": lambda disk: disk.full(),
    "full in the middle of a write": lambda disk: disk.full(room=1_000),
    "read-only": lambda disk: disk.read_only(),
    "sync fails": lambda disk: disk.broken_sync(),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shim.build(tmp_path_factory.mktemp("shim"))


def make_station(
    line: Proxy, credential: str, disk: Shim, place: Path, spool_mib: int = 64, sabotage: str | None = None, **ramp: float
) -> Station:
    settings = ramp | {"disk_retry_s": 1.0}
    return Station(place, line.port, credential, spool_mib=spool_mib, sabotage=sabotage, environment=disk.environment, **settings)


async def break_and_mend(backend: Backend, library: Path, place: Path, source: str, fault: str, sabotage: str | None = None) -> Path:
    """The disk fails before the controller starts, and again while it is cut off; each time it is mended. The device's journal."""
    place.mkdir(parents=True)
    disk, credential = Shim(library, place, place / "spool"), await make_source(backend.database, source)
    async with Proxy(backend.port) as line:
        station = make_station(line, credential, disk, place, sabotage=sabotage, interval_ms=INTERVAL_MS, channels=1)
        try:
            FAULTS[fault](disk)
            await station.start()
            await station.connected(1)
            await station.read_more(30)
            disk.mend()
            line.shut()
            await station.until(
                lambda: (
                    any(station.spool.glob("*.segment")) and len(station.said("spool_disk_works")) == len(station.said("spool_disk_failed"))
                )
            )
            fails, works = len(station.said("spool_disk_failed")), len(station.said("spool_disk_works"))
            FAULTS[fault](disk)
            if sabotage is None:
                await station.until(lambda: len(station.said("spool_disk_failed")) > fails)
            else:
                failed = disk.failed
                await station.until(lambda: disk.failed >= failed + 3)
            disk.mend()
            if sabotage is None:
                await station.until(lambda: len(station.said("spool_disk_works")) > works)
            line.refusing = False
            await station.connected(2)
            await station.stop()
        finally:
            await station.end()
    assert disk.failed
    return station.journal


async def overflow(backend: Backend, library: Path, place: Path, source: str) -> Path:
    """The disk is full and the backend away, until memory is full too."""
    place.mkdir(parents=True)
    disk, credential = Shim(library, place, place / "spool"), await make_source(backend.database, source)
    async with Proxy(backend.port) as line:
        station = make_station(line, credential, disk, place, spool_mib=1, interval_ms=50, channels=1, burst=5_000)
        try:
            await station.start()
            await station.connected(1)
            disk.full()
            line.shut()
            await station.read_more(60)  # 2.4 MB
            line.refusing = False
            await station.connected(2)
            await station.stop()
        finally:
            await station.end()
    assert disk.failed
    return station.journal


@pytest.mark.row(13)
async def test_a_disk_that_fails_costs_nothing_while_memory_has_room_and_is_counted_beyond(
    backend: Backend, conn: "asyncpg.Connection[Any]", library: Path, tmp_path: Path, row: Row
) -> None:
    ledgers: list[Ledger] = []
    overflowed: list[Ledger] = []
    for time in range(row.count(quick=1, full=10)):
        place = tmp_path / str(time)
        names = {fault: f"disk {time}: {fault}" for fault in (*FAULTS, "overflow")}
        journals = await asyncio.gather(
            *(break_and_mend(backend, library, place / fault, names[fault], fault) for fault in FAULTS),
            overflow(backend, library, place / "overflow", names["overflow"]),
        )
        *broken, full = [await read_ledger(conn, name, journal, 1) for name, journal in zip(names.values(), journals, strict=True)]
        ledgers += broken
        overflowed.append(full)
    row.record(
        done=sum(ledger.stored for ledger in [*ledgers, *overflowed]),
        unit="readings",
        refused=None,
        unknown=None,
        lost=sum(ledger.missing for ledger in ledgers) + sum(ledger.missing - ledger.declared("spool_overflow") for ledger in overflowed),
        twice=sum(ledger.twice for ledger in [*ledgers, *overflowed]),
        faults=len(ledgers),
        dropped_and_declared=sum(ledger.missing for ledger in overflowed),
    )
    for ledger in ledgers:
        assert ledger.true, ledger
        assert (ledger.missing, ledger.declared("spool_overflow", "spool_damaged")) == (0, 0)
    for ledger in overflowed:
        assert ledger.true, ledger
        assert ledger.missing == ledger.declared("spool_overflow") > 0
        assert ledger.channels[0].given[-1][1] == ledger.channels[0].stored[-1][1]  # the newest stayed


@pytest.mark.row(13)
async def test_a_sync_that_failed_and_is_called_success_is_found(
    backend: Backend, conn: "asyncpg.Connection[Any]", library: Path, tmp_path: Path, row: Row
) -> None:
    """Which of the syncs fail is chance, and not each of them held a reading back: one of five tries shows it."""
    missing = 0
    for time in range(5):
        source = f"{row.test} {time}"
        journal = await break_and_mend(backend, library, tmp_path / f"sabotaged {time}", source, "sync fails", "ignore_sync")
        missing = (await read_ledger(conn, source, journal, 1)).missing
        if missing:
            break
    row.caught("ignore_sync", of=test_a_disk_that_fails_costs_nothing_while_memory_has_room_and_is_counted_beyond, lost=missing)
    assert missing
