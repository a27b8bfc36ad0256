"""The lines between controller, backend and database: half-open, parted, or silent one way. Each part finds out and goes on alone."""

import asyncio
import time
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from parts.backend import Backend, make_source
from parts.controlled import stored_since
from parts.journal import Verdict, check
from parts.ledger import NOT_SAMPLED, Ledger, read_ledger
from parts.proxy import Connection, DatabaseProxy, Proxy, Way
from parts.sender import Senders
from parts.source import Source
from parts.station import Station
from parts.torture import Row

NOTICED_S_MAX = 15.0
COPY = b'COPY "datapoints"'
INTERVAL_MS = 20
CHANNELS = 2


async def noticed_by_the_backend(proxy: Proxy, credential: str, wait_s: float) -> float:
    """A source that says hello and is never heard of again: the seconds until the backend gives it up. Raises TimeoutError."""
    async with Source(f"ws://127.0.0.1:{proxy.port}", credential) as source:
        await source.hello(["abandoned"])
        abandoned, began = proxy.connections[-1], time.monotonic()
        abandoned.line.black_hole = True
        try:
            return await abandoned.until_left("server", wait_s) - began
        finally:
            abandoned.cut()


async def noticed_by_the_controller(proxy: Proxy, database: str, controller: str) -> tuple[float, float]:
    """The seconds until the controller gives its connection up, and until its next readings are stored."""
    await stored_since(database, controller, time.time_ns() // 1_000)
    half_open, began = proxy.connections[-1], time.monotonic()
    half_open.line.black_hole = True
    left = await half_open.until_left("client", 60)
    await stored_since(database, controller, time.time_ns() // 1_000)
    return left - began, time.monotonic() - left


@pytest.mark.row(7)
async def test_a_half_open_connection_is_noticed_on_both_ends_and_the_next_one_is_served(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    times, hurry = row.count(quick=2, full=20), None if row.torture else "hurried"
    backend = Backend(module_database, tmp_path, hurry, compacting=False)
    await backend.start()
    async with Proxy(backend.port) as first, Proxy(backend.port) as second:
        credential = await make_source(module_database, "abandoned")
        by_backend = [await noticed_by_the_backend(first, credential, 60) for _ in range(times)]
        controller = await make_source(module_database, "half-open")
        settings = {"interval_ms": INTERVAL_MS, "channels": CHANNELS}
        async with Station(tmp_path / "controller", second.port, controller, sabotage=hurry, **settings) as station:
            by_controller = [await noticed_by_the_controller(second, module_database, "half-open") for _ in range(times)]
    assert await backend.stop() == 0
    ledger = await read_ledger(conn, "half-open", station.journal, CHANNELS)
    worst_s = [max(by_backend), max(noticed for noticed, _ in by_controller), max(stored for _, stored in by_controller)]
    row.record(
        done=ledger.stored, unit="readings", refused=None, unknown=None, lost=ledger.missing, twice=ledger.twice,
        half_open=2 * times, not_sampled=ledger.not_sampled,
        noticed_by_the_backend_s_max=round(worst_s[0], 1), by_the_controller_s_max=round(worst_s[1], 1),
        served_again_s_max=round(worst_s[2], 1),
    )  # fmt: skip
    assert ledger.true, ledger
    assert (ledger.missing, set(ledger.causes) - NOT_SAMPLED) == (0, set())
    if row.torture:
        assert max(worst_s) <= NOTICED_S_MAX


@pytest.mark.row(7)
async def test_a_half_open_connection_finds_a_backend_that_never_loses_patience(module_database: str, tmp_path: Path, row: Row) -> None:
    backend = Backend(module_database, tmp_path, "endless_patience")
    await backend.start()
    async with Proxy(backend.port) as proxy:
        credential = await make_source(module_database, "kept")
        with pytest.raises(TimeoutError):
            await noticed_by_the_backend(proxy, credential, wait_s=3.0)
    await backend.stop()
    row.caught("endless_patience", of=test_a_half_open_connection_is_noticed_on_both_ends_and_the_next_one_is_served, half_open_kept=1)


async def part_again_and_again(
    database: str,
    conn: "asyncpg.Connection[Any]",
    place: Path,
    row: Row,
    rounds: int,
    seconds: tuple[float, float],
    sabotage: str | None = None,
) -> tuple[Senders, Verdict, Ledger]:
    """Cuts the line of controller and backend, then that of backend and database: both ways, and one way only."""
    async with DatabaseProxy(database) as behind:
        backend = Backend(behind.database, place, sabotage, compacting=False)
        await backend.start()
        backend.database = database
        async with Proxy(backend.port) as before:
            name = f"{row.test[:60]} controller"
            credential = await make_source(database, name)
            station = Station(place / "controller", before.port, credential, interval_ms=INTERVAL_MS, channels=CHANNELS)
            shape = {"count": 2, "channels": 10, "readings": 20, "frames_per_s": 50.0}
            senders = await Senders.make(backend, row.test, place, **shape, port=before.port)
            lines: list[tuple[Way, ...]] = [
                (before.there, before.back), (before.there,), (before.back,), (behind.there, behind.back), (behind.there,), (behind.back,),
            ]  # fmt: skip
            async with station, senders:
                await stored_since(database, name, 0)
                for ways in (lines if sabotage is None else lines[3:]) * rounds:
                    await senders.acknowledged()
                    await asyncio.sleep(row.chance.uniform(0, 0.3))  # any moment of a flush
                    for way in ways:
                        way.black_hole = True
                    await asyncio.sleep(row.chance.uniform(*seconds))  # the length of the partition is what is tried
                    for way in ways:
                        way.black_hole = False
                    await senders.acknowledged()
                await stored_since(database, name, time.time_ns() // 1_000)
        assert await backend.stop() == 0
    return senders, await check(conn, senders.journals), await read_ledger(conn, name, station.journal, CHANNELS)


@pytest.mark.row(11)
async def test_partitions_of_each_pair_lose_nothing_and_heal_alone(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    rounds = row.count(quick=1, full=10)
    seconds = (1.0, 45.0) if row.torture else (0.3, 0.6)
    senders, verdict, ledger = await part_again_and_again(module_database, conn, tmp_path, row, rounds, seconds)
    row.record(
        done=senders.acknowledged_frames, refused=senders.refused, unknown=senders.unknown,
        lost=verdict.lost + verdict.retracted + ledger.missing, twice=verdict.twice + ledger.twice,
        partitions=6 * rounds, readings=verdict.stored, readings_of_the_controller=ledger.stored,
        not_sampled=ledger.not_sampled,
    )  # fmt: skip
    assert verdict.clean, verdict
    assert ledger.true, ledger
    assert (ledger.missing, set(ledger.causes) - NOT_SAMPLED) == (0, set())


@pytest.mark.row(11)
async def test_partitions_find_numbers_outside_the_transaction(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    """The database is out of reach for longer than the backend waits for an answer."""
    _, verdict, _ = await part_again_and_again(module_database, conn, tmp_path, row, 1, (1.5, 1.6), "hurried+seq_outside_transaction")
    row.caught("seq_outside_transaction", of=test_partitions_of_each_pair_lose_nothing_and_heal_alone, twice=verdict.twice)
    assert verdict.twice


class MidCopy(DatabaseProxy):
    """The line of a flush falls silent for good once its COPY has begun: nobody is told, then or later."""

    def __init__(self, database: str) -> None:
        super().__init__(database)
        self.armed = False
        self.silent = asyncio.Event()

    def passes(self, connection: Connection, source: str, data: bytes) -> bool:
        if not (self.armed and source == "client" and COPY in data):
            return True
        self.armed = False
        begin = data.index(COPY) - 5  # Q, and the length of what follows it
        end = begin + 1 + int.from_bytes(data[begin + 1 : begin + 5], "big")
        connection.writers["server"].write(data[:end])
        connection.line.black_hole = True
        connection.cut = lambda: None  # type: ignore[method-assign]  # neither end is told
        self.silent.set()
        return False


@pytest.mark.row(11)
async def test_a_line_that_dies_within_a_commit_holds_nobody_up(module_database: str, tmp_path: Path, row: Row) -> None:
    """The session that it leaves at the server goes on waiting for its COPY, with the locks of the flush."""
    async with MidCopy(module_database) as behind:
        backend = Backend(behind.database, tmp_path, "hurried", compacting=False)
        await backend.start()
        backend.database = module_database
        async with await Senders.make(backend, row.test, tmp_path, count=2, channels=10, readings=20, frames_per_s=50.0) as senders:
            for _ in range(row.count(quick=1, full=10)):
                await senders.acknowledged(5)
                behind.armed = True
                await asyncio.wait_for(behind.silent.wait(), 20)
                behind.silent.clear()
                await asyncio.wait_for(senders.acknowledged(), 60)
        conn = await asyncpg.connect(module_database)
        verdict = await check(conn, senders.journals)
        await conn.close()
        assert await backend.stop() == 0
    senders.record(row, verdict, lines_lost=row.count(quick=1, full=10))
    assert verdict.clean, verdict
