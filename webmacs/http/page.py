"""Pages of lists, each in one round trip. Of small tables: which page, how it is sorted and searched, and how many there are in all.
Of tables that grow for ever: the newest first, and on from there by a cursor, so that page 10,000 costs what page 1 costs."""

import base64
import binascii
import struct
from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeVar

import asyncpg
import msgspec
from msgspec import Meta

from webmacs import clock
from webmacs.http.problem import Unprocessable
from webmacs.http.shape import Shape, Timestamp, check_range
from webmacs.storage.pool import Connection, Pool

T = TypeVar("T")

CURSOR: Final = struct.Struct(">qq")
"""Time in µs since 1970 UTC (0 in lists without one) and id of a page's last row."""


class PageQuery(Shape, frozen=True):
    """Base of a list's query; each list adds `sort` with the fields it knows, as a Literal."""

    page: Annotated[int, Meta(ge=1, le=1_000_000, description="The first is 1; one beyond the last is empty.")] = 1
    page_size: Annotated[int, Meta(ge=1, le=200, description="How many of them a page has.")] = 25
    search: Annotated[str, Meta(max_length=200, description="Text that is somewhere in it; a to z in either case.")] = ""


class Page(msgspec.Struct, Generic[T], frozen=True):
    page: int
    page_size: Annotated[int, Meta(examples=[25])]
    total: Annotated[int, Meta(description="How many there are on all pages.")]
    data: list[T]


Limit = Annotated[int, Meta(ge=1, le=1_000, description="How many at most.")]
Cursor = Annotated[str | None, Meta(description="`next` of the page before; the other parameters stay as they were.")]


class CursorQuery(Shape, frozen=True):
    """Base of the query of a list that is read by cursor."""

    limit: Limit = 100
    cursor: Cursor = None


class TimesQuery(CursorQuery, frozen=True):
    """Of one that may be of a stretch of time."""

    start: Annotated[Timestamp | None, Meta(description="Not before.")] = msgspec.field(default=None, name="from")
    end: Annotated[Timestamp | None, Meta(description="Before.")] = msgspec.field(default=None, name="to")

    def __post_init__(self) -> None:
        check_range(self.start, self.end)


class CursorPage(msgspec.Struct, Generic[T], frozen=True):
    next: Annotated[str | None, Meta(description="Give it as `cursor` to read on; null: this was the last page.")]
    data: list[T]


async def fetch_page(
    pool: Pool, matching: str, arguments: list[Any], query: PageQuery, sort: str, more: str = ""
) -> tuple[int, list[asyncpg.Record]]:
    """(how many match, the rows of the page). A page beyond the last is empty and still knows the total.

    `matching` is a SELECT of ours with the arguments $1..$n and a column `id`; `sort` is one of its columns, judged by the query's
    Literal, with a leading `-` for descending. `more` are columns that are made for the rows of the page only, from `paged`.
    """
    order = f"{sort.removeprefix('-')} {'DESC' if sort.startswith('-') else 'ASC'} NULLS LAST, id"
    n = len(arguments)
    rows = await pool.fetch(
        f"""
        WITH matching AS MATERIALIZED ({matching})
        SELECT counted.total, paged.*{more and f", {more}"} FROM (SELECT count(*) AS total FROM matching) counted
          LEFT JOIN (SELECT * FROM matching ORDER BY {order} LIMIT ${n + 1} OFFSET ${n + 2}) paged ON true
         ORDER BY {order}
        """,  # noqa: S608 - all parts are ours
        *arguments, query.page_size, (query.page - 1) * query.page_size,
    )  # fmt: skip
    return rows[0]["total"], [row for row in rows if row["id"] is not None]


async def fetch_after(
    database: Pool | Connection, matching: str, arguments: list[Any], query: CursorQuery, time: str | None = None
) -> tuple[str | None, list[asyncpg.Record]]:
    """(cursor of the page that follows or None, the rows), the newest first. Raises Unprocessable for a cursor that is none.

    `matching` is a SELECT of ours with the arguments $1..$n and a column `id`; with `time`, the name of a column that is never null, rows
    are in the order of (time, id), else of id. An index on exactly that (after what the SELECT holds equal) makes each page cost the same.
    """
    keys = ["id"] if time is None else [time, "id"]
    after = [] if query.cursor is None else list(read_cursor(query.cursor))[-len(keys) :]
    places = [f"${len(arguments) + 1 + i}" for i in range(len(after) + 1)]
    beyond = f"WHERE ({', '.join(keys)}) < ({', '.join(places[:-1])})" if after else ""
    rows = await database.fetch(
        f"SELECT * FROM ({matching}) matching {beyond} ORDER BY {' DESC, '.join(keys)} DESC LIMIT {places[-1]}",  # noqa: S608 - ours
        *arguments, *after, query.limit + 1,
    )  # fmt: skip
    if len(rows) <= query.limit:
        return None, rows
    last = rows[query.limit - 1]
    return make_cursor(0 if time is None else clock.from_datetime(last[time]), last["id"]), rows[: query.limit]


def make_cursor(moment_us: int, row_id: int) -> str:
    return base64.urlsafe_b64encode(CURSOR.pack(moment_us, row_id)).decode().rstrip("=")


def read_cursor(text: str) -> tuple[datetime, int]:
    """(time, id). Raises Unprocessable for a cursor that is none."""
    try:
        moment, row_id = CURSOR.unpack(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        return clock.to_datetime(moment), row_id
    except (binascii.Error, ValueError, struct.error, OverflowError):
        raise Unprocessable.at("query", "cursor", msg="It is none that this list gave; leave it away to begin at the newest.") from None
