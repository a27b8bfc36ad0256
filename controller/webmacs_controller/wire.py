"""The telemetry protocol's messages, as both ends write and read them (docs/protocol.md).

A message is a MessagePack array whose first element is its kind. Times are µs since 1970 UTC, `stream` is 16 random bytes,
packed columns are little-endian. The backend imports this module too: a wire shape exists once.
Data, gap, quality and preview frames are read by the native core (webmacs.ingest_core); the rest is decoded here.
"""

import math
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

PROTOCOL_VERSION: Final = 1
FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
FRAME_READINGS_MAX: Final = 262_144
CHANNELS_MAX: Final = 100_000
SILENCE_S_MAX: Final = 12.0
"""Either end closes a connection on which nothing arrived for this long: two pings are lost then. A half-open one is found within 15 s."""

_NO_NUL: Final = "^[^\\x00]*$"
Text = Annotated[str, Meta(max_length=100, pattern=_NO_NUL)]
Name = Annotated[str, Meta(min_length=1, max_length=100, pattern=_NO_NUL)]
Unit = Annotated[str, Meta(max_length=50, pattern=_NO_NUL)]
ChannelNumber = Annotated[int, Meta(ge=0, le=2**31 - 1)]

Micros = Annotated[int, Meta(ge=0, le=2**62)]
"""A clock: µs since 1970 UTC, or of a monotonic clock since whenever."""
CONTROL_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of a hello or describe: enough for 100,000 channels with names of a usual length."""

ChannelType = Literal["sensor", "actuator", "range", "cmd_button", "cmd_opened", "cmd_closed"]
GapCause = Literal["spool_overflow", "spool_damaged", "source_stopped", "device_error", "disabled"]
QualityCode = Literal["good", "stale", "out_of_range", "device_error", "simulated", "manual", "maintenance"]
RefusalCode = Literal[
    "malformed",
    "version",
    "unknown_channel",
    "not_granted",
    "not_finite",
    "lengths_differ",
    "not_increasing",
    "out_of_bounds",
    "too_large",
    "seq_gap",
]


class HelloChannel(msgspec.Struct, array_like=True, frozen=True):
    """One channel as the source numbers it. `event` is the event's public id, or None to find it by (source, key)."""

    number: ChannelNumber
    key: Name
    event: Text | None
    name: Name
    unit: Unit
    type: ChannelType


