"""How every WebSocket here lives: a receiver, a sender with a watchdog, an ear for silence, and whoever wants to end it.

The server library never finds a dead or stuck client by itself, and a close after a stuck send hangs in it: both are bounded here.
Only `receive()` learns that the peer has gone, so it is always pending; it is cancelled before the coroutine returns, or the
connection would stay.
"""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from webmacs_controller.wire import SILENCE_S_MAX

from webmacs import clock, logs
from webmacs.http import guard, kiosk, limits
from webmacs.http.guard import Identity
from webmacs.http.problem import Problem
from webmacs.settings import Settings
from webmacs.storage.faults import FAULTS
from webmacs.storage.pool import Pool

log = logs.get(__name__)

CLOSE_STOP: Final = 1001
CLOSE_FAULT: Final = 1011
CLOSE_AWAY: Final = 1013
"""The database is away; try again in a moment."""
CLOSE_ENDED: Final = 4401
"""The credential was revoked or has expired."""
CLOSE_SLOW: Final = 4408
CLOSE_FENCED: Final = 4409
"""A newer connection of the same source took over."""
CLOSE_SILENT: Final = 4410
CLOSE_UNSTORABLE: Final = 4500

FIRST_MESSAGE_S_MAX: Final = 5.0
"""Whoever opens a socket has something to say at once; a message that trickles in counts when it is whole."""
SEND_S_MAX: Final = 5.0
"""A send that takes longer means a stuck client."""
CLOSE_S_MAX: Final = 1.0
SOURCE_SOCKETS_MAX: Final = 4
ROOM_AFTER_S: Final = 30
"""What a 429 suggests: nobody knows when one of the others closes, but a dead one is found by then."""
SWEEP_S: Final = 3.0
"""A withdrawn credential stops open sockets within 5 s."""
CLOSE_ALL_S_MAX: Final = 3.0


class SupervisedSocket(ABC):
    """One WebSocket, judged before it is accepted. `serve()` returns when it has ended, for whatever reason."""

    def __init__(self, ws: WebSocket, identity: Identity) -> None:
        self._ws = ws
        self.identity = identity
        self.name = identity.name
        self._heard = clock.monotonic()
        self._hearing = False
        self._patience_s = FIRST_MESSAGE_S_MAX
        self._close: tuple[int, str] | None = None
        self._closing = asyncio.Event()

    def address(self, settings: Settings) -> str:
        return guard.client_address(self._ws, settings)

    @abstractmethod
    async def hear(self, message: str | bytes) -> None:
        """One message of the client. The next is not asked for before this returns: that is the backpressure."""

    @abstractmethod
    async def say(self) -> str | bytes:
        """Waits for the next message to send."""

    def show(self, events: frozenset[int]) -> None:  # noqa: B027 - of a socket that opens itself to kiosks
        """Told a kiosk again and again: the events that its dashboard shows now."""

    def end(self, code: int, reason: str) -> None:
        """Asks the socket to close. The first reason stays."""
        if self._close is None:
            self._close = (code, reason)
            self._closing.set()

    async def serve(self) -> None:
        await self._ws.accept()
        tasks = {asyncio.create_task(work) for work in (self._receive(), self._transmit(), self._listen(), self._closing.wait())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if (fault := task.exception()) is not None and not isinstance(fault, WebSocketDisconnect):
                    log.error("socket_failed", name=self.name, reason=repr(fault))
                    self.end(CLOSE_FAULT, "internal fault; reconnect")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._shut()

    async def _shut(self) -> None:
        if self._close is None or self._ws.client_state is WebSocketState.DISCONNECTED:
            return
        try:
            async with asyncio.timeout(CLOSE_S_MAX):
                await self._ws.close(*self._close)
        except (TimeoutError, RuntimeError):
            log.debug("close_given_up", name=self.name)

    async def _receive(self) -> None:
        while True:
            message = await self._ws.receive()
            if message["type"] == "websocket.disconnect":
                return
            data = message.get("bytes")
            self._hearing, self._patience_s = True, SILENCE_S_MAX  # what comes meanwhile waits unread: that is no silence
            await self.hear(message["text"] if data is None else data)
            self._hearing, self._heard = False, clock.monotonic()

    async def _transmit(self) -> None:
        while True:
            message = await self.say()
            try:
                async with asyncio.timeout(SEND_S_MAX):
                    await (self._ws.send_text(message) if isinstance(message, str) else self._ws.send_bytes(message))
            except TimeoutError:
                log.warning("socket_stuck", name=self.name)
                self.end(CLOSE_SLOW, "the client does not read; reconnect")
                return

    async def _listen(self) -> None:
        rest_s = self._patience_s
        while rest_s > 0:
            await asyncio.sleep(rest_s)
            rest_s = self._patience_s if self._hearing else self._heard + self._patience_s - clock.monotonic()
        self.end(CLOSE_SILENT, f"nothing heard for {self._patience_s:.0f} s")


class OpenSockets:
    """The live sockets of this process: how many each caller may have, and whose credential has ended since."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: dict[SupervisedSocket, str] = {}
        """With the address that each counts for."""
        self._none = asyncio.Event()
        self._none.set()

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, socket: SupervisedSocket) -> None:
        """Raises a 429 before the upgrade is accepted when the caller or the address has too many."""
        most = SOURCE_SOCKETS_MAX if socket.identity.kind == "source" else self._settings.user_sockets_max
        mine = sum(1 for other in self._open if (other.identity.kind, other.identity.id) == (socket.identity.kind, socket.identity.id))
        if mine >= most:
            raise _too_many(f"{socket.identity.name} has {mine} open sockets, which is the limit; close one first.")
        network = limits.network_of(socket.address(self._settings))
        here = sum(1 for other in self._open.values() if other == network)
        if here >= self._settings.address_sockets_max:
            raise _too_many(f"{here} sockets are open from this address; close one first, or raise the setting address_sockets_max.")
        self._open[socket] = network
        self._none.clear()
        try:
            await socket.serve()
        finally:
            del self._open[socket]
            if not self._open:
                self._none.set()

    async def sweep(self, pool: Pool) -> None:
        """For ever: ends the sockets whose session or credential has ended, and tells kiosks what their dashboards show now. While the
        database is away nobody's end can be known."""
        while True:
            await asyncio.sleep(SWEEP_S)
            open_now = list(self._open)
            kiosks = list({socket.identity for socket in open_now if socket.identity.kind == "kiosk"})
            try:
                ended = await guard.find_ended(pool, {socket.identity for socket in open_now})
                shown = await kiosk.shown(pool, kiosks) if kiosks else {}
            except FAULTS as fault:
                log.debug("sweep_without_database", reason=str(fault))
                continue
            for socket in open_now:
                if socket.identity in ended:
                    socket.end(CLOSE_ENDED, "this session has ended; sign in again")
                elif socket.identity in shown:
                    socket.show(shown[socket.identity])
                elif socket.identity.kind == "kiosk":
                    socket.end(CLOSE_ENDED, "this dashboard is gone, or its owner does not see it any more")

    async def end_all(self, code: int, reason: str) -> None:
        """Closes every socket and waits until they are gone, for CLOSE_ALL_S_MAX at most."""
        for socket in self._open:
            socket.end(code, reason)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_ALL_S_MAX):
                await self._none.wait()


def _too_many(detail: str) -> Problem:
    return Problem(429, "too-many-sockets", "Too many sockets", detail, headers={"Retry-After": str(ROOM_AFTER_S)})
