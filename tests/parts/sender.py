"""A source that delivers a journal's frames through anything: many under way at once, back after every cut, and never a word of trust."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from typing import Final

import websockets
from webmacs_controller import wire

from parts.journal import Journal
from parts.source import Source

PAUSE_S: Final = 0.05
"""Before the next attempt."""


class Sender:
    """`run()` delivers until `finish()`; then it ends once everything that was sent is acknowledged.

    `frames_per_s` None: as fast as acknowledgements come. `window` frames at most are under way.
    """

    def __init__(
        self, sockets: Callable[[], str], credential: str, journal: Journal, window: int, frames_per_s: float | None = None
    ) -> None:
        self._sockets = sockets
        self._credential = credential
        self.journal = journal
        self._window = window
        self._frames_per_s = frames_per_s
        self.stream = os.urandom(16)
        self.connections = 0
        self.unknown: list[int] = []
        """At each end of a connection: frames under way whose fate is not known."""
        self.ends: list[str] = []
        """Why connections ended."""
        self.refused = 0
        self.acknowledged_at = 0.0
        """time.monotonic() of the newest acknowledgement."""
        self._finishing = False
        self._changed = asyncio.Condition()

    def finish(self) -> None:
        self._finishing = True

    @property
    def finished(self) -> bool:
        return self._finishing and self.journal.unknown == 0

    async def run(self) -> None:
        while not self.finished:
            try:
                async with Source(self._sockets(), self._credential, self.stream) as source:
                    await self._deliver(source)
            except (OSError, TimeoutError, websockets.exceptions.WebSocketException) as end:
                self.unknown.append(self.journal.unknown)
                self.ends.append(str(end) or type(end).__name__)
                await asyncio.sleep(PAUSE_S)

    async def _deliver(self, source: Source) -> None:
        welcome = await source.hello(self.journal.keys, next_seq=self.journal.sent_max + 1)
        self.connections += 1
        await self._told(welcome.committed_seq)
        room = asyncio.Event()

        async def send() -> None:
            frame, begun, paced = welcome.committed_seq, time.monotonic(), 0
            while not (self._finishing and frame >= self.journal.sent_max):
                if frame - self.journal.acknowledged_max >= self._window:
                    room.clear()
                    await room.wait()
                    continue
                if self._frames_per_s is not None and frame >= self.journal.sent_max:  # what is sent again goes as fast as it can
                    await asyncio.sleep(begun + paced / self._frames_per_s - time.monotonic())
                    paced += 1
                frame += 1
                self.journal.sent(frame)
                await source.send(self.journal.encode(frame))

        sending = asyncio.create_task(send())
        try:
            while not self.finished:
                ack = await source.expect(wire.Ack)
                await self._told(ack.committed_seq)
                room.set()
        finally:
            self.refused += len(source.nacks)
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, websockets.exceptions.WebSocketException):
                await sending

    async def _told(self, committed_seq: int) -> None:
        self.journal.acknowledged(committed_seq)
        self.acknowledged_at = time.monotonic()
        async with self._changed:
            self._changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until `condition` is true after some acknowledgement."""
        async with asyncio.timeout(120), self._changed:
            await self._changed.wait_for(condition)

    async def acknowledged(self, more: int) -> None:
        """Waits until so many more frames are acknowledged."""
        goal = self.journal.acknowledged_max + more
        await self.until(lambda: self.journal.acknowledged_max >= goal)
