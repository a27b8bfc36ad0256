"""PostgreSQL is killed, stopped or away while readings come in: nothing is acknowledged meanwhile, and afterwards nothing is missing."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest
from parts.backend import Backend, make_source
from parts.journal import Verdict, check
from parts.sender import Senders
from parts.source import Source, data
from parts.system import System, run_system
from parts.torture import Row
from webmacs_controller import wire

from webmacs.telemetry.protocol import CREDIT_BYTES_MAX


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with run_system(compacting=False) as running:
        yield running


@asynccontextmanager
async def another_backend(system: System, place: Path, sabotage: str | None) -> AsyncIterator[Backend]:
    backend = Backend(system.database, place, sabotage, compacting=False)
    await backend.start()
    yield backend
    assert await backend.stop() == 0


async def judge(system: System, senders: Senders) -> Verdict:
    conn = await connected(system)
    try:
        return await check(conn, senders.journals)
    finally:
        await conn.close()


async def health(backend: Backend, wanted: int) -> float:
    """Waits for this answer: the seconds it took."""
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=backend.url) as client, asyncio.timeout(60):
        while (await client.get("/health")).status_code != wanted:  # noqa: ASYNC110 health is asked, it does not tell
            await asyncio.sleep(0.05)
    return time.monotonic() - began


# how it ends


def postmaster_killed(system: System) -> None:
    """As a crash of it alone; its children may live on for a moment."""
    postmaster(system).kill()


def everything_killed(system: System) -> None:
    for process in [postmaster(system), *postmaster(system).children(recursive=True)]:
        with_suppressed(process.kill)


def one_process_killed(system: System) -> None:
    """The postmaster ends the others, recovers and goes on by itself."""
    serving = [process for process in postmaster(system).children() if "[local]" in " ".join(process.cmdline())]
    with_suppressed(serving[-1].kill)


def stopped_fast(system: System) -> None:
    system.server.stop()


def stopped_immediately(system: System) -> None:
    postmaster(system).send_signal(signal.SIGQUIT)


KILLS: list[Callable[[System], None]] = [postmaster_killed, everything_killed, one_process_killed]
ENDS = [*KILLS, stopped_fast, stopped_immediately]


def postmaster(system: System) -> psutil.Process:
    assert system.server.process is not None
    return psutil.Process(system.server.process.pid)


def with_suppressed(kill: Callable[[], None]) -> None:
    try:
        kill()
    except psutil.NoSuchProcess:
        return


def bring_back(system: System, end: Callable[[System], None]) -> None:
    if end is one_process_killed:
        return  # it recovers by itself
    if system.server.process is not None:
        system.server.process.wait()
    system.server.start()


async def connected(system: System) -> "asyncpg.Connection[Any]":
    """A connection, as soon as the server takes one: it may still recover."""
    async with asyncio.timeout(120):
        while True:
            try:
                return await asyncpg.connect(system.database)
            except asyncpg.CannotConnectNowError:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def long_query(system: System) -> AsyncIterator[None]:
    """A query that never ends by itself runs on the side: a busy server process does not see that its postmaster died."""
    conn = await connected(system)
    running = asyncio.create_task(conn.execute("DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$"))
    while not await _busy(system):  # noqa: ASYNC110 the server is asked, it does not tell
        await asyncio.sleep(0.02)
    yield
    conn.terminate()
    await asyncio.gather(running, return_exceptions=True)


async def _busy(system: System) -> bool:
    conn = await connected(system)
    try:
        return bool(await conn.fetchval("SELECT true FROM pg_stat_activity WHERE query LIKE 'DO %' AND state = 'active'"))
    finally:
        await conn.close()


async def end_again_and_again(
    system: System, backend: Backend, place: Path, row: Row, ends: list[Callable[[System], None]]
) -> tuple[Senders, Verdict, float]:
    worst_s = 0.0
    async with await Senders.make(backend, row.test, place, count=2, channels=20, readings=25, frames_per_s=50.0) as senders:
        for number, end in enumerate(ends):
            await senders.acknowledged()
            async with long_query(system):
                await asyncio.sleep(row.chance.uniform(0, 1 if row.torture else 0.1))  # any moment
                ended = time.monotonic()
                await asyncio.to_thread(end, system)
                await asyncio.to_thread(bring_back, system, end)
                try:
                    await senders.acknowledged()
                except TimeoutError as error:
                    error.add_note(f"{end.__name__}, end {number} of {len(ends)}; the backend said last: {backend.log[-4_000:]}")
                    raise
                await (await connected(system)).close()
            worst_s = max(worst_s, time.monotonic() - ended)
    return senders, await judge(system, senders), worst_s


@pytest.mark.row(3)
async def test_ends_of_the_database_lose_nothing_and_store_nothing_twice(system: System, tmp_path: Path, row: Row) -> None:
    ends = ENDS * row.count(quick=1, full=34)
    kills = sum(end in KILLS for end in ends)
    senders, verdict, worst_s = await end_again_and_again(system, system.backend, tmp_path, row, ends)
    stops = system.backend.log.count("storing_stopped")
    senders.record(row, verdict, ends=len(ends), kills=kills, storing_stopped=stops, storing_again_s_max=round(worst_s, 2))
    assert verdict.clean, verdict
    assert stops, "no end met a flush: the run proves nothing"
    if row.torture:
        assert worst_s <= 10


@pytest.mark.row(3)
async def test_ends_of_the_database_find_numbers_outside_the_transaction(system: System, tmp_path: Path, row: Row) -> None:
    async with another_backend(system, tmp_path, "seq_outside_transaction") as backend:
        _, verdict, _ = await end_again_and_again(
            system, backend, tmp_path, row, [one_process_killed] * 6
        )  # each meets the gap between the two commits by chance
    row.caught("seq_outside_transaction", of=test_ends_of_the_database_lose_nothing_and_store_nothing_twice, twice=verdict.twice)
    assert verdict.twice


@pytest.mark.row(3)
async def test_sessions_that_are_ended_cost_neither_a_reading_nor_the_process(system: System, tmp_path: Path, row: Row) -> None:
    ends = row.count(quick=40, full=1_000)
    conn = await asyncpg.connect(system.database)
    async with await Senders.make(system.backend, row.test, tmp_path, count=1, channels=5, readings=5, frames_per_s=200.0) as senders:
        for _ in range(ends):
            await asyncio.sleep(row.chance.uniform(0, 0.02))
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await senders.acknowledged()
    verdict = await check(conn, senders.journals)
    await conn.close()
    senders.record(row, verdict, sessions_ended=ends)
    assert verdict.clean, verdict
    assert senders.all[0].connections == 1  # over one connection: the process lived


async def go_away(
    backend: Backend, system: System, place: Path, row: Row, away_s: float, kill: bool = False
) -> tuple[Senders, dict[str, float]]:
    """Stops PostgreSQL for so long, and until every source is out of credit; `kill` ends the backend meanwhile, too."""
    shape = {"count": 2, "channels": 50, "readings": 200 if row.torture else 20, "frames_per_s": None}
    name = f"{row.test[:60]} {away_s}"
    async with await Senders.make(backend, name, place, **shape, window=1 << 20 if row.torture else 50) as senders:
        await senders.acknowledged(5)
        rss_mb = backend.rss_mb()
        began = time.monotonic()
        await asyncio.to_thread(system.server.stop)
        unhealthy_s = await health(backend, 503)
        acknowledged = senders.acknowledged_frames
        await asyncio.sleep(began + away_s - time.monotonic())  # the length of the absence is what is tried
        await asyncio.gather(*(sender.dry.wait() for sender in senders.all))
        meanwhile = senders.acknowledged_frames - acknowledged
        grown_mb = backend.rss_mb() - rss_mb
        waiting = [sender.journal.sent_max for sender in senders.all]
        if kill:
            await backend.kill()
        await asyncio.to_thread(system.server.start)
        back = time.monotonic()
        if kill:
            await backend.start()
        healthy_s = await health(backend, 200)
        await asyncio.gather(*(sender.reached(frame) for sender, frame in zip(senders.all, waiting, strict=True)))
        backlog_s = time.monotonic() - back
    return senders, {
        "away_s": away_s,
        "acknowledged_meanwhile": meanwhile,
        "unhealthy_s": round(unhealthy_s, 2),
        "healthy_s": round(healthy_s, 2),
        "rss_grown_mb": round(grown_mb),
        "backlog_gone_s": round(backlog_s, 2),
    }


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "away_s" in metafunc.fixturenames:
        metafunc.parametrize("away_s", (60, 600) if metafunc.config.getoption("--torture") else (1,), ids="{} s".format)


@pytest.mark.row(4)
async def test_while_the_database_is_away_nothing_is_acknowledged_and_memory_stays_bounded(
    system: System, tmp_path: Path, row: Row, away_s: int
) -> None:
    senders, figures = await go_away(system.backend, system, tmp_path, row, away_s)
    verdict = await judge(system, senders)
    senders.record(row, verdict, **figures)
    assert verdict.clean, verdict
    assert figures["acknowledged_meanwhile"] == 0
    assert figures["rss_grown_mb"] * 1e6 < 6 * CREDIT_BYTES_MAX  # frames, their columns, and the rows made of them
    if row.torture:
        assert figures["unhealthy_s"] <= 2
        assert figures["healthy_s"] <= 5
        assert figures["backlog_gone_s"] <= 30


@pytest.mark.row(4)
@pytest.mark.parametrize("sabotage", [None, "acknowledge_before_commit"], ids=["sound", "sabotaged"])
async def test_a_backend_that_is_killed_while_the_database_is_away(system: System, tmp_path: Path, row: Row, sabotage: str | None) -> None:
    """It loses nothing; one that acknowledges before the commit is found by it."""
    async with another_backend(system, tmp_path, sabotage) as backend:
        senders, figures = await go_away(backend, system, tmp_path, row, 0.5, kill=True)
    verdict = await judge(system, senders)
    if sabotage:
        row.caught(
            sabotage,
            of=test_a_backend_that_is_killed_while_the_database_is_away,
            case="sound",
            lost=verdict.lost + verdict.retracted,
        )
        assert verdict.lost + verdict.retracted
        return
    senders.record(row, verdict, **figures)
    assert verdict.clean, verdict


async def test_beyond_its_credit_a_source_is_left_unread_and_memory_stays_bounded(system: System) -> None:
    """A source that ignores its credit fills the sockets' buffers and then waits; the backend does not grow with it."""
    credential = await make_source(system.database, "greedy")
    start_us = time.time_ns() // 1_000 - 3_600_000_000
    readings = 10_000
    async with Source(system.backend.sockets, credential) as source:
        welcome = await source.hello([f"greedy {channel}" for channel in range(20)])
        size = len(wire.encode(wire.Data(1, 0, [wire.Column(0, 0, bytes(4 * readings), bytes(8 * readings))] * 20)))
        offered = welcome.credit_bytes // size * 4
        await asyncio.to_thread(system.server.stop)

        async def flood() -> None:
            values = [float(i) for i in range(readings)]
            for seq in range(1, offered + 1):
                times = range(start_us + seq * readings * 10, start_us + (seq + 1) * readings * 10, 10)
                await source.send(data(seq, dict.fromkeys(range(20), (times, values))))

        flooding = asyncio.create_task(flood())
        before = system.backend.rss_mb()
        await health(system.backend, 503)
        grown = system.backend.rss_mb() - before
        _done, pending = await asyncio.wait({flooding}, timeout=5)
        grown = max(grown, system.backend.rss_mb() - before)
        assert pending, "everything offered was taken, though nothing could be stored"
        assert source.acked == 0
        assert grown * 1e6 < 6 * welcome.credit_bytes
        await asyncio.to_thread(system.server.start)
        await flooding
        await source.acknowledged(offered)
