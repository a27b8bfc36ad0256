"""History: what a reading takes on disk once it is packed, what packing costs beside full ingest, and how fast charts come back.

The signal is v(t) = round(20 + 5 sin(2 pi t / 300 s) + N(0, 0.05), 2) at 1 kHz for an hour, with a seed for each channel. It is written
by the core's own runs of 100 ms, as a flush would, and merged by the compactor. Sizes count everything: rows, indexes, TOAST.
"""

import asyncio
import json
import math
import random
import statistics
import struct
import time
from array import array
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import count

import asyncpg
import psutil
from parts.system import System, run_system
from webmacs_controller import wire

from bench import peers
from bench.figures import Figures
from webmacs import clock
from webmacs.commands.loadtest import Load, send_all
from webmacs.ingest_core import Core
from webmacs.storage import compact, partitions, pool, runs
from webmacs.storage.compact import Compactor
from webmacs.storage.vitals import Vitals

HOUR = 3_600_000
"""Readings of a channel."""
CHANNELS = 2
"""Of the 20 that the signal is defined for: an hour of each takes 10 s to make. Each has its own seed, and they differ by less than 1 %."""
JITTER_US = 20
RUN = 100
TRIAL_S = 75.0
TRIAL_FRAMES_PER_S = 10.0
TRIAL_LOAD = (500, 200)
"""A million readings a second."""
SAMPLE_S = 5.0


def signal(seed: int, sigma: float = 0.05) -> "array[float]":
    chance = random.Random(seed)
    wave = [20 + 5 * math.sin(2 * math.pi * k / 300_000) for k in range(300_000)]
    return array("d", (round(wave[k % 300_000] + chance.gauss(0.0, sigma), 2) for k in range(HOUR)))


def times_us(begin_us: int, jitter_us: int) -> "array[int]":
    chance = random.Random(1)
    if not jitter_us:
        return array("q", range(begin_us, begin_us + HOUR * 1_000, 1_000))
    return array("q", (begin_us + k * 1_000 + chance.randint(-jitter_us, jitter_us) for k in range(HOUR)))


class Writer:
    """Writes readings of events into a database as runs of so many, as the flush does, without a network in between."""

    def __init__(self, conn: pool.Connection) -> None:
        self._conn = conn
        self._core = Core()
        self._seqs = count(1)

    async def write(self, event: int, times: "array[int]", values: "array[float]", run: int) -> None:
        self._core.own(1, 1, [(event, None)], [])
        self._core.open(1, [(event, event)], [], None)
        rows: list[bytes] = []
        for begin in range(0, len(times), run):
            stretch = times[begin : begin + run]
            offsets = struct.pack(f"<{len(stretch)}i", *(t - stretch[0] for t in stretch))
            column = wire.Column(event, stretch[0], offsets, values[begin : begin + run].tobytes())
            self._core.accept(1, wire.encode(wire.Data(next(self._seqs), stretch[-1], [column])), stretch[-1])
            drained = self._core.drain()
            assert drained is not None
            rows += (segment.rows for segment in drained.segments)
            if len(rows) >= 5_000 or begin + run >= len(times):
                await runs.copy_runs(self._conn, rows)
                rows = []


@asynccontextmanager
async def uncompacted(system: System) -> AsyncIterator[pool.Connection]:
    """A connection that holds the compactor's lock: the backend's waits, and this one does its work when it is told to."""
    conn = await pool.connect(system.database, command_timeout=300.0)
    while not await conn.fetchval("SELECT pg_try_advisory_lock($1)", compact.COMPACTION_LOCK):
        await conn.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()")
    await conn.execute("SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off")
    try:
        yield conn
    finally:
        await conn.close()


async def compact_all(conn: pool.Connection) -> tuple[int, float]:
    """(runs replaced, seconds), with every day taken as over."""
    compactor, now_us, merged, began = Compactor("", Vitals()), clock.now_us() + 2 * 86_400_000_000, 0, time.monotonic()
    while more := await compactor.compact_once(conn, now_us, sweep=True):
        merged += more
    return merged, time.monotonic() - began


