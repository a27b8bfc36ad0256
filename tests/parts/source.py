"""A source that speaks the protocol by hand, so that tests can say anything, also what the real controller never would."""

import asyncio
import itertools
import os
import struct
from collections.abc import Sequence
from typing import Self, TypeVar

import websockets
from webmacs_controller import wire
from websockets.asyncio.client import ClientConnection

M = TypeVar("M", bound=wire.FromBackend | str)
ANSWER_S = 20.0


def describe(keys: Sequence[str]) -> wire.Describe:
    channels = [wire.DescribedChannel(key, key, "°C", "sensor", 0.0, 100.0, 2, 1_000) for key in keys]
    return wire.Describe([wire.Instance("bench", "test", True, wire.NO_SETTINGS, channels)])


def data(seq: int, columns: dict[int, tuple[Sequence[int], Sequence[float]]]) -> bytes:
    """A data frame: {channel: (times in µs, values)}."""
    made = [
        wire.Column(
            channel, times[0], struct.pack(f"<{len(times)}i", *(t - times[0] for t in times)), struct.pack(f"<{len(values)}d", *values)
        )
        for channel, (times, values) in columns.items()
    ]
    return wire.encode(wire.Data(seq, times[0] if (times := next(iter(columns.values()))[0]) else 0, made))


class Source:
    """One connection of a source. Everything received is kept in order; `expect` waits for the next message of a kind."""

    def __init__(self, url: str, credential: str, stream: bytes | None = None) -> None:
        self._url = f"{url}/ws/controller/telemetry"
        self._credential = credential
        self.stream = stream or os.urandom(16)
        self.acked = 0
        self.credit_bytes = 0
        self.nacks: list[wire.Nack] = []
        self._messages: asyncio.Queue[wire.FromBackend | str | None] = asyncio.Queue()
        """None: the connection has ended"""
        self.numbers = itertools.count(1)

    async def __aenter__(self) -> Self:
        self.socket: ClientConnection = await websockets.connect(
            self._url,
            additional_headers={"Authorization": f"Bearer {self._credential}"},
            compression=None,
            ping_interval=None,
            max_size=None,
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self.socket.close()

    async def _read(self) -> None:
        try:
            async for message in self.socket:
                decoded = message if isinstance(message, str) else wire.decode_from_backend(message)
                if isinstance(decoded, wire.Ack):
                    self.acked = max(self.acked, decoded.committed_seq)
                if isinstance(decoded, wire.Welcome | wire.Ack | wire.Credit):
                    self.credit_bytes = decoded.credit_bytes
                if isinstance(decoded, wire.Nack):
                    self.nacks.append(decoded)
                self._messages.put_nowait(decoded)
        finally:
            self._messages.put_nowait(None)

    async def send(self, message: bytes | str) -> None:
        await self.socket.send(message)

    async def hello(self, keys: Sequence[str], next_seq: int = 1) -> wire.Welcome:
        """Describes channels 0, 1, ... by their keys and opens the stream."""
        await self.send(wire.encode(describe(keys)))
        channels = [wire.HelloChannel(number, key, None, key, "°C", "sensor") for number, key in enumerate(keys)]
        await self.send(wire.encode(wire.Hello(1, 1, "test", self.stream, next_seq, channels, 0, 0)))
        return await self.expect(wire.Welcome)

    async def expect(self, kind: type[M], wait_s: float = ANSWER_S) -> M:
        """The next message of a kind (str: text); what comes before it is passed over. Raises ConnectionError at the end."""
        async with asyncio.timeout(wait_s):
            while not isinstance(message := await self._messages.get(), kind):
                if message is None:
                    raise ConnectionError("the backend ended the connection")
            return message

    async def acknowledged(self, seq: int) -> None:
        """Waits until everything up to `seq` is acknowledged."""
        while self.acked < seq:
            await self.expect(wire.Ack)

    async def closed(self) -> tuple[int | None, str | None]:
        """Waits for the close: (code, reason)."""
        async with asyncio.timeout(ANSWER_S):
            await self.socket.wait_closed()
        return self.socket.close_code, self.socket.close_reason
