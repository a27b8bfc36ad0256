"""A proxy before PostgreSQL that can swallow a COMMIT, which then does not take place, or the answer to it, which did."""

import asyncio
import tempfile
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, quote, urlsplit

COMMIT = b"COMMIT;\0"
SOCKET = ".s.PGSQL.5432"


class Proxy:
    """Listens on a Unix socket of its own. Of the COMMITs that follow a COPY the next `lose` never arrive, then the answers to the next
    `swallow` are lost; each time the connection is cut."""

    def __init__(self, database: str) -> None:
        parts = urlsplit(database)
        self._server = Path(parse_qs(parts.query)["host"][0]) / SOCKET
        self._folder = tempfile.TemporaryDirectory(prefix="webmacs-proxy-")
        self.database = parts._replace(query=f"host={quote(self._folder.name, safe='')}").geturl()
        self.lose = 0
        self.lost = 0
        self.swallow = 0
        self.swallowed = 0

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_unix_server(self._serve, Path(self._folder.name) / SOCKET)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self._folder.cleanup()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._server)
        state = {"copied": False, "cut": False}

        async def forward() -> None:
            while data := await reader.read(1 << 16):
                state["copied"] |= b"COPY" in data
                if COMMIT in data:
                    if state["copied"] and self.lose:
                        self.lose -= 1
                        self.lost += 1
                        return
                    if state["copied"] and self.swallow:
                        self.swallow -= 1
                        state["cut"] = True
                    state["copied"] = False
                upstream_writer.write(data)
                await upstream_writer.drain()

        async def back() -> None:
            while data := await upstream_reader.read(1 << 16):
                if state["cut"]:
                    self.swallowed += 1
                    return
                writer.write(data)
                await writer.drain()

        tasks = {asyncio.create_task(forward()), asyncio.create_task(back())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            writer.close()
            upstream_writer.close()
