"""How storing goes, in a few numbers: the flush loop writes them, /health and the browsers' status line read them."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from webmacs import clock
from webmacs.storage.faults import FAULTS
from webmacs.storage.pool import Pool

PING_S_MAX: Final = 1.0
"""A database that does not answer within it counts as gone."""
PING_KEPT_S: Final = 0.5


FLUSH_S_MAX: Final = 2.0
SLOW_S: Final = 0.5
"""A flush that is under way for longer has the disk to itself."""


@dataclass(slots=True)
class Vitals:
    storing: bool = True
    """False from the first flush that could not be committed to the next that was."""
    stored_per_s: float = 0.0
    """Readings committed per second, over the last second."""
    lag_ms: float = 0.0
    """From the newest reading's own time to its commit, in the last flush."""
    refused_by: Counter[str] = field(default_factory=Counter)
    """Frames, and single readings that came by REST, refused since the start, by the code of the refusal."""
    since: datetime = field(default_factory=clock.now)
    """When `storing` last changed, or the start."""
    readings: int = 0
    """Readings committed since the start."""
    runs: int = 0
    """Rows that they were written as."""
    flushes: int = 0
    flush_s: float = 0.0
    """What all flushes took, in s."""
    flushing_since: float | None = None
    """On the monotonic clock, while a flush is under way."""
    _counted: int = 0

    def judge(self) -> None:
        """A flush that takes longer than FLUSH_S_MAX is not storing, whatever it waits for."""
        if self.flushing_since is not None and clock.monotonic() - self.flushing_since > FLUSH_S_MAX:
            self.set_storing(False)

    def struggles(self) -> bool:
        """Whether whoever can wait should leave the database to the flush."""
        return not self.storing or (self.flushing_since is not None and clock.monotonic() - self.flushing_since > SLOW_S)

    @property
    def refused(self) -> int:
        return self.refused_by.total()

    def stored(self, readings: int, runs: int, refused: Iterable[str], lag_ms: float | None, took_s: float) -> None:
        """A flush was committed."""
        self.readings += readings
        self.runs += runs
        self.refused_by.update(refused)
        self.flushes += 1
        self.flush_s += took_s
        if lag_ms is not None:
            self.lag_ms = max(0.0, lag_ms)

    def set_storing(self, storing: bool) -> None:
        if storing != self.storing:
            self.storing, self.since = storing, clock.now()

    def beat(self, elapsed_s: float) -> None:
        """Once a second or so: turns the count into a rate."""
        self.stored_per_s = (self.readings - self._counted) / elapsed_s
        self._counted = self.readings


class Pulse:
    """Whether the database answers, asked at most twice a second whoever wants to know."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lock = asyncio.Lock()
        self._asked = -PING_KEPT_S
        self._answers = False

    async def answers(self) -> bool:
        async with self._lock:
            if clock.monotonic() - self._asked >= PING_KEPT_S:
                self._answers = await self._ping()
                self._asked = clock.monotonic()
            return self._answers

    async def _ping(self) -> bool:
        try:
            async with asyncio.timeout(PING_S_MAX), self._pool.acquire() as conn:
                await conn.execute("SELECT")
        except FAULTS:
            return False
        return True
