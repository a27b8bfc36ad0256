"""Events, experiments and rules as the core wants them: loaded at start, and again whenever one of them changes.

A change is announced by NOTIFY in the transaction that makes it, so it is known exactly when it is true. After a lost connection
everything is read again.
"""

import asyncio
import re
from collections.abc import Callable, Collection, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from webmacs_controller.wire import Describe, DescribedChannel, HelloChannel

from webmacs import logs
from webmacs.clock import from_datetime
from webmacs.http.audit import Actor
from webmacs.http.problem import Conflict
from webmacs.http.shape import NAME
from webmacs.ingest_core import Core
from webmacs.storage.changes import CHANNEL, CORE, LATEST, announce
from webmacs.storage.faults import FAULTS
from webmacs.storage.ids import uuid7
from webmacs.storage.listening import Word, listening
from webmacs.storage.pool import Connection, Pool

log = logs.get(__name__)

REST_WRITER: Final = 1
"""The pseudo-source rest: whoever is no source writes as it."""
RETRY_S: Final = 1.0
EVENTS_MAX: Final = 100_000
"""No more are made for series of line protocol: a tag with a value of its own for each line would make one a line."""
HEEDED: Final = CORE - {"events"}
"""What is loaded before a change of it is answered."""
GATHER_S: Final = 0.05
"""Changes that follow each other this closely are loaded together."""


@dataclass(frozen=True, slots=True)
class ChannelTable:
    """What a hello's channels are: (number, event id) and (number, public id) of those taken, and the others with the reason."""

    channels: list[tuple[int, int]]
    accepted: list[tuple[int, str]]
    refused: list[tuple[int, str]]


