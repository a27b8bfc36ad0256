"""Frames: columns of readings become the bytes that travel, once, and stay those bytes in the spool and on the wire. The sampling
loop seals what the devices gave since the last time; the load generator calls `encode_data` with columns that it prepared.

A frame is sealed without a number (seq 0) and numbered by the spool: seq is the second element of every numbered message, so a
number is put in without decoding anything.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from webmacs_controller import wire

OFFSET_US_MAX: Final = 2**31 - 1
"""The last offset an int32 holds: a column spans at most 35 min."""
COLUMN_OVERHEAD: Final = 40
"""More than the bytes of a column besides its offsets and values: array, channel, t0 and two bin headers are at most 30."""
READING_BYTES: Final = 12

_encode = msgspec.msgpack.Encoder().encode


class Readings:
    """A growing column: times strictly increasing."""

    __slots__ = ("times_us", "values")

    def __init__(self) -> None:
        self.times_us = array("q")
        self.values = array("d")


class Sealed(NamedTuple):
    """A frame without its number, and what the spool must say about it if it is ever lost."""

    frame: bytes
    n: int
    """readings; of a gap those that it says are missing"""
    from_us: int
    to_us: int


def seal(
    columns: Mapping[int, Readings],
    sent_us: int,
    bytes_max: int = wire.FRAME_BYTES_MAX,
    readings_max: int = wire.FRAME_READINGS_MAX,
    columns_max: int = wire.CHANNELS_MAX,
) -> Iterator[Sealed]:
    """Data frames that hold every reading of `columns` (by channel number) in order; as many as the limits demand, none when empty."""
    bytes_max -= COLUMN_OVERHEAD  # the frame's own head
    parts: list[wire.Column] = []
    n, size, from_us, to_us = 0, 0, 0, 0
    for channel, readings in columns.items():
        start, end = 0, len(readings.times_us)
        while start < end:
            if size + COLUMN_OVERHEAD + READING_BYTES > bytes_max or n == readings_max or len(parts) == columns_max:
                yield _sealed(parts, sent_us, n, from_us, to_us)
                parts, n, size = [], 0, 0
            room = min((bytes_max - size - COLUMN_OVERHEAD) // READING_BYTES, readings_max - n)
            times_us = readings.times_us[start : min(end, start + room)]
            if times_us[-1] - times_us[0] > OFFSET_US_MAX:
                times_us = times_us[: _within(times_us)]
            took = len(times_us)
            values = readings.values[start : start + took]
            parts.append(wire.Column(channel, times_us[0], _offsets(times_us), values.tobytes()))
            from_us = min(from_us, times_us[0]) if n else times_us[0]
            to_us = max(to_us, times_us[-1]) if n else times_us[-1]
            n, size, start = n + took, size + COLUMN_OVERHEAD + READING_BYTES * took, start + took
            if start < end:  # a frame holds one column of a channel
                yield _sealed(parts, sent_us, n, from_us, to_us)
                parts, n, size = [], 0, 0
    if n:
        yield _sealed(parts, sent_us, n, from_us, to_us)


def _sealed(parts: list[wire.Column], sent_us: int, n: int, from_us: int, to_us: int) -> Sealed:
    return Sealed(wire.encode(wire.Data(0, sent_us, parts)), n, from_us, to_us)


def _within(times_us: Sequence[int]) -> int:
    """How many of the times an int32 offset from the first one reaches."""
    reach_us = times_us[0] + OFFSET_US_MAX
    return next(i for i, t_us in enumerate(times_us) if t_us > reach_us)


def _offsets(times_us: "array[int]") -> bytes | int:
    """One fixed step when it is exact (a single reading has any), else int32 offsets."""
    t0_us = times_us[0]
    if len(times_us) == 1:
        return 1
    step_us = times_us[1] - t0_us
    if all(later - earlier == step_us for earlier, later in pairwise(times_us)):
        return step_us
    return array("i", [t_us - t0_us for t_us in times_us]).tobytes()


def seal_gap(gap: wire.Gap) -> Sealed:
    return Sealed(wire.encode(gap), gap.n, gap.from_us, gap.to_us)  # if it is lost, what it declared is still missing


def seal_quality(quality: wire.Quality) -> Sealed:
    return Sealed(wire.encode(quality), 0, quality.from_us, quality.from_us)


def numbered(frame: bytes, seq: int) -> bytes:
    """The same frame with another seq."""
    return b"".join((frame[:2], _encode(seq), memoryview(frame)[2 + _integer_length(frame[2]) :]))


def _integer_length(first: int) -> int:
    """Bytes of an unsigned MessagePack integer that begins so."""
    return 1 if first < 0x80 else 1 + (1 << (first - 0xCC))


class LeftOut(NamedTuple):
    """Readings, given or missing, of channels that the backend does not take."""

    n: int
    from_us: int
    to_us: int

    def plus(self, other: "LeftOut | None") -> "LeftOut":
        if other is None:
            return self
        return LeftOut(self.n + other.n, min(self.from_us, other.from_us), max(self.to_us, other.to_us))


def without(frame: bytes, channels: frozenset[int]) -> tuple[bytes, LeftOut | None]:
    """The frame without what it says about these channels, and the readings that were left out. It keeps its seq: a frame about
    nothing else becomes a data frame without columns."""
    decoded = _numbered.decode(frame)
    if isinstance(decoded, wire.Data):
        kept = [column for column in decoded.columns if column.channel not in channels]
        if len(kept) == len(decoded.columns):
            return frame, None
        left_out: LeftOut | None = None
        for column in decoded.columns:
            if column.channel in channels:
                left_out = _left_out(column).plus(left_out)
        return wire.encode(wire.Data(decoded.seq, decoded.sent_us, kept)), left_out
    if decoded.channel not in channels:
        return frame, None
    empty = wire.encode(wire.Data(decoded.seq, decoded.from_us, []))
    return empty, LeftOut(decoded.n, decoded.from_us, decoded.to_us) if isinstance(decoded, wire.Gap) else None


def _left_out(column: wire.Column) -> LeftOut:
    n = len(column.values) // 8 if isinstance(column.values, bytes) else len(column.values)
    times = column.times
    last_us = times * (n - 1) if isinstance(times, int) else int.from_bytes(times[-4:], "little", signed=True)
    return LeftOut(n, column.t0_us, column.t0_us + last_us)


_numbered: msgspec.msgpack.Decoder[wire.Data | wire.Gap | wire.Quality] = msgspec.msgpack.Decoder(wire.Data | wire.Gap | wire.Quality)


def encode_data(seq: int, sent_us: int, channels: tuple[int, ...], t0_us: int, times: bytes | int, values: Sequence[bytes]) -> bytes:
    """A data frame whose columns share their times, at the speed of joining bytes.

    `times`: int32[n] offsets or a fixed step, as in wire.Column; `values`: float64[n] for each of the channels, all of one length.
    The same bytes as wire.encode(wire.Data(...)).
    """
    count = len(channels)
    shared = _encode(t0_us) + _encode(times) + _bin_head(len(values[0]))
    parts: list[bytes] = [shared] * (3 * count)
    parts[0::3] = _column_heads(channels)
    parts[2::3] = values
    return b"".join((_data_head(seq, sent_us, count), *parts))


@lru_cache(maxsize=64)
def _column_heads(channels: tuple[int, ...]) -> list[bytes]:
    return [b"\x94" + _encode(channel) for channel in channels]


def _data_head(seq: int, sent_us: int, columns: int) -> bytes:
    if columns < 16:
        length = bytes((0x90 | columns,))
    elif columns < 1 << 16:
        length = b"\xdc" + columns.to_bytes(2, "big")
    else:
        length = b"\xdd" + columns.to_bytes(4, "big")
    return b"".join((b"\x94\x04", _encode(seq), _encode(sent_us), length))


def _bin_head(length: int) -> bytes:
    if length < 1 << 8:
        return b"\xc4" + length.to_bytes(1, "big")
    if length < 1 << 16:
        return b"\xc5" + length.to_bytes(2, "big")
    return b"\xc6" + length.to_bytes(4, "big")
