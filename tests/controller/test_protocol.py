"""The source's delivery state machine against a model of the backend: whatever is cut, lost or killed, each frame arrives once."""

import struct
from collections import deque
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts.double import LIMITS, Backend
from webmacs_controller import frame, wire
from webmacs_controller.clock import Now
from webmacs_controller.protocol import Delivery, Phase, ProtocolError, Refusal, Refused, Stream

CHANNELS = [wire.HelloChannel(n, f"bench.{n}", None, f"Channel {n}", "", "sensor") for n in (1, 2)]


def a_frame(value: float, channels: Sequence[int] = (1,)) -> bytes:
    columns = {}
    for channel in channels:
        columns[channel] = frame.Readings()
        columns[channel].times_us.append(1_000)
        columns[channel].values.append(value)
    return next(frame.seal(columns, 0)).frame


class Shelf:
    """A backlog of several streams in lists; the last one is live."""

    def __init__(self, *streams: list[bytes]) -> None:
        self.streams = deque((bytes([n]) * 16, frames) for n, frames in enumerate(streams, 1))
        self.done = dict.fromkeys((stream for stream, _ in self.streams), 0)

    def current(self) -> Stream:
        stream, frames = self.streams[0]
        return Stream(stream, len(frames) + 1, CHANNELS, len(self.streams) == 1)

    def frame(self, seq: int) -> tuple[int, bytes] | None:
        frames = self.streams[0][1]
        return (seq, frame.numbered(frames[seq - 1], seq)) if seq <= len(frames) else None

    def welcomed(self, committed_seq: int) -> None:
        self.committed(committed_seq)

    def committed(self, seq: int) -> None:
        stream, frames = self.streams[0]
        assert seq >= self.done[stream]
        self.done[stream] = seq
        if len(self.streams) > 1 and seq == len(frames):
            self.streams.popleft()

    def begin_anew(self) -> None:
        stream, frames = self.streams.popleft()
        if not self.streams:
            self.streams.appendleft((b"anew" * 4, frames[self.done[stream] :]))
            self.done[b"anew" * 4] = 0


def now(s: float = 0.0) -> Now:
    return Now(1_800_000_000_000_000 + int(s * 1e6), 1_000_000 + int(s * 1e6))


def delivery(shelf: Shelf) -> Delivery:
    return Delivery(shelf, [], "test", 1 << 20)


def kinds(messages: Sequence[bytes]) -> list[int]:
    return [message[1] for message in messages]


def exchange(source: Delivery, backend: Backend, at: Now | None = None) -> list[bytes]:
    """Both ends talk until neither has anything to say; what the source said."""
    sent = []
    while (message := source.next_message(at or now())) is not None:
        sent.append(message)
        for answer in backend.take(message):
            source.received(answer, at or now())
    return sent


@settings(deadline=None, max_examples=200)
@given(
    old=st.lists(st.integers(1, 5), max_size=2),
    credit=st.sampled_from([1, 150, 10_000]),
    steps=st.lists(st.sampled_from(["append", "send", "send", "arrive", "arrive", "answer", "answer", "cut", "connect"]), max_size=120),
)
def test_every_frame_arrives_exactly_once_in_order_whatever_is_cut(old: list[int], credit: int, steps: list[str]) -> None:
    count = 0
    streams: list[list[bytes]] = []
    for length in old:
        streams.append([a_frame(float(count + i)) for i in range(length)])
        count += length
    live: list[bytes] = []
    shelf, backend = Shelf(*streams, live), Backend(credit)
    source = delivery(shelf)
    to_backend: deque[bytes] = deque()
    to_source: deque[bytes] = deque()

    def step(name: str) -> None:
        nonlocal count
        if name == "append":
            live.append(a_frame(float(count)))
            count += 1
        elif name == "connect" and source.phase is Phase.OFFLINE:
            source.connected(now())
        elif name == "cut":
            source.disconnected()
            to_backend.clear()
            to_source.clear()
            backend.forget_connection()
        elif name == "send" and (message := source.next_message(now())) is not None:
            to_backend.append(message)
        elif name == "arrive" and to_backend:
            to_source.extend(backend.take(to_backend.popleft()))
        elif name == "answer" and to_source:
            source.received(to_source.popleft(), now())

    for name in steps:
        step(name)
    step("connect")
    for _ in range(20 + 10 * count):
        for name in ("send", "arrive", "answer", "answer"):
            step(name)
    assert source.delivered
    values = [column[3] for frames in backend.stored.values() for _, _, _, columns in frames for column in columns]  # type: ignore[attr-defined]
    assert values == [struct.pack("<d", float(i)) for i in range(count)]


