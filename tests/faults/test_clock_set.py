"""Clocks are set, were never set, or run at a wrong rate, on the controller and on the backend: nothing is lost and no time runs back."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from parts import shim
from parts.backend import Backend, make_source
from parts.ledger import Ledger, read_ledger
from parts.shim import Shim
from parts.station import Station
from parts.torture import Row

INTERVAL_MS = 10
HOUR_S = 3_600.0
READS = 130
"""More than a second: the controller looks at the wall clock about once in one."""


@dataclass
class Clocks:
    """A station with a clock of its own to set; how often the test did, and what it expects in the log."""

    station: Station
    clock: Shim

    async def set(self, by_s: float, drift_ppm: int = 0) -> None:
        self.clock.set_clock(by_s, drift_ppm)
        await self.station.read_more(READS)


async def set_forward_and_back(clocks: Clocks) -> list[float]:
    for by_s in (HOUR_S, 0.0, -HOUR_S, 0.0):
        await clocks.set(by_s)
    return [HOUR_S, -HOUR_S, -HOUR_S, HOUR_S]


async def set_back_a_little(clocks: Clocks) -> list[float]:
    await clocks.set(-600.0)
    return [-600.0]


async def kill_between_two_times(clocks: Clocks) -> list[float]:
    """The clock is set back while no controller runs."""
    await clocks.station.kill()
    clocks.clock.set_clock(-HOUR_S)
    await clocks.station.start()
    await clocks.station.read_more(READS)
    return [-HOUR_S]


async def drift(clocks: Clocks) -> list[float]:
    await clocks.set(0.0, 500)
    return []


BOOT_S = time.time()
"""What the clock lacks that says 1970 at boot."""


async def start_in_1970(clocks: Clocks) -> list[float]:
    """No backend is reached before the clock is set."""
    await clocks.set(0.0)
    return [BOOT_S]


async def start_years_ahead(clocks: Clocks) -> list[float]:
    await clocks.set(0.0)
    return [-9 * 365 * 86_400.0]


STORIES: dict[str, tuple[float, Callable[[Clocks], Awaitable[list[float]]]]] = {
    "set forward and back": (0.0, set_forward_and_back),
    "set back a little": (0.0, set_back_a_little),
    "set back between two processes": (0.0, kill_between_two_times),
    "500 ppm too fast": (0.0, drift),
    "1970 at boot": (-BOOT_S, start_in_1970),
    "years ahead at boot": (9 * 365 * 86_400.0, start_years_ahead),
}
"""name -> how far the clock is off at the start, and what happens then; it returns the corrections that must be on record, in s"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shim.build(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="module")
async def unsure(module_database: str, library: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Backend, Shim]]:
    """A backend whose clock can be set."""
    place = tmp_path_factory.mktemp("backend")
    clock = Shim(library, place)
    process = Backend(module_database, place, compacting=False, **clock.environment)
    await process.start()
    yield process, clock
    assert await process.stop() == 0, process.log


async def tell(
    backend: Backend, library: Path, place: Path, source: str, story: str, sabotage: str | None = None
) -> tuple[Station, list[float]]:
    off_s, happens = STORIES[story]
    place.mkdir(parents=True)
    clock = Shim(library, place)
    clock.set_clock(off_s)
    credential = await make_source(backend.database, source)
    station = Station(
        place, backend.port, credential, environment=clock.environment, sabotage=sabotage, interval_ms=INTERVAL_MS, channels=1
    )
    try:
        await station.start()
        await station.read_more(READS)
        expected = await happens(Clocks(station, clock))
        await station.stop()
    finally:
        await station.end()
    return station, expected


@pytest.mark.row(19)
async def test_a_controller_whose_clock_is_set_loses_nothing_and_its_times_rise(
    unsure: tuple[Backend, Shim], conn: "asyncpg.Connection[Any]", library: Path, tmp_path: Path, row: Row
) -> None:
    backend, backend_clock = unsure
    ledgers: dict[str, Ledger] = {}
    for time_ in range(row.count(quick=1, full=20)):
        for by_s in (0.0, HOUR_S, -HOUR_S)[: 3 if row.torture else 1]:
            backend_clock.set_clock(by_s)
            names = {story: f"{story} {time_} {by_s}" for story in STORIES}
            told = await asyncio.gather(*(tell(backend, library, tmp_path / name, name, story) for story, name in names.items()))
            for (story, name), (station, expected) in zip(names.items(), told, strict=True):
                ledger = ledgers[name] = await read_ledger(conn, name, station.journal, 1)
                corrected = [line["by_us"] / 1e6 for line in station.said("clock_was_set")]
                assert corrected == pytest.approx(expected, abs=60), story
                assert len(station.said("link_up")) == len(ledger.started), story  # no silence was believed
    killed = sum(ledger.missing for name, ledger in ledgers.items() if "processes" in name)
    row.record(
        unit="readings",
        done=sum(ledger.stored for ledger in ledgers.values()),
        refused=sum(ledger.declared("refused") for ledger in ledgers.values()),
        unknown=None,
        lost=sum(max(0, ledger.missing - ledger.declared("refused")) for ledger in ledgers.values()) - killed,
        twice=sum(ledger.twice for ledger in ledgers.values()),
        controllers=len(ledgers),
        missing_by_kills=killed,
    )
    for name, ledger in ledgers.items():
        assert ledger.true, (name, ledger)
        if "processes" not in name:
            assert ledger.missing <= ledger.declared("refused"), (name, ledger)  # which counts beats that came too late as well
        if "years" not in name:
            assert ledger.declared("refused") == 0, (name, ledger)


@pytest.mark.row(19)
async def test_a_backend_whose_clock_is_set_goes_on(
    unsure: tuple[Backend, Shim], conn: "asyncpg.Connection[Any]", library: Path, tmp_path: Path, row: Row
) -> None:
    backend, clock = unsure
    credential = await make_source(backend.database, row.test)
    station = Station(tmp_path, backend.port, credential, interval_ms=INTERVAL_MS, channels=1)
    try:
        await station.start()
        settings = (0.0, HOUR_S, -HOUR_S, 0.0) * row.count(quick=1, full=20)
        for by_s in settings:
            clock.set_clock(by_s)
            await station.read_more(READS)
        await station.stop()
    finally:
        await station.end()
    ledger = await read_ledger(conn, row.test, station.journal, 1)
    row.record(
        done=ledger.stored, unit="readings", refused=ledger.declared("refused"), unknown=None, lost=ledger.missing, twice=ledger.twice,
        clock_set=len(settings),
    )  # fmt: skip
    assert ledger.true, ledger
    assert (ledger.missing, len(station.said("link_up"))) == (0, 1)


@pytest.mark.row(19)
async def test_a_controller_that_believes_the_wall_clock_is_found(
    unsure: tuple[Backend, Shim], conn: "asyncpg.Connection[Any]", library: Path, tmp_path: Path, row: Row
) -> None:
    backend, _ = unsure
    story = "set back a little"
    station, _ = await tell(backend, library, tmp_path / "sabotaged", row.test, story, "believe_wall_clock")
    ledger = await read_ledger(conn, row.test, station.journal, 1)
    backwards = ledger.channels[0].backwards
    row.caught(
        "believe_wall_clock",
        of=test_a_controller_whose_clock_is_set_loses_nothing_and_its_times_rise,
        backwards=backwards,
        missing=ledger.missing,
    )
    assert backwards or ledger.missing
