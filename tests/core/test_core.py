"""What the core does with what it has taken: runs, marks, experiments, rules, text frames, views, and who may write."""

import json
import struct
import threading
import uuid
from typing import Any

import pytest
from parts.copying import read_latest, read_rows
from webmacs_controller import wire

from webmacs import ingest_core
from webmacs.ingest_core import Accepted, Core, CoreError, Drained, Refused, Segment, Unowned

NOW = 1_800_000_000_000_000
"""2027-01-15T08:00:00Z"""
SECOND = 1_000_000
EVENTS = {event: uuid.UUID(int=0xA0 + event) for event in (1, 2, 3)}


def make_core(*, frontier: int | None = None) -> Core:
    core = Core()
    core.set_events([(event, public_id.bytes) for event, public_id in EVENTS.items()])
    core.own(1, 1, [(event, frontier) for event in EVENTS], [])
    core.open(1, [(event, event) for event in EVENTS], [], None)
    return core


def send(core: Core, seq: int, event: int, *readings: tuple[int, float], connection: int = 1, now_us: int = NOW) -> None:
    """Readings as (µs after NOW, value)."""
    t0_us = NOW + readings[0][0]
    times = struct.pack(f"<{len(readings)}i", *(after - readings[0][0] for after, _ in readings))
    frame = wire.encode(wire.Data(seq, NOW, [wire.Column(event, t0_us, times, [value for _, value in readings])]))
    assert isinstance(core.accept(connection, frame, now_us), Accepted)


def drain(core: Core) -> Drained:
    drained = core.drain()
    assert drained is not None
    return drained


def drain_one(core: Core) -> Segment:
    (segment,) = drain(core).segments
    return segment


def text(*items: dict[str, Any]) -> bytes:
    return json.dumps({"datapoints": list(items)}).encode()


def item(event: int, value: float, timestamp: str | None = None) -> dict[str, Any]:
    return {"event_public_id": str(EVENTS[event]), "value": value} | ({"timestamp": timestamp} if timestamp else {})


def taken(view: ingest_core.View) -> dict[int, dict[str, Any]]:
    batch = view.take()
    assert batch is not None
    message = json.loads(batch)
    assert message["type"] == "datapoints_batch"
    return {uuid.UUID(entry["event_public_id"]).int - 0xA0: entry for entry in message["datapoints"]}


def test_readings_of_several_frames_become_one_run_per_event() -> None:
    core = make_core()
    for seq in range(1, 6):
        send(core, seq, 1, (seq * 10, seq), (seq * 10 + 1, -seq))
        send(core, seq + 100, 2, (seq, 0.5))
    assert core.buffered_bytes >= 15 * 16
    drained = drain(core)
    assert (drained.readings, drained.runs) == (15, 2)
    assert core.buffered_bytes == 0
    assert core.drain() is None
    first, second = read_rows(drained.segments[0].rows)
    assert (first.event_id, first.n, first.min, first.max, first.sum, first.first, first.last) == (1, 10, -5, 5, 0, 1, -5)
    assert (first.created_us, first.last_us) == (NOW + 10, NOW + 51)
    assert (second.event_id, second.n) == (2, 5)
    assert read_latest(drained.segments[0].latest) == [(1, NOW + 51, -5.0, None), (2, NOW + 5, 0.5, None)]


def test_a_run_is_marked_unless_it_lies_after_everything_stored() -> None:
    core = make_core(frontier=NOW)
    marks = []
    for seq, after in enumerate((0, 1, 5, 5, 3, 6), start=1):
        send(core, seq, 1, (after, 1.0))
        marks += [row.overlapping for row in read_rows(drain_one(core).rows)]
    assert marks == [True, False, False, True, True, False]


def test_owning_again_in_the_same_tenure_forgets_nothing_that_is_not_committed_yet() -> None:
    core = make_core(frontier=NOW)
    core.set_rules([(1, 1, "gt", 0.0, None)])
    send(core, 1, 1, (10, 1.0))
    assert len(drain_one(core).transitions) == 1
    core.own(1, 1, [(1, NOW)], [])
    send(core, 2, 1, (5, 1.0), (11, 1.0))
    segment = drain_one(core)
    assert [row.overlapping for row in read_rows(segment.rows)] == [True]
    assert segment.transitions == []

    core.own(1, 2, [(1, NOW)], [])
    send(core, 3, 1, (5, 1.0))
    segment = drain_one(core)
    assert [row.overlapping for row in read_rows(segment.rows)] == [False]
    assert len(segment.transitions) == 1