def test_the_order_is_describe_hello_frames_and_nothing_is_sent_before_the_welcome() -> None:
    source = delivery(Shelf([a_frame(1.0)]))
    assert source.next_message(now()) is None
    source.connected(now())
    messages = [source.next_message(now()) for _ in range(3)]
    assert [message and message[1] for message in messages] == [3, 1, None]


def test_the_oldest_stream_is_delivered_first_and_each_is_opened_by_its_own_hello() -> None:
    source, backend = delivery(Shelf([a_frame(1.0)], [a_frame(2.0)], [a_frame(3.0)])), Backend()
    source.connected(now())
    assert kinds(exchange(source, backend)) == [3, 1, 4, 1, 4, 1, 4]
    assert [len(frames) for frames in backend.stored.values()] == [1, 1, 1]
    assert source.delivered


def test_a_later_stream_waits_until_the_one_before_is_acknowledged() -> None:
    source, backend = delivery(Shelf([a_frame(1.0)], [])), Backend()
    backend.acknowledging = False
    source.connected(now())
    assert kinds(exchange(source, backend)) == [3, 1, 4]
    source.received(backend.ack(), now())
    assert kinds(exchange(source, backend)) == [1]


def test_a_stream_of_the_same_length_is_not_delivered_by_the_one_before() -> None:
    source, backend = delivery(Shelf([a_frame(1.0)], [a_frame(2.0)])), Backend()
    backend.acknowledging = False
    source.connected(now())
    exchange(source, backend)
    source.received(backend.ack(), now())
    assert source.next_message(now()) is not None  # the hello of the second
    assert not source.delivered


def test_credit_bounds_what_is_under_way_and_one_frame_is_always_allowed() -> None:
    size = len(frame.numbered(a_frame(0.0), 1))
    for credit, under_way in ((0, 0), (1, 1), (size, 1), (2 * size - 1, 1), (2 * size, 2), (10 * size, 5)):
        source, backend = delivery(Shelf([a_frame(float(i)) for i in range(5)])), Backend(credit)
        backend.acknowledging = False
        source.connected(now())
        assert kinds(exchange(source, backend)).count(4) == under_way, credit


def test_new_credit_lets_waiting_frames_go() -> None:
    source, backend = delivery(Shelf([a_frame(1.0), a_frame(2.0)])), Backend(0)
    source.connected(now())
    assert kinds(exchange(source, backend)) == [3, 1]
    source.received(wire.encode(wire.Credit(1000)), now())
    assert kinds(exchange(source, backend))[0] == 4


def test_a_refused_frame_is_counted_and_its_seq_is_used_up() -> None:
    source, backend = delivery(Shelf([a_frame(1.0), a_frame(2.0)])), Backend()
    backend.refuse_seqs = {1: "not_finite"}
    source.connected(now())
    notices = []
    while (message := source.next_message(now())) is not None:
        notices += [source.received(answer, now()) for answer in backend.take(message)]
    assert [notice.nack.seq for notice in notices if isinstance(notice, Refusal)] == [1]
    assert (source.nacks["not_finite"], source.delivered) == (1, True)


def test_an_acknowledgement_said_twice_does_not_touch_the_next_stream() -> None:
    shelf, backend = Shelf([a_frame(1.0)], [a_frame(2.0)]), Backend()
    source = delivery(shelf)
    source.connected(now())
    while not backend.stored.get(b"\1" * 16):
        for answer in backend.take(source.next_message(now()) or b""):
            source.received(answer, now())
    source.received(wire.encode(wire.Ack(1, 1 << 20)), now())
    exchange(source, backend)
    assert [len(backend.stored[bytes([n]) * 16]) for n in (1, 2)] == [1, 1]


def test_a_stream_whose_numbers_ran_back_goes_on_as_a_new_one() -> None:
    shelf, backend = Shelf([a_frame(1.0), a_frame(2.0)]), Backend()
    backend.stored[b"\1" * 16] = [[wire.KIND_DATA, seq] for seq in (1, 2, 3)]
    source = delivery(shelf)
    source.connected(now())
    assert kinds(exchange(source, backend)) == [3, 1, 1, 4, 4]
    assert (len(backend.stored[b"anew" * 4]), source.delivered) == (2, True)


def test_a_refused_channel_is_left_out_of_frames_and_offered_again_after_ten_seconds() -> None:
    live = [a_frame(1.0, (1, 2)), a_frame(2.0, (2,))]
    source, backend = delivery(Shelf(live)), Backend()
    backend.refuse_channels = {"bench.2": "it waits for a person"}
    source.connected(now())
    notices = []
    while (message := source.next_message(now())) is not None:
        notices += [source.received(answer, now()) for answer in backend.take(message)]
    assert [notice.channels for notice in notices if isinstance(notice, Refused)] == [[("bench.2", "it waits for a person")]]
    assert [[column[0] for column in data[3]] for data in backend.stored[b"\1" * 16]] == [[1], []]  # type: ignore[attr-defined]
    assert (source.live_refused, source.withheld) == (frozenset({2}), frame.LeftOut(2, 1_000, 1_000))
    assert exchange(source, backend, now(4.9)) == []
    backend.refuse_channels = {}
    live.append(a_frame(3.0, (1, 2)))
    assert kinds(exchange(source, backend, now(10))) == [3, 1, 4, 11]
    assert source.live_refused == frozenset()


