"""The native core: it touches every reading exactly once.

Frames go in as bytes, small verdicts come out; a flush comes out as segments whose bytes PostgreSQL's COPY takes as they are;
what was committed comes out as ticks. No Python object is ever made per reading.

Times are µs since 1970 UTC, values float64 in the event's own unit. Public ids are 16 bytes here. The calls detach from the
interpreter around work longer than some microseconds, and `Core` may be shared by threads.

Errors: misuse (an unknown connection, a wrong length) raises `CoreError`; a payload that cannot be read back raises its child
`CorruptPayload`. A bad frame is everyday and no exception: it is a `Refused`.
"""

from typing import Final, Literal, TypeAlias, final

FRAME_BYTES_MAX: Final[int]
"""4 MiB: the longest frame, and the longest text frame."""
FRAME_READINGS_MAX: Final[int]
"""262,144 readings in one frame."""
BATCH_BYTES_MAX: Final[int]
"""16 MiB: the longest body of readings."""
BATCH_READINGS_MAX: Final[int]
"""10,000 readings in one batch of JSON; so many refusals are listed with their reasons."""
LINE_READINGS_MAX: Final[int]
"""262,144 fields in one body of line protocol."""
SERIES_CHARS_MAX: Final[int]
"""400 characters: the longest name of a series."""
CHANNELS_MAX: Final[int]
"""100,000 columns in one frame."""
PAST_US_MAX: Final[int]
"""30 days: a live reading may be this much older than now."""
FUTURE_US_MAX: Final[int]
"""24 hours: a live reading may be this much newer than now."""
RUN_READINGS_MAX: Final[int]
"""65,536 readings in one run: 768 KiB of payload, far below what TOAST takes."""
RUN_SPAN_US_MAX: Final[int]
"""30 minutes: what a raw run's int32 offsets can hold (35 min), rounded down."""
PACKED_READINGS: Final[int]
"""4,096 readings, about, in a packed run: 0.63 bytes each at 1 kHz and two decimals; twice as many would save a hundredth of it."""
SETTLED_READINGS_MIN: Final[int]
"""2,048: a packed run that is not marked and has so many readings is left as it is. The index `datapoints_loose` holds all others."""
COMPACTION_RUNS_MAX: Final[int]
"""20,000: the most runs of one event that a `Compaction` looks at."""
COPY_HEADER: Final[bytes]
"""What begins a binary COPY; segments' rows and COPY_TRAILER follow."""
COPY_TRAILER: Final[bytes]
COPY_COLUMNS: Final[tuple[str, ...]]
"""The columns of `datapoints` that a segment's rows hold, in order (id is PostgreSQL's sequence)."""
LATEST_COLUMNS: Final[tuple[str, ...]]
"""The columns of `latest` that `Segment.latest` holds, in order."""

Code: TypeAlias = Literal[
    "malformed", "version", "unknown_channel", "not_granted", "not_finite", "lengths_differ",
    "not_increasing", "out_of_bounds", "too_large", "seq_gap",
]  # fmt: skip
Form: TypeAlias = Literal["reading", "batch", "lines", "ns", "n", "us", "u", "ms", "s", "m", "h"]
"""What a body of readings is: one {"event_public_id", "value", "timestamp"?}; {"datapoints": [...]}; one a line; or line protocol with
times in this unit."""
Operator: TypeAlias = Literal["gt", "lt", "gte", "lte", "eq", "between", "not_between"]

class CoreError(Exception): ...
class CorruptPayload(CoreError): ...

@final
class Refused:
    """A frame taken not at all, and why. `position` is the index of the bad reading in its column, `readings` what was in it."""

    code: Code
    channel: int | None
    position: int | None
    detail: str
    readings: int | None

@final
class Accepted:
    readings: int

@final
class Unowned:
    """A text frame names events that this process does not write yet: take them over (`own`) and offer the frame again."""

    events: list[int]