def test_of_equal_instants_in_one_drain_the_newest_written_is_stored() -> None:
    core = make_core()
    send(core, 1, 1, (0, 1.0), (5, 2.0), (9, 3.0))
    send(core, 2, 1, (3, 4.0), (5, 5.0))
    segment = drain_one(core)
    (row,) = read_rows(segment.rows)
    assert row.readings() == [(NOW, 1.0), (NOW + 3, 4.0), (NOW + 5, 5.0), (NOW + 9, 3.0)]
    assert segment.readings == 5
    assert (read_latest(segment.latest), segment.newest_us) == ([(1, NOW + 9, 3.0, None)], NOW + 9)


def test_a_run_never_spans_two_experiments_and_knows_its_own() -> None:
    core = make_core()
    core.set_experiments([(7, uuid.UUID(int=7).bytes, NOW + 10, NOW + 20, [1]), (8, uuid.UUID(int=8).bytes, NOW + 20, None, [1, 3])])
    for event in (1, 2):
        send(core, event, event, (9, 1.0), (10, 2.0), (19, 3.0), (20, 4.0), (30, 5.0))
    drained = drain(core)
    rows = read_rows(drained.segments[0].rows)
    assert [(row.event_id, row.experiment_id, row.n) for row in rows] == [(1, None, 1), (1, 7, 2), (1, 8, 2), (2, None, 5)]
    assert read_latest(drained.segments[0].latest) == [(1, NOW + 30, 5.0, 8), (2, NOW + 30, 5.0, None)]
    view = core.view(None)
    core.committed(drained, [])
    assert taken(view)[1]["experiment_public_id"] == str(uuid.UUID(int=8))
    assert taken_nothing(view)


def taken_nothing(view: ingest_core.View) -> bool:
    return view.take() is None


def test_receipts_count_frames_by_the_minute_of_their_arrival() -> None:
    core = make_core()
    minute = NOW - NOW % (60 * SECOND)
    send(core, 1, 1, (0, 1.0), (1, 1.0))
    core.accept(1, wire.encode(wire.Data(2, NOW, [wire.Column(99, NOW, 1, [1.0])])), NOW)
    core.accept(1, wire.encode(wire.Data(3, NOW, [wire.Column(1, NOW, 0, [1.0])])), NOW)
    send(core, 4, 1, (2, 1.0), now_us=minute + 60 * SECOND)
    segment = drain_one(core)
    assert segment.receipts == [(minute, 1, 3, 3, 2), (minute + 60 * SECOND, 4, 4, 1, 1)]
    assert (segment.first_seq, segment.last_seq, segment.frames, segment.readings) == (1, 4, 4, 3)
    assert [(seq, code, channel) for seq, code, channel, *_ in segment.refusals] == [(2, "unknown_channel", 99), (3, "malformed", 1)]


def test_rules_see_every_reading_and_late_ones_are_stored_without_them() -> None:
    core = make_core(frontier=NOW)
    core.set_rules([(1, 1, "gt", 10.0, None), (2, 1, "between", 0.0, 10.0), (3, 2, "eq", 4.0, None)])
    core.own(1, 2, [(event, NOW) for event in EVENTS], [2])
    send(core, 1, 1, (0, 99.0), (1, 5.0), (2, 11.0), (3, 10.0))
    send(core, 2, 1, (2, 99.0))
    send(core, 3, 2, (1, 4.0))
    assert drain_one(core).transitions == [
        (1, 1, True, NOW + 2, 11.0),
        (2, 1, False, NOW + 2, 11.0),
        (1, 1, False, NOW + 3, 10.0),
        (2, 1, True, NOW + 3, 10.0),
        (3, 2, True, NOW + 1, 4.0),
    ]


def test_a_changed_rule_begins_anew_and_an_unchanged_one_keeps_its_state() -> None:
    core = make_core()
    core.set_rules([(1, 1, "gt", 0.0, None), (2, 1, "gt", 0.0, None)])
    send(core, 1, 1, (0, 1.0))
    core.set_rules([(1, 1, "gt", 0.0, None), (2, 1, "gt", 0.5, None)])
    send(core, 2, 1, (1, 1.0))
    transitions = drain_one(core).transitions
    assert [(rule, t_us) for rule, _, _, t_us, _ in transitions] == [(1, NOW), (2, NOW), (2, NOW + 1)]


@pytest.mark.parametrize("rule", [(1, 1, "near", 1.0, None), (1, 1, "between", 1.0, None), (1, 1, "gt", 1.0, 2.0)])
def test_a_rule_that_makes_no_sense_is_misuse(rule: Any) -> None:
    with pytest.raises(CoreError):
        make_core().set_rules([rule])