def test_what_a_frame_went_without_counts_once_however_often_it_is_sent() -> None:
    live = [a_frame(float(n), (1, 2)) for n in range(3)]
    source, backend = delivery(Shelf(live)), Backend()
    backend.refuse_channels = {"bench.2": "it waits for a person"}
    backend.acknowledging = False
    source.connected(now())
    for _ in range(2):  # describe and hello arrive, the frames do not
        message = source.next_message(now())
        assert message is not None
        for answer in backend.take(message):
            source.received(answer, now())
    while source.next_message(now()) is not None:
        pass
    for counted in (None, frame.LeftOut(3, 1_000, 1_000), frame.LeftOut(3, 1_000, 1_000)):
        backend.forget_connection()
        source.disconnected()
        source.connected(now())
        exchange(source, backend)  # the acknowledgements are lost: only the next welcome tells what is stored
        assert source.withheld == counted


def test_an_offer_waits_until_nothing_is_unacknowledged() -> None:
    live = [a_frame(1.0)]
    source, backend = delivery(Shelf(live)), Backend()
    backend.refuse_channels = {"bench.2": "no"}
    backend.acknowledging = False
    source.connected(now())
    exchange(source, backend)
    live.append(a_frame(2.0))
    assert kinds(exchange(source, backend, now(20))) == [11]
    source.received(backend.ack(), now(20))
    assert kinds(exchange(source, backend, now(20)))[:2] == [3, 1]


def test_an_idle_connection_is_pinged_every_five_seconds_and_pings_are_answered() -> None:
    source, backend = delivery(Shelf([])), Backend()
    source.connected(now())
    exchange(source, backend)
    assert exchange(source, backend, now(4.9)) == []
    assert kinds(exchange(source, backend, now(5))) == [11]
    assert exchange(source, backend, now(6)) == []
    assert source.clock_offset_us == 5_000_000 - now(5).wall_us
    source.received(wire.encode(wire.Ping(1, 2)), now(6))
    answer = source.next_message(now(6))
    assert answer is not None
    assert wire.decode_from_source(answer) == wire.Pong(now(6).wall_us, now(6).monotonic_us, 1, 2)


def test_pings_go_out_while_frames_do_so_that_a_backend_that_cannot_store_is_not_taken_for_dead() -> None:
    live: list[bytes] = []
    source, backend = delivery(Shelf(live)), Backend()
    backend.acknowledging = False
    source.connected(now())
    sent = []
    for second in range(12):
        live.append(a_frame(float(second)))
        sent += kinds(exchange(source, backend, now(second)))
    assert sent.count(11) == 2


def test_a_refused_greeting_ends_the_connection() -> None:
    source = delivery(Shelf([]))
    source.connected(now())
    while source.next_message(now()) is not None:
        pass
    with pytest.raises(ProtocolError, match="refused the greeting"):
        source.received(wire.encode(wire.Nack(None, 1, "malformed", None, None, "what?")), now())


@pytest.mark.parametrize(
    "message",
    [
        b"\xc1",
        wire.encode(wire.Ack(2, 0)),
        wire.encode(wire.Welcome(1, bytes(16), 0, 0, [], [], LIMITS, 0, 0, False)),
        wire.encode(wire.Nack(None, 0, "version", None, None, "speak 2")),
        wire.encode(wire.Nack(7, 0, "seq_gap", None, None, "expected 2")),
    ],
    ids=["unreadable", "acknowledges what was not sent", "welcome without hello", "version", "disagreement about seq"],
)
def test_a_backend_that_breaks_the_protocol_ends_the_connection_with_a_sentence(message: bytes) -> None:
    source, backend = delivery(Shelf([a_frame(1.0)])), Backend()
    source.connected(now())
    exchange(source, backend)
    with pytest.raises(ProtocolError, match=r"^The backend .*"):
        source.received(message, now())


class Previewing:
    """A source that makes a frame and asks whether it is behind ten times a second, as the controller does, and a backend."""

    def __init__(self, shelf: Shelf | None = None) -> None:
        self.frames: list[bytes] = []
        self.source = delivery(shelf or Shelf(self.frames))
        self.backend = Backend()
        self.tenths = 0
        self.previews: list[list[list[float]]] = []
        self.source.connected(now())

    def tenth(self, taken: int | None = None) -> bool:
        """A tenth of a second in which the backend commits `taken` of the frames under way (None: all)."""
        self.tenths += 1
        self.frames.append(a_frame(float(self.tenths)))
        behind = self.source.behind(self.at)
        if behind:
            self.source.show({"bench.1": (self.tenths, float(self.tenths)), "unknown": (self.tenths, 0.0)})
        if taken is not None:
            self.backend.acknowledging = False
        while (message := self.source.next_message(self.at)) is not None:
            if message[1] == wire.KIND_PREVIEW:
                self.previews.append(msgspec.msgpack.decode(message)[1])
                continue
            for answer in self.backend.take(message):
                self.source.received(answer, self.at)
        if taken:
            committed = min(self.source._committed_seq + taken, self.source._next_seq - 1)
            self.source.received(wire.encode(wire.Ack(committed, 1 << 20)), self.at)
        return behind

    @property
    def at(self) -> Now:
        return Now(1_800_000_000_000_000 + self.tenths * 100_000, self.tenths * 100_000)


def test_a_source_is_behind_a_second_after_nothing_is_acknowledged_any_more() -> None:
    test = Previewing()
    assert not any(test.tenth() for _ in range(30))
    assert [test.tenth(0) for _ in range(20)] == [False] * 10 + [True] * 10
    assert test.previews == [[[1, tenth, float(tenth)]] for tenth in range(41, 51)]


def test_while_a_backlog_drains_a_source_is_behind_until_a_frame_comes_through_in_time() -> None:
    test = Previewing()
    for _ in range(100):
        test.tenth(0)
    draining = [test.tenth(3) for _ in range(100)]
    waiting = 100 - 3 * draining.index(False) + draining.index(False)
    assert 0 <= waiting <= 12, "frames that were waiting when the previews ended"
    assert draining == sorted(draining, reverse=True), "once it has caught up it is behind no more"
    assert not test.source._previews


def test_a_late_call_alone_is_no_backlog() -> None:
    """As on a machine that was busy for two seconds."""
    test = Previewing()
    test.tenth()
    test.tenths += 20
    assert not test.tenth()


def test_a_source_that_drains_what_a_dead_process_left_shows_its_present_under_the_numbers_of_that_greeting() -> None:
    old = Stream(b"o" * 16, 2, [wire.HelloChannel(7, "bench.1", None, "Channel 1", "", "sensor")], False)
    live = Stream(b"l" * 16, 1, CHANNELS, True)
    streams = deque([old, live])

    class Two(Shelf):
        def current(self) -> Stream:
            return streams[0]

        def frame(self, seq: int) -> tuple[int, bytes] | None:
            return (seq, frame.numbered(a_frame(1.0), seq)) if seq < streams[0].next_seq else None

        def committed(self, seq: int) -> None:
            pass

    source, backend = delivery(Two([])), Backend()
    backend.acknowledging = False
    source.connected(now())
    exchange(source, backend)
    assert not source.behind(now())
    assert source.behind(now(1.0))
    source.show({"bench.1": (5, 5.0), "bench.2": (5, 6.0)})
    message = source.next_message(now(1.0))
    assert message is not None
    assert msgspec.msgpack.decode(message) == [wire.KIND_PREVIEW, [[7, 5, 5.0]]]


def test_previews_need_no_credit_and_one_for_each_channel_waits_at_most() -> None:
    source, backend = delivery(Shelf([a_frame(1.0), a_frame(2.0)])), Backend()
    source.connected(now())
    source.show({"bench.1": (1, 1.0)})
    assert kinds(exchange(source, backend)) == [3, 1, 4, 4], "what was shown before the welcome is forgotten"
    source.received(wire.encode(wire.Credit(0)), now())
    for t_us in range(100):
        source.show({"bench.1": (t_us, 1.0)})
    source.show({"bench.2": (7, 2.0)})
    message = source.next_message(now())
    assert message is not None
    assert msgspec.msgpack.decode(message) == [wire.KIND_PREVIEW, [[1, 99, 1.0], [2, 7, 2.0]]]
    assert source.next_message(now()) is None


def test_channels_that_the_backend_refuses_are_not_shown() -> None:
    source, backend = delivery(Shelf([a_frame(1.0)])), Backend()
    backend.refuse_channels = {"bench.2": "somebody else writes it"}
    source.connected(now())
    exchange(source, backend)
    source.show({"bench.2": (1, 1.0)})
    assert source.next_message(now()) is None


def test_a_stream_that_counts_from_1_again_does_not_keep_a_source_behind() -> None:
    shelf = Shelf(frames := [a_frame(float(n)) for n in range(50)])
    source, backend = delivery(shelf), Backend()
    assert not source.behind(now())
    del frames[10:]
    source.connected(now())
    exchange(source, backend)
    assert source.delivered
    assert not source.behind(now(2.0))
    assert not source.behind(now(2.1))
