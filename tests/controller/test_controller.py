"""The controller's parts together, in this process: how it ends, and what becomes of channels that the backend does not take."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from parts.double import Backend
from webmacs_controller import wire
from webmacs_controller.controller import Controller, Installed
from webmacs_controller.plugins.simulated import plugin


def make(place: Path, url: str, read_credential: Callable[[], str]) -> Controller:
    device = plugin.make(plugin.PluginSettings(interval_ms=10))
    installed = Installed("simulated", "simulated", device, plugin.PluginSettings, device.channels())
    return Controller(url, read_credential, place / "spool", 1 << 20, [installed])


async def test_a_bug_in_the_link_ends_the_controller_so_that_a_new_one_is_started(tmp_path: Path) -> None:
    def fail() -> str:
        raise ZeroDivisionError

    async with asyncio.timeout(20):
        with pytest.raises(ZeroDivisionError):
            await make(tmp_path, "ws://127.0.0.1:1/ws", fail).run(asyncio.Event())


async def test_readings_of_refused_channels_are_declared_exactly_and_others_are_delivered(tmp_path: Path) -> None:
    backend, stop = Backend(), asyncio.Event()
    backend.refuse_channels = {"simulated.feed_flow": "no event", "simulated.feed_valve": "no event"}
    async with backend.serving() as (_, url), asyncio.timeout(30):
        running = asyncio.create_task(make(tmp_path, url, lambda: backend.credential).run(stop))
        await backend.until(lambda: sum(map(len, backend.stored.values())) > 20)
        stop.set()
        await running
    (frames,) = backend.stored.values()
    readings = dict.fromkeys(range(1, 10), 0)
    for stored in frames:
        if stored[0] == wire.KIND_DATA:
            for channel, _, _, values in stored[3]:  # type: ignore[attr-defined]
                readings[channel] += len(values) // 8
    gaps = [stored for stored in frames if stored[0] == wire.KIND_GAP]
    late = sum(gap[5] for gap in gaps if gap[2] == 1)  # type: ignore[misc]  # of a busy machine, whatever was late: refused channels too
    assert [gap[5] for gap in gaps if (gap[2], gap[6]) == (None, "disabled")] == [2 * (readings[1] + late)]
    assert (readings[6], readings[9]) == (0, 0)