async def bytes_of(conn: pool.Connection, day: datetime) -> int:
    """Everything of a day, without the space that may be written again."""
    await conn.execute(f"VACUUM FULL {partitions.name(day)}")
    return int(await conn.fetchval("SELECT pg_total_relation_size($1::text::regclass)", partitions.name(day)))


async def disk(figures: Figures, conn: pool.Connection) -> None:
    """history.bytes_ms beside VictoriaMetrics, history.bytes_us."""
    signals = [signal(seed) for seed in range(1, CHANNELS + 1)]
    figures.say(f"{CHANNELS} channels of an hour at 1 kHz, {CHANNELS * HOUR:,} readings")
    writer = Writer(conn)
    today = partitions.day_of(clock.now_us())
    sizes = {}
    for name, days_ago, jitter_us in (("history.bytes_ms", 3, 0), ("history.bytes_us", 5, JITTER_US)):
        day = today - timedelta(days=days_ago)
        for event, values in enumerate(signals, 1):
            await writer.write(event, times_us(clock.from_datetime(day) + 3_600_000_000, jitter_us), values, RUN)
        merged, seconds = await compact_all(conn)
        figures.say(f"{name}: {merged:,} runs merged in {seconds:.1f} s with as long a pause")
        sizes[name] = await bytes_of(conn, day)
        figures.add(name, sizes[name] / (CHANNELS * HOUR), "B/reading")
    begin_ms = int((today - timedelta(days=3)).timestamp() * 1_000) + 3_600_000
    for peer, size in peers.disk(figures, begin_ms, signals).items():
        figures.add(f"history.bytes_ms.{peer}", size / (CHANNELS * HOUR), "B/reading")
        figures.compare("history.bytes_ms", peer, sizes["history.bytes_ms"] / size)


async def charts(figures: Figures, conn: pool.Connection) -> None:
    """The hour of channel 1 that `disk` wrote, and eight hours at 10 Hz as single readings."""
    begin = partitions.day_of(clock.now_us()) - timedelta(days=3) + timedelta(hours=1)
    end = begin + timedelta(hours=1)
    figures.add("history.chart_stats", await chart_ms(conn, 1, begin, end, grid=False), "ms")
    figures.add("history.chart_decoded", await chart_ms(conn, 1, begin, end, grid=True), "ms")
    short = await chart_ms(conn, 1, begin + timedelta(minutes=30), begin + timedelta(minutes=30, seconds=36), grid=False)
    figures.say(f"36 s: {short:.2f} ms")
    figures.add("history.chart_growth", await chart_ms(conn, 1, begin, end, grid=False) / short, "x")
    begin = partitions.day_of(clock.now_us()) - timedelta(days=7)
    end = begin + timedelta(hours=8)
    times = array("q", range(clock.from_datetime(begin), clock.from_datetime(end), 100_000))
    await Writer(conn).write(3, times, signal(3)[: len(times)], 1)
    before = await chart_ms(conn, 3, begin, end, grid=False)
    await compact_all(conn)
    await conn.execute(f"VACUUM {partitions.name(begin)}")  # as autovacuum does within a minute
    figures.add("history.chart_8h_10hz_raw", before, "ms")
    figures.add("history.chart_8h_10hz", await chart_ms(conn, 3, begin, end, grid=False), "ms")


async def chart_ms(conn: pool.Connection, event: int, begin: datetime, end: datetime, grid: bool) -> float:
    """The median of seven, of 1,000 buckets."""
    taken = []
    for _ in range(7):
        began = time.perf_counter()
        await runs.read_series(conn, event, begin, end, 1_000, grid)
        taken.append((time.perf_counter() - began) * 1_000)
    return statistics.median(taken)


class Cores:
    """CPU seconds of groups of processes, also of those that ended meanwhile, as far as they were seen."""

    def __init__(self, system: System) -> None:
        self._parents = {"postgresql": _postmaster(system), "backend": psutil.Process(system.backend.pid)}
        self._spent: dict[tuple[str, int], float] = {}

    def spent(self) -> dict[str, float]:
        for group, parent in self._parents.items():
            for process in (parent, *parent.children(recursive=True)):
                try:
                    used = process.cpu_times()
                except psutil.NoSuchProcess:
                    continue
                self._spent[group, process.pid] = used.user + used.system
        return {group: sum(s for (g, _), s in self._spent.items() if g == group) for group in self._parents}


