"""The socket that drives the delivery state machine: connects, reconnects with a pause that grows, moves bytes both ways.
Everything that is decided about frames is decided in protocol.py.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from webmacs_controller import clock, logs, wire
from webmacs_controller.protocol import Delivery, Phase, ProtocolError, Refusal, Refused

MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
"""A welcome that names 100,000 channels is about 6 MiB."""
PAUSE_S: Final = (0.2, 3.0)
REFUSED_PAUSE_S: Final = (5.0, 60.0)
"""After a refused credential: somebody has to mend it."""
CLOSE_S: Final = 1.0

log = logs.get(__name__)


async def hang_up(socket: ClientConnection) -> None:
    """Says goodbye. To a peer that takes nothing the goodbye is stuck behind all the rest, and `close_timeout` begins only after it."""
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await socket.close()
    finally:
        socket.transport.abort()


class Pause:
    """The wait before the next attempt: doubles from `first_s` to `last_s`; each wait is drawn from its upper half."""

    def __init__(self, bounds_s: tuple[float, float]) -> None:
        self._first_s, self._last_s = bounds_s
        self._next_s = self._first_s

    def reset(self) -> None:
        self._next_s = self._first_s

    def draw_s(self) -> float:
        wait_s = self._next_s
        self._next_s = min(self._last_s, wait_s * 2)
        return wait_s * random.uniform(0.5, 1.0)  # noqa: S311 (spreads reconnects, guards nothing)


class Link:
    """`appended()` says that the backlog grew. `run()` returns only by being cancelled."""

    def __init__(self, url: str, read_credential: Callable[[], str], delivery: Delivery, silence_s_max: float = wire.SILENCE_S_MAX) -> None:
        self._url = url
        self._read_credential = read_credential  # for every attempt: a new one counts without a restart
        self._delivery = delivery
        self._silence_s_max = silence_s_max
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self.connections = 0

    def appended(self) -> None:
        self._wake.set()

    async def delivered(self) -> None:
        """Returns when everything made so far is stored at the backend."""
        while not self._delivery.delivered:
            self._changed.clear()
            await self._changed.wait()

    async def run(self) -> None:
        pause, refused_pause, reported = Pause(PAUSE_S), Pause(REFUSED_PAUSE_S), ""
        while True:
            wait_s: float | None = None
            try:
                socket = await connect(
                    self._url,
                    compression=None,
                    additional_headers={"Authorization": f"Bearer {self._read_credential()}"},
                    ping_interval=5,
                    ping_timeout=5,
                    close_timeout=CLOSE_S,
                    max_size=MESSAGE_BYTES_MAX,
                )
                try:
                    self.connections += 1
                    log.info("link_up", url=self._url)
                    problem = await self._converse(socket)
                finally:
                    await hang_up(socket)
                if self._welcomed:
                    pause.reset()
                    refused_pause.reset()
            except InvalidStatus as error:
                status = error.response.status_code
                problem = f"The backend at {self._url} answered the connection with HTTP {status}."
                if status in (401, 403):
                    problem = (
                        f"The backend at {self._url} refuses this controller's credential (HTTP {status}): "
                        "make a new one with `webmacs source add NAME` and put it into the credential file."
                    )
                    wait_s = refused_pause.draw_s()
            except (OSError, TimeoutError, InvalidHandshake, InvalidURI, ConnectionClosed) as error:
                problem = f"The backend at {self._url} cannot be reached: {error or type(error).__name__}."
            finally:
                self._delivery.disconnected()
            if wait_s is None:
                wait_s = pause.draw_s()
            if problem != reported:  # a state that lasts is said once
                log.warning("link_down", reason=problem, retry_s=round(wait_s, 1))
                reported = problem
            await asyncio.sleep(wait_s)

    async def _converse(self, socket: ClientConnection) -> str:
        """Talks until the connection ends, and says why it did."""
        self._welcomed = False
        self._delivery.connected(clock.now())
        sending = asyncio.create_task(self.send_frames(socket))
        receiving = asyncio.create_task(self._receive(socket))
        try:
            done, _ = await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
            return next(task.result() for task in (receiving, sending) if task in done)
        finally:
            sending.cancel()
            receiving.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)  # passes on a cancellation of the link itself

    async def send_frames(self, socket: ClientConnection) -> str:
        """Sends while there is something to send and credit for it."""
        try:
            while True:
                self._wake.clear()
                while (message := self._delivery.next_message(clock.now())) is not None:
                    await socket.send(message)
                with contextlib.suppress(TimeoutError):  # pings and offers fall due without anything happening
                    async with asyncio.timeout(1.0):  # not wait_for: on 3.11 it swallows a cancellation that meets the event
                        await self._wake.wait()
        except ConnectionClosed as error:
            return _closed(error)

    async def _receive(self, socket: ClientConnection) -> str:
        try:
            while True:
                async with asyncio.timeout(self._silence_s_max):
                    message = await socket.recv()
                if isinstance(message, str):
                    return "The backend sent text on the telemetry socket: is this the right address?"
                notice = self._delivery.received(message, clock.now())
                if self._delivery.phase is Phase.STREAM:
                    self._welcomed = True
                if isinstance(notice, Refusal):
                    nack = notice.nack
                    log.warning("frame_refused", seq=nack.seq, code=nack.code, channel=nack.channel, detail=nack.detail)
                elif isinstance(notice, Refused):
                    log.warning("channels_refused", channels=notice.channels)
                self._wake.set()
                self._changed.set()
        except ConnectionClosed as error:
            return _closed(error)
        except TimeoutError:
            return f"The backend said nothing for {self._silence_s_max:g} s."
        except ProtocolError as error:
            return str(error)


def _closed(error: ConnectionClosed) -> str:
    if error.rcvd is None:
        return "The connection broke."
    return f"The backend closed the connection ({error.rcvd.code}{': ' + error.rcvd.reason if error.rcvd.reason else ''})."
