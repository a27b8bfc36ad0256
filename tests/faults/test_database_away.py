"""PostgreSQL stopped or killed while readings come in: nothing is acknowledged meanwhile, and afterwards nothing is missing."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable

import asyncpg
import httpx
import pytest
from parts import stored
from parts.backend import make_source
from parts.source import Source, data
from parts.system import System, run_system
from webmacs_controller import wire

CHANNELS = 20
FRAMES_BEFORE = 20
FRAMES_MEANWHILE = 60


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with run_system() as running:
        yield running


def stop(system: System) -> None:
    system.server.stop()


def kill(system: System) -> None:
    """The postmaster alone, as a crash; its children may live on for a moment."""
    assert system.server.process is not None
    os.kill(system.server.process.pid, signal.SIGKILL)
    system.server.process.wait()


async def health(system: System, wanted: int) -> None:
    async with httpx.AsyncClient(base_url=system.backend.url) as client, asyncio.timeout(20):
        while (await client.get("/health")).status_code != wanted:  # noqa: ASYNC110 health is asked, it does not tell
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("end", [stop, kill])
async def test_readings_wait_in_memory_and_are_stored_when_the_database_is_back(system: System, end: Callable[[System], None]) -> None:
    name = f"patient {end.__name__}"
    credential = await make_source(system.database, name)
    start_us = time.time_ns() // 1_000

    def frame(seq: int) -> bytes:
        return data(seq, {channel: ([start_us + seq * 1_000], [float(seq * 100 + channel)]) for channel in range(CHANNELS)})

    async with Source(system.backend.sockets, credential) as source:
        await source.hello([f"{end.__name__} {channel}" for channel in range(CHANNELS)])
        for seq in range(1, FRAMES_BEFORE + 1):
            await source.send(frame(seq))
        await source.acknowledged(FRAMES_BEFORE)
        await asyncio.to_thread(end, system)
        for seq in range(FRAMES_BEFORE + 1, FRAMES_BEFORE + FRAMES_MEANWHILE + 1):
            await source.send(frame(seq))
        await health(system, 503)
        assert source.acked == FRAMES_BEFORE
        await asyncio.to_thread(system.server.start)
        await source.acknowledged(FRAMES_BEFORE + FRAMES_MEANWHILE)
        await health(system, 200)
        assert source.nacks == []
    conn = await asyncpg.connect(system.database)
    for channel in range(CHANNELS):
        expected = [(start_us + seq * 1_000, float(seq * 100 + channel)) for seq in range(1, FRAMES_BEFORE + FRAMES_MEANWHILE + 1)]
        assert await stored.readings(conn, name, f"{end.__name__} {channel}") == expected
    await conn.close()


async def test_beyond_its_credit_a_source_is_left_unread_and_memory_stays_bounded(system: System) -> None:
    """A source that ignores its credit fills the sockets' buffers and then waits; the backend does not grow with it."""
    credential = await make_source(system.database, "greedy")
    start_us = time.time_ns() // 1_000 - 3_600_000_000
    readings = 10_000
    async with Source(system.backend.sockets, credential) as source:
        welcome = await source.hello([f"greedy {channel}" for channel in range(20)])
        size = len(wire.encode(wire.Data(1, 0, [wire.Column(0, 0, bytes(4 * readings), bytes(8 * readings))] * 20)))
        offered = welcome.credit_bytes // size * 4
        await asyncio.to_thread(stop, system)

        async def flood() -> None:
            values = [float(i) for i in range(readings)]
            for seq in range(1, offered + 1):
                times = range(start_us + seq * readings * 10, start_us + (seq + 1) * readings * 10, 10)
                await source.send(data(seq, dict.fromkeys(range(20), (times, values))))

        flooding = asyncio.create_task(flood())
        before = system.rss_mb()
        await health(system, 503)
        grown = system.rss_mb() - before
        _done, pending = await asyncio.wait({flooding}, timeout=5)
        grown = max(grown, system.rss_mb() - before)
        assert pending, "everything offered was taken, though nothing could be stored"
        assert source.acked == 0
        assert grown * 1e6 < 6 * welcome.credit_bytes
        await asyncio.to_thread(system.server.start)
        await flooding
        await source.acknowledged(offered)
