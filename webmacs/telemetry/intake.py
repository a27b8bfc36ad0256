"""Where readings enter: connections come and go, frames go to the core, the flush is woken. Binary and text frames share it."""

import asyncio
import itertools
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID

from webmacs_controller import wire

from webmacs import clock, logs
from webmacs.http import idempotency
from webmacs.http.audit import Actor
from webmacs.http.problem import unavailable
from webmacs.ingest_core import Accepted, Batch, Core, Refused, Segment, Taken, Unnamed, Unowned
from webmacs.storage.pool import Pool
from webmacs.storage.vitals import Vitals
from webmacs.telemetry import catalogue, devices, sources
from webmacs.telemetry.catalogue import REST_WRITER, Catalogue, ChannelTable
from webmacs.telemetry.flush import FENCED, REPEATED, Flusher, Sender, Void

if TYPE_CHECKING:
    from webmacs.ingest_core import Form  # a name of the stub

log = logs.get(__name__)

ENTER_S_MAX: Final = 10.0
"""A hello that cannot be settled by then, because a commit hangs, is told to come again."""
TEXT_READING_BYTES_MIN: Final = 40
"""No reading of a text frame is shorter: the public id alone has 36."""
OWN_TRIES_MAX: Final = 8
"""Events may be made or change hands while readings wait for them; after so many tries they are not to be had."""

READ_INLINE_BYTES: Final = 32 * 1024
"""Longer bodies are read in a thread: 32 KiB take a fifth of a millisecond."""
STORE_TRIES_MAX: Final = 5
"""A source that reconnects takes its events over, and what others had under way for them is offered again, so many times."""


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


@dataclass(frozen=True, slots=True)
class Poster:
    """Who brings readings by REST: a source writes its own events, others write any."""

    source_id: int | None
    makes_events: bool
    """For series of line protocol that have none yet."""
    actor: Actor
    request_id: str | None


class AlreadyStored(Exception):
    """Under this Idempotency-Key the readings were stored before, by another request that was under way."""


class _Moved(Exception):
    """Some of the events that readings wait for belong to another writer than is known here, or are gone."""


class Post:
    """One request's readings under way."""

    def __init__(self) -> None:
        self.writers: set[int] = set()
        """Of what became void."""
        self._outcome: Void | None = None
        self._settled = asyncio.Event()

    def settle(self, segment: Segment, outcome: Void | None) -> None:
        self.writers = {writer for writer, _ in segment.writers}
        self._outcome = outcome
        self._settled.set()

    async def settled(self) -> Void | None:
        """Waits for the flush. None: it is stored."""
        await self._settled.wait()
        return self._outcome


