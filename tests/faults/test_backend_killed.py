"""kill -9 of the backend while readings come in: what was acknowledged is stored once, reading by reading."""

import asyncio
import os
import random
import struct
import time
from pathlib import Path
from typing import Any

import asyncpg
import websockets
from parts import stored
from parts.backend import Backend, make_source
from parts.source import Source, data
from webmacs_controller import wire

KILLS = 5
CHANNELS = 8
READINGS = 25
WINDOW = 8
"""Frames that the source keeps under way"""


def value_of(channel: int, position: int) -> float:
    """A reading carries its identity: no counter of the system has to be believed."""
    return float(channel * 1_000_000 + position)


def frame(seq: int, start_us: int) -> bytes:
    first = (seq - 1) * READINGS
    times = range(start_us + first * 1_000, start_us + (first + READINGS) * 1_000, 1_000)
    return data(seq, {channel: (times, [value_of(channel, first + i) for i in range(READINGS)]) for channel in range(CHANNELS)})


async def send_until(
    backend: Backend, credential: str, stream: bytes, start_us: int, last_seq: int, journal: Path, unknown: list[int]
) -> None:
    """Delivers frames 1 .. last_seq through any number of restarts; each acknowledgement is fsynced to the journal. `unknown` gets the
    number of frames whose fate was not known at each end of a connection."""
    sent_max = 0
    with journal.open("wb", buffering=0) as acknowledged:
        while True:
            try:
                async with Source(backend.sockets, credential, stream) as source:
                    welcome = await source.hello([f"k{channel}" for channel in range(CHANNELS)], next_seq=sent_max + 1)
                    seq = source.acked = welcome.committed_seq
                    while source.acked < last_seq:
                        while seq < last_seq and seq - source.acked < WINDOW:
                            seq += 1
                            sent_max = max(sent_max, seq)
                            await source.send(frame(seq, start_us))
                        ack = await source.expect(wire.Ack)
                        acknowledged.write(struct.pack("<q", ack.committed_seq))
                        os.fsync(acknowledged.fileno())
                    return
            except (OSError, TimeoutError, websockets.exceptions.WebSocketException):
                unknown.append(sent_max - (struct.unpack("<q", journal.read_bytes()[-8:])[0] if journal.stat().st_size else 0))
                await asyncio.sleep(0.05)


async def test_five_kills_lose_nothing_and_store_nothing_twice(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path
) -> None:
    seed = int(os.environ.get("WEBMACS_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"WEBMACS_TEST_SEED={seed}")
    chance = random.Random(seed)
    backend = Backend(module_database, tmp_path)
    await backend.start()
    credential = await make_source(module_database, "killed")
    stream, start_us = os.urandom(16), time.time_ns() // 1_000 - 3_600_000_000
    journal = tmp_path / "journal"

    unknown: list[int] = []

    async def deliver() -> None:
        await send_until(backend, credential, stream, start_us, 150 * (KILLS + 1), journal, unknown)

    sending = asyncio.create_task(deliver())
    for kill in range(1, KILLS + 1):
        while journal.stat().st_size < 8 * 6 * kill if journal.exists() else True:  # some acknowledgements between two kills
            assert not sending.done(), "everything was delivered before the kills were over"
            await asyncio.sleep(chance.uniform(0, 0.02))
        await backend.kill()
        await backend.start()
    await sending
    acknowledged = struct.unpack("<q", journal.read_bytes()[-8:])[0]
    assert await backend.stop() == 0
    assert acknowledged == 150 * (KILLS + 1)
    for channel in range(CHANNELS):
        found = await stored.readings(conn, "killed", f"k{channel}")
        expected = [(start_us + i * 1_000, value_of(channel, i)) for i in range(acknowledged * READINGS)]
        assert sorted(found) == expected
    runs, overlapping = await conn.fetchrow("SELECT count(*), count(*) FILTER (WHERE overlapping) FROM datapoints") or (0, 0)
    assert overlapping == 0
    assert await conn.fetchval("SELECT sum(readings) FROM receipts") == acknowledged * READINGS * CHANNELS
    assert any(unknown), "no kill hit a frame under way: the run proves nothing"
    print(f"kills={KILLS} readings={acknowledged * READINGS * CHANNELS} runs={runs} frames_unknown={unknown}")
