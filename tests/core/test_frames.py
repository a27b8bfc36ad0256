"""Every frame kind: the core decides as the plain model does, takes what it accepts and nothing of what it refuses."""

import math
import struct
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts.frame_check import GRANTED, NOW, check, core
from webmacs_controller import wire

from webmacs import ingest_core
from webmacs.ingest_core import Accepted, Core, Refused

EVERY = settings(max_examples=500, deadline=None)


def offsets(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)


def column(channel: int = 1, t0_us: int = NOW, times: bytes | int = 1000, values: Any = (1.0,)) -> wire.Column:
    return wire.Column(channel, t0_us, times, values if isinstance(values, bytes) else list(values))


def data(*columns: wire.Column, seq: int = 1) -> bytes:
    return wire.encode(wire.Data(seq, NOW, list(columns)))


def offer(frame: bytes) -> tuple[Accepted | Refused, ingest_core.Segment | None]:
    made = core()
    verdict = made.accept(9, frame, NOW)
    drained = made.drain()
    assert drained is None or len(drained.segments) == 1
    return verdict, drained.segments[0] if drained else None


channels = st.sampled_from([*GRANTED, 1, 2, 3, 4, 6, -1])
instants = st.one_of(
    st.just(NOW),
    st.integers(NOW - ingest_core.PAST_US_MAX - 3, NOW - ingest_core.PAST_US_MAX + 3),
    st.integers(NOW + ingest_core.FUTURE_US_MAX - 3, NOW + ingest_core.FUTURE_US_MAX + 3),
    st.integers(-(2**63), 2**63 - 1),
)
near = st.one_of(st.just(NOW), st.integers(NOW - 10**9, NOW + 10**9))
finite = st.floats(allow_nan=False, allow_infinity=False)
whole = st.integers(-(2**53) - 1, 2**53 + 1)


@st.composite
def columns(draw: st.DrawFn) -> wire.Column:
    n = draw(st.integers(1, 6))
    good = draw(st.integers(0, 9)) > 0
    packed = [draw(finite if good else st.floats()) for _ in range(n)]
    values: Any = floats(*packed) if draw(st.booleans()) else [*packed[:-1], draw(st.one_of(finite, whole))]
    if draw(st.integers(0, 9)) == 0:
        values = values[:-1]
    times: bytes | int
    if draw(st.booleans()):
        steps = sorted(draw(st.lists(st.integers(-100, 100), min_size=n, max_size=n, unique=True)))
        if draw(st.integers(0, 9)) == 0:
            steps.reverse()
        times = offsets(*steps)
    else:
        times = draw(st.one_of(st.integers(1, 1000), st.integers(-1, 2**63 - 1)) if not good else st.integers(1, 1000))
    return wire.Column(draw(channels), draw(near if good else instants), times, values)


distinct = st.lists(columns(), max_size=4, unique_by=lambda made: made.channel)
frames = st.one_of(
    st.builds(wire.Data, st.integers(0, 2**63 - 1), instants, st.one_of(distinct, st.lists(columns(), max_size=4))),
    st.builds(
        wire.Gap,
        st.integers(0, 2**64 - 1),
        st.one_of(st.none(), channels),
        st.one_of(near, instants),
        st.one_of(near, instants),
        st.integers(-1, 2**63),
        st.sampled_from([*get_args(wire.GapCause), "nonsense"]),
        st.one_of(st.just(1), st.integers(-1, 2**63)),
    ),
    st.builds(
        wire.Quality,
        st.integers(1, 99),
        channels,
        st.one_of(near, instants),
        st.one_of(st.none(), near, instants),
        st.sampled_from([*get_args(wire.QualityCode), "wrong"]),
    ),
    st.builds(wire.Preview, st.lists(st.tuples(channels, st.one_of(near, near, instants), st.one_of(finite, st.floats())), max_size=5)),
)


@EVERY
@given(frames)
def test_a_frame_is_decided_as_the_model_decides(message: Any) -> None:
    check(wire.encode(message))


@EVERY
@given(frames, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255), st.sampled_from("rdi")), min_size=1, max_size=4))
def test_a_damaged_frame_is_decided_as_the_model_decides(message: Any, damage: list[tuple[int, int, str]]) -> None:
    frame = bytearray(wire.encode(message))
    for place, byte, how in damage:
        at = place % max(len(frame), 1)
        frame[at : at + (how != "i")] = b"" if how == "d" else bytes([byte])
    check(bytes(frame))


@EVERY
@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_decided_as_the_model_decides(frame: bytes) -> None:
    check(frame)