class Hello(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Opens a stream on a connection, or renews its channel table. Sent only while nothing is unacknowledged."""

    version_min: int
    version_max: int
    software: Text
    stream: Annotated[bytes, Meta(min_length=16, max_length=16)]
    next_seq: Annotated[int, Meta(ge=1)]
    """The number that the source will give to the next frame it makes: everything it still knows lies below."""
    channels: Annotated[list[HelloChannel], Meta(max_length=CHANNELS_MAX)]
    wall_us: Micros
    monotonic_us: Micros


class Limits(msgspec.Struct, array_like=True, frozen=True):
    frame_bytes: int
    frame_readings: int
    channels: int
    past_us: int
    """A reading may be this much older than now."""
    future_us: int


class Welcome(msgspec.Struct, array_like=True, frozen=True, tag=2):
    version: int
    stream: bytes
    committed_seq: int
    """Everything up to here is stored; the source goes on with the next. 0 for a stream that is new to the backend."""
    credit_bytes: int
    accepted: list[tuple[int, str]]
    """(channel number, public id of its event)"""
    refused: list[tuple[int, str]]
    """(channel number, reason in words)"""
    limits: Limits
    server_us: int
    config_version: int
    new_stream: bool
    """The stream's numbers ran back (an older disk image), so `committed_seq` says nothing of what is left. A stream that still grows goes
    on under a new id, from 1, with all that is left; one that does not is stored whole."""


class DescribedChannel(msgspec.Struct, array_like=True, frozen=True):
    key: Name
    name: Name
    unit: Unit
    type: ChannelType
    min_value: float | None
    max_value: float | None
    decimals: Annotated[int, Meta(ge=0, le=12)] | None
    expected_interval_ms: Annotated[int, Meta(gt=0, le=2**31 - 1)] | None

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.min_value, self.max_value) if bound is not None]
        if not all(map(math.isfinite, bounds)) or bounds != sorted(bounds):
            raise ValueError(f"channel {self.key}: min_value and max_value are finite and in this order")


NO_SETTINGS: Final = msgspec.Raw(b"\x80")
"""The schema of a device without settings, an empty map."""


class Instance(msgspec.Struct, array_like=True, frozen=True):
    """One device of the source: a plugin with its settings."""

    name: Name
    plugin: Text
    create_events: bool
    """Make an event for each channel that has none; otherwise they wait for a person."""
    settings_schema: msgspec.Raw
    """A map, left as it travels: unpacked, a few bytes of a hostile one would be a thousand objects."""
    channels: Annotated[list[DescribedChannel], Meta(max_length=CHANNELS_MAX)]

    def __post_init__(self) -> None:
        head = bytes(self.settings_schema)[:1]
        if not (b"\x80" <= head <= b"\x8f" or head in (b"\xde", b"\xdf")):
            raise ValueError(f"instance {self.name}: settings_schema is a map")


class Describe(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """What the source has. It may come at any time, also before hello; then the hello finds the events it made."""

    instances: Annotated[list[Instance], Meta(max_length=1_000)]


class Column(msgspec.Struct, array_like=True, frozen=True):
    """The readings of one channel, times strictly increasing."""

    channel: int
    t0_us: int
    times: bytes | int
    """int32[n] offsets from t0 in µs, or one fixed step in µs (> 0) between readings"""
    values: bytes | list[float]
    """float64[n], or plain numbers"""


class Data(msgspec.Struct, array_like=True, frozen=True, tag=4):
    seq: int
    sent_us: int
    columns: list[Column]


class Gap(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """Readings that were, or should have been, taken in [from_us, to_us] and will never come. `channel` None: all."""

    seq: int
    channel: int | None
    from_us: int
    to_us: int
    n: int
    cause: GapCause
    frames: int = 1
    """It stands for so many numbers, of which its own is the last."""


class Quality(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """A doubt about a channel's readings in [from_us, to_us); `to_us` None: until a later quality frame ends it."""

    seq: int
    channel: int
    from_us: int
    to_us: int | None
    code: QualityCode


class Preview(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """Readings to show, marked as not stored: (channel, t_us, value). Never kept, never acknowledged, no seq."""

    readings: list[tuple[int, int, float]]


class Ack(msgspec.Struct, array_like=True, frozen=True, tag=8):
    committed_seq: int
    credit_bytes: int


class Nack(msgspec.Struct, array_like=True, frozen=True, tag=9):
    """A frame was refused whole, and the refusal is stored. A message without a number of its own is named by its index instead."""

    seq: int | None
    index: int | None
    """The message's number on this connection, from 0, counting every message; given where `seq` is None."""
    code: RefusalCode
    channel: int | None
    position: int | None
    """Index of the offending reading within its column."""
    detail: str


class Credit(msgspec.Struct, array_like=True, frozen=True, tag=10):
    """The bytes of unacknowledged frames that the source may have under way, from now on. One frame is always allowed unless it is 0."""

    credit_bytes: int


class Ping(msgspec.Struct, array_like=True, frozen=True, tag=11):
    wall_us: Micros
    monotonic_us: Micros


class Pong(msgspec.Struct, array_like=True, frozen=True, tag=12):
    wall_us: Micros
    monotonic_us: Micros
    echoed_wall_us: Micros
    echoed_monotonic_us: Micros


FromSource = Hello | Describe | Ping | Pong
"""What the backend decodes here; data, gap, quality and preview go to the core."""
FromBackend = Welcome | Ack | Nack | Credit | Ping | Pong

KIND_DATA: Final = 4
KIND_GAP: Final = 5
KIND_QUALITY: Final = 6
KIND_PREVIEW: Final = 7
NUMBERED_KINDS: Final = frozenset({KIND_DATA, KIND_GAP, KIND_QUALITY})

_encoder = msgspec.msgpack.Encoder()
_from_source: msgspec.msgpack.Decoder[FromSource] = msgspec.msgpack.Decoder(FromSource)
_from_backend: msgspec.msgpack.Decoder[FromBackend] = msgspec.msgpack.Decoder(FromBackend)

encode = _encoder.encode
"""encode(message) -> bytes"""


def decode_from_source(message: bytes) -> FromSource:
    """Raises msgspec.DecodeError (malformed), its child ValidationError (wrong shape) or RecursionError (nested too deeply)."""
    return _from_source.decode(message)


def decode_from_backend(message: bytes) -> FromBackend:
    """Raises as decode_from_source does."""
    return _from_backend.decode(message)
