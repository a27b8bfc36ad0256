"""Ingest, durable: load generator, backend and PostgreSQL on the same cores; beside it the peers, when they are installed."""

import asyncio

from parts.system import run_system

from bench import peers
from bench.figures import Figures
from webmacs.commands.loadtest import Load, Result, send_all

SECONDS = 10.0
SHAPES = (("500x200", 200), ("500x20", 20), ("500x1", 1))
CHANNELS = 500
STEADY_PER_S = 100_000
SOURCES = 1_000


async def measure(figures: Figures) -> None:
    for name, readings in SHAPES:
        ours = await _durable(figures, f"ingest.{name}", Load(CHANNELS, readings, SECONDS), sources=1)
        figures.add(f"ingest.{name}", ours.readings_per_s, "readings/s")
        if readings > 1:
            for peer, rate in peers.ingest(figures, CHANNELS, readings).items():
                figures.add(f"ingest.{name}.{peer}", rate, "readings/s")
                figures.compare(f"ingest.{name}", peer, ours.readings_per_s / rate)
    steady = await _durable(figures, "ingest.ack", Load(CHANNELS, 20, SECONDS, STEADY_PER_S / (CHANNELS * 20)), sources=1)
    figures.add("ingest.ack_p50", steady.latency_ms(0.5), "ms")
    figures.add("ingest.ack_p99", steady.latency_ms(0.99), "ms")
    many = await _durable(figures, "ingest.1000x50", Load(50, 1, SECONDS, 1.0), sources=SOURCES)
    figures.add("ingest.1000x50", many.latency_ms(0.99), "ms")


async def _durable(figures: Figures, name: str, load: Load, sources: int) -> Result:
    """Sends in a fresh installation, and checks that what was acknowledged is what is stored."""
    async with run_system() as system:
        credentials = await system.make_sources(sources)
        result = await send_all(f"{system.backend.sockets}/ws/controller/telemetry", credentials, load)
        stored = await system.stored()
        figures.say(f"{name}: {result.readings:,} acknowledged, {stored:,} stored, {result.refused} refused, in {result.seconds:.1f} s")
        if stored != result.readings:
            raise SystemExit(f"{name}: {result.readings} readings were acknowledged and {stored} are stored")
        if name == "ingest.500x200":
            figures.add("ingest.rss", system.backend.rss_mb(), "MB")
        return result


def run(figures: Figures) -> None:
    asyncio.run(measure(figures))