class Catalogue:
    """Keeps the core's catalogue true. `changed(what)` is called after a change was loaded; `flushing` is the flusher's."""

    def __init__(self, pool: Pool, core: Core, flushing: asyncio.Lock, changed: Callable[[str], None]) -> None:
        self._pool = pool
        self._core = core
        self._flushing = flushing
        self._changed = changed
        self._public: dict[bytes, int] = {}
        self._writers: dict[int, int] = {}
        self._of_writer: dict[int, list[int]] = {}
        self.gone: Callable[[set[int], set[int]], None] = lambda events, writers: None
        """Called with the events that were deleted or have another writer now, and with the writers that have some of those now."""
        self._moves = 1
        self._moves_loaded = 0
        """Where these differ, events may have another writer than is known."""
        self._loading = asyncio.Lock()
        self._asked = 0
        self._loaded = 0
        self.version = 0
        """Grows with every change that was heard of."""

    def event_id(self, public_id: UUID) -> int | None:
        return self._public.get(public_id.bytes)

    def writers(self, events: Sequence[int]) -> set[int]:
        """The writers of these events; an event that is gone has none."""
        return {self._writers[event] for event in events if event in self._writers}

    def of_writer(self, writer_id: int) -> list[int]:
        if not self._of_writer:
            for event, writer in self._writers.items():
                self._of_writer.setdefault(writer, []).append(event)
        return self._of_writer.get(writer_id, [])

    async def load(self) -> None:
        """Reads everything that is there now. Whoever asks while a load is under way shares the next one."""
        self._asked = asked = self._asked + 1
        async with self._loading:
            if self._loaded < asked:
                covered = self._asked
                await asyncio.create_task(self._load(), context=Context())  # no request's own: others wait for it, too
                self._loaded = covered

    async def reload(self) -> None:
        """Events have other writers than are known here, and word of it has not come yet."""
        self._moves += 1
        await self.load()

    async def heed(self, announced: Collection[str]) -> None:
        """What this process has changed itself is in effect before it says so. Events that were made need no load: whatever names one that
        is not known here is looked for."""
        if "events" in announced:
            self.version += 1
            self._core.forget_series()
        self._moves += "mappings" in announced
        if not HEEDED.isdisjoint(announced):
            await self.load()

    async def _load(self) -> None:
        moves = self._moves
        async with self._pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            await self._load_events(conn, moved=moves != self._moves_loaded)
            experiments = await conn.fetch(
                """SELECT e.id, e.public_id, e.started_on, e.stopped_on,
                          CASE WHEN e.scoped THEN array(SELECT event_id FROM experiment_events s WHERE s.experiment_id = e.id) END AS scope
                     FROM experiments e WHERE e.stopped_on IS NULL OR e.stopped_on > now() - interval '31 days'"""
            )
            rules = await conn.fetch("SELECT id, event_id, operator, threshold, threshold_high FROM rules WHERE enabled")
        self._core.set_experiments(
            [
                (
                    row["id"],
                    row["public_id"].bytes,
                    from_datetime(row["started_on"]),
                    None if row["stopped_on"] is None else from_datetime(row["stopped_on"]),
                    row["scope"],
                )
                for row in experiments
            ]
        )
        self._core.set_rules([(row["id"], row["event_id"], row["operator"], row["threshold"], row["threshold_high"]) for row in rules])
        self._moves_loaded = moves
        self.version += 1

    async def _load_events(self, conn: Connection, *, moved: bool) -> None:
        """Those made since are added, which is what a thousand controllers that come for the first time need. When events went, or
        changed their writer, all are read: 50,000 in some 100 ms."""
        # public ids as bytes: UUID objects would cost as much again
        query = "SELECT id, uuid_send(public_id), writer_id FROM events WHERE deleted_on IS NULL"
        events = await conn.fetch(f"{query} AND id > $1", max(self._writers, default=0))
        ids, writers = await conn.fetchrow(
            "SELECT coalesce(sum(id), 0), (SELECT array_agg(id) FROM writers) FROM events WHERE deleted_on IS NULL"
        ) or (0, [])
        known = sum(self._writers) + sum(row[0] for row in events)
        added = ids == known and set(self._writers.values()).issubset(writers) and not moved
        if added:
            gone: set[int] = set()
            gainers: set[int] = set()
        else:
            events = await conn.fetch(query)
            writers = {row[0]: row[2] for row in events}
            gone = {event_id for event_id, writer_id in self._writers.items() if writers.get(event_id) != writer_id}
            gainers = {writers[event_id] for event_id in gone & writers.keys()}
            self._public.clear()
            self._writers.clear()
        self._public.update((public_id, event_id) for event_id, public_id, _ in events)
        self._writers.update((event_id, writer_id) for event_id, _, writer_id in events)
        (self._core.add_events if added else self._core.set_events)([(event_id, public_id) for event_id, public_id, _ in events])
        self._of_writer.clear()
        self._core.forget_series()
        if gone:
            self.gone(gone, gainers)

    async def load_latest(self, database: Pool | Connection, events: list[int] | None = None) -> None:
        """The last committed reading of each event, or of these, for snapshots."""
        async with self._flushing:
            rows = await database.fetch(
                "SELECT event_id, created_on, value, experiment_id FROM latest WHERE $1::int4[] IS NULL OR event_id = ANY($1)", events
            )
            self._core.set_latest(events, [(row[0], from_datetime(row[1]), row[2], row[3]) for row in rows])

    async def follow(self, dsn: str) -> None:
        """Loads at each announced change, for ever; on its own connection, because LISTEN belongs to one."""
        while True:
            try:
                async with listening(dsn, CHANNEL, LATEST) as listener:
                    await self.reload()  # what changed while nobody listened
                    await self.load_latest(listener.conn)
                    while True:
                        words = {await listener.next()}
                        await asyncio.sleep(GATHER_S)
                        await self._hear(listener.conn, words | listener.more())
            except FAULTS as fault:
                log.debug("catalogue_lost_database", reason=str(fault))
            await asyncio.sleep(RETRY_S)

    async def _hear(self, conn: Connection, words: Collection[Word]) -> None:
        names = {word.what for word in words if word.channel == CHANNEL}
        events = [int(word.what) for word in words if word.channel == LATEST]  # whose newest reading was deleted
        self._moves += "mappings" in names
        if names & CORE:
            await self.load()
        if events:
            await self.load_latest(conn, events)
            names.add("datapoints")
        for name in sorted(names):
            self._changed(name)

    async def look_for(self, public_ids: Sequence[bytes]) -> None:
        """Loads when there is one of these events, of which nothing was heard here."""
        ids = [UUID(bytes=public_id) for public_id in public_ids]
        if await self._pool.fetchval("SELECT EXISTS (SELECT FROM events WHERE public_id = ANY($1) AND deleted_on IS NULL)", ids):
            await self.load()

    async def name_series(self, writer_id: int, series: Sequence[str], anybodys: bool) -> list[str]:
        """Tells the core which events these series are: by the channel key of the writer's events, else by name, among all events if it is
        `anybodys`. Answers those that are none."""
        while True:
            version = self.version
            rows = await self._pool.fetch(
                """SELECT s.name, coalesce(k.id, n.id) AS id FROM unnest($2::text[]) AS s (name)
                     LEFT JOIN events k ON k.writer_id = $1 AND k.channel_key = s.name
                     LEFT JOIN events n ON n.name = s.name AND n.deleted_on IS NULL AND (n.writer_id = $1 OR $3)""",
                writer_id,
                series,
                anybodys,
            )
            if any(row["id"] is not None and row["id"] not in self._writers for row in rows):
                await self.load()  # made a moment ago
            elif self.version == version:  # else what was read may be older than what was loaded since
                self._core.name_series(writer_id, [(row["name"], row["id"]) for row in rows if row["id"] is not None])
                return [row["name"] for row in rows if row["id"] is None]

    async def resolve(self, writer_id: int, channels: Sequence[HelloChannel]) -> ChannelTable:
        """A source's channels: by public id where it names one, else by its key; only events that it writes."""
        rows = await self._pool.fetch(
            "SELECT id, public_id::text, channel_key FROM events WHERE writer_id = $1 AND deleted_on IS NULL", writer_id
        )
        by_key = {row["channel_key"]: row for row in rows if row["channel_key"] is not None}
        by_public = {row["public_id"]: row for row in rows}
        table = ChannelTable([], [], [])
        taken: set[int] = set()
        for channel in channels:
            row = by_key.get(channel.key) if channel.event is None else by_public.get(channel.event.lower())
            if row is not None and row["id"] in taken:
                table.refused.append((channel.number, f"another channel is event {row['public_id']} already"))
            elif row is not None:
                taken.add(row["id"])
                table.channels.append((channel.number, row["id"]))
                table.accepted.append((channel.number, row["public_id"]))
            elif channel.event is None:
                table.refused.append((channel.number, f"no event for channel {channel.key} yet"))
            else:
                table.refused.append((channel.number, f"event {channel.event} does not exist or is not this source's"))
        return table