@final
class Batch:
    """A body of readings, read. It belongs to nobody yet and may be offered again."""

    offered: int
    """How many readings it holds, good or not."""
    untimed: int
    """How many readings bring no time of their own."""
    first: tuple[bytes, int | None, float] | None
    """(public id, t_us, value) of the first good one that names its event by its public id."""

@final
class Taken:
    """A batch was judged, each reading by itself."""

    readings: int
    """taken"""
    refused: list[tuple[int, Code, str]]
    """(position, code, detail) of at most BATCH_READINGS_MAX of those refused; the position is an index or a line, from 0"""
    refused_count: int

@final
class Unnamed:
    """A batch, or a text frame, names events that the core does not know, or not yet: made a moment ago, or series that nobody has named
    (`name_series`)."""

    series: list[str]
    events: list[bytes]
    """public ids"""

def peek(frame: bytes) -> tuple[int, int | None] | Refused:
    """(kind, seq) of a binary message without looking further; seq is None for kinds that carry none."""

@final
class Core:
    """Catalogue, connections, column buffers, rule state and the last committed values of one process."""

    def __init__(self) -> None: ...

    # what exists (each call replaces what was there)
    def set_events(self, events: list[tuple[int, bytes]]) -> None:
        """(event id, public id): every event, for text frames in and ticks out."""

    def add_events(self, events: list[tuple[int, bytes]]) -> None:
        """(event id, public id) of events made since; the others stay."""

    def set_experiments(self, experiments: list[tuple[int, bytes, int, int | None, list[int] | None]]) -> None:
        """(id, public id, started_us, stopped_us or None, frozen scope of event ids or None for all): a run never spans two that are known
        when it is drained."""

    def set_rules(self, rules: list[tuple[int, int, Operator, float, float | None]]) -> None:
        """(rule id, event id, operator, threshold, upper threshold): between and not_between need both, bounds included.
        A rule that stays the same keeps its state. `eq` compares exactly."""

    # who writes
    def own(self, writer: int, generation: int, events: list[tuple[int, int | None]], firing: list[int]) -> None:
        """This process now writes these events under (writer, generation). Each comes with its frontier: the time of the
        last reading stored, or None. `firing` are the rules over them that the last commit left fired. An event that is
        already owned under the same (writer, generation) keeps its rules' state, and its frontier unless this one is later."""

    def open(self, connection: int, channels: list[tuple[int, int]], refused: list[int], grants: list[int] | None) -> None:
        """A connection with its channel table (number, event id), the numbers known but not granted, and the event ids that
        its text frames may write (None: every event). The events are owned already; a number and an event stand in the table
        once. An open connection may be opened again with a new table: what it buffered stays."""

    def close(self, connection: int) -> None:
        """The connection ends; what it buffered is handed over by the next drain."""

    # readings in
    def accept(self, connection: int, frame: bytes, now_us: int) -> Accepted | Refused:
        """A data, gap, quality or preview frame, whole or not at all: decode, check, rules, buffer. The caller has judged the
        seq. A refused frame consumes its seq: the refusal travels in the segment and is committed with it."""

    def accept_text(self, connection: int, index: int, frame: bytes, now_us: int, named: bool) -> Accepted | Refused | Unowned | Unnamed:
        """{"datapoints": [{"event_public_id", "value", "timestamp"?}]}: the same way in. `index` is the message's number on
        the connection. Without a timestamp: now_us, plus 1 µs for each repeat of an event. `named`: what is not known now has been
        looked for, and is refused."""

    def name_series(self, writer: int, series: list[tuple[str, int]]) -> None:
        """(series, event id): what those who write as this writer mean by it."""

    def forget_series(self) -> None:
        """Events were made, renamed or deleted: what series mean is asked again."""

    def read_batch(self, form: Form, body: bytes) -> Batch | Refused:
        """Reads a body without a connection; whole bodies are refused only when they are no such text at all, or too much."""

    def accept_batch(self, connection: int, index: int, batch: Batch, writer: int, now_us: int, named: bool) -> Taken | Unowned | Unnamed:
        """Good readings are taken, the others refused, and nothing of them is recorded. `index` is the batch's number on the connection.
        Without a timestamp: now_us, plus 1 µs for each repeat of an event. `writer`: whose series these are. `named`: what is not known
        now is refused."""

    @property
    def internal_faults(self) -> int:
        """Messages that made the core panic while it judged them: refused as malformed, with the place of the fault in `detail`. A panic
        while state changes ends the process with exit code 70; anywhere else it raises PanicException, which is no Exception."""

    @property
    def buffered_bytes(self) -> int:
        """What the undrained column buffers hold, in bytes of memory."""

    # a flush
    def drain(self) -> Drained | None:
        """Moves everything buffered out, as runs: sorted, equal instants resolved to the newest written, cut at midnight UTC, at
        experiments, at RUN_SPAN_US_MAX and RUN_READINGS_MAX, marked `overlapping` where they do not lie after the event's
        frontier. None when nothing waits. The buffers are swapped under the lock and encoded after it."""

    def committed(self, drained: Drained, void: list[int]) -> None:
        """The transaction with these segments ended, except those whose indices are `void`: latest values, min and max
        reach the views. What is void is forgotten."""

    # what was committed goes out
    def set_latest(self, events: list[int] | None, latest: list[tuple[int, int, float, int | None]]) -> None:
        """(event id, t_us, value, experiment id) of these events (None: of all) as stored; those that are not in `latest` have no
        reading. At start, and when readings were deleted; between flushes, or what was committed since it was read is lost to sight."""

    def view(self, events: list[int] | None) -> View:
        """What is committed to these events (None: all) from now on, until the view is dropped."""

    def snapshot(self, events: list[int] | None) -> bytes:
        """{"type": "snapshot", "datapoints": [...]} as JSON: the last committed reading of each event that has one."""