def _postmaster(system: System) -> psutil.Process:
    return psutil.Process(int((system.server.data / "postmaster.pid").read_text().split()[0]))


async def trial(figures: Figures, compacting: bool) -> dict[str, float]:
    """A million readings a second into a fresh installation: the cores that it took, the commits, and how the table grew."""
    channels, readings = TRIAL_LOAD
    async with run_system(WEBMACS_LOG_LEVEL="debug") as system:
        holding = None if compacting else uncompacted(system)
        if holding is not None:
            await holding.__aenter__()
        cores = Cores(system)
        before, began = cores.spent(), time.monotonic()
        watching = asyncio.create_task(watch(figures, system, cores))
        credentials = await system.make_sources(1)
        load = Load(channels, readings, TRIAL_S, TRIAL_FRAMES_PER_S)
        result = await send_all(f"{system.backend.sockets}/ws/controller/telemetry", credentials, load)
        after, seconds = cores.spent(), time.monotonic() - began
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        if holding is not None:
            await holding.__aexit__(None, None, None)
        commits = sorted(line["ms"] for line in logged(system, "flush_committed"))
        figures.say(
            f"{'with' if compacting else 'without'} compaction: {result.readings_per_s:,.0f} readings/s for {seconds:.0f} s,"
            f" acknowledgement p50 {result.latency_ms(0.5):.0f} ms, p99 {result.latency_ms(0.99):.0f} ms"
        )
        return {
            "rate": result.readings_per_s,
            "commit_p99": commits[int(0.99 * (len(commits) - 1))],
            "ack_p99": result.latency_ms(0.99),
            **{group: (after[group] - before[group]) / seconds for group in after},
        }


def logged(system: System, name: str) -> Iterator[dict[str, float]]:
    for line in system.backend.log.splitlines():
        if f'"{name}"' in line:
            yield json.loads(line)


async def watch(figures: Figures, system: System, cores: Cores) -> None:
    """What lies beside the data and which runs wait, every few seconds."""
    conn = await asyncpg.connect(system.database)
    query = """
        SELECT (SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'datapoints'::regclass)::float8 / 1e6 AS mb,
               coalesce(sum(octet_length(payload) + 220), 0)::float8 / 1e6 AS live_mb, count(*) AS runs,
               count(*) FILTER (WHERE encoding = 0) AS raw, coalesce(sum(n), 0)::int8 AS readings FROM datapoints
    """
    try:
        while True:
            await asyncio.sleep(SAMPLE_S)
            cores.spent()
            now = await conn.fetchrow(query)
            assert now is not None
            figures.say(
                f"{now['readings'] / 1e6:.0f} million readings: {now['raw']:,} raw of {now['runs']:,} runs,"
                f" {now['mb'] - now['live_mb']:.0f} MB beside {now['live_mb']:.0f} MB of data"
            )
    finally:
        await conn.close()


async def measure(figures: Figures) -> None:
    async with run_system() as system, uncompacted(system) as conn:
        await disk(figures, conn)
        await charts(figures, conn)
    without = await trial(figures, compacting=False)
    with_it = await trial(figures, compacting=True)
    for name in ("commit_p99", "ack_p99"):
        figures.add(f"history.{name}_without", without[name], "ms")
        figures.add(f"history.{name}", with_it[name], "ms")
    for group in ("postgresql", "backend"):
        figures.add(f"history.{group}_without", 100 * without[group], "%")
        figures.add(f"history.{group}", 100 * with_it[group], "%")
    figures.add(
        "history.compaction", 100 * sum(with_it[group] - without[group] for group in ("postgresql", "backend")) * 1e6 / with_it["rate"], "%"
    )


def run(figures: Figures) -> None:
    asyncio.run(measure(figures))
