"""Small runs become long ones, in the background: a flush writes what came in some 100 ms, a chart wants thousands of readings a row.

One compactor works on a database, under an advisory lock. It looks for events with many small runs every few seconds, and every
10 minutes through all days for what is old; then it takes a batch of events at a time: one transaction that reads statistics, deletes the
runs that are worth it, and writes longer ones in their place. Ingest never waits for it; erasing does, and it for erasing: nobody else
changes or deletes a run. Why readers see each reading once at every moment: docs/decisions/0010-compaction.md.
"""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from webmacs import clock, logs
from webmacs.ingest_core import Compaction, CoreError
from webmacs.storage import partitions, runs
from webmacs.storage import pool as database
from webmacs.storage.faults import FAULTS
from webmacs.storage.pool import Connection
from webmacs.storage.vitals import Vitals

log = logs.get(__name__)

COMPACTION_LOCK: Final = 7_305_801_002
SMALL_RUNS: Final = 64
"""So many small runs of an event are worth a pass; the core's plan says the same of runs that were merged before."""
OLD: Final = timedelta(minutes=10)
"""Raw runs this old are merged however few they are; this long after its end a day is over."""
HOLD: Final = timedelta(seconds=5)
"""Newer readings are left alone: an experiment that is started or stopped now begins or ends no earlier than this."""
EVENTS_MAX: Final = 64
"""In one transaction. Its readings are bounded by the core."""
LOOK_S: Final = 2.0
SWEEP_S: Final = 600.0
LOOKING_SHARE: Final = 0.05
"""Of the time at most goes into looking: with 50,000 events a look takes a second."""
BUSY_S: Final = 0.5
"""Until it is asked again how the flush goes."""
STATEMENT_S_MAX: Final = 30.0
RETRY_S: Final = 10.0

Experiment = tuple[int, bytes, int, int | None, list[int] | None]


class Compactor:
    """`run()` is its life. What it cannot do now it does later: nothing is lost when it dies, and nothing but time when it waits."""

    def __init__(self, dsn: str, vitals: Vitals) -> None:
        self._dsn = dsn
        self._vitals = vitals
        self._working = True
        self._damaged: set[tuple[datetime, int]] = set()
        """(day, event) with a payload that cannot be read: said once, left as it is until the next start."""

    async def run(self) -> None:
        """Compacts for ever; a fault of the database is waited out."""
        while True:
            try:
                conn = await database.connect(self._dsn, command_timeout=STATEMENT_S_MAX)
                try:
                    await self._work(conn)
                finally:
                    conn.terminate()
            except FAULTS as fault:
                if self._working:
                    log.warning("compaction_stopped", reason=str(fault) or type(fault).__name__)
                    self._working = False
            await asyncio.sleep(RETRY_S)

    async def _work(self, conn: Connection) -> None:
        """Returns at once while another process is the compactor."""
        if not await conn.fetchval("SELECT pg_try_advisory_lock($1)", COMPACTION_LOCK):
            return
        # Statistics of a table that changes this fast mislead the planner: every query here has its index. And a crash that undoes the
        # last merges costs nothing, so their commits need not wait for the disk.
        await conn.execute("SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off;"
                           " SET synchronous_commit = off")  # fmt: skip
        log.info("compaction_began")
        self._working = True
        swept = -SWEEP_S
        while True:
            began = clock.monotonic()
            sweep = began - swept >= SWEEP_S
            merged = await self.compact_once(conn, clock.now_us(), sweep)
            if sweep and not merged:
                swept = began
            if not merged:
                await asyncio.sleep(max(LOOK_S, (clock.monotonic() - began) / LOOKING_SHARE))

    async def compact_once(self, conn: Connection, now_us: int, sweep: bool) -> int:
        """One look at today, or with `sweep` at every day and at few and old runs too, and all that comes of it, the oldest first.
        Answers how many runs were replaced."""
        now = clock.to_datetime(now_us)
        today, before = partitions.day_of(now_us), now - HOLD
        recent = {today, partitions.day_of(now_us - 2 * OLD // clock.MICROSECOND)}
        merged = 0
        for day in await partitions.present(conn):
            if day > today or not (sweep or day in recent):
                continue
            over = sweep and day + timedelta(days=1) + OLD < now
            runs_min = 2 if over else SMALL_RUNS
            due = await runs.find_loose(conn, day, before, runs_min, now - OLD if sweep else None)
            for events in _batches([event for event in due if (day, event) not in self._damaged], EVENTS_MAX):
                began = clock.monotonic()
                merged += await self._compact(conn, day, events, before, over)
                await self._give_way(clock.monotonic() - began)
        return merged

    async def _compact(self, conn: Connection, day: datetime, events: Sequence[int], before: datetime, thorough: bool) -> int:
        """A batch; when one of its runs cannot be merged, its events one by one."""
        try:
            return await compact_events(conn, day, events, before, thorough)
        except CoreError as fault:
            if len(events) > 1:
                return sum([await self._compact(conn, day, [event], before, thorough) for event in events])
            log.error("run_not_compacted", day=day.date().isoformat(), event=events[0], reason=str(fault))
            self._damaged.add((day, events[0]))
            return 0

    async def _give_way(self, worked_s: float) -> None:
        """As long a pause as the work took, and longer while the flush has trouble."""
        await asyncio.sleep(worked_s)
        while self._vitals.struggles():  # noqa: ASYNC110 - it is over when a flush was quick, which nobody announces
            await asyncio.sleep(BUSY_S)


async def compact_events(conn: Connection, day: datetime, events: Sequence[int], before: datetime, thorough: bool) -> int:
    """Merges what is worth it of these events' runs of a day, in one transaction: readers see all of the old runs or all of the new ones.
    Answers how many runs were replaced. Raises CoreError when one cannot be read; then nothing was changed."""
    began = clock.monotonic()
    async with conn.transaction(isolation="repeatable_read"):
        await runs.lock_rewriting(conn)
        stats = await runs.read_loose(conn, day, events)
        plan = await asyncio.to_thread(Compaction, stats, clock.from_datetime(before), thorough)
        if not plan.ranges:
            return 0
        experiments = await experiments_of(conn, day)
        taken = await runs.take_runs(conn, day, plan.ranges)
        merged = await asyncio.to_thread(plan.merge, taken, experiments)
        await runs.copy_rewritten(conn, merged.rows)
    log.debug(
        "runs_compacted", day=day.date().isoformat(), runs=plan.runs, into=merged.runs, readings=merged.readings,
        ms=round((clock.monotonic() - began) * 1_000, 1),
    )  # fmt: skip
    return plan.runs


async def experiments_of(conn: Connection, day: datetime) -> list[Experiment]:
    """Those that touch the day: a reading belongs to the one that holds its time, whatever the core knew when it came."""
    rows = await conn.fetch(
        """SELECT e.id, uuid_send(e.public_id) AS public_id, e.started_on, e.stopped_on,
                  CASE WHEN e.scoped THEN array(SELECT event_id FROM experiment_events s WHERE s.experiment_id = e.id) END AS scope
             FROM experiments e WHERE e.started_on < $2 AND (e.stopped_on IS NULL OR e.stopped_on > $1)""",
        day,
        day + timedelta(days=1),
    )
    return [
        (
            row["id"],
            row["public_id"],
            clock.from_datetime(row["started_on"]),
            None if row["stopped_on"] is None else clock.from_datetime(row["stopped_on"]),
            row["scope"],
        )
        for row in rows
    ]


def _batches(events: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (events[begin : begin + size] for begin in range(0, len(events), size))
