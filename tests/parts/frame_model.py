"""The native core's decisions once more, in plain Python over msgspec's decoder: slow, obvious, and written from the protocol's words."""

import math
import struct
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import msgspec
from webmacs_controller import wire

from webmacs import ingest_core

EXACT_MAX = 2**53
CAUSES = get_args(wire.GapCause)
QUALITIES = get_args(wire.QualityCode)


@dataclass(frozen=True)
class No:
    """Refused; channel and position are compared where the code is about one reading."""

    code: str
    channel: int | None = None
    position: int | None = None
    readings: int | None = None
    """of a gap that could be read: what it declares is missing all the same"""


@dataclass
class Yes:
    readings: list[tuple[int, int, float]] = field(default_factory=list)
    """(event, t_us, value)"""
    previews: list[tuple[int, int, float]] = field(default_factory=list)
    gap: tuple[int, int | None, int, int, int, str] | None = None
    """(seq, event or None for all, from_us, to_us, n, cause)"""
    frames: int | None = None
    """of a gap: how many numbers it stands for"""
    quality: tuple[int, int, int, int | None, str] | None = None


class _Malformed(Exception):
    pass


def _need(condition: bool) -> None:
    if not condition:
        raise _Malformed


def _is_int(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_value(value: object) -> bool:
    return type(value) is float or (type(value) is int and abs(value) <= EXACT_MAX)


def judge(frame: bytes, now_us: int, granted: dict[int, int], refused: set[int]) -> Yes | No:
    if len(frame) > ingest_core.FRAME_BYTES_MAX:
        return No("too_large")
    try:
        message = msgspec.msgpack.decode(frame)
        _need(type(message) is list and len(message) > 0 and _is_int(message[0]))
        kind, *fields = message
        if kind == wire.KIND_DATA:
            return _data(fields, now_us, granted, refused)
        if kind == wire.KIND_GAP:
            return _gap(fields, now_us, granted, refused)
        if kind == wire.KIND_QUALITY:
            return _quality(fields, now_us, granted, refused)
        _need(kind == wire.KIND_PREVIEW)
        return _preview(fields, now_us, granted, refused)
    except (_Malformed, msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, ValueError):
        return No("malformed")


def _data(fields: list[Any], now_us: int, granted: dict[int, int], refused: set[int]) -> Yes | No:
    _need(len(fields) == 3)
    seq, sent_us, columns = fields
    _need(_is_int(seq) and seq >= 1 and _is_int(sent_us) and type(columns) is list)
    unpacked = [_column(column) for column in columns]
    if len(unpacked) > ingest_core.CHANNELS_MAX or sum(len(values) for _, _, values in unpacked) > ingest_core.FRAME_READINGS_MAX:
        return No("too_large")
    verdict = Yes()
    met = set()
    for channel, times, values in unpacked:
        no = _channel(channel, granted, refused)
        if no:
            return no
        if channel in met:
            return No("malformed")
        met.add(channel)
        if len(times) != len(values):
            return No("lengths_differ", channel)
        for position in range(1, len(times)):
            if times[position] <= times[position - 1]:
                return No("not_increasing", channel, position)
        for position, t_us in enumerate(times):
            if not now_us - ingest_core.PAST_US_MAX <= t_us <= now_us + ingest_core.FUTURE_US_MAX:
                return No("out_of_bounds", channel, position)
        for position, value in enumerate(values):
            if not math.isfinite(value):
                return No("not_finite", channel, position)
        verdict.readings += [(granted[channel], t_us, value) for t_us, value in zip(times, values, strict=True)]
    return verdict


def _column(column: Any) -> tuple[int, list[int], list[float]]:
    _need(type(column) is list and len(column) == 4)
    channel, t0_us, times, values = column
    _need(_is_int(channel) and _is_int(t0_us))
    if type(values) is bytes:
        _need(len(values) % 8 == 0)
        numbers = list(struct.unpack(f"<{len(values) // 8}d", values))
    else:
        _need(type(values) is list and all(map(_is_value, values)))
        numbers = [float(value) for value in values]
    if type(times) is bytes:
        _need(len(times) % 4 == 0 and (len(times) > 0 or len(numbers) > 0))
        instants = [t0_us + offset for offset in struct.unpack(f"<{len(times) // 4}i", times)]
    else:
        _need(_is_int(times) and times > 0 and len(numbers) > 0)
        instants = [t0_us + k * times for k in range(len(numbers))]
    return channel, instants, numbers


def _channel(channel: int, granted: dict[int, int], refused: set[int], position: int | None = None) -> No | None:
    if channel in granted:
        return None
    return No("not_granted" if channel in refused else "unknown_channel", channel, position)


def _interval(channel: int | None, from_us: int, to_us: int | None, now_us: int) -> No | None:
    if to_us is not None and to_us < from_us:
        return No("malformed")
    if from_us < 0 or max(from_us, to_us or from_us) > now_us + ingest_core.FUTURE_US_MAX:
        return No("out_of_bounds", channel)
    return None


def _gap(fields: list[Any], now_us: int, granted: dict[int, int], refused: set[int]) -> Yes | No:
    _need(len(fields) == 7)
    seq, channel, from_us, to_us, n, cause, frames = fields
    _need(_is_int(seq) and seq >= 1 and (channel is None or _is_int(channel)))
    _need(_is_int(from_us) and _is_int(to_us) and _is_int(n) and cause in CAUSES and _is_int(frames))
    no = _channel(channel, granted, refused) if channel is not None else None
    no = no or _interval(channel, from_us, to_us, now_us) or (No("malformed") if n < 0 or frames < 1 else None)
    if no:
        return replace(no, readings=max(n, 0))
    return Yes(gap=(seq, granted[channel] if channel is not None else None, from_us, to_us, n, cause), frames=frames)


def _quality(fields: list[Any], now_us: int, granted: dict[int, int], refused: set[int]) -> Yes | No:
    _need(len(fields) == 5)
    seq, channel, from_us, to_us, code = fields
    _need(_is_int(seq) and seq >= 1 and _is_int(channel) and _is_int(from_us))
    _need((to_us is None or _is_int(to_us)) and code in QUALITIES)
    no = _channel(channel, granted, refused) or _interval(channel, from_us, to_us, now_us)
    return no or Yes(quality=(seq, granted[channel], from_us, to_us, code))


def _preview(fields: list[Any], now_us: int, granted: dict[int, int], refused: set[int]) -> Yes | No:
    _need(len(fields) == 1 and type(fields[0]) is list)
    previews: list[Any] = fields[0]
    for preview in previews:
        _need(type(preview) is list and len(preview) == 3)
        channel, t_us, value = preview
        _need(_is_int(channel) and _is_int(t_us) and _is_value(value))
    if len(previews) > ingest_core.FRAME_READINGS_MAX:
        return No("too_large")
    verdict = Yes()
    for position, (channel, t_us, value) in enumerate(previews):
        no = _channel(channel, granted, refused, position)
        if no:
            return no
        if not now_us - ingest_core.PAST_US_MAX <= t_us <= now_us + ingest_core.FUTURE_US_MAX:
            return No("out_of_bounds", channel, position)
        if not math.isfinite(value):
            return No("not_finite", channel, position)
        verdict.previews.append((granted[channel], t_us, float(value)))
    return verdict
