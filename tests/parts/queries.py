"""The statements that a request sends to the database, round trip by round trip."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx

from parts.rest import Rest
from webmacs import logs

OWN = ("typeinfo_tree", "'jit'")
"""What the driver asks of its own accord when a connection meets a type for the first time."""


class Queries:
    """Statements by request id; those of background work have none and are not counted."""

    def __init__(self) -> None:
        self._by_request: dict[str | None, list[str]] = defaultdict(list)

    def note(self, record: Any) -> None:
        """Called by the driver in the context of whoever sent the statement."""
        if not any(mark in record.query for mark in OWN):
            self._by_request[logs.request_id.get()].append(" ".join(record.query.split()))

    async def of(self, client: httpx.AsyncClient, method: str, path: str, **more: Any) -> tuple[httpx.Response, list[str]]:
        """The answer to a request, and its statements."""
        request_id = uuid4().hex
        response = await client.request(method, path, headers={"X-Request-ID": request_id}, **more)
        await asyncio.sleep(0)  # the driver tells of a statement in the turn after it
        return response, self._by_request.pop(request_id, [])


@asynccontextmanager
async def counting(rest: Rest) -> AsyncIterator[Queries]:
    """Counts on every connection of the application's pool."""
    pool, queries = rest.app.state.parts.pool, Queries()
    async with AsyncExitStack() as stack:
        for conn in [await stack.enter_async_context(pool.acquire()) for _ in range(pool.get_max_size())]:
            conn.add_query_logger(queries.note)
    try:
        yield queries
    finally:
        async with AsyncExitStack() as stack:
            for conn in [await stack.enter_async_context(pool.acquire()) for _ in range(pool.get_max_size())]:
                conn.remove_query_logger(queries.note)
