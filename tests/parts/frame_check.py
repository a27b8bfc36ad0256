"""One frame offered to the native core and to the plain model: everything that they say and keep is compared."""

import json

from webmacs_controller import wire

from parts.copying import read_rows
from parts.frame_model import No, Yes, judge
from webmacs import ingest_core
from webmacs.ingest_core import Accepted, Core, Refused
from webmacs.telemetry.protocol import Delivery, Verdict

NOW = 1_800_000_000_000_000
GRANTED = {1: 11, 2: 12, 3: 13, 700: 14}
REFUSED = {4, 5}


def core() -> Core:
    made = Core()
    made.set_events([(event, bytes([event]) * 16) for event in GRANTED.values()])
    made.own(1, 5, [(event, None) for event in GRANTED.values()], [])
    made.open(9, list(GRANTED.items()), sorted(REFUSED), None)
    return made


def check(frame: bytes) -> str:
    """Answers the verdict: "accepted" or the code of the refusal."""
    expected = judge(frame, NOW, GRANTED, REFUSED)
    made = core()
    view = made.view(None)
    verdict = made.accept(9, frame, NOW)
    drained = made.drain()
    head = ingest_core.peek(frame)
    seq = None if isinstance(head, Refused) else head[1]
    if isinstance(expected, No):
        assert isinstance(verdict, Refused), (verdict, expected)
        assert verdict.code == expected.code, (verdict, expected)
        if expected.code != "malformed":
            assert (verdict.channel, verdict.position) == (expected.channel, expected.position), verdict
        if expected.readings is not None:
            assert verdict.readings == expected.readings, verdict
        assert verdict.detail
        assert "internal" not in verdict.detail
        if not isinstance(head, Refused) and head[0] == wire.KIND_PREVIEW:
            assert drained is None
            return expected.code
        assert drained is not None
        assert drained.readings == drained.runs == 0
        (segment,) = drained.segments
        assert segment.rows == b""
        assert segment.refusals == [(seq, verdict.code, verdict.channel, verdict.position, verdict.detail, verdict.readings)]
        assert (segment.first_seq, segment.last_seq) == (seq, seq)
        return expected.code
    assert isinstance(verdict, Accepted), (verdict, expected)
    assert isinstance(head, tuple)
    assert verdict.readings == len(expected.readings) + len(expected.previews)
    if head[0] == wire.KIND_PREVIEW:
        assert drained is None
        check_previews(view.take(), expected)
        return "accepted"
    assert drained is not None
    (segment,) = drained.segments
    assert (segment.frames, segment.first_seq, segment.last_seq, segment.refusals) == (1, seq, seq, [])
    assert segment.receipts == [(NOW - NOW % 60_000_000, seq, seq, 1, len(expected.readings))]
    assert segment.gaps == ([expected.gap] if expected.gap else [])
    if expected.frames is not None and seq is not None:
        check_reach(frame, seq, expected.frames)
    assert segment.quality == ([expected.quality] if expected.quality else [])
    assert segment.writers == ([(1, 5)] if expected.readings or expected.gap or expected.quality else [])
    kept = [(row.event_id, t_us, value) for row in read_rows(segment.rows) for t_us, value in row.readings()]
    assert sorted(kept) == sorted(expected.readings)
    return "accepted"


def check_reach(gap: bytes, seq: int, frames: int) -> None:
    """How many numbers a gap stands for is kept nowhere: it says after which last number the socket hands the gap to the core."""
    taken = Delivery(bytes(16), seq - frames).judge(wire.KIND_GAP, seq, gap)
    short = Delivery(bytes(16), seq - frames - 1).judge(wire.KIND_GAP, seq, gap)
    assert (taken, short) == (Verdict.TAKE, Verdict.HOLE), frames


def check_previews(batch: bytes | None, expected: Yes) -> None:
    newest: dict[int, tuple[int, float]] = {}
    for event, t_us, value in expected.previews:
        if event not in newest or t_us >= newest[event][0]:
            newest[event] = (t_us, value)
    if not newest:
        assert batch is None
        return
    assert batch is not None
    shown = json.loads(batch)
    assert shown["datapoints"] == []
    assert [(preview["event_public_id"][:2], preview["value"]) for preview in shown["previews"]] == [
        (f"{event:02x}", value) for event, (_, value) in sorted(newest.items())
    ]
