"""Pages of small tables: which page, how it is sorted and searched, and how many there are in all, in one round trip."""

from typing import Annotated, Any, Generic, TypeVar

import asyncpg
import msgspec
from msgspec import Meta

from webmacs.http.shape import Shape
from webmacs.storage.pool import Pool

T = TypeVar("T")


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


async def fetch_page(pool: Pool, matching: str, arguments: list[Any], query: PageQuery, sort: str) -> tuple[int, list[asyncpg.Record]]:
    """(how many match, the rows of the page). A page beyond the last is empty and still knows the total.

    `matching` is a SELECT of ours with the arguments $1..$n and a column `id`; `sort` is one of its columns, judged by the query's
    Literal, with a leading `-` for descending.
    """
    order = f"{sort.removeprefix('-')} {'DESC' if sort.startswith('-') else 'ASC'} NULLS LAST, id"
    n = len(arguments)
    rows = await pool.fetch(
        f"""
        WITH matching AS MATERIALIZED ({matching})
        SELECT counted.total, paged.* FROM (SELECT count(*) AS total FROM matching) counted
          LEFT JOIN (SELECT * FROM matching ORDER BY {order} LIMIT ${n + 1} OFFSET ${n + 2}) paged ON true
         ORDER BY {order}
        """,  # noqa: S608 - both parts are ours
        *arguments, query.page_size, (query.page - 1) * query.page_size,
    )  # fmt: skip
    return rows[0]["total"], [row for row in rows if row["id"] is not None]