def test_text_frames_come_in_the_same_way() -> None:
    core = make_core()
    core.open(2, [], [], None)
    frame = text(
        item(1, 1), item(1, 2.5), item(2, 3, "2027-01-15T09:00:00.0000015+01:00"), item(1, 4), item(3, 0.1, "2027-01-15T07:59:59Z")
    )
    verdict = core.accept_text(2, 17, frame, NOW, True)
    assert isinstance(verdict, Accepted)
    assert verdict.readings == 5
    segment = drain_one(core)
    assert (segment.connection, segment.last_index, segment.first_seq, segment.frames, segment.receipts) == (2, 17, None, 1, [])
    assert segment.writers == [(1, 1)]
    assert {row.event_id: row.readings() for row in read_rows(segment.rows)} == {
        1: [(NOW, 1.0), (NOW + 1, 2.5), (NOW + 2, 4.0)],
        2: [(NOW + 2, 3.0)],
        3: [(NOW - SECOND, 0.1)],
    }


@pytest.mark.parametrize(
    ("frame", "code", "position"),
    [
        (b"", "malformed", None),
        (b"[]", "malformed", None),
        (b"{}", "malformed", None),
        (text(item(1, 1)) + b"x", "malformed", None),
        (b'{"datapoints": [], "more": 1}', "malformed", None),
        (b'{"datapoints": [["x", 1]]}', "malformed", 0),
        (text(item(1, 1), {"event_public_id": str(EVENTS[1])}), "malformed", 1),
        (text(item(1, 1), {"event_public_id": "x", "value": 1}), "malformed", 1),
        (text(item(1, 1) | {"unit": "K"}), "malformed", 0),
        (text(item(1, 1) | {"value": "1"}), "malformed", 0),
        (text(item(1, 1) | {"value": True}), "malformed", 0),
        (text(item(1, 2**53 + 1)), "malformed", 0),
        (text(item(1, float("nan"))), "malformed", 0),
        (b'{"datapoints": [{"event_public_id": "' + str(EVENTS[1]).encode() + b'", "value": 1e400}]}', "malformed", 0),
        (text(item(1, 1, "2027-01-15T08:00:00")), "malformed", 0),
        (text(item(1, 1, "2027-02-29T08:00:00Z")), "malformed", 0),
        (text(item(1, 1), item(1, 1) | {"event_public_id": str(uuid.UUID(int=1))}), "unknown_channel", 1),
        (text(item(3, 1)), "not_granted", 0),
        (text(item(1, 1), item(1, 1, "2026-12-16T07:59:59Z")), "out_of_bounds", 1),
        (text(item(1, 1, "2027-01-16T08:00:01Z")), "out_of_bounds", 0),
        (b" " * (ingest_core.FRAME_BYTES_MAX + 1), "too_large", None),
    ],
)
def test_a_bad_text_frame_is_refused_whole(frame: bytes, code: str, position: int | None) -> None:
    core = make_core()
    core.open(2, [], [], [1, 2])
    verdict = core.accept_text(2, 0, frame, NOW, True)
    assert isinstance(verdict, Refused)
    assert (verdict.code, verdict.position) == (code, position), verdict
    segment = drain_one(core)
    assert (segment.readings, segment.rows, segment.last_index) == (0, b"", None)
    assert segment.refusals == [(None, code, None, position, verdict.detail, verdict.readings)]


def test_a_text_frame_keeps_every_bit_of_a_value() -> None:
    core = make_core()
    values = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, 123456789.12345679, 2.0**53]
    assert isinstance(core.accept_text(1, 0, text(*(item(1, value) for value in values)), NOW, True), Accepted)
    (row,) = read_rows(drain_one(core).rows)
    assert [struct.pack("<d", value) for _, value in row.readings()] == [struct.pack("<d", value) for value in values]


def test_a_text_frame_over_events_that_nobody_writes_is_offered_again() -> None:
    core = Core()
    core.set_events([(event, public_id.bytes) for event, public_id in EVENTS.items()])
    core.open(2, [], [], None)
    frame = text(item(3, 1), item(1, 2), item(3, 3))
    verdict = core.accept_text(2, 0, frame, NOW, True)
    assert isinstance(verdict, Unowned)
    assert verdict.events == [1, 3]
    assert core.drain() is None
    core.own(1, 9, [(1, None), (3, None)], [])
    assert isinstance(core.accept_text(2, 0, frame, NOW, True), Accepted)
    assert drain_one(core).writers == [(1, 9)]


