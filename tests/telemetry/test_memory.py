"""Memory under a long load: what the first half of it makes the backend hold is all that it ever holds, while it compacts."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest
from parts.backend import Backend
from parts.journal import check
from parts.sender import Senders
from parts.torture import Row

CHANNELS, READINGS = 50, 20
GROWN_MIB_MAX = 5
"""From the middle of the load to its end, which is 25 million readings later"""
QUICK_GROWN_MIB_MAX = 16
"""Of a short load, in which buffers still find their size while other tests slow the machine down"""


async def send_a_lot(backend: Backend, place: Path, name: str, half: int) -> tuple[Senders, float, float]:
    """Twice so many frames, as fast as they go. Answers what the backend holds after the first half, and how much more after the second, in
    MiB."""
    async with await Senders.make(backend, name, place, 1, CHANNELS, READINGS, frames_per_s=None) as senders:
        (sender,) = senders.all
        await sender.reached(half)
        held = backend.rss_mb()
        await sender.reached(2 * half)
        grown = backend.rss_mb() - held
    return senders, held * 1e6 / 2**20, grown * 1e6 / 2**20


@pytest.mark.row(35)
async def test_memory_stays_flat(backend: Backend, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row) -> None:
    senders, held, grown = await send_a_lot(backend, tmp_path, row.test, row.count(quick=6_000, full=28_000))
    verdict = await check(conn, senders.journals)
    row.record(
        done=senders.acknowledged_frames, refused=senders.refused, unknown=None, lost=verdict.lost, twice=None,
        readings=verdict.stored, rss_mib_in_the_middle=round(held, 1), grown_mib=round(grown, 1),
    )  # fmt: skip
    assert (verdict.lost, verdict.foreign) == (0, 0)
    assert grown <= (GROWN_MIB_MAX if row.torture else QUICK_GROWN_MIB_MAX)


@pytest.mark.row(35)
async def test_a_long_load_finds_a_backend_that_keeps_something_of_each_frame(database: str, tmp_path: Path, row: Row) -> None:
    backend = Backend(database, tmp_path, "keep_what_was_refused")
    await backend.start()
    _, _, grown = await send_a_lot(backend, tmp_path, row.test, 9_000)
    assert await backend.stop() == 0
    row.caught("keep_what_was_refused", of=test_memory_stays_flat, grown_mib=round(grown, 1))
    assert grown > QUICK_GROWN_MIB_MAX
