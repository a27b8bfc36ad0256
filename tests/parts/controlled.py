"""A real controller process with bundled devices, and the beats of the simulated one: each is stored or declared.

Its readings carry no identity, so beats are counted. Where readings must be told apart, parts/station.py runs a ramp instead.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

import asyncpg

from parts import processes, stored
from parts.backend import ROOT, make_source
from webmacs.clock import to_datetime

BEAT_US = 100_000
"""The simulated device is read at 10 Hz."""


class Controller:
    """`webmacs_controller run` as the source `name`, which it registers in `database`. `place` is for its credential, spool and log, `port`
    that of the backend or of a proxy before it, `sabotage` a switch of parts/sabotage.py."""

    def __init__(
        self, place: Path, name: str, database: str, port: int, sabotage: str | None = None, devices: Sequence[str] = ("simulated",)
    ) -> None:
        self.name = name
        self._place = place
        self._database = database
        self._devices = devices
        self._command = ["webmacs_controller"] if sabotage is None else ["parts.sabotaged", sabotage, "--", "webmacs_controller"]
        self._url = f"ws://127.0.0.1:{port}/ws/controller/telemetry"

    async def __aenter__(self) -> Self:
        self._place.mkdir(exist_ok=True)
        (self._place / "credential").write_text(await make_source(self._database, self.name))
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WEBMACS_")}
        environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'controller'}"
        with (self._place / "controller.log").open("a") as log:
            self._process = await processes.start(
                *(sys.executable, "-m", *self._command, "run", "--url", self._url),
                *(part for device in self._devices for part in ("--device", device)),
                *("--credential-file", str(self._place / "credential"), "--spool", str(self._place / "spool")),
                log=log, env=environment,
            )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends it in order: everything it has is delivered."""
        self._process.terminate()
        assert await asyncio.wait_for(self._process.wait(), 60) == 0, (self._place / "controller.log").read_text()


async def newest_us(conn: "asyncpg.Connection[Any]", source: str) -> int:
    """The time of the newest reading stored of a source's; 0 without any."""
    return int(
        await conn.fetchval(
            """SELECT coalesce(extract(epoch FROM max(l.created_on)) * 1000000, 0)::int8 FROM latest l JOIN events e ON e.id = l.event_id
                 JOIN writers w ON w.id = e.writer_id JOIN sources s ON s.id = w.source_id WHERE s.name = $1""",
            source,
        )
    )


async def stored_since(database: str, source: str, t_us: int) -> None:
    """Waits until readings newer than this are stored."""
    conn = await asyncpg.connect(database)
    try:
        async with asyncio.timeout(120):
            while await newest_us(conn, source) <= t_us:  # noqa: ASYNC110 the table is asked, it does not tell
                await asyncio.sleep(0.05)
    finally:
        await conn.close()


@dataclass
class Beats:
    expected: int
    stored: int
    not_sampled: int
    """at which the controller could not read its device, as on a machine that has other work, and which it has declared as gaps"""
    twice: int

    @property
    def lost(self) -> int:
        return max(0, self.expected - self.stored - self.not_sampled)


def beat_of(t_us: int, times_us: set[int]) -> int:
    """The number of the beat that a reading belongs to. It may be late, never early: most tell where in an interval the beat is."""
    begin_us = min(times_us)
    phase_us = median((one - begin_us) % BEAT_US for one in times_us)
    return int((t_us - begin_us - phase_us + BEAT_US // 10) // BEAT_US)


async def beats(conn: "asyncpg.Connection[Any]", source: str, key: str, from_us: int, to_us: int) -> Beats:
    """Of a channel of the simulated device in this stretch, whose first and last readings must be stored. What is stored is read as runs,
    never from a counter."""
    times = [t_us for t_us, _ in await stored.readings(conn, source, key) if from_us <= t_us < to_us]
    distinct = set(times)
    found = {beat_of(t_us, distinct) for t_us in distinct}
    not_sampled = await conn.fetchval(
        """SELECT coalesce(sum(n), 0)::int8 FROM gaps
            WHERE event_id = $1 AND cause IN ('device_error', 'source_stopped') AND from_on < $3 AND to_on > $2""",
        (await stored.events_of(conn, source))[key], to_datetime(from_us), to_datetime(to_us),
    )  # fmt: skip
    return Beats(max(found) - min(found) + 1, len(found), not_sampled, len(times) - len(distinct))
