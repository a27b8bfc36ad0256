"""A sender without spool or devices, at the speed of the socket: `webmacs loadtest` and the benchmarks drive it with frames that
they encoded beforehand. It speaks the same protocol as the link, without reconnecting.
"""

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from webmacs_controller import clock, wire
from webmacs_controller.link import CLOSE_S, hang_up

INSTANCE: Final = "loadtest"
PING_S: Final = wire.SILENCE_S_MAX / 3


class SenderError(Exception):
    """The connection ended, or the backend refused to talk. One sentence."""


class FastSender:
    """One source's connection. Frames are numbered by the caller: `next_seq` is what the next one must carry."""

    def __init__(self, url: str, credential: str) -> None:
        self._url = url
        self._credential = credential
        self._socket: ClientConnection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._under_way: deque[tuple[int, int, float]] = deque()  # (seq, bytes, sent at)
        self._under_way_bytes = 0
        self._credit_bytes = 0
        self._moved = asyncio.Event()
        self._failure: str | None = None
        self.next_seq = 1
        self.committed_seq = 0
        self.ack_latencies_s: list[float] = []
        """From handing a frame to the socket until its acknowledgement, one for each frame."""
        self.nacks: list[wire.Nack] = []

    async def connect(self, channels: Sequence[wire.DescribedChannel]) -> wire.Welcome:
        """Opens a new stream whose channel i (from 1) is channels[i - 1]; their events are made if they are missing."""
        try:
            self._socket = await connect(
                self._url,
                compression=None,
                additional_headers={"Authorization": f"Bearer {self._credential}"},
                ping_interval=None,  # a saturated loop answers late, and a load generator must not end for that
                close_timeout=CLOSE_S,
                max_size=None,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            why = "the credential is not valid; `webmacs source add NAME` makes one" if status == 401 else f"it answered HTTP {status}"
            raise SenderError(f"{self._url} does not let this source in: {why}.") from error
        except (OSError, WebSocketException) as error:
            raise SenderError(f"{self._url} cannot be reached ({error}): is the backend running, and is the address right?") from error
        table = [wire.HelloChannel(i, channel.key, None, channel.name, channel.unit, channel.type) for i, channel in enumerate(channels, 1)]
        now = clock.now()
        await self._socket.send(wire.encode(wire.Describe([wire.Instance(INSTANCE, INSTANCE, True, wire.NO_SETTINGS, list(channels))])))
        await self._socket.send(
            wire.encode(wire.Hello(1, 1, "webmacs-loadtest", secrets.token_bytes(16), 1, table, now.wall_us, now.monotonic_us))
        )
        while True:
            message = await self._receive()
            if isinstance(message, wire.Nack):
                raise SenderError(f"The backend refused the connection: {message.code}, {message.detail}")
            if isinstance(message, wire.Welcome):
                break
        if message.refused:
            raise SenderError(f"The backend refused {len(message.refused)} channels, the first one because: {message.refused[0][1]}")
        self._credit_bytes = message.credit_bytes
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._beat())]
        return message

    async def send(self, frame: bytes) -> None:
        """Waits for credit, then hands the frame to the socket. Its seq must be `next_seq`."""
        size = len(frame)
        while self._credit_bytes == 0 or (self._under_way and self._under_way_bytes + size > self._credit_bytes):
            await self._wait()
        if self._socket is None or self._failure:
            raise SenderError(self._failure or "The sender is not connected.")
        self._under_way.append((self.next_seq, size, time.monotonic()))
        self._under_way_bytes += size
        self.next_seq += 1
        try:
            await self._socket.send(frame)
        except ConnectionClosed as error:
            raise SenderError(f"The backend closed the connection: {error}.") from error

    async def acknowledged(self) -> None:
        """Returns when every frame that was sent is acknowledged."""
        while self._under_way:
            await self._wait()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._socket is not None:
            await hang_up(self._socket)

    async def _wait(self) -> None:
        if self._failure:
            raise SenderError(self._failure)
        self._moved.clear()
        await self._moved.wait()

    async def _receive(self) -> wire.FromBackend:
        if self._socket is None:
            raise SenderError("The sender is not connected.")
        try:
            message = await self._socket.recv()
        except ConnectionClosed as error:
            raise SenderError(f"The backend closed the connection: {error}.") from error
        if isinstance(message, str):
            raise SenderError("The backend sent text: is this the telemetry socket's address?")
        return wire.decode_from_backend(message)

    async def _read(self) -> None:
        try:
            while True:
                match await self._receive():
                    case wire.Ack(committed_seq, credit_bytes):
                        self._credit_bytes = credit_bytes
                        self._take(committed_seq)
                    case wire.Credit(credit_bytes):
                        self._credit_bytes = credit_bytes
                    case wire.Nack() as nack:
                        self.nacks.append(nack)
                    case wire.Ping(wall_us, monotonic_us) if self._socket is not None:
                        now = clock.now()
                        await self._socket.send(wire.encode(wire.Pong(now.wall_us, now.monotonic_us, wall_us, monotonic_us)))
                self._moved.set()
        except (SenderError, ConnectionClosed) as error:
            self._failure = str(error)
            self._moved.set()

    async def _beat(self) -> None:
        """A sign of life while no frames go."""
        with contextlib.suppress(ConnectionClosed):
            while self._socket is not None:
                await asyncio.sleep(PING_S)
                now = clock.now()
                await self._socket.send(wire.encode(wire.Ping(now.wall_us, now.monotonic_us)))

    def _take(self, committed_seq: int) -> None:
        now = time.monotonic()
        self.committed_seq = max(self.committed_seq, committed_seq)
        while self._under_way and self._under_way[0][0] <= committed_seq:
            _, size, sent_at = self._under_way.popleft()
            self._under_way_bytes -= size
            self.ack_latencies_s.append(now - sent_at)
