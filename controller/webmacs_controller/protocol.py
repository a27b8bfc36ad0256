"""The source's half of delivery as a state machine: no socket, no clock, no chance. The link feeds it what happened (connected,
received, disconnected) and asks `next_message` what to send until it says None; a simulator does the same.

Order on a connection: describe, hello, then after the welcome the frames from committed + 1 on. The oldest stream that still has
something goes first; the next one is opened by another hello on the same connection, once nothing is unacknowledged.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple, Protocol

import msgspec

from webmacs_controller import frame, wire
from webmacs_controller.clock import Now

PING_US: Final = 5_000_000
REFUSED_RETRY_US: Final = 10_000_000
"""Channels that the backend refused are offered again this often; a person may have granted them meanwhile."""
BEHIND_US: Final = 1_000_000
"""A frame that is not stored this long after it was made means that the dashboards show the past: previews show them the present."""


class Stream(NamedTuple):
    id: bytes
    next_seq: int
    channels: Sequence[wire.HelloChannel]
    live: bool
    """It still grows; the others are what dead processes left."""


class Backlog(Protocol):
    """What waits to be delivered: the spool, or a plain model of it."""

    def current(self) -> Stream:
        """The oldest stream that is not delivered, at last the live one."""

    def frame(self, seq: int) -> tuple[int, bytes] | None:
        """The current stream's frame and the number it carries; None when it is not made yet. From now on it may be stored at the other
        end. A gap stands for all frames from `seq` to the number it carries."""

    def welcomed(self, committed_seq: int) -> None:
        """Of the current stream exactly this much is stored at the other end, and nothing is under way."""

    def committed(self, seq: int) -> None:
        """Everything of the current stream up to here is stored and may be forgotten."""

    def begin_anew(self) -> None:
        """The current stream's numbers are used up: the live one goes on under a new id, from 1, with all that is left; another is stored
        whole and forgotten."""


class ProtocolError(Exception):
    """The other end said what it must not say, or cannot talk to us. The connection is closed and tried again."""


class Refusal(NamedTuple):
    """A frame that the backend refused, for the log. Its seq is consumed."""

    nack: wire.Nack


class Refused(NamedTuple):
    """The channels of the current stream that the backend does not take, for the log: (key, reason)."""

    channels: list[tuple[str, str]]


Notice = Refusal | Refused


class Phase(Enum):
    OFFLINE = "offline"
    DESCRIBE = "describe"
    HELLO = "hello"
    WELCOME = "welcome"
    STREAM = "stream"


class Delivery:
    """`window_bytes` bounds what is unacknowledged besides the backend's credit: frames under way cannot be dropped by a full spool."""

    def __init__(self, backlog: Backlog, instances: Sequence[wire.Instance], software: str, window_bytes: int) -> None:
        self._backlog = backlog
        self._describe = wire.encode(wire.Describe(list(instances)))
        self._software = software
        self._window_bytes = window_bytes
        self._stream = backlog.current()
        self._phase = Phase.OFFLINE
        self._next_seq = 1
        self._committed_seq = 0
        self._unacknowledged: deque[tuple[int, int]] = deque()  # (seq, bytes)
        self._unacknowledged_bytes = 0
        self._credit_bytes = 0
        self._waiting: tuple[int, bytes] | None = None  # the next frame, while credit is too short for it
        self._refused: frozenset[int] = frozenset()
        self._numbers: dict[str, int] = {}  # of the channels that may be shown on this connection, by their keys
        self._previews: dict[str, tuple[int, float]] = {}
        self._followed_seq = 0  # this frame of the live stream, made at ...
        self._followed_us: int | None = None  # ... is watched until it is stored
        self._behind = False
        self._greeted_us = 0
        self._pinged_us = 0
        self._pong: wire.Pong | None = None
        self._best_round_trip_us = 0
        self.live_refused: frozenset[int] = frozenset()
        """Numbers of the live stream's channels that the backend does not take at present: they are not put into frames."""
        self.clock_offset_us: int | None = None
        """The backend's clock less ours, from the quickest ping of this connection."""
        self.nacks: Counter[str] = Counter()
        self.withheld: frame.LeftOut | None = None
        """Readings that were spooled before their channel was refused: the frames that held them went without them and are stored.
        Whoever declares them as a gap takes them away from here."""
        self._leaving_out: dict[int, frame.LeftOut] = {}  # by seq of frames that are not acknowledged

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def undeclared(self) -> frame.LeftOut | None:
        """`withheld` and what frames under way went without: the backend may have stored them."""
        left_out = self.withheld
        for one in self._leaving_out.values():
            left_out = one.plus(left_out)
        return left_out

    @property
    def delivered(self) -> bool:
        """Everything made so far is stored."""
        stream = self._backlog.current()
        return stream.live and stream.id == self._stream.id and self._committed_seq + 1 == stream.next_seq

    def connected(self, now: Now) -> None:
        self._forget_connection()
        self._phase = Phase.DESCRIBE
        self._pinged_us = now.monotonic_us

    def disconnected(self) -> None:
        self._forget_connection()

    def _forget_connection(self) -> None:
        self._phase = Phase.OFFLINE
        self._unacknowledged.clear()
        self._unacknowledged_bytes = self._credit_bytes = 0
        self._waiting = None
        self._pong = None
        self._previews.clear()
        self.clock_offset_us = None

    # previews

    def behind(self, now: Now) -> bool:
        """Whether what is sampled now is stored BEHIND_US later or not at all: nothing can be stored, or an old backlog comes first.

        Asked about ten times a second. One frame is followed until it is stored, then the newest of that moment; a backlog that drains
        is behind until a frame has come through in time.
        """
        stream = self._backlog.current()
        newest_seq = stream.next_seq - 1 if stream.live else 0
        if self._followed_us is None:
            self._followed_seq, self._followed_us = newest_seq, now.monotonic_us
        self._followed_seq = min(self._followed_seq, newest_seq)  # a stream begun anew counts from 1 again
        late = now.monotonic_us - self._followed_us >= BEHIND_US
        greeted = self._phase is Phase.STREAM and stream.live and stream.id == self._stream.id
        if greeted and self._followed_seq <= self._committed_seq:
            self._behind = self._behind and late
            self._followed_seq, self._followed_us = newest_seq, now.monotonic_us
        elif late:
            self._behind = True
        return self._behind

    def show(self, newest: Mapping[str, tuple[int, float]]) -> None:
        """The newest readings (time, value) by channel key go out as a preview, ahead of the next frame and without credit. One reading of
        each channel waits at most: a newer one takes its place. Without a connection they are forgotten."""
        if self._phase is Phase.STREAM:
            self._previews.update(newest)

    def _next_preview(self) -> bytes | None:
        """Numbered as in the greeting of this connection: an old stream that drains may have called its channels otherwise."""
        numbers = self._numbers
        readings = [(numbers[key], t_us, value) for key, (t_us, value) in self._previews.items() if key in numbers]
        self._previews.clear()
        return wire.encode(wire.Preview(readings)) if readings else None

    # what to send

    def next_message(self, now: Now) -> bytes | None:
        """The next message for the socket, which is then sent; None when there is nothing to send at present."""
        if self._phase is Phase.OFFLINE:
            return None
        if self._phase is Phase.STREAM and not self._unacknowledged:
            if self._backlog.current().id != self._stream.id:
                self._phase = Phase.HELLO
            elif self._offers_again(now):
                self._phase = Phase.DESCRIBE
        if self._phase is Phase.DESCRIBE:
            self._phase = Phase.HELLO
            return self._describe
        if self._phase is Phase.HELLO:
            return self._hello(now)
        if self._pong is not None:
            pong, self._pong = self._pong, None
            return wire.encode(pong)
        if self._phase is Phase.STREAM and (message := self._next_preview()) is not None:
            return message
        if self._phase is Phase.STREAM and not self._offers_again(now) and (message := self._next_frame()) is not None:
            return message
        if now.monotonic_us - self._pinged_us >= PING_US:  # also while frames go out: a backend that cannot store says nothing else
            self._pinged_us = now.monotonic_us
            return wire.encode(wire.Ping(now.wall_us, now.monotonic_us))
        return None

    def _offers_again(self, now: Now) -> bool:
        return bool(self._refused) and now.monotonic_us - self._greeted_us >= REFUSED_RETRY_US

    def _hello(self, now: Now) -> bytes:
        self._stream = self._backlog.current()
        self._committed_seq = 0  # of this stream nothing is known yet
        self._phase = Phase.WELCOME
        self._greeted_us = now.monotonic_us
        self._waiting = None
        stream = self._stream
        return wire.encode(
            wire.Hello(
                wire.PROTOCOL_VERSION,
                wire.PROTOCOL_VERSION,
                self._software,
                stream.id,
                stream.next_seq,
                list(stream.channels),
                now.wall_us,
                now.monotonic_us,
            )
        )

    def _next_frame(self) -> bytes | None:
        if self._credit_bytes == 0:
            return None
        if self._waiting is None:
            found = self._backlog.frame(self._next_seq)
            if found is None:
                return None
            seq, message = found
            if self._refused:
                message, left_out = frame.without(message, self._refused)
                if left_out is not None:
                    self._leaving_out[seq] = left_out
            self._waiting = seq, message
        seq, message = self._waiting
        size = len(message)
        if self._unacknowledged and self._unacknowledged_bytes + size > min(self._credit_bytes, self._window_bytes):
            return None
        self._waiting = None
        self._unacknowledged.append((seq, size))
        self._unacknowledged_bytes += size
        self._next_seq = seq + 1
        return message

    # what came

    def received(self, message: bytes, now: Now) -> Notice | None:
        """Raises ProtocolError; the link then closes the connection."""
        try:
            decoded = wire.decode_from_backend(message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"The backend sent a message that cannot be read: {error}.") from error
        match decoded:
            case wire.Welcome():
                return self._welcomed(decoded)
            case wire.Ack():
                self._credit_bytes = decoded.credit_bytes
                self._acknowledged(decoded.committed_seq)
            case wire.Nack():
                return self._nacked(decoded)
            case wire.Credit():
                self._credit_bytes = decoded.credit_bytes
            case wire.Ping():
                self._pong = wire.Pong(now.wall_us, now.monotonic_us, decoded.wall_us, decoded.monotonic_us)
            case wire.Pong():
                self._measured(decoded, now)
        return None

    def _welcomed(self, welcome: wire.Welcome) -> Notice | None:
        if self._phase is not Phase.WELCOME or welcome.stream != self._stream.id:
            raise ProtocolError("The backend sent a welcome that answers no hello.")
        if welcome.version != wire.PROTOCOL_VERSION:
            raise ProtocolError(f"The backend speaks version {welcome.version} of the protocol, this controller {wire.PROTOCOL_VERSION}.")
        if welcome.new_stream or welcome.committed_seq >= self._stream.next_seq:
            self._backlog.begin_anew()
            self._leaving_out.clear()
            self._phase = Phase.HELLO
            return None
        self._backlog.welcomed(welcome.committed_seq)
        self._withhold(welcome.committed_seq)
        self._leaving_out.clear()  # the rest is sent again, with what is taken now
        self._committed_seq = welcome.committed_seq
        self._next_seq = welcome.committed_seq + 1
        self._credit_bytes = welcome.credit_bytes
        self._phase = Phase.STREAM
        self._refused = frozenset(number for number, _ in welcome.refused)
        self._numbers = {channel.key: channel.number for channel in self._stream.channels if channel.number not in self._refused}
        if self._stream.live:
            self.live_refused = self._refused
        if not welcome.refused:
            return None
        keys = {channel.number: channel.key for channel in self._stream.channels}
        return Refused([(keys.get(number, str(number)), reason) for number, reason in welcome.refused])

    def _acknowledged(self, committed_seq: int) -> None:
        if self._phase is not Phase.STREAM or committed_seq <= self._committed_seq:
            return  # one that was under way while a hello was, or was said before: the backlog may have gone on to the next stream
        if committed_seq >= self._next_seq:
            raise ProtocolError(f"The backend acknowledged frame {committed_seq}, but the last one sent is {self._next_seq - 1}.")
        while self._unacknowledged and self._unacknowledged[0][0] <= committed_seq:
            self._unacknowledged_bytes -= self._unacknowledged.popleft()[1]
        self._committed_seq = committed_seq
        self._withhold(committed_seq)
        self._backlog.committed(committed_seq)

    def _withhold(self, committed_seq: int) -> None:
        while self._leaving_out and (seq := next(iter(self._leaving_out))) <= committed_seq:
            self.withheld = self._leaving_out.pop(seq).plus(self.withheld)

    def _nacked(self, nack: wire.Nack) -> Notice:
        self.nacks[nack.code] += 1
        if nack.code == "version":
            raise ProtocolError(f"The backend does not speak version {wire.PROTOCOL_VERSION} of the protocol: {nack.detail}")
        if self._phase is Phase.WELCOME:  # nothing else is under way
            raise ProtocolError(f"The backend refused the greeting ({nack.code}): {nack.detail}")
        if nack.code == "seq_gap":  # the two ends disagree about where they are: a new welcome settles it
            raise ProtocolError(f"The backend misses frames before {nack.seq}: {nack.detail}")
        return Refusal(nack)

    def _measured(self, pong: wire.Pong, now: Now) -> None:
        round_trip_us = now.monotonic_us - pong.echoed_monotonic_us
        if round_trip_us < 0:
            return
        if self.clock_offset_us is None or round_trip_us <= self._best_round_trip_us:
            self._best_round_trip_us = round_trip_us
            self.clock_offset_us = pong.wall_us - (pong.echoed_wall_us + round_trip_us // 2)
