"""Charts against a plain model, whatever was written in whatever order."""

import json
import struct
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts.copying import Row, read_rows, write_payloads, write_stats
from webmacs_controller import wire

from webmacs import ingest_core
from webmacs.ingest_core import Accepted, Core, CoreError, CorruptPayload, Window

T0 = 1_800_000_000_000_000

frames = st.lists(
    st.tuples(st.integers(0, 900), st.integers(1, 40), st.lists(st.integers(-9, 9), min_size=1, max_size=9)), min_size=1, max_size=20
)


def write(made: list[tuple[int, int, list[int]]], drains: set[int]) -> list[Row]:
    """Rows of frames (µs after T0, step, values) that were drained after the frames in `drains`."""
    core = Core()
    core.own(1, 1, [(1, None)], [])
    core.open(1, [(1, 1)], [], None)
    rows: list[Row] = []
    for k, (after, step, values) in enumerate(made):
        frame = wire.encode(wire.Data(k + 1, T0, [wire.Column(1, T0 + after, step, [float(value) for value in values])]))
        assert isinstance(core.accept(1, frame, T0), Accepted)
        if k in drains or k == len(made) - 1:
            drained = core.drain()
            assert drained is not None
            rows += read_rows(drained.segments[0].rows)
    return rows


def series(rows: list[Row], window: Window) -> list[dict[str, float]]:
    columns = json.loads(window.series(write_payloads(rows, window.wanted) if window.wanted else b""))
    assert list(columns) == ["t0", "t1", "min", "max", "avg", "last", "n"]
    return [dict(zip(columns, bucket, strict=True)) for bucket in zip(*columns.values(), strict=True)]


@settings(max_examples=400, deadline=None)
@given(frames, st.sets(st.integers(0, 20)), st.integers(-50, 900), st.integers(1, 1500), st.integers(1, 50), st.booleans(), st.booleans())
def test_a_chart_counts_every_reading_of_its_window_once(
    made: list[tuple[int, int, list[int]]], drains: set[int], start: int, length: int, max_points: int, grid: bool, ordered: bool
) -> None:
    rows = write(sorted(made) if ordered else made, drains)
    begin, end = T0 + start, T0 + start + length
    model: dict[int, float] = {}
    for row in rows:
        model |= row.readings()
    inside = [(t_us, model[t_us]) for t_us in sorted(model) if begin <= t_us < end]
    buckets = series(rows, Window(write_stats(rows), begin, end, max_points, grid))
    assert len(buckets) <= max_points
    assert sum(bucket["n"] for bucket in buckets) == len(inside)
    before = -1
    for bucket in buckets:
        own, inside = inside[: int(bucket["n"])], inside[int(bucket["n"]) :]
        values = [value for _, value in own]
        assert bucket == {
            "t0": own[0][0],
            "t1": own[-1][0],
            "min": min(values),
            "max": max(values),
            "avg": sum(values) / len(values),
            "last": values[-1],
            "n": len(values),
        }
        place = (own[0][0] - begin) // Fraction(length, max_points)
        assert place > before
        before = place
        if grid:
            assert (own[-1][0] - begin) // Fraction(length, max_points) == place


def test_runs_that_an_overwriting_one_touches_are_wanted_and_merged() -> None:
    rows = write([(0, 10, [1, 1, 1]), (100, 10, [2, 2, 2]), (110, 1, [9])], {0, 1, 2})
    assert [row.overlapping for row in rows] == [False, False, True]
    window = Window(write_stats(rows), T0, T0 + 1000, 10, False)
    assert window.wanted == [(T0 + 100, 1), (T0 + 110, 2)]
    first, second = series(rows, window)
    assert (first["n"], first["avg"]) == (3, 1.0)
    assert (second["n"], second["max"], second["avg"], second["last"]) == (3, 9.0, 13 / 3, 2.0)


def test_an_empty_window_is_an_empty_chart() -> None:
    window = Window(write_stats([]), T0, T0 + 1, 10, False)
    assert window.wanted == []
    assert series([], window) == []


def test_a_window_of_no_length_and_a_foreign_text_are_errors() -> None:
    with pytest.raises(CoreError):
        Window(write_stats([]), T0, T0, 10, False)
    with pytest.raises(CorruptPayload):
        Window(b"", T0, T0 + 1, 10, False)


def test_a_payload_that_cannot_be_read_is_named() -> None:
    rows = write([(0, 10, [1, 2, 3])], set())
    window = Window(write_stats(rows), T0 + 5, T0 + 1000, 10, False)
    with pytest.raises(CorruptPayload, match=f"run 0 of {T0}"):
        window.series(b"")


def test_a_run_decodes_to_columns_of_its_readings() -> None:
    (row,) = write([(0, 10, [1, 2, 3])], set())
    times, values = ingest_core.decode_run(row.created_us, row.encoding, row.payload)
    assert times == struct.pack("<3q", T0, T0 + 10, T0 + 20)
    assert values == struct.pack("<3d", 1, 2, 3)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x01", b"\x02" + bytes(12), b"\x01" + bytes(13), b"\x01" + bytes(24), b"\x01" + struct.pack("<id", 1, 1.0)],
)
def test_a_damaged_payload_is_an_error_of_its_own(payload: bytes) -> None:
    with pytest.raises(CorruptPayload):
        ingest_core.decode_run(T0, 0, payload)
    with pytest.raises(CorruptPayload):
        ingest_core.decode_run(T0, 3, b"\x01" + bytes(12))
