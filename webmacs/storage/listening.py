"""LISTEN on a connection of its own, whose end is noticed also when nobody tells of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from webmacs.storage.pool import Connection, connect

QUIET_S: Final = 10.0
"""After so long without a word the server is asked whether it is still there: a connection whose other end is gone is as quiet."""


class Word(NamedTuple):
    channel: str
    what: str


class Listener:
    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self._heard: asyncio.Queue[Word | None] = asyncio.Queue()

    async def listen(self, channel: str) -> None:
        await self.conn.add_listener(channel, lambda _c, _p, channel, what: self._heard.put_nowait(Word(channel, str(what))))

    def end(self) -> None:
        """The connection ended."""
        self._heard.put_nowait(None)

    async def next(self) -> Word:
        """Raises the database's faults once the connection has ended."""
        while True:
            try:
                async with asyncio.timeout(QUIET_S):
                    word = await self._heard.get()
            except TimeoutError:
                await self.conn.execute("SELECT")
                continue
            if word is None:
                raise ConnectionError("the connection ended")
            return word

    def more(self) -> set[Word]:
        """What was heard besides."""
        words = set()
        while not self._heard.empty() and (word := self._heard.get_nowait()) is not None:
            words.add(word)
        return words


@asynccontextmanager
async def listening(dsn: str, *channels: str) -> AsyncIterator[Listener]:
    """Raises the database's faults."""
    conn = await connect(dsn)
    try:
        listener = Listener(conn)
        conn.add_termination_listener(lambda _conn: listener.end())
        for channel in channels:
            await listener.listen(channel)
        yield listener
    finally:
        conn.terminate()
