"""Previews: while nothing can be stored the watchers see the present, marked as such, and nothing of it is kept."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from fanout.test_stream import ask, expect, now_us, stream
from parts import stored
from parts.backend import make_source, make_user, sign_in
from parts.controlled import Controller
from parts.source import Source, data
from parts.system import System, run_system
from webmacs_controller import wire

SMALL_VALUES = 50_000
"""Readings in a frame of whole numbers: one byte each on the way, many more in the buffers."""


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with run_system() as running:
        yield running


@pytest.fixture(scope="module")
async def token(system: System) -> str:
    password = await make_user(system.database, system.backend.data_dir, "previewing@example.org", "viewer")
    return await sign_in(system.backend, "previewing@example.org", password)


def t_us(point: dict[str, Any]) -> int:
    return round(datetime.fromisoformat(point["timestamp"]).timestamp() * 1e6)


async def test_previews_reach_watchers_while_the_database_is_stopped_and_nothing_of_them_is_stored(system: System, token: str) -> None:
    credential = await make_source(system.database, "shown")
    async with Source(system.backend.sockets, credential) as source, stream(system.backend, token) as socket:
        event = (await source.hello(["shown"])).accepted[0][1]
        t = now_us()
        await source.send(data(1, {0: ([t], [1.0])}))
        await source.acknowledged(1)
        await ask(socket, type="subscribe", events=[event], interval_ms=20)
        await expect(socket, "snapshot")
        await asyncio.to_thread(system.server.stop)
        await source.send(data(2, {0: ([t + 1], [2.0])}))
        while (await expect(socket, "status"))["storing"]:
            pass
        for n in range(3, 10):
            await source.send(wire.encode(wire.Preview([(0, t + n, float(n))])))
            batch = await expect(socket, "datapoints_batch")
            assert batch["datapoints"] == []
            (preview,) = batch["previews"]
            assert (preview["event_public_id"], t_us(preview), preview["value"]) == (event, t + n, float(n))
        assert source.acked == 1
        await asyncio.to_thread(system.server.start)
        await source.acknowledged(2)
        batch = await expect(socket, "datapoints_batch")
        assert [point["value"] for point in batch["datapoints"]] == [2.0]
        assert "previews" not in batch
        assert source.nacks == []
    conn = await asyncpg.connect(system.database)
    assert await stored.readings(conn, "shown", "shown") == [(t, 1.0), (t + 1, 2.0)]
    await conn.close()


async def test_a_source_that_keeps_its_credit_is_heard_though_the_buffers_are_full(system: System, token: str) -> None:
    """Half full, the backend withdraws the credit; it would leave the socket unread only when they are full."""
    credential = await make_source(system.database, "crowded")
    async with Source(system.backend.sockets, credential) as source, stream(system.backend, token) as socket:
        welcome = await source.hello(["crowded"])
        event = welcome.accepted[0][1]
        await ask(socket, type="subscribe", events=[event], interval_ms=20)
        await expect(socket, "snapshot")
        await asyncio.to_thread(system.server.stop)
        start, seq = now_us() - 3_600_000_000, 0
        small: list[float] = [i % 100 for i in range(SMALL_VALUES)]
        while source.credit_bytes:
            seq += 1
            frame = wire.encode(wire.Data(seq, start, [wire.Column(0, start + seq * SMALL_VALUES, 1, small)]))
            assert seq * len(frame) < welcome.credit_bytes, "it kept its credit"
            await source.send(frame)
            await source.send(wire.encode(wire.Ping(0, 0)))
            await source.expect(wire.Pong)
        await source.send(wire.encode(wire.Preview([(0, now_us(), 7.0)])))
        assert [preview["value"] for preview in (await expect(socket, "datapoints_batch"))["previews"]] == [7.0]
        await asyncio.to_thread(system.server.start)
        await source.acknowledged(seq)
        assert source.credit_bytes > 0
        assert source.nacks == []


async def test_a_controller_shows_its_present_until_what_it_has_kept_is_stored(system: System, token: str, tmp_path: Path) -> None:
    controller = Controller(tmp_path, "patient plant", system.database, system.backend.port)
    async with controller, stream(system.backend, token) as socket:
        await ask(socket, type="subscribe", events="all", interval_ms=20)
        conn = await asyncpg.connect(system.database)
        while (event := await conn.fetchval("SELECT public_id::text FROM events WHERE channel_key = 'simulated.tank_level'")) is None:
            await expect(socket, "status")
        await conn.close()

        async def until_stored(after_us: int) -> dict[str, Any]:
            while True:
                batch = await expect(socket, "datapoints_batch")
                if any(point["event_public_id"] == event and t_us(point) > after_us for point in batch["datapoints"]):
                    return batch

        await until_stored(0)
        begun_us = now_us()
        await asyncio.to_thread(system.server.stop)
        shown: list[int] = []
        while len(shown) < 20:
            batch = await expect(socket, "datapoints_batch")
            shown += [t_us(preview) for preview in batch.get("previews", []) if preview["event_public_id"] == event]
        assert shown == sorted(set(shown)), "each preview is newer than the one before"
        asking = asyncio.create_task(asyncio.to_thread(system.server.start))
        stored_us = 0
        without = 0
        while without < 20:  # ticks that bring the channel stored and not previewed, one after another
            batch = await expect(socket, "datapoints_batch")
            previews = [t_us(preview) for preview in batch.get("previews", []) if preview["event_public_id"] == event]
            points = [t_us(point) for point in batch["datapoints"] if point["event_public_id"] == event]
            shown += previews
            stored_us = max([stored_us, *points])
            without = 0 if previews else without + len(points)
        await asking
        assert stored_us > shown[-1]
    conn = await asyncpg.connect(system.database)
    times = [t for t, _ in await stored.readings(conn, "patient plant", "simulated.tank_level")]
    await conn.close()
    assert all(a < b for a, b in pairwise(times)), "nothing is stored twice"
    assert set(shown) <= set(times), "everything that was shown is stored in the end"
    assert max(times) > shown[-1] > begun_us
