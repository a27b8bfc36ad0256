"""A TCP relay before the backend that can be shut: open connections break, new ones are refused."""

import asyncio
from types import TracebackType
from typing import Self

from parts.backend import free_port


class Gate:
    def __init__(self, port: int) -> None:
        self._behind = port
        self.port = free_port()
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.shut()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def shut(self) -> None:
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.current_task()
        assert relay is not None
        self._relays.add(relay)
        writers = [writer]
        try:
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._behind)
            writers.append(behind_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, behind_writer))
                group.create_task(_copy(behind_reader, writer))
        except* OSError:
            pass  # one end broke: so does the other
        finally:
            self._relays.discard(relay)
            for one in writers:
                one.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError
