"""Whatever comes down a socket: a clear end or answer, the same each time, memory that does not grow, and neighbours who notice nothing."""

import asyncio
import contextlib
import json
import os
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from parts import journal, stored
from parts.backend import Backend, make_source, make_user, sign_in
from parts.mutation import Mutations
from parts.raw_socket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, RawSocket, frame
from parts.sender import Senders
from parts.source import Source, data
from parts.torture import Row
from webmacs_controller import wire

TELEMETRY = "/ws/controller/telemetry"
STREAM = "/ws/datapoints/stream"
Conn = "asyncpg.Connection[Any]"


def held_mib(backend: Backend) -> float:
    return backend.rss_mb() * 1e6 / 2**20


@pytest.fixture(scope="module")
async def neighbours(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Senders]:
    """Two sources deliver all the while: nothing of theirs is lost, stored twice or cut off."""
    place = tmp_path_factory.mktemp("journals")
    senders = await Senders.make(backend, "neighbour", place, count=2, channels=2, readings=5, frames_per_s=40)
    async with senders:
        yield senders
        await senders.acknowledged()
    connection = await asyncpg.connect(backend.database)
    verdict = await journal.check(connection, senders.journals)
    await connection.close()
    assert verdict.clean, verdict
    assert [sender.connections for sender in senders.all] == [1, 1]


@pytest.fixture(autouse=True)
async def unharmed(backend: Backend, neighbours: Senders) -> AsyncIterator[None]:
    """After each test the neighbours go on, and the backend has called nothing a bug."""
    await neighbours.acknowledged()
    logged = len(backend.log)
    yield
    await neighbours.acknowledged()
    written = backend.log[logged:]
    assert '"level":"error"' not in written, written
    assert "Traceback" not in written, written


@pytest.fixture(scope="module")
async def token(backend: Backend) -> str:
    return await sign_in(backend, "hostile@example.org", await make_user(backend.database, backend.data_dir, "hostile@example.org"))


BREACHES = {
    "an unknown opcode": frame(b"x", 3),
    "an unknown control opcode": frame(b"x", 11),
    "a reserved bit": frame(b"x", reserved=4),
    "no mask": frame(b"x", masked=False),
    "a long ping": frame(b"x" * 126, PING),
    "half a ping": frame(b"x", PING, fin=False),
    "a continuation of nothing": frame(b"x", CONTINUATION),
    "a message within a message": frame(b"x", fin=False) + frame(b"y"),
    "text that is no UTF-8": frame(b"\xff\xfe", TEXT),
    "a lone surrogate": frame(b"\xed\xa0\x80", TEXT),
    "a length of 2^62": frame(b"x", length=2**62),
    "a length of 2^63": frame(b"x", length=2**63),
    "a frame of 17 MiB": frame(b"x", length=17 << 20),
    "a close of one byte": frame(b"\x03", CLOSE),
    "a close code that is none": frame(struct.pack(">H", 9999), CLOSE),
    "garbage": bytes(range(256)),
    "HTTP again": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("breach", BREACHES)
@pytest.mark.parametrize("path", [TELEMETRY, STREAM])
async def test_a_breach_of_the_websocket_protocol_ends_that_connection_alone(backend: Backend, token: str, path: str, breach: str) -> None:
    ends = []
    for _ in range(2):
        async with RawSocket(backend.sockets) as socket:
            assert await socket.upgrade(path, token) == 101
            await socket.send(BREACHES[breach])
            ends.append(await socket.end())
    assert set(ends) <= {None, 1002, 1007}  # None: it was reset before the close could be read


@pytest.mark.parametrize("greeting", [b"\x16\x03\x01\r\n\r\n", bytes(1000), b"GET / HTTP/9.9\r\n\r\n", b"BREW /ws HTTP/1.1\r\n\r\n"])
async def test_what_is_no_request_is_refused(backend: Backend, greeting: bytes) -> None:
    async with RawSocket(backend.sockets) as socket:
        await socket.send(greeting)
        assert 400 <= await socket.status() < 500


async def test_frames_that_come_before_the_credential_was_judged_are_never_heard(backend: Backend) -> None:
    for credential in (None, "wms_" + "x" * 43):
        async with RawSocket(backend.sockets) as socket:
            await socket.send(socket.request(TELEMETRY, credential) + 100 * frame(data(1, {0: ([time.time_ns() // 1000], [1.0])})))
            assert await socket.status() == 401


async def test_text_that_is_no_text_frame_is_refused_by_its_index(backend: Backend) -> None:
    credential = await make_source(backend.database, "textual")
    texts = ["", "\0", "x", "{" * 100_000, "[" * 100_000, '{"datapoints": ' + "[" * 100_000, '{"datapoints": [1e400]}']
    texts += ['{"datapoints": [{"event_public_id": "\\ud800", "value": 1}]}', json.dumps({str(k): k for k in range(100_000)}), "\ufeff{}"]
    texts += ['{"datapoints": []}x', '{"datapoints": [], "datapoints": []}', '{"datapoints": [{"value": NaN}]}']
    async with Source(backend.sockets, credential) as source:
        for index, text in enumerate(texts):
            await source.send(text)
            nack = json.loads(await source.expect(str))
            assert (nack["type"], nack["index"], nack["code"]) == ("nack", index, "malformed")
            assert len(nack["detail"]) <= 300


async def test_a_watcher_s_nonsense_is_answered_and_its_socket_lives(backend: Backend, token: str) -> None:
    many = json.dumps({"type": "subscribe", "events": ["00000000-0000-0000-0000-000000000000"] * 20_000})
    messages = ["", "\0", "[" * 100_000, '{"type":' * 100_000, json.dumps({str(k): k for k in range(50_000)}), '{"type": "\\ud800"}']
    messages += [
        '{"type": "ping"}x',
        '{"type": "ping", "type": "ping", "x": NaN}',
        "\ufeff{}",
        '{"type": "\\u0000"}',
        "x" * (1 << 20),
        "x" * (3 << 20),
    ]
    messages += ['{"type": "subscribe", "events": ["\\ud800"]}', '{"type": "subscribe", "events": "all", "interval_ms": 1e400}', many]
    messages.append(json.dumps({"type": "subscribe", "events": [f"{k:032x}" for k in range(100_000)]}))
    async with RawSocket(backend.sockets) as socket:
        assert await socket.upgrade(STREAM, token) == 101
        for message in messages:
            await socket.send(frame(message.encode(), TEXT))
            answer = await answered(socket, "error")
            assert answer["detail"], message[:80]
            assert len(answer["detail"]) < 1000
        for binary in (b"", b"\xff\x00", b'{"type": "ping"}x'):
            await socket.send(frame(binary))
            await answered(socket, "error")
        await socket.send(frame(b'{"type": "ping"}', TEXT))
        await answered(socket, "pong")


async def answered(socket: RawSocket, kind: str) -> dict[str, Any]:
    while (received := await socket.receive()) is not None:
        if received[0] == TEXT and (message := json.loads(received[1]))["type"] == kind:
            return dict(message)
    raise AssertionError("the socket ended")


async def test_a_source_has_at_most_four_sockets(backend: Backend) -> None:
    credential = await make_source(backend.database, "manifold")
    async with contextlib.AsyncExitStack() as stack:
        statuses = []
        for _ in range(5):
            socket = await stack.enter_async_context(RawSocket(backend.sockets))
            statuses.append(await socket.upgrade(TELEMETRY, credential))
    assert statuses == [101, 101, 101, 101, 429]


# memory


def bad_frames(row: Row, count: int) -> Iterator[bytes]:
    """Numbered frames that are refused, and messages that hold no number."""
    mutations = Mutations(row.chance, time.time_ns() // 1000, [5, 6], [7])
    for seq, injured in enumerate(islice(mutations.frames(), count), 1):
        yield wire.encode([4, seq, 0, [[9, 0, 1, injured[:16].ljust(16)]]]) if seq % 2 else wire.encode([4, seq, 0, injured])


@dataclass
class Incorrigible:
    first_mib: float
    grown_mib: float
    refused: int


async def send_bad_frames(backend: Backend, row: Row, first: int, all_of_them: int) -> Incorrigible:
    async with Source(backend.sockets, await make_source(backend.database, "incorrigible")) as source:
        await source.hello(["a", "b"])
        before = 0.0
        for seq, bad in enumerate(bad_frames(row, all_of_them), 1):
            await source.send(bad)
            if seq == first:
                await source.acknowledged(seq)
                before = held_mib(backend)
            elif seq % 1_000 == 0:
                await source.acknowledged(seq)
        await source.acknowledged(all_of_them)
        return Incorrigible(before, held_mib(backend) - before, len(source.nacks))


GROWN_MIB_MAX = 5


@pytest.mark.row(31)
async def test_bad_frames_leave_no_memory_behind(backend: Backend, row: Row) -> None:
    """What a source's first bad frames make the backend hold is all that they make it hold."""
    all_of_them = row.count(quick=8_000, full=100_000)
    sent = await send_bad_frames(backend, row, row.count(quick=2_000, full=10_000), all_of_them)
    row.record(
        done=None, refused=sent.refused, unknown=None, lost=None, twice=None,
        rss_mib_after_the_first=round(sent.first_mib, 1), grown_mib=round(sent.grown_mib, 1),
    )  # fmt: skip
    assert sent.refused == all_of_them
    assert sent.grown_mib <= GROWN_MIB_MAX


@asynccontextmanager
async def broken(database: str, place: Path, sabotage: str) -> AsyncIterator[Backend]:
    """A backend of its own that breaks a promise."""
    process = Backend(database, place, sabotage)
    await process.start()
    yield process
    await process.kill()


@pytest.mark.row(31)
async def test_bad_frames_find_a_backend_that_keeps_something_of_each(database: str, tmp_path: Path, row: Row) -> None:
    async with broken(database, tmp_path, "keep_what_was_refused") as backend:
        sent = await send_bad_frames(backend, row, 2_000, 8_000)
    row.caught("keep_what_was_refused", of=test_bad_frames_leave_no_memory_behind, grown_mib=round(sent.grown_mib, 1))
    assert sent.grown_mib > GROWN_MIB_MAX


async def flood(backend: Backend, path: str, credential: str, count: int, message: Callable[[int], bytes], greeting: bytes = b"") -> float:
    """Sends so many frames and reads a kilobyte for a hundred of them, until the backend hangs up or hears no more. Answers the most
    that it held, in MiB."""
    most = held_mib(backend)
    async with RawSocket(backend.sockets, receive_bytes=4096) as socket:
        assert await socket.upgrade(path, credential) == 101
        await socket.send(greeting)
        with contextlib.suppress(ConnectionError, TimeoutError):
            for k in range(0, count, 100):
                async with asyncio.timeout(7):  # a client that does not read is given up after 5 s
                    await socket.send(b"".join(map(message, range(k, k + 100))))
                    await socket.reader.read(1000)
                most = max(most, held_mib(backend)) if k % 2_000 == 0 else most
        return max(most, held_mib(backend))


NONSENSE = b'{"%s": 1}' % (b"n" * 60)
WORDY = b'{"%s": 1}' % ("\N{GRINNING FACE}".encode() * 40)
"""Its name is quoted in the answer, in three times as many bytes."""
UNREAD: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "frames with numbers": (TELEMETRY, lambda k: frame(wire.encode([4, k + 1, 0, [[9, 0, 1, bytes(8)]]]))),
    "texts with long answers": (TELEMETRY, lambda k: frame(WORDY, TEXT)),
    "subscriptions": (STREAM, lambda k: frame(b'{"type": "subscribe", "events": "all"}', TEXT)),
}


UNREAD_MIB_MAX = 32


async def flood_unread(backend: Backend, what: str, count: int) -> float:
    """What the backend holds at most beyond what it held, in MiB."""
    path, message = UNREAD[what]
    if path == STREAM:
        email = "unread@example.org"
        credential = await sign_in(backend, email, await make_user(backend.database, backend.data_dir, email))
    else:
        credential = await make_source(backend.database, f"deaf to {what}")
    async with Source(backend.sockets, await make_source(backend.database, f"wide {what}")) as source:  # a snapshot worth having
        await source.hello([f"{what} {k}" for k in range(300)])
        now_us = time.time_ns() // 1000
        await source.send(data(1, {k: ([now_us], [1.0]) for k in range(300)}))
        await source.acknowledged(1)
    hello = frame(wire.encode(wire.Hello(1, 1, "deaf", os.urandom(16), 1, [], 0, 0)))
    before = held_mib(backend)
    return await flood(backend, path, credential, count, message, hello if path == TELEMETRY else b"") - before


@pytest.mark.row(31)
@pytest.mark.parametrize("what", UNREAD)
async def test_a_client_that_hardly_reads_its_answers_is_heard_no_further(backend: Backend, row: Row, what: str) -> None:
    """Its answers do not pile up: the backend leaves its socket unread meanwhile, and gives it up when it is stuck."""
    count = row.count(quick=50_000, full=1_000_000)
    grown = await flood_unread(backend, what, count)
    row.record(done=None, refused=None, unknown=None, lost=None, twice=None, messages=count, grown_mib=round(grown, 1), what=what)
    assert grown <= UNREAD_MIB_MAX


@pytest.mark.row(31)
async def test_a_client_that_hardly_reads_finds_a_backend_that_hears_it_all_the_same(database: str, tmp_path: Path, row: Row) -> None:
    async with broken(database, tmp_path, "hear_whoever_does_not_read") as backend:
        grown = await flood_unread(backend, "texts with long answers", 80_000)
    row.caught(
        "hear_whoever_does_not_read",
        of=test_a_client_that_hardly_reads_its_answers_is_heard_no_further,
        case="texts with long answers",
        grown_mib=round(grown, 1),
    )
    assert grown > UNREAD_MIB_MAX


async def send_nonsense_and_a_frame(socket: RawSocket, key: str) -> None:
    """Twenty thousand text frames whose refusals fill the line, and then a good frame."""
    described = wire.Describe([wire.Instance("a", "b", True, wire.NO_SETTINGS, [_described(key)])])
    hello = wire.Hello(1, 1, "deaf", os.urandom(16), 1, [wire.HelloChannel(0, key, None, key, "", "sensor")], 0, 0)
    await socket.send(frame(wire.encode(described)) + frame(wire.encode(hello)))
    texts = 20_000 * frame(NONSENSE, TEXT)
    await socket.send(texts + frame(data(1, {0: ([time.time_ns() // 1000], [1.0])})))


def _described(key: str) -> wire.DescribedChannel:
    return wire.DescribedChannel(key, key, "", "sensor", None, None, None, None)


async def test_a_client_that_never_reads_is_not_heard_beyond_a_thousand_answers(backend: Backend, conn: Conn) -> None:
    logged = len(backend.log)
    async with RawSocket(backend.sockets, receive_bytes=4096) as socket:
        assert await socket.upgrade(TELEMETRY, await make_source(backend.database, "deaf")) == 101
        sending = asyncio.create_task(send_nonsense_and_a_frame(socket, "unheard"))
        async with asyncio.timeout(60):
            while "socket_stuck" not in backend.log[logged:]:  # noqa: ASYNC110  (it is a line in a file)
                await asyncio.sleep(0.05)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    assert await stored.readings(conn, "deaf", "unheard") == []


async def test_a_client_that_reads_late_gets_every_answer(backend: Backend, conn: Conn) -> None:
    async with RawSocket(backend.sockets, receive_bytes=4096) as socket:
        assert await socket.upgrade(TELEMETRY, await make_source(backend.database, "late")) == 101
        sending = asyncio.create_task(send_nonsense_and_a_frame(socket, "heard late"))
        nacks, acknowledged = 0, False
        while not acknowledged:
            received = await socket.receive()
            assert received is not None, "the backend hung up"
            nacks += received[0] == TEXT
            answer = wire.decode_from_backend(received[1]) if received[0] == BINARY else None
            acknowledged = isinstance(answer, wire.Ack) and answer.committed_seq == 1
        await sending
    assert nacks == 20_000
    assert len(await stored.readings(conn, "late", "heard late")) == 1


@pytest.mark.row(31)
async def test_websocket_pings_that_are_read_cost_nothing(backend: Backend, token: str, row: Row) -> None:
    count = row.count(quick=50_000, full=1_000_000)
    async with RawSocket(backend.sockets) as socket:
        assert await socket.upgrade(TELEMETRY, token) == 101
        before = held_mib(backend)
        pongs = 0
        for _ in range(count // 100):
            await socket.send(100 * frame(b"x" * 100, PING) + frame(b"the last", PING))
            while (received := await socket.receive()) is not None and received != (PONG, b"the last"):
                pongs += received[0] == PONG
            await socket.send(frame(wire.encode(wire.Ping(1, 2))))  # pings of the WebSocket are no message, and silence ends a connection
        grown = held_mib(backend) - before
    row.record(done=pongs, unit="pongs", refused=None, unknown=None, lost=None, twice=None, grown_mib=round(grown, 1))
    assert pongs > 0
    assert grown <= 8


async def test_a_client_that_reads_none_of_the_web_server_s_own_answers_is_given_up(backend: Backend) -> None:
    """Pings of the WebSocket are answered below the backend, without a bound. Its own ping finds out that nobody reads; the client's pongs,
    which want no answer, keep the connection from being silent."""
    logged = len(backend.log)
    alive = frame(wire.encode(wire.Pong(1, 2, 3, 4)))
    async with RawSocket(backend.sockets, receive_bytes=4096) as socket:
        assert await socket.upgrade(TELEMETRY, await make_source(backend.database, "pinging")) == 101

        async def flood_for_ever() -> None:
            while True:
                await socket.send(100 * frame(b"x" * 100, PING) + alive)
                await asyncio.sleep(0.005)  # or the flood would starve its neighbours on a small machine

        with pytest.raises(ConnectionError):
            await flood_for_ever()
    assert "socket_stuck" in backend.log[logged:]


@pytest.mark.row(31)
async def test_two_hundred_hostile_sockets_without_a_credential_hold_little(backend: Backend, row: Row) -> None:
    sockets = 200
    before = held_mib(backend)
    most = before
    async with contextlib.AsyncExitStack() as stack:
        for k in range(sockets):
            socket = await stack.enter_async_context(RawSocket(backend.sockets))
            asks = socket.request(TELEMETRY if k % 2 else STREAM, None)
            greeting = (
                asks + frame(b"x", length=2**62),
                asks[:-4] + b"\r\nX: " + b"x" * 60_000,
                asks + 2_000 * frame(b"x" * 100, PING),
                asks[:-2],
            )
            with contextlib.suppress(ConnectionError):
                await socket.send(greeting[k % 4])
            most = max(most, held_mib(backend))
        most = max(most, held_mib(backend))
    row.record(done=None, refused=None, unknown=None, lost=None, twice=None, sockets=sockets, grown_mib=round(most - before, 1))
    assert most - before <= 64


@pytest.mark.row(31)
async def test_unfinished_messages_hold_what_four_sockets_may_hold(backend: Backend, row: Row) -> None:
    """The web server gathers a message before the backend sees a byte of it, up to 64 MiB a socket: a longer one is cut off."""
    parts = row.count(quick=8, full=60)
    credential = await make_source(backend.database, "fragmentary")
    before = held_mib(backend)
    async with contextlib.AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(RawSocket(backend.sockets)) for _ in range(4)]
        for socket in sockets:
            assert await socket.upgrade(TELEMETRY, credential) == 101
            for part in range(parts):
                await socket.send(frame(bytes(1 << 20), CONTINUATION if part else BINARY, fin=False))
        held = held_mib(backend) - before
        with contextlib.suppress(ConnectionError):
            for _ in range(70 - parts):
                await sockets[0].send(frame(bytes(1 << 20), CONTINUATION, fin=False))
        assert await sockets[0].end() is None
    row.record(done=None, refused=None, unknown=None, lost=None, twice=None, held_mib=round(held, 1))
    assert held <= 4 * 64 + 64


@pytest.mark.row(31)
async def test_a_long_describe_and_a_long_hello_are_read_in_bounded_memory(backend: Backend, row: Row) -> None:
    """8 MiB of one-byte lists, and a hello of as many channels as there may be."""
    before = held_mib(backend)
    most = before
    schema = msgspec.Raw(b"\x81\xa1x\xdd" + struct.pack(">I", 8_000_000) + b"\x90" * 8_000_000)
    nested = wire.encode(wire.Describe([wire.Instance("a", "b", True, schema, [])]))
    channels = [wire.HelloChannel(k, f"{k}", None, "n", "", "sensor") for k in range(wire.CHANNELS_MAX)]
    async with Source(backend.sockets, await make_source(backend.database, "loquacious")) as source:
        await source.send(nested)
        await source.send(wire.encode(wire.Hello(1, 1, "test", source.stream, 1, channels, 0, 0)))
        waiting = asyncio.create_task(source.expect(wire.Welcome))
        while not waiting.done():
            most = max(most, held_mib(backend))
            await asyncio.wait([waiting], timeout=0.01)
        assert len((await waiting).refused) == wire.CHANNELS_MAX
    row.record(done=None, refused=None, unknown=None, lost=None, twice=None, grown_mib=round(most - before, 1))
    assert most - before <= 128
