"""Sealing: every reading of the columns is in exactly one frame, within every limit."""

import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webmacs_controller import frame, wire

COLUMN = st.lists(st.integers(1, 5_000_000_000), min_size=0, max_size=30).map(
    lambda steps: [sum(steps[: i + 1]) for i in range(len(steps))]
)


def columns_of(times: dict[int, list[int]]) -> dict[int, frame.Readings]:
    columns = {}
    for channel, times_us in times.items():
        columns[channel] = frame.Readings()
        columns[channel].times_us.extend(times_us)
        columns[channel].values.extend(t_us / 7 for t_us in times_us)
    return columns


def read(sealed: frame.Sealed) -> list[tuple[int, int, float]]:
    data = msgspec.msgpack.decode(sealed.frame, type=wire.Data)
    assert len({column.channel for column in data.columns}) == len(data.columns)
    readings = []
    for column in data.columns:
        assert isinstance(column.values, bytes)
        values = struct.unpack(f"<{len(column.values) // 8}d", column.values)
        if isinstance(column.times, int):
            times = [column.t0_us + i * column.times for i in range(len(values))]
        else:
            times = [column.t0_us + offset for offset in struct.unpack(f"<{len(values)}i", column.times)]
        readings += [(column.channel, t_us, value) for t_us, value in zip(times, values, strict=True)]
    return readings


@settings(deadline=None)
@given(
    times=st.dictionaries(st.integers(1, 300), COLUMN, max_size=6),
    bytes_max=st.sampled_from([110, 200, 1000, wire.FRAME_BYTES_MAX]),
    readings_max=st.sampled_from([1, 7, wire.FRAME_READINGS_MAX]),
    columns_max=st.sampled_from([1, 2, wire.CHANNELS_MAX]),
)
def test_what_is_sealed_is_what_was_sampled(times: dict[int, list[int]], bytes_max: int, readings_max: int, columns_max: int) -> None:
    columns = columns_of(times)
    sealed = list(frame.seal(columns, 1, bytes_max, readings_max, columns_max))
    readings = [reading for one in sealed for reading in read(one)]
    assert readings == [(channel, t_us, t_us / 7) for channel, times_us in times.items() for t_us in times_us]
    for one in sealed:
        inside = read(one)
        assert len(one.frame) <= bytes_max
        assert one.n == len(inside) <= readings_max
        assert len({channel for channel, _, _ in inside}) <= columns_max
        assert (one.from_us, one.to_us) == (min(t for _, t, _ in inside), max(t for _, t, _ in inside))


def test_even_times_travel_as_one_step_and_uneven_ones_as_offsets() -> None:
    columns = columns_of({1: [10, 20, 30], 2: [10, 20, 31], 3: [10]})
    (sealed,) = frame.seal(columns, 0)
    data = msgspec.msgpack.decode(sealed.frame, type=wire.Data)
    assert [column.times for column in data.columns] == [10, struct.pack("<3i", 0, 10, 21), 1]


@pytest.mark.parametrize(("span", "frames"), [(frame.OFFSET_US_MAX, 1), (frame.OFFSET_US_MAX + 1, 2)])
def test_a_column_ends_where_int32_ends(span: int, frames: int) -> None:
    assert len(list(frame.seal(columns_of({1: [5, 6, 5 + span]}), 0))) == frames


def test_a_full_frame_holds_the_most_readings_and_the_next_one_the_rest() -> None:
    columns = columns_of({1: list(range(wire.FRAME_READINGS_MAX + 1))})
    assert [sealed.n for sealed in frame.seal(columns, 0)] == [wire.FRAME_READINGS_MAX, 1]


@given(seq=st.integers(0, 2**63 - 1), other=st.integers(0, 2**63 - 1))
def test_a_number_is_put_in_and_replaced_without_touching_the_rest(seq: int, other: int) -> None:
    for message in (wire.Data(seq, 5, []), wire.Gap(seq, None, 1, 2, 3, "disabled"), wire.Quality(seq, 1, 1, None, "good")):
        assert frame.numbered(wire.encode(message), other) == wire.encode(msgspec.structs.replace(message, seq=other))


@pytest.mark.parametrize("count", [1, 15, 16, 500, 70_000])
@pytest.mark.parametrize("n", [1, 31, 32, 8_191, 8_192])
def test_the_quick_encoder_writes_what_the_plain_one_writes(count: int, n: int) -> None:
    if count * n > 600_000:
        count = 16
    channels = tuple(range(1, count + 1))
    values = [struct.pack("<d", float(channel)) * n for channel in channels]
    for times in (250, struct.pack(f"<{n}i", *range(n))):
        plain = wire.encode(wire.Data(300, 7, [wire.Column(c, 2**50, times, v) for c, v in zip(channels, values, strict=True)]))
        assert frame.encode_data(300, 7, channels, 2**50, times, values) == plain


def test_a_frame_about_refused_channels_only_keeps_its_seq_and_loses_its_content() -> None:
    data = frame.numbered(next(frame.seal(columns_of({1: [1, 2], 2: [3]}), 9)).frame, 5)
    assert frame.without(data, frozenset({3})) == (data, None)
    assert frame.without(data, frozenset({1})) == (
        frame.numbered(next(frame.seal(columns_of({2: [3]}), 9)).frame, 5),
        frame.LeftOut(2, 1, 2),
    )
    for message, expected in (
        (wire.Gap(5, 1, 1, 2, 3, "device_error"), frame.LeftOut(3, 1, 2)),
        (wire.Quality(5, 1, 1, None, "good"), None),
    ):
        kept, left_out = frame.without(wire.encode(message), frozenset({1}))
        assert (msgspec.msgpack.decode(kept, type=wire.Data), left_out) == (wire.Data(5, 1, []), expected)
