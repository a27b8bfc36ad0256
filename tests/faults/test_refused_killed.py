"""kill -9 of the backend or of the controller while one of a source's channels has no event: what it gave is declared, with its cause and
count. Journal, receipts and gaps agree to the reading."""

import asyncio
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from parts.backend import Backend, make_source
from parts.ledger import Ledger, length, read_ledger
from parts.proxy import Proxy
from parts.station import Station
from parts.torture import Row

Conn = "asyncpg.Connection[Any]"
INTERVAL_MS = 10
CHANNELS = 2
TAKEN, REFUSED = range(CHANNELS)
SEAL_READS = 10
"""Reads that the controller seals at once, in 0.1 s."""


async def make_station(database: str, conn: Conn, place: Path, name: str, port: int, sabotage: str | None = None) -> Station:
    """Every name that the event of its second channel might have is another's, so there is none."""
    for taken in (f"Ramp {REFUSED}", f"Ramp {REFUSED} ({name})", f"Ramp {REFUSED} ({name}, ramp.c{REFUSED})"):
        await conn.execute(
            "INSERT INTO events (public_id, name, type, unit) VALUES (gen_random_uuid(), $1, 'sensor', '') ON CONFLICT DO NOTHING", taken
        )
    return Station(place, port, await make_source(database, name), sabotage=sabotage, interval_ms=INTERVAL_MS, channels=CHANNELS)


async def refused_again(station: Station) -> None:
    """Waits until the live stream has been greeted: from now on its second channel is withheld. An older stream is greeted before it."""
    waiting = len(station.said("channels_refused"))
    await station.start()
    await station.until(lambda: len(station.said("channels_refused")) > waiting)


# the backend


def unexplained(ledger: Ledger) -> int:
    """Readings of the refused channel that no gap speaks of, less those that gaps speak of too often. A beat that a busy machine missed is
    missing in both channels: of the one it is declared as such, of the other among what is withheld."""
    missed = ledger.declared("device_error", "source_stopped", channel=TAKEN)
    return length(ledger.channels[REFUSED].given) + missed - ledger.declared("disabled")


async def kill_backends(database: str, conn: Conn, place: Path, row: Row, kills: int, sabotage: str | None = None) -> list[Ledger]:
    """Each of them while frames are under way from which the refused channel was taken: what was sampled until then held it. With a
    sabotage none of these is committed before the kill, and the kills end when it shows."""
    backend = Backend(database, place, compacting=False)
    await backend.start()
    ledgers = []
    async with Proxy(backend.port) as line:
        for kill in range(kills):
            name = f"{row.test[:60]} {kill}"
            station = await make_station(database, conn, place / name, name, line.port, sabotage)
            try:
                line.shut()
                await station.start()
                await station.read_more(50)
                line.back.delay_s = 0.2  # what is stored meanwhile is not known to be
                async with conn.transaction():
                    if sabotage is not None:
                        await conn.execute("LOCK TABLE datapoints IN EXCLUSIVE MODE")
                    line.refusing = False
                    await station.until(lambda station=station: len(station.said("channels_refused")) == 1)  # type: ignore[misc]
                    await asyncio.sleep(row.chance.uniform(0.0, 0.2))  # any moment
                    await backend.kill()
                line.back.delay_s = 0.0
                await backend.start()
                await station.connected(2)
                await station.read_more(20)
                await station.stop()
            finally:
                await station.end()
            ledgers.append(await read_ledger(conn, name, station.journal, CHANNELS))
            if sabotage is not None and unexplained(ledgers[-1]):
                break
    assert await backend.stop() == 0
    return ledgers