async def describe(pool: Pool, writer_id: int, source: str, described: Describe) -> int:
    """Makes an event for each channel that has none, where its instance asks for it; what people changed stays. Answers how many."""
    wanted = {
        channel.key: (instance.name, channel) for instance in described.instances if instance.create_events for channel in instance.channels
    }
    if not wanted:
        return 0
    async with pool.acquire() as conn, conn.transaction():
        known = await conn.fetch("SELECT channel_key FROM events WHERE writer_id = $1 AND channel_key IS NOT NULL", writer_id)
        missing = list(wanted.keys() - {row["channel_key"] for row in known})
        made: set[str] = set()
        for name in ("{name}", "{name} ({source})", "{name} ({source}, {key})"):  # names are unique, whoever else has this one
            left = [key for key in missing if key not in made]
            if left:
                named = [(name.format(name=_tidy(wanted[key][1].name) or key, source=source, key=key), *wanted[key]) for key in left]
                made |= await _make_events(conn, writer_id, named)
        if made:
            actor = Actor("source", await conn.fetchval("SELECT public_id FROM sources WHERE name = $1", source), source, None)
            await _account(conn, writer_id, made, actor)
            await announce(conn, "events")
    for key in set(missing) - made:
        log.warning("event_name_taken", source=source, channel=key, name=wanted[key][1].name)
    return len(made)


