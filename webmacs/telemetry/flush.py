"""Drain, one transaction, acknowledge: what the core buffered becomes durable, and only then is it true.

One flush is under way at a time. The next begins when the last commit has ended and the interval has passed: 10 ms, stretching to
100 ms as the rate grows, so that a busy system writes longer runs. While the database is away the drained segments stay in memory and
are tried again; nothing is acknowledged meanwhile, so sources run out of credit and keep their readings themselves.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol
from uuid import UUID

import asyncpg

from webmacs import clock, logs
from webmacs.http import idempotency
from webmacs.http.socket import CLOSE_AWAY, CLOSE_FENCED, CLOSE_UNSTORABLE
from webmacs.ingest_core import Core, Drained, Segment
from webmacs.storage import latest, runs
from webmacs.storage import pool as database
from webmacs.storage.faults import FAULTS, passes
from webmacs.storage.partitions import ensure_partitions
from webmacs.storage.pool import Connection, Session
from webmacs.storage.vitals import Vitals
from webmacs.telemetry import sources
from webmacs.telemetry.sources import Delivered

log = logs.get(__name__)

INTERVAL_MS_MIN: Final = 10.0
INTERVAL_MS_MAX: Final = 100.0
READINGS_PER_S_PER_MS: Final = 10_000
"""The interval grows by 1 ms for each so many readings a second: 10 ms up to 100 thousand, 100 ms from a million on ..."""
RUNS_PER_S_PER_MS: Final = 500
"""... or for each so many runs: rows are what PostgreSQL pays for, and in thousands they cost half (`latest`: 12 and 7 us)."""
BUFFER_BYTES_MAX: Final = 256 * 1024 * 1024
"""Undrained column buffers; beyond it sockets are left unread until a commit makes room."""
CROWDED_BYTES: Final = BUFFER_BYTES_MAX // 2
"""Beyond it whoever sends loses its credit until its next commit. Its socket is read on, for previews; the rest of the buffers is for
what is under way."""
RETRY_S_MIN: Final = 0.05
RETRY_S_MAX: Final = 1.0
STATEMENT_S_MAX: Final = 30.0
"""A statement of a flush that takes longer is given up and tried again."""


class Void(NamedTuple):
    """Why a segment was dropped, as a socket says it."""

    close_code: int
    reason: str


FENCED: Final = Void(CLOSE_FENCED, "another connection took its events over")
PUT_BACK: Final = Void(CLOSE_AWAY, "the database is not where this stream was left: an older state of it was put back; say hello again")
REPEATED: Final = Void(CLOSE_FENCED, "its Idempotency-Key was used: it is stored already")


class Sender(Protocol):
    """Whoever brought a segment and waits for its commit: a source's socket, a person's text frames, a REST request."""

    source_id: int | None
    stream: bytes | None
    receipt: idempotency.Kept | None
    """Of a request with an Idempotency-Key: committed with its segment, or the segment is void."""

    @property
    def committed_seq(self) -> int:
        """Of its stream, as the last flush left it; 0 without a stream."""

    def committed(self, segment: Segment, now_us: int) -> None: ...

    def void(self, segment: Segment, void: Void) -> None:
        """Its segment was dropped. Nothing of it is acknowledged."""


class Poisoned(Exception):
    """The database refuses the content of a flush, and waiting will not change that."""


class Flusher:
    """Owns the way from the core's buffers to the commit. `run()` is its life; senders register while they are connected."""

    def __init__(self, core: Core, dsn: str, vitals: Vitals, owner: UUID) -> None:
        self._core = core
        self._dsn = dsn
        self._vitals = vitals
        self._owner = owner
        self._senders: dict[int, Sender] = {}
        self._retired: list[int] = []
        self._wanted = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._flushed = asyncio.Condition()
        self.flushing = asyncio.Lock()
        """Held from drain to commit: whoever else holds it sees a core that knows what is stored, no more and no less."""
        self._begun = 0
        self._ended = 0
        self._conn: Connection | None = None
        self._session: Session | None = None
        """That of the newest connection, which may live on at the server."""
        self._number = 0
        self._readings_per_s = 0.0
        self._runs_per_s = 0.0
        self._ended_at = clock.monotonic()

    def register(self, connection: int, sender: Sender) -> None:
        self._senders[connection] = sender

    def retire(self, connection: int) -> None:
        """The connection is closed in the core. Its sender is forgotten after the flush that drains what it left."""
        self._retired.append(connection)
        self.wake()

    def wake(self) -> None:
        """Something was buffered."""
        self._wanted.set()

    @property
    def crowded(self) -> bool:
        """The buffers fill faster than they are stored: time to withdraw credit, before sockets are left unread."""
        return self._core.buffered_bytes > CROWDED_BYTES

    async def room(self) -> None:
        """Waits while the buffers are full."""
        if self._core.buffered_bytes > BUFFER_BYTES_MAX:
            self._room.clear()
            await self._room.wait()

    async def barrier(self) -> None:
        """Waits until everything buffered before this call is committed or void."""
        goal = self._begun + 1  # a flush that begins from now on drains all of it
        self.wake()
        async with self._flushed:
            await self._flushed.wait_for(lambda: self._ended >= goal)

    async def run(self) -> None:
        """Flushes for ever. Ends only when cancelled; what is buffered then is not acknowledged, and its sources send it again."""
        try:
            while True:
                await self._wanted.wait()
                await self._pace()
                self._wanted.clear()
                self._begun += 1
                retired, self._retired = self._retired, []
                started = clock.monotonic()
                async with self.flushing:
                    drained = await asyncio.to_thread(self._core.drain)
                    if drained is not None:
                        await self._flush(drained, started)
                for connection in retired:
                    del self._senders[connection]
                self._room.set()
                async with self._flushed:
                    self._ended = self._begun
                    self._flushed.notify_all()
        finally:
            if self._conn is not None:
                self._conn.terminate()

    async def _pace(self) -> None:
        delay = self._ended_at + self._interval_s() - clock.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)

    async def _flush(self, drained: Drained, started: float) -> None:
        self._vitals.flushing_since = started
        void = await self._store(drained)
        self._vitals.flushing_since = None
        self._core.committed(drained, sorted(void))
        ended, now_us = clock.monotonic(), clock.now_us()
        for index, segment in enumerate(drained.segments):
            sender = self._senders[segment.connection]
            if index in void:
                sender.void(segment, void[index])
            else:
                sender.committed(segment, now_us)
        elapsed = ended - self._ended_at
        settled = min(1.0, elapsed)  # within a second
        self._readings_per_s += (drained.readings / elapsed - self._readings_per_s) * settled
        self._runs_per_s += (drained.runs / elapsed - self._runs_per_s) * settled
        self._ended_at = ended
        newest_us = max((segment.newest_us for segment in drained.segments if segment.newest_us is not None), default=None)
        self._vitals.stored(
            sum(segment.readings for index, segment in enumerate(drained.segments) if index not in void),
            drained.runs,
            (refusal[1] for segment in drained.segments for refusal in segment.refusals),
            None if newest_us is None else (now_us - newest_us) / 1000,
            ended - started,
        )
        log.debug("flush_committed", runs=drained.runs, readings=drained.readings, ms=round((ended - started) * 1000, 2))

    def _interval_s(self) -> float:
        wanted_ms = max(self._readings_per_s / READINGS_PER_S_PER_MS, self._runs_per_s / RUNS_PER_S_PER_MS)
        return min(max(wanted_ms, INTERVAL_MS_MIN), INTERVAL_MS_MAX) / 1000

    async def _store(self, drained: Drained) -> dict[int, Void]:
        """Commits all segments, whatever it takes: {index: reason} of those that are void."""
        everything = dict(enumerate(drained.segments))
        try:
            return await self._store_patiently(everything)
        except Poisoned as poison:
            log.error("flush_poisoned", reason=str(poison), segments=len(everything))
        void: dict[int, Void] = {}
        for index, segment in everything.items():
            try:
                void |= await self._store_patiently({index: segment})
            except Poisoned as poison:
                log.error("segment_poisoned", reason=str(poison), connection=segment.connection, readings=segment.readings)
                void[index] = Void(CLOSE_UNSTORABLE, "it cannot be stored; the log of the backend says why")
        return void

    async def _store_patiently(self, segments: dict[int, Segment]) -> dict[int, Void]:
        """One flush, under one number: however often it is tried, it is committed once."""
        self._number += 1
        void: dict[int, Void] = {}
        delay = RETRY_S_MIN
        while True:
            try:
                conn = await self._connection()
                void = await self._commit(conn, segments, void)
                break
            except asyncpg.CheckViolationError as fault:
                # No partition for a reading's day: the clock was set forward. A second time it is something else.
                if not await self._make_days(conn):
                    raise Poisoned(str(fault)) from fault
                continue
            except FAULTS as fault:
                await self._drop_connection()
                if not passes(fault):
                    raise Poisoned(str(fault)) from fault
                if self._vitals.storing:
                    log.warning("storing_stopped", reason=str(fault) or type(fault).__name__)
                    self._vitals.set_storing(False)
            await asyncio.sleep(delay)
            delay = min(delay * 2, RETRY_S_MAX)
        if not self._vitals.storing:
            log.info("storing_resumed")
            self._vitals.set_storing(True)
        return void

    async def _make_days(self, conn: Connection) -> bool:
        """Whether days were missing and are made now."""
        try:
            return await ensure_partitions(conn, clock.now_us()) > 0
        except FAULTS as fault:
            log.warning("upkeep_failed", reason=str(fault))
            return passes(fault)

    async def _commit(self, conn: Connection, segments: dict[int, Segment], before: dict[int, Void]) -> dict[int, Void]:
        """One transaction: fence, readings, numbers, receipts, latest, gaps, rules. Answers which segments are void; `before` is the
        answer of an earlier try, which is true when that one took place after all."""
        async with conn.transaction():
            if await sources.last_flush(conn, self._owner) == self._number:
                log.warning("commit_was_in_doubt", flush=self._number)
                return before
            current = await sources.lock_writers(conn, sorted({writer for segment in segments.values() for writer, _ in segment.writers}))
            before.clear()
            claimed = {index: self._delivered(segment) for index, segment in segments.items()}
            stored = await sources.committed_seqs(conn, list(claimed.values()))
            for index, segment in segments.items():
                one = claimed[index]
                if any(current.get(writer) != generation for writer, generation in segment.writers):
                    before[index] = FENCED
                elif one.stream is not None and stored.get(one.key, 0) != self._senders[segment.connection].committed_seq:
                    before[index] = PUT_BACK
            await self._keep_receipts(conn, segments, before)
            delivered = [one for index, one in claimed.items() if index not in before]
            await self._write(conn, delivered)
        return before

    async def _keep_receipts(self, conn: Connection, segments: dict[int, Segment], void: dict[int, Void]) -> None:
        """What was done under the same key before becomes void."""
        receipts = {
            index: receipt
            for index, segment in segments.items()
            if index not in void and (receipt := self._senders[segment.connection].receipt) is not None
        }
        if receipts:
            new = await idempotency.keep_new(conn, list(receipts.values()))
            void |= {index: REPEATED for index, is_new in zip(receipts, new, strict=True) if not is_new}

    async def _write(self, conn: Connection, delivered: Sequence[Delivered]) -> None:
        rows = [d.segment.rows for d in delivered if d.segment.runs]
        if rows:
            await runs.copy_runs(conn, rows)
            await latest.advance(conn, [d.segment.latest for d in delivered])
        await sources.advance(conn, delivered, self._owner, self._number)
        await sources.declare(conn, delivered)

    def _delivered(self, segment: Segment) -> Delivered:
        sender = self._senders[segment.connection]
        return Delivered(segment, sender.source_id, sender.stream)

    async def _connection(self) -> Connection:
        if self._conn is None or self._conn.is_closed():
            self._conn = await database.connect(self._dsn, command_timeout=STATEMENT_S_MAX)
            if self._session is not None:  # what it had begun would hold the locks that the next try needs
                await database.end_session(self._conn, self._session)
            self._session = await database.session_of(self._conn)
            await sources.register(self._conn, self._owner)
            await latest.prepare(self._conn)
        return self._conn

    async def _drop_connection(self) -> None:
        if self._conn is not None:
            self._conn.terminate()
            self._conn = None