@pytest.mark.row(1)
async def test_what_refused_channels_gave_is_declared_to_the_reading_when_the_backend_is_killed(
    module_database: str, conn: Conn, tmp_path: Path, row: Row
) -> None:
    kills = row.count(quick=2, full=40)
    ledgers = await kill_backends(module_database, conn, tmp_path, row, kills)
    row.record(
        done=sum(ledger.stored for ledger in ledgers),
        unit="readings",
        refused=sum(ledger.declared("disabled") for ledger in ledgers),
        unknown=None,
        lost=sum(ledger.missing for ledger in ledgers) - sum(length(ledger.channels[REFUSED].missing) for ledger in ledgers),
        twice=sum(ledger.twice for ledger in ledgers),
        kills=kills,
        undeclared=sum(max(0, unexplained(ledger)) for ledger in ledgers),
        declared_too_often=sum(max(0, -unexplained(ledger)) for ledger in ledgers),
    )
    for ledger in ledgers:
        assert ledger.true, ledger
        assert ledger.channels[TAKEN].missing == []
        assert ledger.channels[REFUSED].stored == []
        assert unexplained(ledger) == 0, ledger.gaps
        assert set(ledger.causes) <= {"disabled", "device_error", "source_stopped"}


@pytest.mark.row(1)
async def test_kills_find_what_counts_as_declared_when_it_was_sent(module_database: str, conn: Conn, tmp_path: Path, row: Row) -> None:
    ledgers = await kill_backends(module_database, conn, tmp_path, row, 20, "declare_when_sent")
    found = sum(map(unexplained, ledgers))
    row.caught(
        "declare_when_sent",
        of=test_what_refused_channels_gave_is_declared_to_the_reading_when_the_backend_is_killed,
        declared_too_often=-found,
    )
    assert found < 0


# the controller


@dataclass
class Kills:
    ledger: Ledger
    missing: int
    """Readings of the channel that is stored which the kills took: as many of the other were not sealed either."""

    @property
    def unexplained(self) -> int:
        return unexplained(self.ledger) - self.missing


async def kill_controllers(backend: Backend, conn: Conn, place: Path, row: Row, kills: int, sabotage: str | None = None) -> Kills:
    name = row.test[:60]
    station = await make_station(backend.database, conn, place, name, backend.port, sabotage)
    try:
        for _ in range(kills):
            await refused_again(station)
            await station.read_more(row.chance.randrange(60, 150))
            await station.kill()
        await refused_again(station)
        await station.read_more(60)
        await station.stop()
    finally:
        await station.end()
    ledger = await read_ledger(conn, name, station.journal, CHANNELS)
    borders = [*ledger.started, ledger.channels[TAKEN].given[-1][1]]
    return Kills(ledger, sum(ledger.channels[TAKEN].missing_of(begin, end) for begin, end in pairwise(borders[:-1])))


@pytest.mark.row(2)
async def test_what_refused_channels_gave_is_declared_when_the_controller_is_killed(
    backend: Backend, conn: Conn, tmp_path: Path, row: Row
) -> None:
    """To the reading but for a kill in the middle of a seal: then what was withheld in that tenth of a second is declared twice."""
    kills = row.count(quick=3, full=100)
    outcome = await kill_controllers(backend, conn, tmp_path, row, kills)
    ledger = outcome.ledger
    row.record(
        done=ledger.stored,
        unit="readings",
        refused=ledger.declared("disabled"),
        unknown=None,
        lost=None,
        twice=ledger.twice,
        kills=kills,
        missing_by_kills=outcome.missing,
        undeclared=max(0, outcome.unexplained),
        declared_too_often=max(0, -outcome.unexplained),
    )
    assert ledger.true, ledger
    assert ledger.channels[REFUSED].stored == []
    assert set(ledger.causes) <= {"disabled", "device_error", "source_stopped"}
    assert len([gap for gap in ledger.gaps if gap.cause == "source_stopped" and gap.channel is None]) == kills
    assert ledger.declared("source_stopped") >= CHANNELS * outcome.missing
    assert -kills * SEAL_READS <= outcome.unexplained <= 0, ledger.gaps


@pytest.mark.row(2)
async def test_kills_find_withheld_readings_that_are_kept_in_memory_only(backend: Backend, conn: Conn, tmp_path: Path, row: Row) -> None:
    outcome = await kill_controllers(backend, conn, tmp_path, row, 1, "forget_withheld")
    row.caught(
        "forget_withheld", of=test_what_refused_channels_gave_is_declared_when_the_controller_is_killed, undeclared=outcome.unexplained
    )
    assert outcome.unexplained > SEAL_READS
