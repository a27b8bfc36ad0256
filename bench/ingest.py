"""Ingest, durable: load generator, backend and PostgreSQL on the same cores; beside it the peers, when they are installed."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import orjson
from parts.backend import make_user, sign_in
from parts.system import System, run_system

from bench import peers
from bench.figures import Figures
from webmacs.clock import to_datetime
from webmacs.commands.loadtest import Load, Result, send_all
from webmacs.storage.ids import uuid7

SECONDS = 10.0
SHAPES = (("500x200", 200), ("500x20", 20), ("500x1", 1))
CHANNELS = 500
STEADY_PER_S = 100_000
SOURCES = 1_000
MEMORY_PER_S = 1_000_000
MEMORY_SECONDS = 30.0
POSTERS = 8
"""Connections over which batches are posted: each waits for its commit, so that one alone measures the disk."""
BATCHES = 200
BATCH_READINGS = 20
"""Of each channel: 10,000 in a batch."""
SETTLED_S = 10.0
"""By then every buffer has met the load; growth is counted from here."""


async def measure(figures: Figures) -> None:
    for name, readings in SHAPES:
        ours = await _durable(figures, f"ingest.{name}", Load(CHANNELS, readings, SECONDS), sources=1)
        figures.add(f"ingest.{name}", ours.readings_per_s, "readings/s")
        if readings > 1:
            for peer, rate in peers.ingest(figures, CHANNELS, readings).items():
                figures.add(f"ingest.{name}.{peer}", rate, "readings/s")
                figures.compare(f"ingest.{name}", peer, ours.readings_per_s / rate)
    figures.add("ingest.rest_json", await _by_rest(figures, "ingest.rest_json", _json), "readings/s")
    lines = await _by_rest(figures, "ingest.line_protocol", _lines)
    figures.add("ingest.line_protocol", lines, "readings/s")
    theirs = peers.lines(figures, _line_bodies(), POSTERS)
    if theirs is not None:
        rate = BATCHES * CHANNELS * BATCH_READINGS / theirs
        figures.add("ingest.line_protocol.influxdb", rate, "readings/s")
        figures.compare("ingest.line_protocol", "influxdb", lines / rate)
    steady = await _durable(figures, "ingest.ack", Load(CHANNELS, 20, SECONDS, STEADY_PER_S / (CHANNELS * 20)), sources=1)
    figures.add("ingest.ack_p50", steady.latency_ms(0.5), "ms")
    figures.add("ingest.ack_p99", steady.latency_ms(0.99), "ms")
    memory: list[float] = []
    await _durable(figures, "ingest.rss", Load(CHANNELS, 20, MEMORY_SECONDS, MEMORY_PER_S / (CHANNELS * 20)), sources=1, memory=memory)
    figures.add("ingest.rss", memory[-1], "MB")
    figures.add("ingest.rss_growth", memory[-1] - memory[int(SETTLED_S)], "MB")
    many = await _durable(figures, "ingest.1000x50", Load(50, 1, SECONDS, 1.0), sources=SOURCES)
    figures.add("ingest.1000x50", many.latency_ms(0.99), "ms")


async def _by_rest(figures: Figures, name: str, make: "Make") -> float:
    """Readings/s of posting batches that were made beforehand, durable, over POSTERS connections."""
    async with run_system() as system:
        path, headers, bodies = await make(system)
        password = await make_user(system.database, system.backend.data_dir, "bench@example.org", "operator")
        token = await sign_in(system.backend, "bench@example.org", password)
        seconds = await asyncio.to_thread(
            peers.post, system.backend.port, path, bodies, {"Authorization": f"Bearer {token}"} | headers, POSTERS
        )
        readings, stored = BATCHES * CHANNELS * BATCH_READINGS, await system.stored()
        figures.say(f"{name}: {readings:,} sent, {stored:,} stored, in {seconds:.1f} s")
        if stored != readings:
            raise SystemExit(f"{name}: {readings} readings were answered and {stored} are stored")
    return readings / seconds


Made = tuple[str, dict[str, str], list[bytes]]
"""Path, headers and bodies of requests."""
Make = Callable[[System], Awaitable[Made]]


async def _json(system: System) -> Made:
    conn = await asyncpg.connect(system.database)
    events = [uuid7() for _ in range(CHANNELS)]
    await conn.execute(
        "INSERT INTO events (public_id, name, type, unit) SELECT id, id, 'sensor', '' FROM unnest($1::uuid[]) AS e (id)", events
    )
    await conn.close()
    return "/api/v1/datapoints/batch", {"Content-Type": "application/json"}, [_batch(events, frame) for frame in range(BATCHES)]


def _batch(events: list[UUID], frame: int) -> bytes:
    times = [to_datetime(ms * 1_000).isoformat().replace("+00:00", "Z") for ms in peers.times_ms(BATCH_READINGS, frame)]
    items = [
        {"event_public_id": event, "value": value, "timestamp": time}
        for event, values in zip(events, peers.values_of(CHANNELS, BATCH_READINGS, frame), strict=True)
        for value, time in zip(values, times, strict=True)
    ]
    return orjson.dumps({"datapoints": items})


async def _lines(system: System) -> Made:
    return "/api/v1/write?precision=ms", {"Content-Type": "text/plain"}, _line_bodies()


def _line_bodies() -> list[bytes]:
    return [peers.line_protocol(CHANNELS, BATCH_READINGS, frame) for frame in range(BATCHES)]


async def _durable(figures: Figures, name: str, load: Load, sources: int, memory: list[float] | None = None) -> Result:
    """Sends in a fresh installation, and checks that what was acknowledged is what is stored. `memory` gets the backend's resident MB,
    once a second while the load lasts."""
    async with run_system() as system:
        credentials = await system.make_sources(sources)
        sending = asyncio.create_task(send_all(f"{system.backend.sockets}/ws/controller/telemetry", credentials, load))
        while not sending.done():
            await asyncio.wait({sending}, timeout=1)
            if memory is not None:
                memory.append(system.backend.rss_mb())
        result = await sending
        stored = await system.stored()
        figures.say(f"{name}: {result.readings:,} acknowledged, {stored:,} stored, {result.refused} refused, in {result.seconds:.1f} s")
        if stored != result.readings:
            raise SystemExit(f"{name}: {result.readings} readings were acknowledged and {stored} are stored")
        if name == "ingest.500x200":
            figures.add("ingest.rss_full_speed", system.backend.rss_mb(), "MB")
        return result


def run(figures: Figures) -> None:
    asyncio.run(measure(figures))
