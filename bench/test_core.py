"""The native core alone, on one core: decode, validate, rules, buffers; then drain, and charts from statistics and from payloads.

`make bench SUITE=core` prints them under the name in extra_info: `readings` there by the time of a round, or its ms.
"""

import itertools
import random
import struct
from typing import Any

import pytest
from parts.copying import read_rows, write_payloads, write_stats
from webmacs_controller import wire

from webmacs import ingest_core
from webmacs.ingest_core import Core

NOW = 1_800_000_000_000_000
CHANNELS = 500
Bench = Any
"""pytest-benchmark's fixture; it has no types"""


def make_core(rules: int = 0) -> Core:
    core = Core()
    events = range(1, CHANNELS + 1)
    core.set_events([(event, struct.pack(">QQ", 0, event)) for event in events])
    # two rules an event; their thresholds lie inside of the signal, so that readings must be looked at
    core.set_rules([(rule, rule % CHANNELS + 1, "gt", 20.0 + rule / 1000, None) for rule in range(rules)])
    core.own(1, 1, [(event, None) for event in events], [])
    core.open(1, [(event, event) for event in events], [], None)
    return core


def make_frames(count: int, readings: int, level: float = 0.0) -> list[bytes]:
    """Frames of CHANNELS columns with jittered times at about 1 kHz and values of their own."""
    chance = random.Random(1)
    frames = []
    for seq in range(1, count + 1):
        columns = []
        for channel in range(1, CHANNELS + 1):
            times = struct.pack(f"<{readings}i", *(k * 1000 + chance.randrange(40) for k in range(readings)))
            values = struct.pack(f"<{readings}d", *(level + chance.random() for _ in range(readings)))
            columns.append(wire.Column(channel, NOW + seq * readings * 1000, times, values))
        frames.append(wire.encode(wire.Data(seq, NOW, columns)))
    return frames


def accept_all(core: Core, frames: list[bytes]) -> int:
    return sum(core.accept(1, frame, NOW).readings or 0 for frame in frames)


@pytest.mark.parametrize(("readings", "name"), [(200, "core.decode"), (20, "core.decode_500x20"), (1, "core.decode_500x1")])
def test_decode(benchmark: Bench, readings: int, name: str) -> None:
    benchmark.extra_info["name"] = name
    frames = make_frames(4, readings)
    core = make_core()

    def fresh() -> tuple[tuple[Core, list[bytes]], dict[str, Any]]:
        core.drain()  # as the flush does: buffers begin empty, with the size of the last time expected
        return (core, frames), {}

    benchmark.extra_info["readings"] = len(frames) * CHANNELS * readings
    taken = benchmark.pedantic(accept_all, setup=fresh, rounds=50, warmup_rounds=3)
    assert taken == len(frames) * CHANNELS * readings


@pytest.mark.parametrize(("level", "name"), [(0.0, "core.rules_settled"), (19.5, "core.rules_crossing")])
def test_decode_with_1000_rules(benchmark: Bench, level: float, name: str) -> None:
    benchmark.extra_info["name"] = name
    frames = make_frames(4, 200, level)
    core = make_core(1000)
    generations = itertools.count(2)

    def fresh() -> tuple[tuple[Core, list[bytes]], dict[str, Any]]:
        core.drain()
        # a new tenure, or the same times would be late and no rule would look at them
        core.own(1, next(generations), [(event, None) for event in range(1, CHANNELS + 1)], [])
        return (core, frames), {}

    benchmark.extra_info["readings"] = len(frames) * CHANNELS * 200
    taken = benchmark.pedantic(accept_all, setup=fresh, rounds=30, warmup_rounds=3)
    assert taken == len(frames) * CHANNELS * 200


@pytest.mark.parametrize(("readings", "name"), [(200, "core.drain"), (1, "core.drain_500x1")])
def test_drain(benchmark: Bench, readings: int, name: str) -> None:
    benchmark.extra_info["name"] = name
    frames = make_frames(4, readings)
    core = make_core()

    def filled() -> tuple[tuple[()], dict[str, Any]]:
        accept_all(core, frames)
        return (), {}

    benchmark.extra_info["readings"] = len(frames) * CHANNELS * readings
    drained = benchmark.pedantic(core.drain, setup=filled, rounds=30, warmup_rounds=3)
    assert (drained.runs, drained.readings) == (CHANNELS, len(frames) * CHANNELS * readings)


@pytest.mark.parametrize(("decoded", "name"), [(False, "core.chart_stats"), (True, "core.chart_payloads")])
def test_chart(benchmark: Bench, decoded: bool, name: str) -> None:
    """3.6 million readings, an hour at 1 kHz in runs of 1,000: 1,000 buckets from statistics, 8,000 from every reading."""
    benchmark.extra_info["name"] = name
    core = make_core()
    rows = []
    for second in range(3600):
        values = struct.pack("<1000d", *(float(second + k) for k in range(1000)))
        core.accept(1, wire.encode(wire.Data(second + 1, NOW, [wire.Column(1, NOW + second * 1_000_000, 1000, values)])), NOW)
        drained = core.drain()
        assert drained is not None
        rows += read_rows(drained.segments[0].rows)
    stats = write_stats(rows)
    begin, end = rows[0].created_us, rows[-1].last_us + 1
    points = 8000 if decoded else 1000  # runs are longer than two buckets: everything is decoded
    wanted = ingest_core.Window(stats, begin, end, points, False).wanted
    assert len(wanted) == (len(rows) if decoded else 0)
    payloads = write_payloads(rows, wanted)
    series = benchmark(lambda: ingest_core.Window(stats, begin, end, points, False).series(payloads))
    assert series
