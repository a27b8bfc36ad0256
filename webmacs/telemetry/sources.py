"""Who may write: a source takes its events over, and what it has delivered is one number per stream.

A writer's row holds (generation, owner). Whoever wants to write takes over by generation + 1 and reads the frontier of its events
after the row is locked: a commit under an older generation then finds itself void. It is the one path for a reconnect, for text
frames and for several backend processes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from webmacs.clock import from_datetime, to_datetime
from webmacs.ingest_core import Core, Segment
from webmacs.storage.pool import Connection, Pool


async def take_over(pool: Pool, core: Core, owner: UUID, writer_id: int) -> set[int]:
    """Fences whoever wrote these events until now, this process included, and answers the events; the core then knows their
    frontiers and fired rules. Waits for a commit under way under the older generation. Raises LookupError: there is no such writer."""
    generation, frontiers, fired = await _claim(pool, owner, writer_id, fence=True)
    core.own(writer_id, generation, frontiers, fired)
    return {event_id for event_id, _ in frontiers}


async def join(pool: Pool, core: Core, owner: UUID, writer_id: int, events: Collection[int]) -> bool:
    """Makes the core own these events of a writer. A tenure that this process holds goes on, so its connections are not fenced. False:
    some of them are not its events any more."""
    generation, frontiers, fired = await _claim(pool, owner, writer_id, fence=False)
    theirs = [known for known in frontiers if known[0] in events]
    core.own(writer_id, generation, theirs, fired)
    return len(theirs) == len(events)


async def _claim(pool: Pool, owner: UUID, writer_id: int, fence: bool) -> tuple[int, list[tuple[int, int | None]], list[int]]:
    """Locks the writer's row and makes it the owner's: (generation, [(event id, frontier)], ids of the fired rules). The generation grows
    when somebody is fenced: always with `fence`, else when the owner was another. Raises LookupError.

    The frontier, the time of the last reading stored, is what `latest` holds: it moves with each commit and never back.
    """
    async with pool.acquire() as conn, conn.transaction():
        generation = await conn.fetchval(
            """UPDATE writers SET generation = generation + ($3 OR owner IS DISTINCT FROM $2)::int, owner = $2
                WHERE id = $1 RETURNING generation""",
            writer_id,
            owner,
            fence,
        )
        if generation is None:
            raise LookupError(f"writer {writer_id} is gone")
        events = await conn.fetch(
            """SELECT e.id, l.created_on FROM events e LEFT JOIN latest l ON l.event_id = e.id
                WHERE e.writer_id = $1 AND e.deleted_on IS NULL""",
            writer_id,
        )
        fired = await conn.fetch(
            "SELECT r.id FROM rules r JOIN events e ON e.id = r.event_id WHERE e.writer_id = $1 AND r.enabled AND r.fired", writer_id
        )
    frontiers = [(row[0], None if row[1] is None else from_datetime(row[1])) for row in events]
    return generation, frontiers, [row["id"] for row in fired]


async def committed_seq(pool: Pool, source_id: int, stream: bytes) -> int:
    """The newest committed number of a stream; 0 when the backend has not seen it."""
    seq: int | None = await pool.fetchval("SELECT committed_seq FROM streams WHERE source_id = $1 AND stream = $2", source_id, stream)
    return seq or 0


class Heard(NamedTuple):
    """A source that was heard from just now."""

    source_id: int
    software: str | None
    clock_offset_us: int | None
    lag_ms: float | None
    """From its newest reading's own time to the commit."""


async def seen(pool: Pool, heard: Sequence[Heard]) -> None:
    """What is None stays as it is known."""
    await pool.execute(
        """UPDATE sources s SET last_seen_on = now(), software = coalesce(h.software, s.software),
                  clock_offset_us = coalesce(h.clock_offset_us, s.clock_offset_us), lag_ms = coalesce(h.lag_ms, s.lag_ms)
             FROM unnest($1::int4[], $2::text[], $3::int8[], $4::float8[]) AS h (id, software, clock_offset_us, lag_ms)
            WHERE s.id = h.id""",
        *_columns(heard, 4),
    )


async def writer_of(pool: Pool, source_id: int) -> int:
    """The source's writer. Raises LookupError when the source is gone."""
    writer_id: int | None = await pool.fetchval("SELECT id FROM writers WHERE source_id = $1", source_id)
    if writer_id is None:
        raise LookupError(f"source {source_id} is gone")
    return writer_id


async def register(conn: Connection, owner: UUID) -> None:
    """Makes the row in which this process numbers its flushes; those of processes long gone are removed."""
    await conn.execute("DELETE FROM flushes WHERE at < now() - interval '30 days'")
    await conn.execute("INSERT INTO flushes (owner, number) VALUES ($1, 0) ON CONFLICT DO NOTHING", owner)


async def last_flush(conn: Connection, owner: UUID) -> int:
    """The number of this process's newest committed flush. Waits for one whose COMMIT is under way, and keeps others out until the end
    of the transaction: after a COMMIT that was not answered it tells what happened, also when the server crashed since."""
    number: int = await conn.fetchval("SELECT number FROM flushes WHERE owner = $1 FOR UPDATE", owner)
    return number


async def lock_writers(conn: Connection, writers: Sequence[int]) -> dict[int, int]:
    """Locks these writers' rows in id order for the transaction: {writer: generation as it is now}."""
    rows = await conn.fetch("SELECT id, generation FROM writers WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE", sorted(writers))
    return {row["id"]: row["generation"] for row in rows}


@dataclass(frozen=True, slots=True)
class Delivered:
    """A segment and the stream it came by; text frames of a person have no source."""

    segment: Segment
    source_id: int | None
    stream: bytes | None

    @property
    def key(self) -> tuple[int | None, bytes | None]:
        return self.source_id, self.stream