@final
class Drained:
    segments: list[Segment]
    readings: int
    runs: int

@final
class Segment:
    """All that one connection brought since the last drain. It is committed whole or dropped whole."""

    connection: int
    writers: list[tuple[int, int]]
    """(writer, generation) under which it was taken; it is void when one of them is no longer true."""
    rows: bytes
    """datapoints rows in PostgreSQL's binary COPY form, without header and trailer"""
    runs: int
    readings: int
    """as received, before equal instants were resolved"""
    frames: int
    first_seq: int | None
    last_seq: int | None
    last_index: int | None
    """of the last text frame or batch taken"""
    receipts: list[tuple[int, int, int, int, int]]
    """(minute_us of arrival, first seq, last seq, frames, readings) of numbered frames"""
    latest: bytes
    """rows of `latest` in binary COPY form, without header and trailer: the newest reading by time, one for each event touched"""
    newest_us: int | None
    """the time of the newest reading of all"""
    gaps: list[tuple[int, int | None, int, int, int, str]]
    """(seq, event id or None for all, from_us, to_us, n, cause)"""
    quality: list[tuple[int, int, int, int | None, str]]
    """(seq, event id, from_us, to_us or None, code)"""
    refusals: list[tuple[int | None, Code, int | None, int | None, str, int | None]]
    """(seq, code, channel, position, detail, readings in the frame if known)"""
    transitions: list[tuple[int, int, bool, int, float]]
    """(rule id, event id, fired, t_us, value), in the order in which they happened"""

@final
class View:
    """The committed values of some events since they were last taken: per event the last value and time, min, max and n."""

    def take(self) -> bytes | None:
        """{"type": "datapoints_batch", "datapoints": [{"event_public_id", "timestamp", "value", "min", "max", "n",
        "experiment_public_id"}]} as JSON, and begins anew; None when nothing came. Previews come in an array "previews" of
        {"event_public_id", "timestamp", "value"} beside it."""

    def fork(self) -> View:
        """A view of the same events that already holds what this one holds: for a client that fell behind."""

# reading back

