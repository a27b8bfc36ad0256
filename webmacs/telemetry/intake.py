"""Where readings enter: connections come and go, frames go to the core, the flush is woken. Binary and text frames share it."""

import asyncio
import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from webmacs_controller import wire

from webmacs import clock, logs
from webmacs.ingest_core import Accepted, Core, Refused, Unowned
from webmacs.storage.pool import Pool
from webmacs.storage.vitals import Vitals
from webmacs.telemetry import catalogue, devices, sources
from webmacs.telemetry.catalogue import Catalogue, ChannelTable
from webmacs.telemetry.flush import Flusher, Sender

log = logs.get(__name__)

ENTER_S_MAX: Final = 10.0
"""A hello that cannot be settled by then, because a commit hangs, is told to come again."""
OWN_TRIES_MAX: Final = 3
"""Events may be made or change hands while a text frame waits for them; after so many tries they are not to be had."""


class SourceSender(Sender, Protocol):
    """A source's connection: the newest one fences the older."""

    name: str
    lag_ms: float | None
    clock_offset_us: int | None

    def fence(self, reason: str) -> None:
        """Its connection was ended for it."""


@dataclass(frozen=True, slots=True)
class Live:
    """A source's present connection, and the events of its channel table."""

    connection: int
    sender: SourceSender
    writer_id: int
    events: set[int]


@dataclass(frozen=True, slots=True)
class Opened:
    """What a hello led to."""

    connection: int
    committed_seq: int
    table: ChannelTable


class Intake:
    """The live connections of this process."""

    def __init__(self, pool: Pool, core: Core, flusher: Flusher, known: Catalogue, vitals: Vitals, owner: UUID) -> None:
        self._pool = pool
        self._core = core
        self._flusher = flusher
        self._known = known
        self._vitals = vitals
        self._owner = owner
        self._numbers = itertools.count(1)
        self._entering: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._open: set[int] = set()
        self._faults = 0
        self.live: dict[int, Live] = {}
        """By source id; a source's text-only connection is not among them."""
        known.gone = self._withdraw

    @property
    def connections(self) -> int:
        return len(self.live)

    @property
    def config_version(self) -> int:
        return self._known.version

    async def describe(self, source_id: int, name: str, described: wire.Describe) -> None:
        """Makes the events that the source's instances ask for. Raises the database's faults."""
        writer_id = await sources.writer_of(self._pool, source_id)
        await devices.remember(self._pool, source_id, described)
        made = await catalogue.describe(self._pool, writer_id, name, described)
        if made:
            await self._known.load()
            log.info("events_made", source=name, events=made)

    async def enter(self, sender: SourceSender, source_id: int, hello: wire.Hello) -> Opened:
        """A hello: the older connection is fenced and settled, the source's events are taken over, the committed number is read.

        Raises LookupError when the source is gone, and the database's faults.
        """
        async with asyncio.timeout(ENTER_S_MAX), self._entering[source_id]:
            if source_id in self.live:
                self._fence(source_id, "a newer connection of this source took over")
            await self._flusher.barrier()
            writer_id = await sources.writer_of(self._pool, source_id)
            table = await self._known.resolve(writer_id, hello.channels)
            owned = await sources.take_over(self._pool, self._core, self._owner, writer_id)
            committed_seq = await sources.committed_seq(self._pool, source_id, hello.stream)
            await sources.seen(self._pool, [(source_id, hello.software, hello.wall_us - clock.now_us())])
            connection = next(self._numbers)
            channels = [known for known in table.channels if known[1] in owned]
            self._core.open(connection, channels, [number for number, _ in table.refused], sorted(owned))
            self._register(connection, sender)
            self.live[source_id] = Live(connection, sender, writer_id, {event for _, event in channels})
        log.info("source_entered", source=sender.name, channels=len(channels), refused=len(table.refused), committed_seq=committed_seq)
        return Opened(connection, committed_seq, table)

    async def enter_text(self, sender: Sender) -> int:
        """A connection of text frames only: a source writes its own events, a person any."""
        grants = None
        if sender.source_id is not None:
            writer_id = await sources.writer_of(self._pool, sender.source_id)
            grants = self._known.of_writer(writer_id)
        connection = next(self._numbers)
        self._core.open(connection, [], [], grants)
        self._register(connection, sender)
        return connection

    def _register(self, connection: int, sender: Sender) -> None:
        self._open.add(connection)
        self._flusher.register(connection, sender)

    def _withdraw(self, events: set[int], writers: set[int]) -> None:
        """These events were deleted or mapped anew: sources that have them, or shall have them, must say hello again."""
        concerned = [key for key, live in self.live.items() if live.writer_id in writers or not events.isdisjoint(live.events)]
        for source_id in concerned:
            self._fence(source_id, "an event of this source was deleted or mapped anew")

    def _fence(self, source_id: int, reason: str) -> None:
        live = self.live[source_id]
        self.leave(live.connection)
        live.sender.fence(reason)

    def leave(self, connection: int) -> None:
        """The connection ends, if it has not yet; what it buffered is still committed under its numbers."""
        if connection not in self._open:
            return
        self._open.remove(connection)
        for source_id in [source_id for source_id, live in self.live.items() if live.connection == connection]:
            log.info("source_left", source=self.live.pop(source_id).sender.name)
        self._core.close(connection)
        self._flusher.retire(connection)

    def accept(self, connection: int, frame: bytes) -> None:
        """A numbered frame, in its order: taken whole, or refused with a refusal that is committed with its number."""
        self._report_faults(self._core.accept(connection, frame, clock.now_us()))
        self._flusher.wake()

    def preview(self, connection: int, frame: bytes) -> Accepted | Refused:
        """Readings to show and never to keep."""
        verdict = self._core.accept(connection, frame, clock.now_us())
        self._report_faults(verdict)
        return verdict

    def _report_faults(self, verdict: Accepted | Refused) -> None:
        """A refusal may be a fault of ours, a panic of the core: then a person has to know. It cost this message and no other."""
        if isinstance(verdict, Refused) and (faults := self._core.internal_faults) > self._faults:
            self._faults = faults
            log.error("core_fault", count=faults, detail=verdict.detail)

    async def accept_text(self, connection: int, index: int, frame: bytes) -> Accepted | Refused:
        """A text frame, whole or not at all. Events that nobody here writes yet are taken over first."""
        for _ in range(OWN_TRIES_MAX):
            verdict = self._core.accept_text(connection, index, frame, clock.now_us())
            if not isinstance(verdict, Unowned):
                self._report_faults(verdict)
                self._flusher.wake()
                return verdict
            for writer_id in self._known.writers(verdict.events):
                await sources.join(self._pool, self._core, self._owner, writer_id, verdict.events)
        raise TimeoutError("the frame's events changed hands too often; send it again")

    def count_refusal(self) -> None:
        """A message that holds no number of its own was refused: only counted."""
        self._vitals.refused_by["unnumbered"] += 1

    @property
    def crowded(self) -> bool:
        return self._flusher.crowded

    async def room(self) -> None:
        await self._flusher.room()

    async def flushed(self) -> None:
        await self._flusher.barrier()