async def committed_seqs(conn: Connection, delivered: Sequence[Delivered]) -> dict[tuple[int | None, bytes | None], int]:
    """What is committed of these streams, under the locks of their writers: {(source id, stream): seq}, less those never seen. A flush
    goes on from there or not at all: a database that was put back to an older state under a living backend is noticed here."""
    rows = await conn.fetch(
        """SELECT s.source_id, s.stream, s.committed_seq
             FROM unnest($1::int4[], $2::bytea[]) AS d (source_id, stream) JOIN streams s USING (source_id, stream)""",
        *_columns([d.key for d in delivered if d.stream is not None], 2),
    )
    return {(row[0], row[1]): row[2] for row in rows}


async def advance(conn: Connection, delivered: Sequence[Delivered], owner: UUID, flush: int) -> None:
    """In the readings' own transaction: the flush's number, streams' committed numbers and receipts."""
    streams = [(d.source_id, d.stream, d.segment.last_seq) for d in delivered if d.stream is not None and d.segment.last_seq is not None]
    receipts = [(d.source_id, d.stream, *receipt) for d in delivered if d.stream is not None for receipt in d.segment.receipts]
    await conn.execute(
        """
        WITH numbered AS (
            INSERT INTO flushes (owner, number) VALUES ($11, $12) ON CONFLICT (owner) DO UPDATE SET number = $12, at = now()
        ), advanced AS (
            INSERT INTO streams AS s (source_id, stream, committed_seq)
            SELECT * FROM unnest($1::int4[], $2::bytea[], $3::int8[])
            ON CONFLICT (source_id, stream) DO UPDATE SET committed_seq = greatest(s.committed_seq, excluded.committed_seq)
        )
        INSERT INTO receipts AS r (source_id, stream, minute, first_seq, last_seq, frames, readings)
        SELECT * FROM unnest($4::int4[], $5::bytea[], $6::timestamptz[], $7::int8[], $8::int8[], $9::int8[], $10::int8[])
        ON CONFLICT (source_id, stream, minute) DO UPDATE SET
            first_seq = least(r.first_seq, excluded.first_seq), last_seq = greatest(r.last_seq, excluded.last_seq),
            frames = r.frames + excluded.frames, readings = r.readings + excluded.readings
        """,
        *_columns(streams, 3),
        *_columns([(r[0], r[1], to_datetime(r[2]), *r[3:]) for r in receipts], 7),
        owner,
        flush,
    )


def _columns(rows: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    return [[row[i] for row in rows] for i in range(width)]


async def declare(conn: Connection, delivered: Sequence[Delivered]) -> None:
    """In the readings' own transaction: gaps, refusals and doubts that the sources declared, and the rules that changed."""
    gaps: list[tuple[object, ...]] = []
    for d in delivered:
        for seq, gap_event, from_us, to_us, n, cause in d.segment.gaps:
            gaps.append((d.source_id, d.stream, seq, gap_event, to_datetime(from_us), to_datetime(to_us), n, cause, None, None))
        for refused_seq, code, channel, position, detail, readings in d.segment.refusals:
            where = "" if channel is None else f"channel {channel}" + ("" if position is None else f", reading {position}") + ": "
            gaps.append((d.source_id, d.stream, refused_seq, None, None, None, readings, "refused", code, where + detail))
    if gaps:
        await conn.execute(
            """INSERT INTO gaps (source_id, stream, seq, event_id, from_on, to_on, n, cause, code, detail)
               SELECT * FROM unnest($1::int4[], $2::bytea[], $3::int8[], $4::int4[], $5::timestamptz[], $6::timestamptz[], $7::int8[],
                                    $8::text[], $9::text[], $10::text[])""",
            *_columns(gaps, 10),
        )
    for d in delivered:
        for _, event_id, from_us, until_us, doubt in d.segment.quality:
            start, end = to_datetime(from_us), None if until_us is None else to_datetime(until_us)
            if end is None:  # another doubt, or "good", ends the one that was open; the same one goes on
                await conn.execute(
                    "UPDATE quality SET to_on = greatest(from_on, $2) WHERE event_id = $1 AND to_on IS NULL AND code <> $3",
                    event_id,
                    start,
                    doubt,
                )
            if doubt != "good":
                await conn.execute(
                    """INSERT INTO quality (event_id, from_on, to_on, code) VALUES ($1, $2, $3, $4)
                       ON CONFLICT (event_id) WHERE to_on IS NULL DO NOTHING""",
                    event_id,
                    start,
                    end,
                    doubt,
                )
    transitions = [t for d in delivered for t in d.segment.transitions]
    if transitions:
        await conn.execute(
            """INSERT INTO rule_transitions (rule_id, fired, at, value)
               SELECT r.id, t.fired, t.at, t.value FROM unnest($1::int4[], $2::bool[], $3::timestamptz[], $4::float8[])
                   WITH ORDINALITY AS t (rule_id, fired, at, value, position) JOIN rules r ON r.id = t.rule_id ORDER BY t.position""",
            *_columns([(rule_id, fired, to_datetime(t_us), value) for rule_id, _, fired, t_us, value in transitions], 4),
        )
        final = {rule_id: (rule_id, fired, to_datetime(t_us)) for rule_id, _, fired, t_us, _ in transitions}
        await conn.execute(
            """UPDATE rules SET fired = f.fired, state_changed_on = f.at
                 FROM unnest($1::int4[], $2::bool[], $3::timestamptz[]) AS f (rule_id, fired, at) WHERE id = f.rule_id""",
            *_columns(sorted(final.values()), 3),
        )