async def make_series(pool: Pool, series: Sequence[str], actor: Actor, request_id: str | None) -> int:
    """Makes events of series that have none, for the pseudo-source rest, and tells the audit log. Answers how many. Names that others have
    meanwhile are left, and those that no event may have. Raises Conflict when there would be more than EVENTS_MAX events."""
    series = [name for name in series if re.match(NAME, name)]
    async with pool.acquire() as conn, conn.transaction():
        if await conn.fetchval("SELECT count(*) FROM events WHERE deleted_on IS NULL") + len(series) > EVENTS_MAX:
            raise Conflict(f"There would be more than {EVENTS_MAX:,} events: send fewer tags, or create the events that you want.")
        made = await conn.fetch(
            """INSERT INTO events (public_id, name, type, unit, channel_key)
               SELECT id, name, 'sensor', '', name FROM unnest($1::uuid[], $2::text[]) AS s (id, name)
               ON CONFLICT DO NOTHING RETURNING channel_key""",
            [uuid7() for _ in series],
            series,
        )
        if made:
            await _account(conn, REST_WRITER, {row["channel_key"] for row in made}, actor, request_id, "for line protocol")
            await announce(conn, "events")
    return len(made)


async def _make_events(conn: Connection, writer_id: int, named: Sequence[tuple[str, str, DescribedChannel]]) -> set[str]:
    """Makes events of (name, instance, channel), but not where the name is taken. Answers the keys of those made."""
    rows = [
        (uuid7(), name, c.type, _tidy(c.unit), c.min_value, c.max_value, c.decimals, c.expected_interval_ms, instance, c.key)
        for name, instance, c in named
    ]
    made = await conn.fetch(
        """INSERT INTO events (writer_id, public_id, name, type, unit, min_value, max_value, decimals, expected_interval_ms,
                               instance, channel_key)
           SELECT $1, * FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::float8[], $7::float8[], $8::int2[], $9::int4[],
                                    $10::text[], $11::text[])
           ON CONFLICT DO NOTHING RETURNING channel_key""",
        writer_id,
        *([row[column] for row in rows] for column in range(10)),
    )
    return {row["channel_key"] for row in made}


async def _account(
    conn: Connection, writer_id: int, keys: set[str], actor: Actor, request_id: str | None = None, detail: str | None = None
) -> None:
    """Audit row and first version of the events just made, as the API shows them; one statement, however many channels a source has."""
    await conn.execute(
        """
        WITH made AS (
            SELECT e.public_id, e.name, e.created_on,
                   to_jsonb(e) - '{id,writer_id}'::text[] || jsonb_build_object(
                       'source', s.name, 'quality', NULL,
                       'created_on', to_char(e.created_on AT TIME ZONE 'UTC', $9),
                       'changed_on', to_char(e.changed_on AT TIME ZONE 'UTC', $9)
                   ) AS content
              FROM events e JOIN writers w ON w.id = e.writer_id LEFT JOIN sources s ON s.id = w.source_id
             WHERE e.writer_id = $1 AND e.channel_key = ANY($2)
        ), kept AS (
            INSERT INTO versions (kind, object_public_id, version, at, actor_name, content)
            SELECT 'event', public_id, 1, created_on, $5, content FROM made
        )
        INSERT INTO audit_log (at, action, kind, object_public_id, object_name, actor_kind, actor_public_id, actor_name, address,
                               request_id, after, detail)
        SELECT created_on, 'create', 'event', public_id, name, $3, $4, $5, $6, $7, content, $8 FROM made
        """,
        writer_id, list(keys), actor.kind, actor.public_id, actor.name, actor.address, request_id, detail, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"',
    )  # fmt: skip


def _tidy(text: str) -> str:
    """A device's own name for a channel, or its unit, as an event may have it."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
