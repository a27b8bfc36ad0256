"""A WebSocket client that says what no library would: any opcode, any length, halves of frames, and nothing at all."""

import asyncio
import base64
import os
import socket
import struct
from typing import Self

ANSWER_S = 20.0
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(
    payload: bytes, opcode: int = BINARY, *, fin: bool = True, reserved: int = 0, masked: bool = True, length: int | None = None
) -> bytes:
    """One frame as it travels. `length` is what its head says instead of the truth."""
    n = len(payload) if length is None else length
    size = bytes([n]) if n < 126 else struct.pack(">BH", 126, n) if n < 1 << 16 else struct.pack(">BQ", 127, n)
    head = bytes([fin << 7 | reserved << 4 | opcode, size[0] | masked << 7]) + size[1:]
    return head + (bytes(4) if masked else b"") + payload  # a mask of zeroes changes nothing


class RawSocket:
    """One TCP connection to a backend. `receive_bytes` bounds what the machine takes for a client that does not read."""

    def __init__(self, sockets: str, receive_bytes: int | None = None) -> None:
        self._receive_bytes = receive_bytes
        self._host, _, port = sockets.removeprefix("ws://").partition(":")
        self._port = int(port)

    async def __aenter__(self) -> Self:
        sock = socket.socket()
        if self._receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (self._host, self._port))
        self.reader, self.writer = await asyncio.open_connection(sock=sock)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def request(self, path: str, credential: str | None) -> bytes:
        """The upgrade, to be sent by hand."""
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {self._host}:{self._port}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        ]
        if credential is not None:
            lines.append(f"Authorization: Bearer {credential}")
        return "\r\n".join([*lines, "", ""]).encode()

    async def upgrade(self, path: str, credential: str | None) -> int:
        """Asks for the upgrade. Answers the status."""
        await self.send(self.request(path, credential))
        return await self.status()

    async def status(self) -> int:
        async with asyncio.timeout(ANSWER_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1])

    async def receive(self) -> tuple[int, bytes] | None:
        """The next frame as (opcode, payload); None at the end of the connection."""
        async with asyncio.timeout(ANSWER_S):
            try:
                head = await self.reader.readexactly(2)
                n = head[1] & 127
                if n >= 126:
                    n = int.from_bytes(await self.reader.readexactly(2 if n == 126 else 8))
                return head[0] & 15, await self.reader.readexactly(n)
            except (asyncio.IncompleteReadError, ConnectionError):
                return None

    async def end(self) -> int | None:
        """Passes over what comes until the connection ends. Answers the close code, None without one."""
        code = None
        while (received := await self.receive()) is not None:
            if received[0] == CLOSE:
                code = int.from_bytes(received[1][:2]) if received[1] else None
        return code
