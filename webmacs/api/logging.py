"""The log: what people and the system wrote down. An entry is never changed; whether it was read is kept beside it."""

import re
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Meta

from webmacs import clock
from webmacs.http.audit import ActorKind
from webmacs.http.page import CursorPage, CursorQuery, fetch_after
from webmacs.http.problem import NotFound
from webmacs.http.route import Call, etag, route
from webmacs.http.shape import TEXT, Shape, Timestamp, check_range, of_row
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Connection, Pool

LoggingType: TypeAlias = Literal["info", "warning", "error"]
Status: TypeAlias = Literal["read", "unread"]
Search: TypeAlias = Annotated[
    str, Meta(max_length=200, description="Beginnings of words, all of which an entry holds; the case of a to z is ignored.")
]

MARKED_MAX: Final = 50_000
"""By one request: about 2 s of a busy database (40 µs each, beside a word index of a million entries that is not touched)."""
WORD: Final = re.compile(r"[0-9A-Za-z\x80-\U0010ffff]+")
"""What the database's log_words() takes for one."""


class LogEntryIn(Shape, frozen=True):
    content: Annotated[str, Meta(min_length=1, max_length=10_000, pattern=TEXT, examples=["Filter of pump 2 exchanged."])]
    logging_type: LoggingType = "info"


class LogEntryChange(Shape, frozen=True):
    status: Status


class LogFilter(Shape, frozen=True):
    """Which entries. What is not given does not matter."""

    logging_type: LoggingType | None = None
    search: Search = ""
    start: Timestamp | None = msgspec.field(default=None, name="from")
    end: Annotated[Timestamp | None, Meta(description="Those before this time; what came since you looked then stays unread.")] = (
        msgspec.field(default=None, name="to")
    )

    def __post_init__(self) -> None:
        check_range(self.start, self.end)


class LogQuery(CursorQuery, frozen=True):
    logging_type: Annotated[LoggingType | None, Meta(description="Only entries of this type.")] = None
    status: Annotated[Status | None, Meta(description="Only what is read, or only what is not.")] = None
    search: Search = ""
    start: Annotated[Timestamp | None, Meta(description="Not before.")] = msgspec.field(default=None, name="from")
    end: Annotated[Timestamp | None, Meta(description="Before.")] = msgspec.field(default=None, name="to")

    def __post_init__(self) -> None:
        check_range(self.start, self.end)


class LogEntry(msgspec.Struct, frozen=True):
    public_id: UUID
    created_on: Timestamp
    logging_type: LoggingType
    status: Status
    content: str
    author: Annotated[str | None, Meta(description="Name of who or what wrote it.")]
    author_kind: ActorKind | Literal["rule"]


class MarkedRead(msgspec.Struct, frozen=True):
    n: Annotated[int, Meta(description="How many were unread before.")]
    complete: Annotated[bool, Meta(description=f"false: {MARKED_MAX:,} were marked, the newest first; ask again for those that are left.")]


SELECT: Final = """
    SELECT l.id, l.public_id, l.created_on, l.logging_type, CASE WHEN s.read THEN 'read' ELSE 'unread' END AS status,
           l.content, l.author, l.author_kind
      FROM log_entries l JOIN log_status s ON s.entry_id = l.id
"""
SELECT_BY_STATUS: Final = SELECT.replace("l.id, l.public_id, l.created_on", "s.entry_id AS id, l.public_id, s.created_on")
"""The same, sorted by the index that begins with the status."""


@route("GET", "/api/v1/logging")
async def list_log_entries(call: Call[None, LogQuery]) -> CursorPage[LogEntry]:
    """List the log, the newest first."""
    query = call.query
    conditions, arguments = _conditions(query.logging_type, query.search, query.start, query.end)
    select = SELECT
    if query.status is not None:
        select, conditions = SELECT_BY_STATUS, [*conditions, "s.read" if query.status == "read" else "NOT s.read"]
    cursor, rows = await fetch_after(call.pool, select + _where(conditions), arguments, query, "created_on")
    return CursorPage(cursor, [_entry(row) for row in rows])


