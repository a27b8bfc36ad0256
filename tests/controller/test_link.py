"""The link and the fast sender over real WebSockets: credit, refusals, reconnects, a refused credential, a peer that takes nothing."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from parts.double import Backend
from webmacs_controller import clock, frame, link, wire
from webmacs_controller.link import Link, Pause
from webmacs_controller.protocol import Delivery, ProtocolError
from webmacs_controller.sender import FastSender, SenderError
from webmacs_controller.spool import Spool
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import Server, ServerConnection

CHANNELS = [wire.HelloChannel(1, "bench.1", None, "Channel", "", "sensor")]
DESCRIBED = [wire.DescribedChannel(f"c{n}", f"C {n}", "", "sensor", None, None, None, None) for n in range(3)]


class Source:
    """A spool and its link, running."""

    def __init__(self, place: Path, url: str, silence_s_max: float = 30.0, spool_bytes_max: int = 1 << 20) -> None:
        self.spool = Spool(place / "spool", CHANNELS, spool_bytes_max, place / "shared")
        self.delivery = Delivery(self.spool, [], "test", spool_bytes_max // 2)
        self.credential = "wms_test"
        self.link = Link(url, lambda: self.credential, self.delivery, silence_s_max)

    def append(self, frames: int = 1, readings: int = 1) -> None:
        for _ in range(frames):
            column = frame.Readings()
            column.times_us.extend([clock.now().wall_us] * readings)
            column.values.extend([1.0] * readings)
            self.spool.append(next(frame.seal({1: column}, 0)))
        self.link.appended()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Source"]:
        self.task = asyncio.create_task(self.link.run())
        try:
            yield self
        finally:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.spool.close()

    @property
    def ended(self) -> bool:
        """It never does, but for a bug."""
        return self.task.done()

    async def delivered(self) -> None:
        async with asyncio.timeout(10):
            await self.link.delivered()


class DeafBackend(Backend):
    """Welcomes, and reads no more."""

    def __init__(self) -> None:
        super().__init__(credit_bytes=4 << 20)
        self._deaf: list[ServerConnection] = []

    def welcome(self, hello: wire.Hello) -> wire.Welcome:
        self.socket.transport.pause_reading()
        self._deaf.append(self.socket)
        return super().welcome(hello)

    @contextlib.asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[tuple[Server, str]]:
        async with super().serving(port) as (server, url):
            for listening in server.sockets:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            yield server, url
            for deaf in self._deaf:
                deaf.transport.abort()


@pytest.fixture(autouse=True)
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "PAUSE_S", (0.01, 0.05))
    monkeypatch.setattr(link, "REFUSED_PAUSE_S", (0.01, 0.05))
    monkeypatch.setattr(link, "CLOSE_S", 0.05)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when a socket takes no more. Its buffer is smaller than one large frame, and that of a DeafBackend too."""
    full, connection_made, pause_writing = asyncio.Event(), ClientConnection.connection_made, ClientConnection.pause_writing

    def made(connection: ClientConnection, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        connection_made(connection, transport)

    def paused(connection: ClientConnection) -> None:
        pause_writing(connection)
        full.set()

    monkeypatch.setattr(ClientConnection, "connection_made", made)
    monkeypatch.setattr(ClientConnection, "pause_writing", paused)
    monkeypatch.setattr(ClientConnection, "start_keepalive", lambda _: None)  # its first ping, after 5 s, would be stuck as well
    return full


def stored(backend: Backend) -> int:
    return sum(map(len, backend.stored.values()))


async def test_frames_travel_with_the_credential_and_are_delivered(tmp_path: Path) -> None:
    backend = Backend()
    async with backend.serving() as (_, url), Source(tmp_path, url).running() as source:
        source.append(100)
        await source.delivered()
        source.append(1)
        await source.delivered()
        assert (stored(backend), source.spool.frames, backend.connections) == (101, 0, 1)


async def test_credit_bounds_what_the_socket_carries(tmp_path: Path) -> None:
    backend = Backend(credit_bytes=200)
    backend.acknowledging = False
    async with backend.serving() as (_, url), Source(tmp_path, url).running() as source:
        source.append(50)
        sent = 0
        while sent < 50:
            await backend.until(lambda sent=sent: stored(backend) > sent)
            sent = stored(backend)
            await backend.socket.send(backend.ack())
        await source.delivered()
    assert backend.under_way_bytes_max <= 200


async def test_a_refused_frame_does_not_stop_the_next(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = Backend()
    backend.refuse_seqs = {2: "out_of_bounds"}
    async with backend.serving() as (_, url), Source(tmp_path, url).running() as source:
        source.append(3)
        await source.delivered()
        assert (source.delivery.nacks["out_of_bounds"], backend.connections) == (1, 1)
    assert _fields(caplog, "frame_refused")[0]["code"] == "out_of_bounds"


async def test_a_broken_connection_is_made_again_and_nothing_is_sent_twice(tmp_path: Path) -> None:
    backend = Backend()
    async with backend.serving() as (_, url), Source(tmp_path, url).running() as source:
        for made in range(0, 100, 20):
            source.append(10)
            await backend.until(lambda made=made: stored(backend) > made)
            backend.socket.transport.abort()
            source.append(10)
            await source.delivered()
    (frames,) = backend.stored.values()
    assert [seq for _, seq, *_ in frames] == list(range(1, 101))
    assert backend.connections == 6


async def test_a_backend_that_comes_later_gets_everything(tmp_path: Path) -> None:
    first = Backend()
    async with first.serving() as (_, url):
        port = int(url.split(":")[2].split("/")[0])
    async with Source(tmp_path, url).running() as source:
        source.append(20)
        second = Backend()
        async with second.serving(port):
            await source.delivered()
        assert stored(second) == 20


async def test_a_refused_credential_is_said_once_and_a_new_one_counts_without_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Backend()
    async with backend.serving() as (_, url):
        source = Source(tmp_path, url)
        source.credential = "wms_wrong"
        async with source.running():
            source.append()
            await backend.until(lambda: backend.connections >= 3)
            source.credential = "wms_test"
            await source.delivered()
    (said,) = _fields(caplog, "link_down")
    assert str(said["reason"]).startswith("The backend at ws://127.0.0.1:")
    assert "webmacs source add" in str(said["reason"])
    assert "wms_" not in caplog.text
    assert "wms_" not in repr([record.__dict__ for record in caplog.records])


async def test_an_unexpected_answer_to_the_handshake_is_retried(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = Backend()
    backend.status = 503
    async with backend.serving() as (_, url), Source(tmp_path, url).running() as source:
        source.append()
        await backend.until(lambda: backend.connections >= 2)
        backend.status = None
        await source.delivered()
    assert "HTTP 503" in str(_fields(caplog, "link_down")[0]["reason"])


async def test_a_backend_that_ends_connections_before_the_handshake_is_retried(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        server.settimeout(10)  # nobody comes any more

        def end(times: int) -> None:
            """From another thread, so that the end is there before the other end says its first word."""
            for _ in range(times):
                connection, _ = server.accept()
                connection.close()

        source = Source(tmp_path, f"ws://127.0.0.1:{server.getsockname()[1]}/ws")
        async with source.running() as running:
            await asyncio.to_thread(end, 100)
            assert not running.ended


async def test_a_silent_backend_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = Backend()
    async with backend.serving() as (_, url), Source(tmp_path, url, silence_s_max=0.05).running():
        await backend.until(lambda: len(backend.hellos) >= 2)
    assert "said nothing for 0.05 s" in str(_fields(caplog, "link_down")[0]["reason"])


async def test_a_backend_that_takes_nothing_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture, full: asyncio.Event) -> None:
    backend = DeafBackend()
    async with backend.serving() as (_, url), Source(tmp_path, url, 0.3, 4 << 20).running() as source:
        source.append(readings=1 << 16)
        async with asyncio.timeout(10):
            await full.wait()
        await backend.until(lambda: len(backend.hellos) >= 3)
        assert source.spool.frames == 1
    assert "said nothing for 0.3 s" in str(_fields(caplog, "link_down")[0]["reason"])


async def test_the_link_ends_though_the_backend_takes_nothing(tmp_path: Path, full: asyncio.Event) -> None:
    backend = DeafBackend()
    async with backend.serving() as (_, url), Source(tmp_path, url, spool_bytes_max=4 << 20).running() as source:
        source.append(readings=1 << 16)
        async with asyncio.timeout(10):
            await full.wait()
            source.task.cancel()
            await asyncio.wait({source.task})
        assert source.task.cancelled()


@pytest.mark.parametrize("turns", range(6))
async def test_the_link_ends_when_it_is_told_to_as_a_connection_ends(tmp_path: Path, turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many turns of the event loop after the word that ends the conversation."""
    backend, loop = Backend(), asyncio.get_running_loop()
    async with backend.serving() as (_, url), Source(tmp_path, url).running() as source:

        def cancel_after(turns: int) -> None:
            if turns:
                loop.call_soon(cancel_after, turns - 1)
            else:
                source.task.cancel()

        def received(*_: object) -> None:
            cancel_after(turns)
            raise ProtocolError("The test does not like it.")

        monkeypatch.setattr(source.delivery, "received", received)
        again = asyncio.create_task(backend.until(lambda: backend.connections >= 2))
        await asyncio.wait({source.task, again}, return_when=asyncio.FIRST_COMPLETED)
        assert source.ended
        again.cancel()


async def test_nobody_there_is_one_clear_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = asyncio.Event()

    def drawn(_: Pause) -> float:
        said.set()
        return 0.01

    monkeypatch.setattr(link.Pause, "draw_s", drawn)
    async with Source(tmp_path, "ws://127.0.0.1:1/ws").running(), asyncio.timeout(10):
        await said.wait()
        await asyncio.sleep(0)
    assert str(_fields(caplog, "link_down")[0]["reason"]).startswith("The backend at ws://127.0.0.1:1/ws cannot be reached: ")


def test_a_pause_doubles_up_to_its_bound_and_varies() -> None:
    pause = Pause((0.2, 10.0))
    drawn = [pause.draw_s() for _ in range(10)]
    bounds = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0, 10.0]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(drawn, bounds, strict=True))
    pause.reset()
    assert pause.draw_s() <= 0.2


async def test_the_fast_sender_waits_for_credit_and_measures_each_acknowledgement() -> None:
    backend = Backend(credit_bytes=1000)
    async with backend.serving() as (_, url):
        sender = FastSender(url, "wms_test")
        welcome = await sender.connect(DESCRIBED)
        assert [number for number, _ in welcome.accepted] == [1, 2, 3]
        for n in range(200):
            await sender.send(frame.encode_data(sender.next_seq, 0, (1, 2, 3), n + 1, 1, [bytes(8)] * 3))
        await sender.acknowledged()
        await sender.close()
    assert (sender.committed_seq, len(sender.ack_latencies_s), stored(backend)) == (200, 200, 200)
    assert backend.under_way_bytes_max <= 1000
    assert backend.described[0].instances[0].create_events


async def test_the_fast_sender_ends_though_the_backend_takes_nothing(full: asyncio.Event) -> None:
    backend = DeafBackend()
    async with backend.serving() as (_, url):
        sender = FastSender(url, "wms_test")
        await sender.connect(DESCRIBED)
        sending = asyncio.create_task(sender.send(frame.encode_data(1, 0, (1,), 1, 1, [bytes(1 << 20)])))
        async with asyncio.timeout(10):
            await full.wait()
            sending.cancel()
            await sender.close()


async def test_the_fast_sender_says_when_the_connection_ends() -> None:
    backend = Backend(credit_bytes=0)
    async with backend.serving() as (_, url):
        sender = FastSender(url, "wms_test")
        await sender.connect(DESCRIBED)
        sending = asyncio.create_task(sender.send(b""))
        await backend.socket.close(1012, "restart")
        with pytest.raises(SenderError, match="1012"):
            await sending
        await sender.close()


def _fields(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [vars(record)["fields"] for record in caplog.records if record.message == event and record.levelno >= logging.WARNING]
