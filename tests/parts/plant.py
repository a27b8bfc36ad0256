"""Readings in any order written straight into a database, a plain model of what is then stored, and the comparison of the two."""

import json
import struct
from collections.abc import Sequence
from datetime import datetime
from itertools import count
from random import Random
from typing import Final, NamedTuple

from webmacs_controller import wire

from parts.stored import pairs_of, readings_of
from webmacs import clock, ingest_core
from webmacs.clock import to_datetime
from webmacs.ingest_core import Core
from webmacs.storage import pool, runs

EVENTS: Final = range(1, 5)
DAY_US: Final = 86_400_000_000
DAYS_LATE: Final = (1, 7, 14, 21, ingest_core.PAST_US_MAX // DAY_US)
Model = dict[int, dict[int, float]]
"""Event -> time -> the value that was written last."""


class Plant:
    """Writes readings as the flush does, and keeps the model beside it."""

    def __init__(self, dsn: str, chance: Random) -> None:
        self.now_us = clock.now_us()
        self.model: Model = {event: {} for event in EVENTS}
        self.sent = 0
        self._dsn = dsn
        self._chance = chance
        self._numbers = count(1)
        self._seqs = count(1)
        self._pending: Model = {event: {} for event in EVENTS}
        self._core = Core()
        self._front = dict.fromkeys(EVENTS, self.now_us - 4 * 3_600_000_000)
        self.conn: pool.Connection

    async def __aenter__(self) -> "Plant":
        self.conn = await pool.connect(self._dsn)
        await self.take_over()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.conn.close()

    async def reconnect(self) -> None:
        """After the database was gone: the connection may be dead, what was flushed is not."""
        self.conn.terminate()
        self.conn = await pool.connect(self._dsn)

    async def take_over(self) -> None:
        """As after a restart: a new core, which learns the frontiers from what is stored."""
        frontiers = {event: max(self.model[event], default=None) for event in EVENTS}
        self._core = Core()
        self._core.own(1, 1, list(frontiers.items()), [])
        self._core.open(1, [(event, event) for event in EVENTS], [], None)

    def send(self) -> None:
        """A frame of one event: live, a little late, or some days late; at times exactly where another one was."""
        chance, event = self._chance, self._chance.choice(EVENTS)
        n, step_us = chance.choice((1, 1, 5, 40, 100)), chance.choice((1, 1_000, 1_000, 50_000))
        kind = chance.random()
        if kind < 0.6:
            t0_us = self._front[event] + step_us
            self._front[event] = t0_us + n * step_us
        elif kind < 0.8:
            t0_us = self._front[event] - chance.randrange(60_000_000)
        else:
            t0_us = self.now_us - chance.choice(DAYS_LATE) * DAY_US + 1_000 * chance.randrange(2_000)
        self._accept(event, t0_us, step_us, [self._value(event) for _ in range(n)])

    def _accept(self, event: int, t0_us: int, step_us: int, values: Sequence[float]) -> None:
        column = wire.Column(event, t0_us, step_us, struct.pack(f"<{len(values)}d", *values))
        taken = self._core.accept(1, wire.encode(wire.Data(next(self._seqs), self.now_us, [column])), self.now_us)
        assert isinstance(taken, ingest_core.Accepted), taken
        self._pending[event].update((t0_us + k * step_us, value) for k, value in enumerate(values))
        self.sent += len(values)

    def _value(self, event: int) -> float:
        """Each is another one. Sums of whole numbers and quarters are exact in any order; the other events are judged by bits only."""
        number = next(self._numbers)
        return {1: float(number), 2: number / 4, 3: round(number * 0.01, 2), 4: self._chance.gauss(number, 1.0)}[event]

    async def write(self, event: int, t0_us: int, values: Sequence[float], step_us: int = 1_000) -> None:
        """Exactly these readings, as a flush of their own."""
        self._accept(event, t0_us, step_us, values)
        await self.flush()

    async def flush(self) -> None:
        drained = self._core.drain()
        if drained is not None:
            async with self.conn.transaction():
                await runs.copy_runs(self.conn, [segment.rows for segment in drained.segments])
            for event in EVENTS:
                self.model[event] |= self._pending[event]
                self._pending[event] = {}


class Tally(NamedTuple):
    """In readings, each by its time and its value, which no other has."""

    lost: int
    twice: int
    """Copies beyond the first; a later value at the same time is none."""
    different: int
    """Another value than the model's, or a time that it does not have."""


async def tally(model: Model, conn: pool.Connection) -> Tally:
    """What is stored against the model, reading by reading."""
    lost = twice = different = 0
    for event, written in model.items():
        pairs = await pairs_of(conn, event)
        newest = dict(pairs)
        lost += len(written.keys() - newest.keys())
        twice += len(pairs) - len(set(pairs))
        different += sum(written.get(t_us) != value for t_us, value in newest.items())
    return Tally(lost, twice, different)


async def series(conn: pool.Connection, event: int, start: datetime, end: datetime, points: int) -> tuple[int, float, float, float]:
    """(n, sum, min, max) over the buckets of a chart."""
    chart = json.loads(await runs.read_series(conn, event, start, end, points, False))
    total = sum(n * avg for n, avg in zip(chart["n"], chart["avg"], strict=True))
    return sum(chart["n"]), total, min(chart["min"], default=0.0), max(chart["max"], default=0.0)


async def differences(plant: Plant, conn: pool.Connection, chance: Random) -> list[str]:
    """Where what is stored is not the model: reading by reading, and through charts of random windows."""
    found = []
    for event, model in plant.model.items():
        if await readings_of(conn, event) != model:
            found.append(f"the readings of event {event}")
        for _ in range(4):
            start_us = plant.now_us - chance.choice((0, *DAYS_LATE)) * DAY_US + chance.randrange(-3_600_000_000, 2_000_000)
            end_us = start_us + chance.choice((1, 50_000, 1_000_000, 600_000_000, 5 * DAY_US))
            inside = [value for t_us, value in model.items() if start_us <= t_us < end_us]
            n, total, low, high = await series(conn, event, to_datetime(start_us), to_datetime(end_us), chance.choice((1, 7, 400)))
            exact = (n, low, high) == (len(inside), min(inside, default=0.0), max(inside, default=0.0))
            if not exact or abs(total - sum(inside)) > 1e-9 * (1 + abs(total)):
                found.append(f"a chart of event {event} from {start_us} to {end_us}: {n} of {len(inside)} readings")
    return found