@final
class Window:
    """One event's runs that touch [from_us, to_us), and the chart made of them.

    `stats` is the output of a binary COPY of (created_on, id, last_on, n, min, max, sum, first, last, encoding, overlapping).
    Runs that a marked one touches are decoded and merged with it (highest id wins an instant), runs that cross an edge of the
    window or are longer than two buckets are decoded; everything else, also a marked run that touches none, is answered from its
    statistics.
    With `grid` runs that cross a bucket's edge are decoded too.
    """

    def __init__(self, stats: bytes, from_us: int, to_us: int, max_points: int, grid: bool) -> None: ...
    @property
    def wanted(self) -> list[tuple[int, int]]:
        """(created_us, id) of the runs whose payload is needed; empty when statistics are enough."""

    def series(self, payloads: bytes) -> bytes:
        """`payloads`: a binary COPY of (created_on, id, encoding, payload) of the wanted runs, or b"".
        JSON of at most max_points buckets: {"t0": [µs], "t1": [µs], "min": [], "max": [], "avg": [], "last": [], "n": []};
        t0 and t1 are the first and last reading's time in the bucket, for which it is exact. An avg is null where the sum overflows.
        Raises CorruptPayload with the run's place when a payload cannot be read."""

def decode_run(created_us: int, encoding: int, payload: bytes) -> tuple[bytes, bytes]:
    """(int64 µs times, float64 values), little-endian, of one run's payload. Raises CorruptPayload."""

def list_readings(
    runs: bytes, from_us: int, to_us: int, after: tuple[int, int] | None, backwards: bool, limit: int
) -> list[tuple[int, int, float, int | None]]:
    """(event id, t_us, value, experiment id) of at most `limit` readings in [from_us, to_us), in the order of (t_us, event id) or
    `backwards`, that come after the place `after`. `runs`: a binary COPY of (event_id, created_on, id, n, experiment_id, encoding,
    payload) of all runs of some events that touch the window. Raises CorruptPayload with the run's place."""

# many small runs become few long ones

@final
class Compaction:
    """What is worth writing anew among the runs of some events on one day: see docs/decisions/0010-compaction.md.

    `stats` is the output of a binary COPY of (event_id, created_on, last_on, n, experiment_id, encoding, overlapping), ordered by
    event_id, created_on, id, at most COMPACTION_RUNS_MAX of each event. Of every event they are all runs of that day from some instant
    on that no earlier run reaches. What lies at or after `before_us` is left as it is. Small runs that were merged before wait until there
    are 64 of them, unless `thorough`. About 262,144 readings are planned at most; a later one goes on.
    """

    def __init__(self, stats: bytes, before_us: int, thorough: bool) -> None: ...
    @property
    def ranges(self) -> list[tuple[int, int, int]]:
        """(event id, from_us, to_us): every run of the event that begins in [from_us, to_us) is to be replaced; empty: nothing to do."""

    @property
    def runs(self) -> int:
        """How many runs are to be replaced."""

    def merge(self, runs: bytes, experiments: list[tuple[int, bytes, int, int | None, list[int] | None]]) -> Merged:
        """`runs`: a binary COPY of (event_id, created_on, id, n, encoding, overlapping, payload) of all runs in the ranges, in any order.
        `experiments` as in `set_experiments`: all that touch the day. Raises CorruptPayload with the run's place when a payload cannot
        be read or does not hold its n readings, and CoreError when these are not the runs that were planned."""

@final
class Merged:
    rows: bytes
    """datapoints rows in PostgreSQL's binary COPY form, without header and trailer: COPY_COLUMNS and then the id"""
    runs: int
    readings: int

def erase(
    runs: bytes, from_us: int, to_us: int, experiments: list[tuple[int, bytes, int, int | None, list[int] | None]]
) -> tuple[bytes, int]:
    """(the rows of what is left of some runs without their readings in [from_us, to_us), in the form of `Merged.rows`; how many readings
    lay there). Each part keeps its run's id and mark. `runs` and `experiments` as for `Compaction.merge`. Raises CorruptPayload with the
    run's place when one cannot be read."""