@route("POST", "/api/v1/logging", status=201, changes="log entry", inserts=True, tagged=True)
async def create_log_entry(call: Call[LogEntryIn]) -> LogEntry:
    """Write into the log. An entry says who wrote it and when, and is never changed."""
    new, who = call.body, call.actor
    entry = LogEntry(uuid7(), clock.now(), new.logging_type, "unread", new.content, who.name, who.kind)
    call.insert(
        """entry AS (
               INSERT INTO log_entries (public_id, created_on, logging_type, content, author, author_kind)
               VALUES ($1, $2, $3, $4, $5, $6) RETURNING id, created_on),
           status AS (INSERT INTO log_status (entry_id, created_on) SELECT id, created_on FROM entry)""",
        entry.public_id, entry.created_on, entry.logging_type, entry.content, entry.author, entry.author_kind,
    )  # fmt: skip
    call.headers["ETag"] = etag(entry.status)
    return call.changed(None, entry)


@route("GET", "/api/v1/logging/{public_id}", tagged=True)
async def get_log_entry(call: Call) -> LogEntry:
    """Read an entry. Its ETag is its status, as nothing else of it changes."""
    _, entry = await _read(call.pool, call.public_id)
    call.headers["ETag"] = etag(entry.status)
    return entry


@route("PUT", "/api/v1/logging/{public_id}", changes="log entry", tagged=True)
async def change_log_entry(call: Call[LogEntryChange]) -> LogEntry:
    """Mark an entry as read or unread. What it says never changes."""
    entry_id, before = await _read(call.conn, call.public_id, lock=True)
    call.match(before.status)
    call.headers["ETag"] = etag(call.body.status)
    entry = msgspec.structs.replace(before, status=call.body.status)
    await call.conn.execute("UPDATE log_status SET read = $2 WHERE entry_id = $1", entry_id, entry.status == "read")
    return call.changed(before, entry)


@route("PUT", "/api/v1/logging/read", changes="log entry")
async def mark_log_read(call: Call[LogFilter]) -> MarkedRead:
    """Mark entries as read: all, with `{}`, or those that a filter names."""
    asked = call.body
    conditions, arguments = _conditions(asked.logging_type, asked.search, asked.start, asked.end)
    done = await call.conn.execute(
        f"""UPDATE log_status SET read = true WHERE entry_id IN (
                SELECT id FROM ({SELECT_BY_STATUS} {_where([*conditions, "NOT s.read"])}) unread
                 ORDER BY created_on DESC, id DESC LIMIT ${len(arguments) + 1})""",  # noqa: S608 - conditions are ours
        *arguments, MARKED_MAX,
    )  # fmt: skip
    n = int(done.removeprefix("UPDATE "))
    if n:
        call.changed(None, None, action="read", detail=f"{n:,} entries")
    return MarkedRead(n, n < MARKED_MAX)


def _conditions(logging_type: LoggingType | None, search: str, start: datetime | None, end: datetime | None) -> tuple[list[str], list[Any]]:
    """Only what is given: PostgreSQL then has an index for each, which it would not see behind `$1 IS NULL OR`."""
    words = " & ".join(f"'{word}':*" for word in WORD.findall(search))
    given = [
        (condition, argument)
        for condition, argument in (
            ("l.logging_type = ${}", logging_type),
            ("log_words(l.content) @@ to_tsquery('simple', ${})", words if search else None),
            ("l.created_on >= ${}", start),
            ("l.created_on < ${}", end),
        )
        if argument is not None
    ]
    return [condition.format(n) for n, (condition, _) in enumerate(given, 1)], [argument for _, argument in given]


def _where(conditions: list[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


async def _read(database: Pool | Connection, public_id: UUID, *, lock: bool = False) -> tuple[int, LogEntry]:
    """(id, the entry). Raises NotFound. With `lock` nobody else changes it until the transaction ends."""
    row = await database.fetchrow(SELECT + " WHERE l.public_id = $1" + (" FOR NO KEY UPDATE OF s" if lock else ""), public_id)
    if row is None:
        raise NotFound("log entry")
    return row["id"], _entry(row)


def _entry(row: asyncpg.Record) -> LogEntry:
    return of_row(LogEntry, row)


routes = [list_log_entries, create_log_entry, get_log_entry, change_log_entry, mark_log_read]