def test_views_see_what_was_committed_and_nothing_else() -> None:
    core = make_core()
    view, narrow = core.view(None), core.view([2])
    send(core, 1, 1, (0, 1.0), (5, 7.0), (6, 3.0))
    send(core, 2, 2, (6, 8.0))
    drained = drain(core)
    assert view.take() is None
    core.committed(drained, [])
    entries = taken(view)
    assert entries[1] == {
        "event_public_id": str(EVENTS[1]),
        "timestamp": "2027-01-15T08:00:00.000006Z",
        "value": 3.0,
        "min": 1.0,
        "max": 7.0,
        "n": 3,
        "experiment_public_id": None,
    }
    assert list(taken(narrow)) == [2]
    assert view.take() is None


def test_a_late_reading_does_not_replace_a_newer_last_one() -> None:
    core = make_core()
    view = core.view(None)
    for seq, reading in enumerate(((10, 1.0), (4, -9.0), (20, 2.0)), start=1):
        send(core, seq, 1, reading)
        core.committed(drain(core), [])
        if seq == 2:
            (entry,) = taken(view).values()
            assert (entry["timestamp"], entry["value"], entry["min"], entry["n"]) == ("2027-01-15T08:00:00.000010Z", 1.0, -9.0, 2)
    (entry,) = taken(view).values()
    assert (entry["value"], entry["min"], entry["max"]) == (2.0, 2.0, 2.0)


def test_a_void_segment_reaches_nobody() -> None:
    core = make_core()
    core.own(2, 1, [(3, None)], [])
    core.open(2, [(3, 3)], [], None)
    view = core.view(None)
    send(core, 1, 1, (0, 1.0))
    send(core, 1, 3, (0, 3.0), connection=2)
    drained = drain(core)
    assert [segment.connection for segment in drained.segments] == [1, 2]
    assert [segment.writers for segment in drained.segments] == [[(1, 1)], [(2, 1)]]
    with pytest.raises(CoreError):
        core.committed(drained, [2])
    core.committed(drained, [1])
    assert list(taken(view)) == [1]
    assert len(json.loads(core.snapshot(None))["datapoints"]) == 1
    with pytest.raises(CoreError):
        core.committed(drained, [])


def test_a_fork_goes_on_from_what_its_view_holds() -> None:
    core = make_core()
    view = core.view([1])
    send(core, 1, 1, (0, 1.0))
    core.committed(drain(core), [])
    fork = view.fork()
    assert taken(view)[1]["n"] == 1
    send(core, 2, 1, (1, 5.0))
    send(core, 3, 2, (1, 5.0))
    core.committed(drain(core), [])
    assert (taken(view)[1]["min"], taken(fork)[1]["min"]) == (5.0, 1.0)


def test_the_snapshot_begins_with_what_was_stored_before() -> None:
    core = make_core()
    core.set_experiments([(4, uuid.UUID(int=4).bytes, 0, None, None)])
    core.set_latest(None, [(2, NOW, 2.5, 4), (1, NOW - 1, -1e-7, None), (99, NOW, 1.0, None)])
    snapshot = json.loads(core.snapshot(None))
    assert snapshot["type"] == "snapshot"
    assert [(entry["event_public_id"], entry["value"], entry["experiment_public_id"]) for entry in snapshot["datapoints"]] == [
        (str(EVENTS[1]), -1e-7, None),
        (str(EVENTS[2]), 2.5, str(uuid.UUID(int=4))),
    ]
    assert json.loads(core.snapshot([1]))["datapoints"][0]["timestamp"] == "2027-01-15T07:59:59.999999Z"
    send(core, 1, 2, (-5, 9.0))
    core.committed(drain(core), [])
    assert json.loads(core.snapshot([2]))["datapoints"][0]["value"] == 2.5


def test_a_deleted_reading_is_in_no_snapshot_and_waits_in_no_view() -> None:
    core = make_core()
    view = core.view(None)
    for event in (1, 2):
        send(core, event, event, (0, 5.0))
    core.committed(drain(core), [])
    core.set_latest([1], [(1, NOW - 7, 3.0, None)])
    assert [entry["value"] for entry in json.loads(core.snapshot(None))["datapoints"]] == [3.0, 5.0]
    core.set_latest([2], [])
    assert [entry["value"] for entry in json.loads(core.snapshot(None))["datapoints"]] == [3.0]
    assert [(event, entry["value"]) for event, entry in taken(view).items()] == [(1, 3.0)]
    core.set_latest(None, [(2, NOW, 4.0, None)])
    assert [entry["value"] for entry in json.loads(core.snapshot(None))["datapoints"]] == [4.0]


