"""Writes frames/frames.json: bytes with their meaning, which both implementations and docs/protocol.md are held to.

    python tests/contract/make_frames.py

Run it after a change of the protocol and read the difference. Every frame is judged under the conditions in the file: the time, and
a channel table in which 1 and 2 are granted and 3 is refused. `judge` says who decides: the native core, or the socket before it.
"""

import json
import struct
from pathlib import Path
from typing import Any, Final

import msgspec
from webmacs_controller import wire

FILE: Final = Path(__file__).parent / "frames" / "frames.json"
NOW_US: Final = 1_800_000_000_000_000
T0_US: Final = NOW_US - 1_000_000
STREAM: Final = bytes(range(16))
DAY_US: Final = 86_400_000_000


def offsets(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)


def data(*columns: wire.Column, seq: int = 1) -> wire.Data:
    return wire.Data(seq, NOW_US, list(columns))


ONE: Final = wire.Column(1, T0_US, offsets(0), floats(21.5))
CHANNELS: Final = [
    wire.HelloChannel(1, "bench.temperature", None, "Temperature", "°C", "sensor"),
    wire.HelloChannel(2, "bench.pressure", "0198c5a4-7b1e-7c3d-8a52-1f2e3d4c5b6a", "Pressure", "bar", "range"),
    wire.HelloChannel(3, "bench.spare", None, "Spare", "", "sensor"),
]
LIMITS: Final = wire.Limits(wire.FRAME_BYTES_MAX, wire.FRAME_READINGS_MAX, wire.CHANNELS_MAX, 30 * DAY_US, DAY_US)
DESCRIBED: Final = wire.DescribedChannel("bench.temperature", "Temperature", "°C", "sensor", -10.0, 120.0, 2, 100)

FROM_SOURCE: Final[list[tuple[str, wire.FromSource, str]]] = [
    ("hello", wire.Hello(1, 1, "stranger 1.0", STREAM, 1, CHANNELS, NOW_US, 5_000_000), "opens a new stream with three channels"),
    (
        "describe",
        wire.Describe([wire.Instance("bench", "stranger", True, msgspec.Raw(msgspec.msgpack.encode({"type": "object"})), [DESCRIBED])]),
        "one device whose events are made when they are missing",
    ),
    ("ping", wire.Ping(NOW_US, 5_000_000), "the sender's clocks"),
    ("pong", wire.Pong(NOW_US + 40, 9_000_000, NOW_US, 5_000_000), "own clocks, then the ping's"),
]
FROM_BACKEND: Final[list[tuple[str, wire.FromBackend, str]]] = [
    (
        "welcome",
        wire.Welcome(1, STREAM, 0, 1 << 20, [(1, "0198c5a4-7b1e-7c3d-8a52-1f2e3d4c5b69")], [(3, "waits")], LIMITS, NOW_US, 7, False),
        "nothing is stored yet: begin with frame 1; 1 MiB may be under way; channel 3 is refused",
    ),
    (
        "welcome_new_stream",
        wire.Welcome(1, STREAM, 99, 0, [], [], LIMITS, NOW_US, 7, True),
        "the stream's numbers ran back: begin a new one",
    ),
    ("ack", wire.Ack(41, 1 << 20), "everything up to frame 41 is stored"),
    ("nack", wire.Nack(42, 57, "not_finite", 1, 3, "reading 3 is not a finite number"), "frame 42 is refused whole"),
    ("nack_unreadable", wire.Nack(None, 3, "malformed", None, None, "it ends early"), "the connection's fourth message held no number"),
    ("credit", wire.Credit(0), "send nothing until there is credit again"),
    ("backend_ping", wire.Ping(NOW_US, 9_000_000), "answered by a pong"),
    ("backend_pong", wire.Pong(NOW_US + 40, 9_000_000, NOW_US, 5_000_000), "own clocks, then the ping's"),
]
ACCEPTED: Final[list[tuple[str, wire.Data | wire.Gap | wire.Quality | wire.Preview, int, str]]] = [
    ("data_offsets", data(wire.Column(1, T0_US, offsets(0, 1000, 2001), floats(1.0, 2.0, 3.5))), 3, "times as int32 µs from t0"),
    ("data_negative_offset", data(wire.Column(1, T0_US, offsets(-5, 0), floats(1.0, 2.0))), 2, "t0 is a reference, not a bound"),
    ("data_step", data(wire.Column(1, T0_US, 1000, floats(1.0, 2.0, 3.5))), 3, "one reading every 1000 µs"),
    ("data_plain_numbers", data(wire.Column(1, T0_US, 1000, [1.0, 2.0, 3.5])), 3, "values as MessagePack floats"),
    ("data_two_channels", data(ONE, wire.Column(2, T0_US, offsets(7), floats(-0.0))), 2, "every channel has its own times"),
    ("data_without_columns", data(), 0, "uses up its number and holds nothing"),
    ("data_large_seq", data(ONE, seq=2**40), 1, "seq may be any uint63"),
    ("data_newest", data(wire.Column(1, NOW_US + DAY_US, offsets(0), floats(1.0))), 1, "24 h ahead is the last that is taken"),
    ("data_oldest", data(wire.Column(1, NOW_US - 30 * DAY_US, offsets(0), floats(1.0))), 1, "30 days back is the first that is taken"),
    ("gap_all", wire.Gap(2, None, T0_US, NOW_US, 1200, "spool_overflow", 2), 0, "1200 readings of any channels are lost"),
    ("gap_channel", wire.Gap(3, 1, T0_US, NOW_US, 10, "device_error"), 0, "channel 1 missed ten readings"),
    ("quality_open", wire.Quality(4, 1, T0_US, None, "simulated"), 0, "channel 1 is simulated until further notice"),
    ("quality_closed", wire.Quality(5, 2, T0_US, NOW_US, "maintenance"), 0, "channel 2 was under maintenance"),
    ("preview", wire.Preview([(1, T0_US, 21.5), (2, T0_US, 1.0)]), 2, "shown, not stored, not acknowledged"),
]