@pytest.mark.parametrize(
    ("frame", "code", "channel", "position", "readings"),
    [
        (b"", "malformed", None, None, None),
        (wire.encode(wire.Ping(1, 2)), "malformed", None, None, None),
        (data(column())[:-1], "malformed", 1, 0, None),
        (data(column()) + b"\x00", "malformed", None, None, None),
        (data(column(), seq=0), "malformed", None, None, None),
        (data(column(times=b"", values=b"")), "malformed", 1, None, None),
        (data(column(times=0)), "malformed", 1, None, None),
        (data(column(values=(1.0, 2**53 + 1))), "malformed", 1, 1, None),
        (data(column(), column()), "malformed", 1, None, 2),
        (data(column(channel=2), column(channel=6)), "unknown_channel", 6, None, 2),
        (data(column(channel=4)), "not_granted", 4, None, 1),
        (data(column(times=offsets(0, 5, 9), values=floats(1, math.nan, 2))), "not_finite", 1, 1, 3),
        (data(column(values=(1.0, math.inf))), "not_finite", 1, 1, 2),
        (data(column(times=offsets(0, 1, 2), values=floats(1, 2))), "lengths_differ", 1, None, 2),
        (data(column(times=offsets(0, 1, 1), values=floats(1, 2, 3))), "not_increasing", 1, 2, 3),
        (data(column(t0_us=NOW - ingest_core.PAST_US_MAX - 1)), "out_of_bounds", 1, 0, 1),
        (data(column(t0_us=NOW + ingest_core.FUTURE_US_MAX, values=(1.0, 2.0))), "out_of_bounds", 1, 1, 2),
        (wire.encode(wire.Gap(3, None, 5, 4, 1, "disabled")), "malformed", None, None, 1),
        (wire.encode(wire.Gap(3, None, 4, 5, 1, "disabled", 0)), "malformed", None, None, 1),
        (wire.encode(wire.Gap(3, 6, 4, 5, 7, "device_error")), "unknown_channel", 6, None, 7),
        (wire.encode(wire.Preview([(1, NOW, 1.0), (6, NOW, 1.0)])), "unknown_channel", 6, 1, 2),
    ],
)
def test_each_refusal_names_code_channel_and_position(
    frame: bytes, code: str, channel: int | None, position: int | None, readings: int | None
) -> None:
    verdict, _ = offer(frame)
    assert isinstance(verdict, Refused)
    assert (verdict.code, verdict.channel, verdict.position, verdict.readings) == (code, channel, position, readings), verdict


def test_the_first_and_the_last_allowed_instant_are_taken() -> None:
    verdict, _ = offer(
        data(column(1, NOW - ingest_core.PAST_US_MAX), column(2, NOW + ingest_core.FUTURE_US_MAX - 1, 1, (1.0, 2.0))),
    )
    assert isinstance(verdict, Accepted)


def test_a_frame_at_each_limit_is_taken_and_one_above_refused() -> None:
    n = ingest_core.FRAME_READINGS_MAX
    packed, at_limit, above = (bytes(8 * k) for k in (1, n, n + 1))
    assert isinstance(offer(data(column(times=1, values=at_limit)))[0], Accepted)
    verdict, segment = offer(data(column(times=1, values=above), seq=6))
    assert isinstance(verdict, Refused)
    assert (verdict.code, verdict.readings) == ("too_large", n + 1)
    assert segment is not None
    assert segment.last_seq == 6

    many = [wire.Column(channel, NOW, 1, packed) for channel in range(ingest_core.CHANNELS_MAX + 1)]
    wide = Core()
    wide.own(1, 1, [(channel + 1, None) for channel in range(len(many))], [])
    wide.open(1, [(channel, channel + 1) for channel in range(len(many))], [], None)
    verdict = wide.accept(1, wire.encode(wire.Data(1, NOW, many[:-1])), NOW)
    assert verdict.readings == ingest_core.CHANNELS_MAX
    refused = wide.accept(1, wire.encode(wire.Data(2, NOW, many)), NOW)
    assert isinstance(refused, Refused)
    assert refused.code == "too_large"

    padded = data(column())
    verdict, segment = offer(padded + bytes(ingest_core.FRAME_BYTES_MAX + 1 - len(padded)))
    assert isinstance(verdict, Refused)
    assert verdict.code == "too_large"
    assert segment is not None
    assert segment.last_seq == 1


def test_peek_reads_kind_and_seq_only() -> None:
    assert ingest_core.peek(data(column(), seq=77)) == (wire.KIND_DATA, 77)
    assert ingest_core.peek(wire.encode(wire.Gap(8, None, 1, 2, 0, "disabled"))) == (wire.KIND_GAP, 8)
    assert ingest_core.peek(wire.encode(wire.Preview([]))) == (wire.KIND_PREVIEW, None)
    assert ingest_core.peek(wire.encode(wire.Ping(1, 2))) == (11, None)
    assert ingest_core.peek(data(column(), seq=5)[:3] + b"garbage") == (wire.KIND_DATA, 5)
    for broken in (b"", b"\x90", b"\x91\x04", b"\x92\xa1x\x01", b"\x94\x04"):
        verdict = ingest_core.peek(broken)
        assert isinstance(verdict, Refused)
        assert verdict.code == "malformed"
