"""A small proxy that does to a connection what networks do: hold everything back one way or both, delay, throttle, cut, half-close.

`Proxy` stands before any server on a TCP port of this machine or a Unix socket, `DatabaseProxy` before PostgreSQL. `CommitProxy` knows
its words: it swallows a COMMIT, which then does not take place, or the answer to it, which did.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, quote, urlsplit

CHUNK = 1 << 16
COMMIT = b"COMMIT;\0"
SOCKET = ".s.PGSQL.5432"


class Way:
    """What happens to bytes in one direction, on every connection; settings count at once."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.bytes_per_s: float | None = None
        self._passes = asyncio.Event()
        self._passes.set()

    @property
    def black_hole(self) -> bool:
        """Nothing comes through and nobody is told, as where packets are dropped; afterwards what was held arrives."""
        return not self._passes.is_set()

    @black_hole.setter
    def black_hole(self, on: bool) -> None:
        if on:
            self._passes.clear()
        else:
            self._passes.set()

    async def let_through(self, size: int, came: float) -> None:
        """Returns when so many bytes that came at time.monotonic() `came` may go on."""
        if self.bytes_per_s is not None:
            await asyncio.sleep(size / self.bytes_per_s)
        await asyncio.sleep(came + self.delay_s - time.monotonic())
        await self._passes.wait()


class Connection:
    """One connection through a proxy. `line` holds back both ways; `left` says when each end closed it, even if the other is not told."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = {"client": client, "server": server}
        self.line = Way()
        self.left: dict[str, float] = {}
        self.changed = asyncio.Event()

    def leave(self, end: str) -> None:
        self.left.setdefault(end, time.monotonic())
        self.changed.set()

    async def until_left(self, end: str, wait_s: float) -> float:
        """Waits until this end has closed the connection: time.monotonic() of it."""
        async with asyncio.timeout(wait_s):
            while end not in self.left:
                self.changed.clear()
                await self.changed.wait()
        return self.left[end]

    def cut(self) -> None:
        """As a reset: both ends are told at once."""
        for writer in self.writers.values():
            writer.transport.abort()


class Proxy:
    """`there` is the way to the server, `back` the way from it. While `refusing`, new connections are closed at once."""

    def __init__(self, server: int | Path) -> None:
        """`server`: a TCP port, or the path of a Unix socket."""
        self._server = server
        self.there, self.back = Way(), Way()
        self.connections: list[Connection] = []
        self.refusing = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        if isinstance(self._server, Path):
            self._folder = tempfile.TemporaryDirectory(prefix="webmacs-proxy-")
            self.path = Path(self._folder.name) / SOCKET
            self._listener = await asyncio.start_unix_server(self._accept, self.path)
        else:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            self.port: int = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if isinstance(self._server, Path):
            self._folder.cleanup()

    @property
    def black_hole(self) -> bool:
        """Both ways."""
        return self.there.black_hole and self.back.black_hole

    @black_hole.setter
    def black_hole(self, on: bool) -> None:
        self.there.black_hole = self.back.black_hole = on

    def cut(self) -> None:
        for connection in self.connections:
            connection.cut()

    def shut(self) -> None:
        """As where nobody listens any more, until `refusing` ends."""
        self.refusing = True
        self.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if not self.refusing:
                await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the server is away, so that the client sees its connection end; or the proxy itself ends
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self._server, Path):
            server_reader, server_writer = await asyncio.open_unix_connection(self._server)
        else:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server)
        connection = Connection(writer, server_writer)
        self.connections.append(connection)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(connection, reader, "client", "server", self.there))
                group.create_task(self._carry(connection, server_reader, "server", "client", self.back))
        except* OSError:
            pass
        finally:
            server_writer.transport.abort()

    async def _carry(self, connection: Connection, reader: asyncio.StreamReader, source: str, target: str, way: Way) -> None:
        """Reads on while nothing goes through, so that an end which gives up is seen; a half-close is passed on as one."""
        held: asyncio.Queue[tuple[bytes, float]] = asyncio.Queue()

        async def pass_on() -> None:
            writer = connection.writers[target]
            while True:
                data, came = await held.get()
                await way.let_through(len(data), came)
                await connection.line.let_through(0, came)
                if writer.is_closing():
                    return  # it was cut
                if not data:
                    writer.write_eof()
                    return
                if not self.passes(connection, source, data):
                    connection.cut()
                    return
                writer.write(data)
                await writer.drain()

        passing = asyncio.create_task(pass_on())
        try:
            data = b"..."
            while data:
                try:
                    data = await reader.read(CHUNK)
                except ConnectionError:
                    data = b""
                held.put_nowait((data, time.monotonic()))
            connection.leave(source)
            await passing
        finally:
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)

    def passes(self, connection: Connection, source: str, data: bytes) -> bool:
        """Whether these bytes go on; else they are lost and the connection is cut."""
        return True


class DatabaseProxy(Proxy):
    """Before the PostgreSQL of this URL."""

    def __init__(self, database: str) -> None:
        parts = urlsplit(database)
        super().__init__(Path(parse_qs(parts.query)["host"][0]) / SOCKET)
        self._parts = parts

    @property
    def database(self) -> str:
        """The URL that leads through the proxy."""
        return self._parts._replace(query=f"host={quote(str(self.path.parent), safe='')}").geturl()


class CommitProxy(DatabaseProxy):
    """Of the COMMITs that follow a statement with `after` in it the next `lose` never arrive, then the answers to the next `swallow` are
    lost; each time the connection is cut."""

    def __init__(self, database: str, after: bytes = b"COPY") -> None:
        super().__init__(database)
        self._after = after
        self._wrote: set[Connection] = set()
        self._doomed: set[Connection] = set()
        self.lose = 0
        self.lost = 0
        self.swallow = 0
        self.swallowed = 0

    def passes(self, connection: Connection, source: str, data: bytes) -> bool:
        if source == "server":
            if connection in self._doomed:
                self.swallowed += 1
                return False
            return True
        if self._after in data:
            self._wrote.add(connection)
        if COMMIT in data:
            wrote = connection in self._wrote
            self._wrote.discard(connection)
            if wrote and self.lose:
                self.lose -= 1
                self.lost += 1
                return False
            if wrote and self.swallow:
                self.swallow -= 1
                self._doomed.add(connection)
        return True
