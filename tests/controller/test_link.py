"""The link and the fast sender over real WebSockets: credit, refusals, reconnects, a refused credential."""

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
from webmacs_controller.protocol import Delivery
from webmacs_controller.sender import FastSender, SenderError
from webmacs_controller.spool import Spool

CHANNELS = [wire.HelloChannel(1, "bench.1", None, "Channel", "", "sensor")]
DESCRIBED = [wire.DescribedChannel(f"c{n}", f"C {n}", "", "sensor", None, None, None, None) for n in range(3)]


class Source:
    """A spool and its link, running."""

    def __init__(self, place: Path, url: str, silence_s_max: float = 30.0) -> None:
        self.spool = Spool(place / "spool", CHANNELS, 1 << 20, place / "shared")
        self.delivery = Delivery(self.spool, [], "test", 1 << 19)
        self.credential = "wms_test"
        self.link = Link(url, lambda: self.credential, self.delivery, silence_s_max)

    def append(self, frames: int = 1) -> None:
        for _ in range(frames):
            column = frame.Readings()
            column.times_us.append(clock.now().wall_us)
            column.values.append(1.0)
            self.spool.append(next(frame.seal({1: column}, 0)))
        self.link.appended()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Source"]:
        self._task = asyncio.create_task(self.link.run())
        try:
            yield self
        finally:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self.spool.close()

    @property
    def ended(self) -> bool:
        """It never does, but for a bug."""
        return self._task.done()

    async def delivered(self) -> None:
        async with asyncio.timeout(10):
            await self.link.delivered()


@pytest.fixture(autouse=True)
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "PAUSE_S", (0.01, 0.05))
    monkeypatch.setattr(link, "REFUSED_PAUSE_S", (0.01, 0.05))


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
