"""The backend's half of delivery as the tests need it: a model that can be put behind a real WebSocket server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from http import HTTPStatus

import msgspec
from webmacs_controller import wire
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

LIMITS = wire.Limits(wire.FRAME_BYTES_MAX, wire.FRAME_READINGS_MAX, wire.CHANNELS_MAX, 30 * 86_400_000_000, 86_400_000_000)


def _last(frames: list[list[object]]) -> int:
    """The newest number that is stored."""
    seq = frames[-1][1] if frames else 0
    assert isinstance(seq, int)
    return seq


class Backend:
    """Commits what comes in order. `stored[stream]` are the frames, decoded, seq 1 first."""

    def __init__(self, credit_bytes: int = 1 << 20) -> None:
        self.stored: dict[bytes, list[list[object]]] = {}
        self.credit_bytes = credit_bytes
        self.refuse_seqs: dict[int, wire.RefusalCode] = {}
        self.refuse_channels: dict[str, str] = {}
        self.described: list[wire.Describe] = []
        self.hellos: list[wire.Hello] = []
        self.connections = 0
        self.under_way_bytes_max = 0
        self.acknowledging = True
        self.status: int | None = None
        self.credential = "wms_test"
        self.changed = asyncio.Condition()
        self._stream = b""
        self._unacknowledged_bytes = 0

    def welcome(self, hello: wire.Hello) -> wire.Welcome:
        self.hellos.append(hello)
        self._stream = hello.stream
        frames = self.stored.setdefault(hello.stream, [])
        refused = [(channel.number, self.refuse_channels[channel.key]) for channel in hello.channels if channel.key in self.refuse_channels]
        accepted = [(channel.number, f"event-{channel.key}") for channel in hello.channels if channel.key not in self.refuse_channels]
        new_stream = _last(frames) >= hello.next_seq
        return wire.Welcome(1, hello.stream, _last(frames), self.credit_bytes, accepted, refused, LIMITS, 0, 1, new_stream)

    def take(self, message: bytes) -> list[bytes]:
        """The answers to one binary message. Frames are committed at once."""
        kind = message[1]
        if kind in wire.NUMBERED_KINDS:
            decoded = msgspec.msgpack.decode(message)
            frames = self.stored[self._stream]
            seq = decoded[1]
            first = seq + 1 - decoded[7] if kind == wire.KIND_GAP else seq
            if first > _last(frames) + 1:
                return [wire.encode(wire.Nack(seq, 0, "seq_gap", None, None, f"expected {_last(frames) + 1}"))]
            self._unacknowledged_bytes += len(message)
            self.under_way_bytes_max = max(self.under_way_bytes_max, self._unacknowledged_bytes)
            answers = []
            if seq > _last(frames):
                if seq in self.refuse_seqs:
                    answers.append(wire.encode(wire.Nack(seq, 0, self.refuse_seqs[seq], 1, 0, "refused by the test")))
                frames.append(decoded)
            return [*answers, *([self.ack()] if self.acknowledging else [])]
        decoded = wire.decode_from_source(message)
        if isinstance(decoded, wire.Hello):
            assert self._unacknowledged_bytes == 0
            return [wire.encode(self.welcome(decoded))]
        if isinstance(decoded, wire.Describe):
            self.described.append(decoded)
        elif isinstance(decoded, wire.Ping):
            return [wire.encode(wire.Pong(5_000_000, 7, decoded.wall_us, decoded.monotonic_us))]
        return []

    def forget_connection(self) -> None:
        self._unacknowledged_bytes = 0

    def ack(self) -> bytes:
        self._unacknowledged_bytes = 0
        return wire.encode(wire.Ack(_last(self.stored[self._stream]), self.credit_bytes))

    # behind a socket

    @contextlib.asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[tuple[Server, str]]:
        async with serve(self._talk, "127.0.0.1", port, process_request=self._judge, compression=None, max_size=None) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            yield server, f"ws://127.0.0.1:{port}/ws/controller/telemetry"

    async def _judge(self, connection: ServerConnection, request: Request) -> Response | None:
        self.connections += 1
        async with self.changed:
            self.changed.notify_all()
        if self.status is not None:
            return connection.respond(HTTPStatus(self.status), "refused\n")
        if request.headers.get("Authorization") != f"Bearer {self.credential}":
            return connection.respond(HTTPStatus.UNAUTHORIZED, "who are you?\n")
        return None

    async def _talk(self, socket: ServerConnection) -> None:
        self.socket = socket
        self._unacknowledged_bytes = 0
        with contextlib.suppress(ConnectionClosed):
            async for message in socket:
                assert isinstance(message, bytes)
                for answer in self.take(message):
                    await socket.send(answer)
                async with self.changed:
                    self.changed.notify_all()

    async def until(self, condition: object) -> None:
        """Waits until the callable `condition` is true after some message."""
        assert callable(condition)
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(condition)
