"""Fan-out: a source sends, and a thousand dashboards see what was committed. The backend's own cost is what the sockets add to ingest."""

import asyncio
import json
import math
import struct
import sys
from pathlib import Path

import asyncpg
import psutil
from parts.backend import make_user, sign_in
from parts.system import System, run_system
from webmacs_controller import wire
from webmacs_controller.frame import encode_data
from webmacs_controller.sender import FastSender

from bench.figures import Figures
from webmacs import clock
from webmacs.settings import Settings

SOCKETS = 1_000
CHANNELS = 100
INTERVAL_MS = 200
FRAME_MS = 50
READINGS = 50
"""Of each channel in a frame: 1 kHz, so 100 thousand readings/s in all."""
WINDOW_S = 10.0
SETTLE_S = 20.0
"""After the last has come in; then buffers and caches are as large as they get."""
GROWTH_S = 30.0
STUCK = 1
"""Clients that never read again."""


async def measure(figures: Figures) -> None:
    async with run_system() as system:
        (credential,) = await system.make_sources(1)
        sender = FastSender(f"{system.backend.sockets}/ws/controller/telemetry", credential)
        channels = [wire.DescribedChannel(f"f{i}", f"Fan {i}", "", "sensor", None, None, 2, 1) for i in range(CHANNELS)]
        await sender.connect(channels)
        sending = asyncio.create_task(_send(sender))
        try:
            await _watch(figures, system)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await sender.close()


async def _send(sender: FastSender) -> None:
    """Frames whose last reading is of the moment in which they go."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    times = struct.pack(f"<{READINGS}i", *range(0, READINGS * 1_000, 1_000))
    span_us = (READINGS - 1) * 1_000
    while True:
        await asyncio.sleep(begun + sender.next_seq * FRAME_MS / 1000 - loop.time())
        values = struct.pack(f"<{READINGS}d", *(math.sin(sender.next_seq + i / 10) for i in range(READINGS)))
        now_us = clock.now_us()
        await sender.send(encode_data(sender.next_seq, now_us, tuple(range(1, CHANNELS + 1)), now_us - span_us, times, [values] * CHANNELS))


async def _watch(figures: Figures, system: System) -> None:
    alone = await _cpu(system, WINDOW_S / 2)
    empty_mb = system.backend.rss_mb()
    conn = await asyncpg.connect(system.database)
    events = [str(row[0]) for row in await conn.fetch("SELECT public_id FROM events")]
    await conn.close()
    wanted = {
        "url": f"{system.backend.sockets}/ws/datapoints/stream",
        "tokens": [await _token(system, number) for number in range(-(-(SOCKETS + STUCK) // Settings().user_sockets_max))],
        "sockets": SOCKETS,
        "events": events,
        "interval_ms": INTERVAL_MS,
        "stuck": STUCK,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.watchers", cwd=Path(__file__).parents[1],
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 26,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(wanted).encode() + b"\n")
        if await process.stdout.readline() != b"watching\n":
            raise SystemExit("the watchers did not come in")
        full_mb = system.backend.rss_mb()
        await asyncio.sleep(SETTLE_S)
        settled_mb = system.backend.rss_mb()
        await asyncio.sleep(GROWTH_S)
        grown_mb = system.backend.rss_mb() - settled_mb
        process.stdin.write(b"\n")
        busy = await _cpu(system, WINDOW_S)
        process.stdin.write(b"\n")
        seen = json.loads(await process.stdout.readline())
    finally:
        process.stdin.close()
        await process.wait()
    counts, delays = sorted(seen["counts"]), seen["delays_ms"]
    ticks = WINDOW_S * 1000 / INTERVAL_MS
    figures.say(
        f"{SOCKETS} sockets x {CHANNELS} channels every {INTERVAL_MS} ms beside {STUCK} that never reads: {ticks:.0f} ticks, each got "
        f"{counts[0]} to {counts[-1]} messages, {seen['closed']} were closed"
    )
    figures.add("fanout.cpu", 100 * (busy - alone), "%")
    figures.add("fanout.p50", delays[len(delays) // 2], "ms")
    figures.add("fanout.p99", delays[int(0.99 * len(delays))], "ms")
    figures.add("fanout.messages", sum(counts) / WINDOW_S, "messages/s")
    figures.add("fanout.rss_per_socket", (full_mb - empty_mb) * 1000 / SOCKETS, "KB")
    figures.add("fanout.rss_growth", grown_mb, "MB")
    if counts[0] < 0.9 * ticks:
        figures.say("a socket missed more than a tenth of its ticks: it was conflated")


async def _token(system: System, number: int) -> str:
    email = f"watcher{number}@example.org"
    password = await make_user(system.database, system.backend.data_dir, email, "viewer")
    return await sign_in(system.backend, email, password)


async def _cpu(system: System, seconds: float) -> float:
    """Cores that the backend's processes used for so long."""
    main = psutil.Process(system.backend.pid)
    processes = [main, *main.children(recursive=True)]

    def used() -> float:
        return sum(times.user + times.system for times in (process.cpu_times() for process in processes))

    begun = used()
    await asyncio.sleep(seconds)
    return (used() - begun) / seconds


def run(figures: Figures) -> None:
    asyncio.run(measure(figures))