def test_previews_are_shown_and_never_kept() -> None:
    core = make_core()
    view, other = core.view(None), core.view([3])
    frame = wire.encode(wire.Preview([(1, NOW + 5, 1.0), (1, NOW, 2.0), (2, NOW, 3.0)]))
    assert isinstance(core.accept(1, frame, NOW), Accepted)
    assert core.drain() is None
    batch = view.take()
    assert batch is not None
    assert json.loads(batch) == {
        "type": "datapoints_batch",
        "datapoints": [],
        "previews": [
            {"event_public_id": str(EVENTS[1]), "timestamp": "2027-01-15T08:00:00.000005Z", "value": 1.0},
            {"event_public_id": str(EVENTS[2]), "timestamp": "2027-01-15T08:00:00.000000Z", "value": 3.0},
        ],
    }
    assert other.take() is None


def test_a_closed_connection_hands_over_what_it_brought() -> None:
    core = make_core()
    send(core, 1, 1, (0, 1.0))
    core.close(1)
    with pytest.raises(CoreError):
        core.accept(1, b"", NOW)
    assert drain_one(core).readings == 1
    with pytest.raises(CoreError):
        core.close(1)


def test_a_table_that_is_renewed_keeps_what_was_buffered() -> None:
    core = make_core()
    send(core, 1, 1, (0, 1.0))
    core.open(1, [(50, 1), (51, 2)], [1], None)
    refused = core.accept(1, wire.encode(wire.Data(2, NOW, [wire.Column(1, NOW, 1, [1.0])])), NOW)
    assert isinstance(refused, Refused)
    assert refused.code == "not_granted"
    frame = wire.encode(wire.Data(3, NOW, [wire.Column(50, NOW + 1, 1, [2.0])]))
    assert isinstance(core.accept(1, frame, NOW), Accepted)
    (row,) = read_rows(drain_one(core).rows)
    assert row.readings() == [(NOW, 1.0), (NOW + 1, 2.0)]


def test_misuse_is_an_error_and_no_refusal() -> None:
    core = Core()
    with pytest.raises(CoreError):
        core.accept(1, b"", NOW)
    with pytest.raises(CoreError):
        core.open(1, [(1, 1)], [], None)
    with pytest.raises(CoreError):
        make_core().open(2, [(1, 1), (1, 2)], [], None)
    with pytest.raises(CoreError):
        make_core().open(2, [(1, 1), (2, 1)], [], None)
    with pytest.raises(CoreError):
        core.set_events([(1, b"short")])


def test_threads_share_a_core_and_no_reading_is_lost_or_doubled() -> None:
    core = make_core()
    core.own(2, 1, [(3, None)], [])
    core.open(2, [(3, 3)], [], None)
    done = threading.Event()
    segments: list[Segment] = []

    def drain_until_done() -> None:
        while True:
            last = done.is_set()
            drained = core.drain()
            if drained is not None:
                segments.extend(drained.segments)
                core.committed(drained, [])
            elif last:
                return

    def source(connection: int, event: int) -> None:
        for seq in range(1, 401):
            send(core, seq, event, *((seq * 5 + k, float(seq)) for k in range(5)), connection=connection)

    view = core.view(None)
    drainer = threading.Thread(target=drain_until_done)
    sources = [threading.Thread(target=source, args=pair) for pair in ((1, 1), (2, 3))]
    for thread in (drainer, *sources):
        thread.start()
    for thread in sources:
        thread.join()
    done.set()
    drainer.join()
    rows = [row for segment in segments for row in read_rows(segment.rows)]
    for event in (1, 3):
        readings = [reading for row in rows if row.event_id == event for reading in row.readings()]
        assert readings == [(NOW + seq * 5 + k, float(seq)) for seq in range(1, 401) for k in range(5)]
    assert not any(row.overlapping for row in rows)
    assert {event: entry["n"] for event, entry in taken(view).items()} == {1: 2000, 3: 2000}


def test_refusals_without_end_are_seen_in_the_buffered_bytes() -> None:
    core = make_core()
    for seq in range(1, 101):
        core.accept(1, wire.encode(wire.Data(seq, NOW, [wire.Column(99, NOW, 1, [1.0])])), NOW)
    assert core.buffered_bytes > 100 * 20
    drain(core)
    assert core.buffered_bytes == 0