class Posts:
    """Requests that share a connection of the core, as the flush knows them. Their readings become longer runs together; a request with an
    Idempotency-Key is alone, because its receipt and its readings are committed both or not at all."""

    stream: bytes | None = None
    committed_seq = 0

    def __init__(self, source_id: int | None) -> None:
        self.source_id = source_id
        self.receipt: idempotency.Kept | None = None
        self._waiting: deque[tuple[int, Post]] = deque()

    def add(self, index: int, post: Post) -> None:
        """The core has taken it under this number, which grows."""
        self._waiting.append((index, post))

    def committed(self, segment: Segment, now_us: int) -> None:
        self._settle(segment, None)

    def void(self, segment: Segment, void: Void) -> None:
        self._settle(segment, void)

    def _settle(self, segment: Segment, outcome: Void | None) -> None:
        last = -1 if segment.last_index is None else segment.last_index
        while self._waiting and self._waiting[0][0] <= last:
            self._waiting.popleft()[1].settle(segment, outcome)


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
        self._shared: tuple[int, Posts] | None = None
        """Of requests without a key by those who are no source."""
        self._faults = 0
        self._stamped_us = 0
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
            await sources.seen(self._pool, [sources.Heard(source_id, hello.software, hello.wall_us - clock.now_us(), None)])
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

    def stamp(self, untimed: int) -> int:
        """Now, for a body of which at most so many readings bring no time. Each repeat of an event counts 1 µs on, and no other body gets
        one of these µs, or its readings would take the place of these."""
        now_us = max(clock.now_us(), self._stamped_us) if untimed else clock.now_us()
        self._stamped_us = max(self._stamped_us, now_us + untimed)
        return now_us

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
        if isinstance(verdict, Refused):
            self._watch_faults(verdict.detail)

    def _watch_faults(self, detail: str) -> None:
        """A refusal may be a fault of ours, a panic of the core: then a person has to know. It cost this message and no other."""
        if (faults := self._core.internal_faults) > self._faults:
            self._faults = faults
            log.error("core_fault", count=faults, detail=detail)

    async def accept_text(self, connection: int, index: int, frame: bytes) -> Accepted | Refused:
        """A text frame, whole or not at all. Events that are not known here are looked for, and those that nobody here writes yet taken
        over first."""
        now_us = self.stamp(len(frame) // TEXT_READING_BYTES_MIN)
        named = False
        for _ in range(OWN_TRIES_MAX):
            verdict = self._core.accept_text(connection, index, frame, now_us, named)
            if isinstance(verdict, Unnamed):
                await self._known.look_for(verdict.events)
                named = True
                continue
            if not isinstance(verdict, Unowned):
                self._report_faults(verdict)
                self._flusher.wake()
                return verdict
            for writer_id in self._known.writers(verdict.events):
                await sources.join(self._pool, self._core, self._owner, writer_id, verdict.events)
        raise TimeoutError("the frame's events changed hands too often; send it again")

    async def read(self, form: "Form", body: bytes) -> Batch | Refused:
        """A body of readings as it came by REST. Only bodies that are no such text at all, or too much, are refused here."""
        if len(body) <= READ_INLINE_BYTES:
            verdict = self._core.read_batch(form, body)
        else:
            verdict = await asyncio.to_thread(self._core.read_batch, form, body)
        if isinstance(verdict, Refused):
            self._report_faults(verdict)
        return verdict

    async def store(self, batch: Batch, poster: Poster, now_us: int, receipt: Callable[[Taken], idempotency.Kept] | None) -> Taken:
        """Takes what is good of a batch and waits for its commit. `receipt`, of a request with a key, makes of the verdict what is kept
        under it, in the same transaction.

        Raises AlreadyStored, a Problem when nothing can be stored now, LookupError when the source is gone, and the database's faults.
        """
        writer_id = REST_WRITER if poster.source_id is None else await sources.writer_of(self._pool, poster.source_id)
        for _ in range(STORE_TRIES_MAX):
            if not self._vitals.storing:
                raise unavailable("Readings cannot be stored now; nothing of these was. Send them again.")
            await self._flusher.room()
            post = Post()
            try:
                if poster.source_id is None and receipt is None:
                    taken = await self._offer(*self._share(), batch, poster, writer_id, post, now_us)
                else:
                    connection, posts = self._open_for(poster.source_id, writer_id)
                    try:
                        taken = await self._offer(connection, posts, batch, poster, writer_id, post, now_us)
                        posts.receipt = None if receipt is None else receipt(taken)
                    finally:
                        self.leave(connection)
            except _Moved:
                await self._known.reload()  # and once more, with what may be written now
                continue
            outcome = await post.settled()
            if outcome is None:
                self._vitals.refused_by.update(code for _, code, _ in taken.refused)
                return taken
            if outcome is REPEATED:
                raise AlreadyStored
            if outcome is not FENCED:
                break
            for writer in post.writers:  # another process took them over; a source that came back to this one owns them already
                if not await sources.join(self._pool, self._core, self._owner, writer, self._known.of_writer(writer)):
                    await self._known.reload()
        raise unavailable("The readings could not be stored; nothing of them was. Send them again.")

    def _share(self) -> tuple[int, Posts]:
        if self._shared is None:
            self._shared = self._open_for(None, REST_WRITER)
        return self._shared

    def _open_for(self, source_id: int | None, writer_id: int) -> tuple[int, Posts]:
        connection, posts = next(self._numbers), Posts(source_id)
        self._core.open(connection, [], [], None if source_id is None else self._known.of_writer(writer_id))
        self._register(connection, posts)
        return connection, posts

    async def _offer(self, connection: int, posts: Posts, batch: Batch, poster: Poster, writer_id: int, post: Post, now_us: int) -> Taken:
        """Series are named and events taken over first, where nobody here has done it. From the moment in which the core has it nothing is
        waited for, so that its commit finds the post. Raises _Moved."""
        named = False
        for _ in range(OWN_TRIES_MAX):
            index = next(self._numbers)
            verdict = self._core.accept_batch(connection, index, batch, writer_id, now_us, named)
            if isinstance(verdict, Taken):
                posts.add(index, post)
                self._flusher.wake()
                self._watch_faults(verdict.refused[0][2] if verdict.refused else "")
                return verdict
            if isinstance(verdict, Unnamed):
                version = self._known.version
                await self._name(verdict, writer_id, poster)
                named = version == self._known.version  # else the core has forgotten what other series are
                continue
            for writer in self._known.writers(verdict.events):
                wanted = set(verdict.events).intersection(self._known.of_writer(writer))
                if not await sources.join(self._pool, self._core, self._owner, writer, wanted):
                    raise _Moved
            named = False  # a change that was loaded meanwhile has made the core forget
        raise TimeoutError("the events of these readings changed hands too often; send them again")

    async def _name(self, unnamed: Unnamed, writer_id: int, poster: Poster) -> None:
        """An event that was just made may not have been heard of here; a series without one gets it, if that is the poster's to do."""
        if unnamed.events:
            await self._known.look_for(unnamed.events)
        if unnamed.series:
            anybodys = poster.source_id is None
            unknown = await self._known.name_series(writer_id, unnamed.series, anybodys)
            if unknown and poster.makes_events:
                made = await catalogue.make_series(self._pool, unknown, poster.actor, poster.request_id)
                log.info("events_made", source="rest", events=made)
                await self._known.name_series(writer_id, unknown, anybodys)

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
