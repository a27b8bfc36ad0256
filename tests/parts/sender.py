"""A source that delivers a journal's frames through anything: many under way at once, back after every cut, and never a word of trust."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import websockets
from webmacs_controller import wire

from parts.backend import Backend, make_source
from parts.journal import Journal, Verdict
from parts.source import Source
from parts.torture import Row

PAUSE_S: Final = 0.05
"""Before the next attempt."""
GAP_EVERY: Final = 10
"""Every so many frames one declares a gap."""
PATIENCE_S: Final = 900.0
"""Until a hanging test is given up; nothing is judged by it. A backend that cannot store says nothing for as long."""


class Sender:
    """`run()` delivers until `finish()`; then it ends once everything that was sent is acknowledged.

    As much is under way as the backend gives credit for, and at most `window` frames. `frames_per_s` None: as fast as that allows.
    """

    def __init__(
        self,
        sockets: Callable[[], str],
        credential: str,
        journal: Journal,
        window: int = 32,
        frames_per_s: float | None = None,
    ) -> None:
        self._sockets = sockets
        self._credential = credential
        self.journal = journal
        self._window = window
        self._frames_per_s = frames_per_s
        self.connections = 0
        self.unknown: list[int] = []
        """At each end of a connection: frames under way whose fate is not known."""
        self.closes: list[int | None] = []
        """The close codes of connections that the backend ended."""
        self.refused = 0
        self.stored_again = 0.0
        """When (time.monotonic()) the first acknowledgement came that this connection had beyond its welcome."""
        self.dry = asyncio.Event()
        """Set while it may not send, for want of credit or window."""
        self.finishing = False
        self._credit_bytes = 0
        self._changed = asyncio.Condition()

    def finish(self) -> None:
        """No new frames from now on."""
        self.finishing = True

    @property
    def finished(self) -> bool:
        return self.finishing and self.journal.unknown == 0

    async def run(self, connections: int | None = None) -> None:
        """Over any number of connections, or over so many."""
        while not self.finished and connections != self.connections:
            try:
                async with Source(self._sockets(), self._credential, self.journal.stream) as source:
                    try:
                        await self._deliver(source)
                    finally:
                        self.refused += len(source.nacks)
                        self.closes.append(source.socket.close_code)
            except (OSError, TimeoutError, websockets.exceptions.WebSocketException):
                self.unknown.append(self.journal.unknown)
                await asyncio.sleep(PAUSE_S)

    async def _deliver(self, source: Source) -> None:
        welcome = await source.hello(self.journal.keys, next_seq=self.journal.sent_max + 1)
        self.connections += 1
        connected = time.monotonic()
        self._credit_bytes = welcome.credit_bytes
        self.journal.resumed(welcome.committed_seq)
        await self._told(welcome.committed_seq)
        room = asyncio.Event()

        async def send() -> None:
            frame, begun, paced, size = welcome.committed_seq, time.monotonic(), 0, len(self.journal.encode(1))
            while not (self.finishing and frame >= self.journal.sent_max):
                under_way = frame - self.journal.acknowledged_max
                if under_way >= self._window or (under_way and (under_way + 1) * size > self._credit_bytes):
                    self.dry.set()
                    room.clear()
                    await room.wait()
                    self.dry.clear()
                    continue
                if self._frames_per_s is not None and frame >= self.journal.sent_max:  # what is sent again goes as fast as it can
                    await asyncio.sleep(begun + paced / self._frames_per_s - time.monotonic())
                    paced += 1
                frame += 1
                self.journal.sent(frame)
                await source.send(self.journal.encode(frame))
            if self.finished:
                await source.socket.close()  # no acknowledgement will come

        sending = asyncio.create_task(send())
        try:
            while not self.finished:
                ack = await source.expect(wire.Ack, wait_s=PATIENCE_S)
                self._credit_bytes = ack.credit_bytes
                if ack.committed_seq > welcome.committed_seq and self.stored_again < connected:
                    self.stored_again = time.monotonic()
                await self._told(ack.committed_seq)
                room.set()
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, websockets.exceptions.WebSocketException):
                await sending

    async def _told(self, committed_seq: int) -> None:
        self.journal.acknowledged(committed_seq)
        async with self._changed:
            self._changed.notify_all()

    async def acknowledged(self, more: int = 1) -> None:
        """Waits until so many more frames are acknowledged."""
        await self.reached(self.journal.acknowledged_max + more)

    async def storing_again(self, since: float) -> float:
        """Waits until a connection that was made after `since` has stored something. Answers when it did, as time.monotonic()."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: self.stored_again > since)
            return self.stored_again

    async def reached(self, frame: int) -> None:
        """Waits until everything up to this frame is acknowledged."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: self.journal.acknowledged_max >= frame)


class Senders:
    """Several sources at once, each with a journal of its own."""

    def __init__(self, *senders: Sender) -> None:
        self.all = senders
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def make(
        cls,
        backend: Backend,
        name: str,
        place: Path,
        count: int,
        channels: int,
        readings: int,
        frames_per_s: float | None,
        window: int = 32,
        port: int | None = None,
    ) -> Self:
        """Sources `name 0`, `name 1`, ..., whose readings begin an hour ago. `port`: of a proxy before the backend."""
        sockets = f"ws://127.0.0.1:{port or backend.port}"
        start_us = time.time_ns() // 1_000 - 3_600_000_000
        senders = []
        for number in range(count):
            source = f"{name[:90]} {number}"
            keys = [f"{source} {c}" for c in range(channels)]
            journal = Journal(place / f"journal {number}", source, number, keys, readings, start_us, gap_every=GAP_EVERY)
            credential = await make_source(backend.database, source)
            senders.append(Sender(lambda: sockets, credential, journal, window, frames_per_s))
        return cls(*senders)

    @property
    def journals(self) -> list[Journal]:
        return list(dict.fromkeys(sender.journal for sender in self.all))

    @property
    def acknowledged_frames(self) -> int:
        return sum(journal.acknowledged_max for journal in self.journals)

    @property
    def refused(self) -> int:
        return sum(sender.refused for sender in self.all)

    @property
    def unknown(self) -> int:
        return sum(sum(sender.unknown) for sender in self.all)

    async def acknowledged(self, more: int = 1) -> None:
        """Waits until every source has so many more frames acknowledged."""
        await asyncio.gather(*(sender.acknowledged(more) for sender in self.all))

    async def storing_again(self, since: float) -> float:
        """Waits until something of every source was stored after `since`, on a new connection. Answers when the last one was."""
        return max(await asyncio.gather(*(sender.storing_again(since) for sender in self.all)))

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(sender.run()) for sender in self.all]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Sends nothing new, and waits until everything that was sent is acknowledged."""
        for sender in self.all:
            sender.finish()
        if kind is not None:
            for task in self._tasks:
                task.cancel()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*self._tasks, return_exceptions=kind is not None)

    def record(self, row: Row, verdict: Verdict, **figures: float) -> None:
        row.record(
            done=self.acknowledged_frames,
            refused=self.refused,
            unknown=self.unknown,
            lost=verdict.lost + verdict.retracted,
            twice=verdict.twice,
            readings=verdict.stored,
            gaps=verdict.gaps.stored,
            gaps_lost=verdict.gaps.lost + verdict.gaps.retracted,
            gaps_twice=verdict.gaps.twice,
            **figures,
        )
