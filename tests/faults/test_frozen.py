"""A part is stopped in the middle of its work and goes on later, as after a suspended machine: like a cut, and the thawed one is fenced."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import psutil
import pytest
from parts.backend import Backend, make_source
from parts.controlled import stored_since
from parts.journal import Journal, Verdict, check
from parts.ledger import NOT_SAMPLED, read_ledger
from parts.sender import GAP_EVERY, Sender, Senders
from parts.station import Station
from parts.system import System, run_system
from parts.torture import Row


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with run_system(compacting=False) as running:
        yield running


@contextmanager
def frozen(send: Callable[[signal.Signals], None]) -> Iterator[None]:
    send(signal.SIGSTOP)
    try:
        yield
    finally:
        send(signal.SIGCONT)


def to_backend(backend: Backend) -> Callable[[signal.Signals], None]:
    return lambda number: os.killpg(backend.pid, number)


def to_database(system: System) -> Callable[[signal.Signals], None]:
    """The postmaster first, so that it makes no children meanwhile."""
    assert system.server.process is not None
    postmaster = psutil.Process(system.server.process.pid)

    def send(number: signal.Signals) -> None:
        for process in (postmaster, *postmaster.children()):
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    return send


@pytest.mark.row(10)
async def test_a_frozen_part_goes_on_where_it_was(system: System, tmp_path: Path, row: Row) -> None:
    times = row.count(quick=1, full=20)
    credential = await make_source(system.database, "frozen")
    station = Station(tmp_path / "controller", system.backend.port, credential, interval_ms=20, channels=2)
    shape = {"count": 2, "channels": 10, "readings": 20, "frames_per_s": 50.0}
    async with station, await Senders.make(system.backend, row.test, tmp_path, **shape) as senders:
        await stored_since(system.database, "frozen", 0)
        for number in range(times):
            for send in (to_backend(system.backend), to_database(system), station.send_signal):
                await senders.acknowledged()
                with frozen(send):
                    await asyncio.sleep(30.0 if number < 3 and row.torture else row.chance.uniform(0.5, 5.0 if row.torture else 1.0))
                await senders.acknowledged()
                await stored_since(system.database, "frozen", time.time_ns() // 1_000)
    conn = await asyncpg.connect(system.database)
    verdict, ledger = await check(conn, senders.journals), await read_ledger(conn, "frozen", station.journal, 2)
    await conn.close()
    row.record(
        done=senders.acknowledged_frames, refused=senders.refused, unknown=senders.unknown,
        lost=verdict.lost + verdict.retracted + ledger.missing, twice=verdict.twice + ledger.twice,
        freezes=3 * times, readings=verdict.stored, readings_of_the_controller=ledger.stored,
        not_sampled_and_declared=ledger.not_sampled,
    )  # fmt: skip
    assert verdict.clean, verdict
    assert ledger.true, ledger
    assert (ledger.missing, set(ledger.causes) - NOT_SAMPLED) == (0, set())


@pytest.mark.row(10)
async def test_a_backend_that_freezes_until_every_buffer_is_full_is_left(system: System, tmp_path: Path, row: Row) -> None:
    """Of 3 MB of readings in a second nothing can be sent any more when the controller gives the connection up: not even a goodbye."""
    credential = await make_source(system.database, "flooding")
    hurry = None if row.torture else "impatient"
    settings = {"interval_ms": 50, "channels": 1, "burst": 12_500}
    async with Station(tmp_path / "controller", system.backend.port, credential, spool_mib=256, sabotage=hurry, **settings) as station:
        await stored_since(system.database, "flooding", 0)
        with frozen(to_backend(system.backend)):
            await station.until(lambda: station.said("link_down") != [])
        await stored_since(system.database, "flooding", time.time_ns() // 1_000)
    conn = await asyncpg.connect(system.database)
    ledger = await read_ledger(conn, "flooding", station.journal, 1)
    await conn.close()
    row.record(
        done=ledger.stored, unit="readings", refused=None, unknown=None, lost=ledger.missing, twice=ledger.twice,
        freezes=1, not_sampled=ledger.not_sampled,
    )  # fmt: skip
    assert "said nothing" in station.said("link_down")[0]["reason"]
    assert ledger.true, ledger
    assert (ledger.missing, set(ledger.causes) - NOT_SAMPLED) == (0, set())


async def thaw_after_a_takeover(
    system: System, place: Path, row: Row, times: int, sabotage: str | None = None
) -> tuple[list[Sender], Verdict]:
    """A backend is frozen with frames under way, its source goes on at another one, and the first is thawed."""
    backends = [Backend(system.database, place / name, sabotage, compacting=False) for name in ("first", "second")]
    for backend in backends:
        backend.data_dir.mkdir()
        await backend.start()
    name = f"thawed {sabotage}"
    credential = await make_source(system.database, name)
    keys, start_us = [f"{name} {c}" for c in range(10)], time.time_ns() // 1_000 - 3_600_000_000
    journal = Journal(place / "journal", name, 0, keys, 20, start_us, gap_every=GAP_EVERY)
    senders = [Sender(lambda: backends[0].sockets, credential, journal, frames_per_s=100.0)]
    older = asyncio.create_task(senders[0].run(connections=1))
    for number in range(1, times + 1):
        await senders[-1].acknowledged(2)
        at = backends[number % 2]
        with frozen(to_backend(backends[1 - number % 2])):
            under_way = journal.sent_max + 5
            while journal.sent_max < under_way and not older.done():  # noqa: ASYNC110 a journal is looked at, it does not tell
                await asyncio.sleep(0.01)
            senders.append(Sender(lambda at=at: at.sockets, credential, journal, frames_per_s=100.0))
            newer = asyncio.create_task(senders[-1].run(connections=1))
            await senders[-1].acknowledged(5)
        await senders[-1].acknowledged(20)  # time for the thawed one to write what it had, if it may
        if sabotage is not None:
            older.cancel()
        await asyncio.gather(older, return_exceptions=True)
        older = newer
    senders[-1].finish()
    await older
    for backend in backends:
        assert await backend.stop() == 0
    conn = await asyncpg.connect(system.database)
    verdict = await check(conn, [journal])
    await conn.close()
    return senders, verdict


@pytest.mark.row(10)
async def test_a_thawed_backend_is_fenced(system: System, tmp_path: Path, row: Row) -> None:
    times = row.count(quick=2, full=20)
    senders, verdict = await thaw_after_a_takeover(system, tmp_path, row, times)
    Senders(*senders).record(row, verdict, thawed_after_a_takeover=times)
    assert verdict.clean, verdict


@pytest.mark.row(10)
async def test_a_thawed_backend_finds_a_forgotten_fence(system: System, tmp_path: Path, row: Row) -> None:
    _, verdict = await thaw_after_a_takeover(system, tmp_path, row, 1, "forget_fence")
    row.caught("forget_fence", of=test_a_thawed_backend_is_fenced, twice=verdict.twice)
    assert verdict.twice
