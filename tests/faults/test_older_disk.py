"""The controller's disk is put back to an older image: what it makes from then on is new, whatever numbers the image knows."""

import shutil
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from parts.backend import Backend, make_source
from parts.ledger import Ledger, read_ledger
from parts.proxy import Proxy
from parts.station import Station
from parts.torture import Row

INTERVAL_MS = 5
CHANNELS = 2
WAITING = 250
"""Reads of which none was delivered when the image is made, and again when it was put back."""


async def put_back_again_and_again(
    backend: Backend, conn: "asyncpg.Connection[Any]", place: Path, row: Row, times: int, sabotage: str | None = None
) -> Ledger:
    async with Proxy(backend.port) as line:
        credential = await make_source(backend.database, row.test)
        station = Station(place, line.port, credential, sabotage=sabotage, interval_ms=INTERVAL_MS, channels=CHANNELS)
        try:
            for _ in range(times):
                line.shut()
                await station.start()
                await station.read_more(WAITING + row.chance.randrange(50))
                await station.kill()
                image = {directory: place / "image" / directory.name for directory in (station.spool, station.shared)}
                for directory, copy in image.items():
                    shutil.copytree(directory, copy)
                line.refusing = False
                await station.start()
                await station.read_more(row.chance.randrange(60, 100))
                await station.stop()
                for directory, copy in image.items():
                    shutil.rmtree(directory, ignore_errors=True)
                    shutil.move(copy, directory)
                line.shut()
                connections = len(station.said("link_up"))
                await station.start()
                await station.read_more(WAITING)
                line.refusing = False
                await station.connected(connections + 1)
                await station.stop()
        finally:
            await station.end()
    return await read_ledger(conn, row.test, station.journal, CHANNELS)


def lost(ledger: Ledger) -> int:
    """Readings of processes that were not killed. Each time the first of three was."""
    starts = [*ledger.started, ledger.channels[0].given[-1][1]]
    spared = [(starts[i], starts[i + 1]) for i in range(len(starts) - 1) if i % 3 != 0]
    return sum(channel.missing_of(begin, end) for channel in ledger.channels for begin, end in spared)


@pytest.mark.row(17)
async def test_after_an_older_image_nothing_new_is_taken_for_old_and_nothing_old_for_new(
    backend: Backend, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    times = row.count(quick=2, full=20)
    ledger = await put_back_again_and_again(backend, conn, tmp_path, row, times)
    row.record(
        done=ledger.stored,
        unit="readings",
        refused=ledger.declared("refused"),
        unknown=None,
        lost=lost(ledger),
        twice=ledger.twice,
        times=times,
        missing_by_kills=ledger.missing,
    )
    assert ledger.true, ledger
    assert lost(ledger) == 0


@pytest.mark.row(17)
async def test_a_stream_that_is_called_after_what_the_disk_holds_loses_new_readings(
    backend: Backend, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    ledger = await put_back_again_and_again(backend, conn, tmp_path, row, 1, "derive_stream")
    row.caught("derive_stream", of=test_after_an_older_image_nothing_new_is_taken_for_old_and_nothing_old_for_new, lost=lost(ledger))
    assert lost(ledger)