def raw(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


REFUSED: Final[list[tuple[str, bytes, wire.RefusalCode, str]]] = [
    ("truncated", wire.encode(data(ONE))[:-1], "malformed", "ends within the values"),
    ("trailing", wire.encode(data(ONE)) + b"\0", "malformed", "goes on after its end"),
    ("no_array", b"\x04", "malformed", "a message is an array"),
    ("odd_values", raw([4, 1, NOW_US, [[1, T0_US, offsets(0), b"\0" * 7]]]), "malformed", "values are not made of float64"),
    ("odd_times", raw([4, 1, NOW_US, [[1, T0_US, b"\0" * 3, floats(1.0)]]]), "malformed", "times are not made of int32"),
    ("step_zero", raw([4, 1, NOW_US, [[1, T0_US, 0, floats(1.0, 2.0)]]]), "malformed", "a step is at least 1 µs"),
    ("no_reading", raw([4, 1, NOW_US, [[1, T0_US, b"", b""]]]), "malformed", "a column holds at least one reading"),
    ("channel_twice", wire.encode(data(ONE, ONE)), "malformed", "one column for each channel"),
    ("lying_length", b"\x94\x04\x01\x00\xdd\xff\xff\xff\xff", "malformed", "4 294 967 295 columns in 9 bytes"),
    ("gap_backwards", wire.encode(wire.Gap(1, None, NOW_US, T0_US, 1, "disabled")), "malformed", "ends before it begins"),
    ("gap_unknown_cause", raw([5, 1, None, T0_US, NOW_US, 1, "gremlins", 1]), "malformed", "no such cause"),
    ("gap_for_no_frame", wire.encode(wire.Gap(1, None, T0_US, NOW_US, 1, "disabled", 0)), "malformed", "its own number is one"),
    ("gap_without_frames", raw([5, 1, None, T0_US, NOW_US, 1, "disabled"]), "malformed", "does not say how many numbers it stands for"),
    ("gap_not_granted", wire.encode(wire.Gap(1, 3, T0_US, NOW_US, 1, "device_error")), "not_granted", "3 was refused in the welcome"),
    ("gap_too_new", wire.encode(wire.Gap(1, 1, T0_US, NOW_US + DAY_US + 1, 1, "source_stopped")), "out_of_bounds", "24 h and 1 µs ahead"),
    ("quality_not_granted", wire.encode(wire.Quality(1, 3, T0_US, None, "stale")), "not_granted", "3 was refused in the welcome"),
    ("quality_too_new", wire.encode(wire.Quality(1, 1, NOW_US + DAY_US + 1, None, "stale")), "out_of_bounds", "24 h and 1 µs ahead"),
    ("preview_not_granted", wire.encode(wire.Preview([(1, T0_US, 1.0), (3, T0_US, 1.0)])), "not_granted", "3 was refused in the welcome"),
    ("unknown_channel", wire.encode(data(wire.Column(9, T0_US, 1, floats(1.0)))), "unknown_channel", "9 is not in the channel table"),
    ("not_granted", wire.encode(data(ONE, wire.Column(3, T0_US, 1, floats(1.0)))), "not_granted", "3 was refused in the welcome"),
    ("not_a_number", wire.encode(data(wire.Column(1, T0_US, 1, floats(1.0, float("nan"))))), "not_finite", "the second reading is NaN"),
    ("infinite", wire.encode(data(wire.Column(1, T0_US, 1, floats(float("-inf"))))), "not_finite", "minus infinity"),
    ("lengths_differ", wire.encode(data(wire.Column(1, T0_US, offsets(0, 1), floats(1.0)))), "lengths_differ", "2 times, 1 value"),
    ("same_time", wire.encode(data(wire.Column(1, T0_US, offsets(0, 0), floats(1.0, 2.0)))), "not_increasing", "an instant twice"),
    ("backwards", wire.encode(data(wire.Column(1, T0_US, offsets(5, 4), floats(1.0, 2.0)))), "not_increasing", "times go back"),
    ("too_new", wire.encode(data(wire.Column(1, NOW_US + DAY_US + 1, 1, floats(1.0)))), "out_of_bounds", "24 h and 1 µs ahead"),
    ("too_old", wire.encode(data(wire.Column(1, NOW_US - 30 * DAY_US - 1, 1, floats(1.0)))), "out_of_bounds", "30 days and 1 µs back"),
]


def frames() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for sender, messages in (("source", FROM_SOURCE), ("backend", FROM_BACKEND)):
        for name, message, meaning in messages:
            made.append({"name": name, "from": sender, "meaning": meaning, "judge": "socket", "outcome": "accepted"} | _bytes(message))
    for name, frame, readings, meaning in ACCEPTED:
        about = {"name": name, "from": "source", "meaning": meaning, "judge": "core", "outcome": "accepted", "readings": readings}
        made.append(about | _bytes(frame))
    for name, refused, code, meaning in REFUSED:
        made.append({"name": name, "from": "source", "meaning": meaning, "judge": "core", "outcome": code, "hex": refused.hex()})
    count = wire.FRAME_READINGS_MAX + 1
    large = wire.encode(data(wire.Column(1, T0_US, 1, bytes(8 * count))))
    made.append(
        {
            "name": "too_many_readings",
            "from": "source",
            "meaning": "262 145 readings in a frame; `repeat` zero bytes follow what `hex` says",
            "judge": "core",
            "outcome": "too_large",
            "hex": large[: -8 * count].hex(),
            "repeat": 8 * count,
        }
    )
    by_socket: list[tuple[str, msgspec.Struct, wire.RefusalCode, str]] = [
        ("version", wire.Hello(2, 3, "future 1.0", STREAM, 1, CHANNELS, NOW_US, 0), "version", "speaks versions 2 and 3 only"),
        ("seq_gap", data(ONE, seq=3), "seq_gap", "comes when frame 2 is expected"),
    ]
    for name, unfit, code, meaning in by_socket:
        made.append({"name": name, "from": "source", "meaning": meaning, "judge": "socket", "outcome": code} | _bytes(unfit))
    return made


def _bytes(message: msgspec.Struct) -> dict[str, Any]:
    return {"hex": wire.encode(message).hex(), "decoded": shown(msgspec.msgpack.decode(wire.encode(message)))}


def shown(value: object) -> object:
    """The same as JSON: bytes as {"bin": hex}."""
    if isinstance(value, bytes):
        return {"bin": value.hex()}
    if isinstance(value, list):
        return [shown(element) for element in value]
    if isinstance(value, dict):
        return {key: shown(element) for key, element in value.items()}
    return value


def document() -> str:
    conditions = {"now_us": NOW_US, "granted": [1, 2], "refused": [3], "expected_seq": "what the frame carries, unless seq_gap"}
    lines = [json.dumps(frame, ensure_ascii=False) for frame in frames()]
    return f'{{"conditions": {json.dumps(conditions)},\n"frames": [\n' + ",\n".join(lines) + "\n]}\n"


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(document())
