"""What a source sent and what was acknowledged to it, kept by the test itself, and the judge that compares it with the database.

A reading carries its identity in its value: an exact integer below 2^53 made of source, frame and position. So nothing that the
system counts has to be believed: the checker reads every stored run with the core's `decode_run` and knows of each reading whose it
is, whether its time is the one that was sent, whether it is there once, and which are missing. The same of what is declared: a gap
frame's count, cause, channel and interval follow from its number.
"""

import os
import struct
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

import asyncpg
from webmacs_controller import wire

from parts import stored
from webmacs import ingest_core
from webmacs.clock import from_datetime

SOURCES_MAX: Final = 1 << 10
FRAMES_MAX: Final = 1 << 25
POSITIONS_MAX: Final = 1 << 18
"""Readings in a frame. 10 + 25 + 18 bits: every identity is a whole number that float64 holds exactly."""
CAUSES: Final = get_args(wire.GapCause)


def value_of(source: int, frame: int, position: int) -> float:
    """The identity of a reading: source 0 ... 1,023, frame 1 ..., position in the frame from 0. Raises ValueError beyond."""
    if not (0 <= source < SOURCES_MAX and 0 <= frame < FRAMES_MAX and 0 <= position < POSITIONS_MAX):
        raise ValueError(f"no identity for source {source}, frame {frame}, position {position}")
    return float((source * FRAMES_MAX + frame) * POSITIONS_MAX + position)


def identity_of(value: float) -> tuple[int, int, int] | None:
    """(source, frame, position) of a value that `value_of` made; None for any other."""
    if not value.is_integer() or not 0 <= value < 2**53:
        return None
    whole, position = divmod(int(value), POSITIONS_MAX)
    return *divmod(whole, FRAMES_MAX), position


class Journal:
    """One source's frames 1, 2, ...: each holds the next `readings` readings of every channel, `step_us` apart.

    Channel c of the frame has the positions c * readings ... (c + 1) * readings - 1. Every frame whose number `gap_every` divides is a gap
    frame instead, about the time of the readings that it would have held. The source sends what `encode` gives, says `sent` before it does
    and `acknowledged` after it was told so; the last is on disk when the call returns.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        source: int,
        keys: Sequence[str],
        readings: int,
        start_us: int,
        step_us: int = 1_000,
        gap_every: int = FRAMES_MAX,
    ) -> None:
        self.name = name
        """Of the source, as the database knows it."""
        self.source = source
        """In the values; every journal of a test has its own."""
        self.keys = list(keys)
        """Of the channels, numbered from 0."""
        self.readings = readings
        self.start_us = start_us
        self.step_us = step_us
        self.gap_every = gap_every
        """FRAMES_MAX: no frame"""
        self.stream = os.urandom(16)
        """Under which the frames are sent, whoever sends them."""
        self._path = path
        self.acknowledged_max = max((frame for (frame,) in struct.iter_unpack("<q", path.read_bytes())), default=0) if path.exists() else 0
        self.sent_max = self.acknowledged_max
        self.retracted = 0
        """Readings, and ..."""
        self.gaps_retracted = 0

    @property
    def frame_readings(self) -> int:
        return self.readings * len(self.keys)

    def is_gap(self, frame: int) -> bool:
        return frame % self.gap_every == 0

    def gaps(self, frame: int) -> int:
        """How many of the frames up to this one are gap frames; the others hold readings."""
        return frame // self.gap_every

    def time_of(self, frame: int, index: int) -> int:
        """Of a channel's reading `index` in a frame, in µs."""
        return self.start_us + ((frame - 1) * self.readings + index) * self.step_us

    def columns(self, frame: int) -> list[wire.Column]:
        base = int(value_of(self.source, frame, 0))
        t0_us = self.time_of(frame, 0)
        return [
            wire.Column(channel, t0_us, self.step_us, array("d", range(first, first + self.readings)).tobytes())
            for channel, first in enumerate(range(base, base + self.frame_readings, self.readings))
        ]

    def gap(self, frame: int) -> wire.Gap:
        """No two of a journal count the same or are of the same time. Causes take turns, and so do the channels and all of them."""
        turn = self.gaps(frame)
        channel = turn % (len(self.keys) + 1)
        return wire.Gap(
            frame,
            None if channel == len(self.keys) else channel,
            self.time_of(frame, 0),
            self.time_of(frame, self.readings - 1),
            frame,
            CAUSES[turn % len(CAUSES)],
        )

    def encode(self, frame: int) -> bytes:
        """The frame as it travels."""
        return wire.encode(self.gap(frame) if self.is_gap(frame) else wire.Data(frame, self.time_of(frame, 0), self.columns(frame)))

    def sent(self, frame: int) -> None:
        """Everything up to this frame may be stored from now on."""
        self.sent_max = max(self.sent_max, frame)

    def acknowledged(self, frame: int) -> None:
        """The backend said that everything up to this frame is stored."""
        assert frame <= self.sent_max, f"frame {frame} was acknowledged, {self.sent_max} was the last one sent"
        if frame > self.acknowledged_max:
            self.acknowledged_max = frame
            with self._path.open("ab", buffering=0) as file:
                file.write(struct.pack("<q", frame))
                os.fsync(file.fileno())

    def resumed(self, frame: int) -> None:
        """A new connection began, and the backend says that everything up to this frame is stored. Less than was acknowledged is a loss,
        though this source, unlike any other, can send it again."""
        if (frames := self.acknowledged_max - frame) > 0:
            gaps = self.gaps(self.acknowledged_max) - self.gaps(frame)
            self.gaps_retracted += gaps
            self.retracted += (frames - gaps) * self.frame_readings
        self.acknowledged(frame)

    @property
    def unknown(self) -> int:
        """Frames that were sent and whose fate was not told."""
        return self.sent_max - self.acknowledged_max


@dataclass
class Tally:
    """`lost` and `twice` must be 0 whatever happened."""

    lost: int = 0
    """acknowledged and not stored"""
    retracted: int = 0
    """acknowledged, and asked for again later: lost for a source that forgets what was acknowledged"""
    twice: int = 0
    """copies beyond the first"""
    foreign: int = 0
    """never sent like this: another value or count, another time, another channel"""
    stored: int = 0
    """distinct ones of the journals"""
    acknowledged: int = 0

    @property
    def clean(self) -> bool:
        return (self.lost, self.retracted, self.twice, self.foreign) == (0, 0, 0, 0)


@dataclass
class Verdict(Tally):
    """In readings, and ..."""

    gaps: Tally = field(default_factory=Tally)
    """... in gap frames"""
    missing: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Channel key -> acknowledged frames of which some readings are missing, as (first, last)"""

    @property
    def clean(self) -> bool:
        return super().clean and self.gaps.clean


async def check(conn: "asyncpg.Connection[Any]", journals: Iterable[Journal]) -> Verdict:
    """Reads every run and every gap of the journals' sources and judges each reading and each gap. No number that the system keeps is
    looked at.

    Several journals may be of one source (other streams of it); they then have the same keys.
    """
    verdict = Verdict()
    by_name: dict[str, dict[int, Journal]] = {}
    for journal in journals:
        by_name.setdefault(journal.name, {})[journal.source] = journal
        verdict.retracted += journal.retracted
        verdict.gaps.retracted += journal.gaps_retracted
    for name, of_source in by_name.items():
        found = await stored.events_of(conn, name)
        _judge_gaps(of_source.values(), found, Counter(await stored.gaps(conn, name)), verdict.gaps)
        for channel, key in enumerate(next(iter(of_source.values())).keys):
            shelves = {number: _Shelf(journal, channel) for number, journal in of_source.items()}
            for run in await conn.fetch("SELECT created_on, encoding, payload FROM datapoints WHERE event_id = $1", found.pop(key, None)):
                verdict.foreign += _sort_in(
                    shelves, *ingest_core.decode_run(from_datetime(run["created_on"]), run["encoding"], run["payload"])
                )
            for shelf in shelves.values():
                shelf.judge(key, verdict)
        for stranger in found.values():
            verdict.foreign += await conn.fetchval("SELECT coalesce(sum(n), 0) FROM datapoints WHERE event_id = $1", stranger)
    return verdict


def _judge_gaps(journals: Iterable[Journal], events: dict[str, int], standing: Counter[stored.Gap], tally: Tally) -> None:
    for journal in journals:
        for frame in range(journal.gap_every, journal.sent_max + 1, journal.gap_every):
            gap = journal.gap(frame)
            event = None if gap.channel is None else events.get(journal.keys[gap.channel])
            copies = standing.pop(stored.Gap(journal.stream, frame, event, gap.from_us, gap.to_us, gap.n, gap.cause), 0)
            tally.stored += copies > 0
            tally.twice += max(0, copies - 1)
            if frame <= journal.acknowledged_max:
                tally.acknowledged += 1
                tally.lost += copies == 0
    tally.foreign += standing.total()


class _Shelf:
    """One channel of a journal: what should be stored there laid out in order, so that whole runs are compared at once.
    Readings have places in the order of their frames; a gap frame takes none."""

    def __init__(self, journal: Journal, channel: int) -> None:
        self.journal = journal
        self.channel = channel
        self.frames = [frame for frame in range(1, journal.sent_max + 1) if not journal.is_gap(frame)]
        self.places = len(self.frames) * journal.readings
        times, values = bytearray(), bytearray()
        for frame in self.frames:
            first_us, end_us = journal.time_of(frame, 0), journal.time_of(frame, journal.readings)
            times += array("q", range(first_us, end_us, journal.step_us)).tobytes()
            first = int(value_of(journal.source, frame, channel * journal.readings))
            values += array("d", range(first, first + journal.readings)).tobytes()
        self.times, self.values = bytes(times), bytes(values)
        self.found: list[tuple[int, int]] = []
        """Stretches of places, one for each copy that is stored."""

    def place(self, frame: int, position: int) -> int | None:
        channel, index = divmod(position, self.journal.readings)
        if channel != self.channel or not 1 <= frame <= self.journal.sent_max or self.journal.is_gap(frame):
            return None
        return (frame - self.journal.gaps(frame) - 1) * self.journal.readings + index

    def take(self, place: int, times: bytes, values: bytes) -> bool:
        """Whether exactly this should be stored from this place on."""
        here = slice(8 * place, 8 * place + len(times))
        if times != self.times[here] or values != self.values[here]:
            return False
        self.found.append((place, place + len(times) // 8))
        return True

    def judge(self, key: str, verdict: Verdict) -> None:
        frames = self.journal.acknowledged_max
        acknowledged = (frames - self.journal.gaps(frames)) * self.journal.readings
        missing: list[tuple[int, int]] = []
        reached = 0
        for start, end in [*sorted(self.found), (self.places, self.places)]:
            if reached < min(start, acknowledged):
                missing.append((reached, min(start, acknowledged)))
            verdict.twice += max(0, min(reached, end) - start)
            verdict.stored += max(0, end - max(reached, start))
            reached = max(reached, end)
        verdict.acknowledged += acknowledged
        verdict.lost += sum(end - start for start, end in missing)
        if missing:
            n = self.journal.readings
            verdict.missing[key] = [(self.frames[start // n], self.frames[(end - 1) // n]) for start, end in missing]


def _sort_in(shelves: dict[int, _Shelf], times: bytes, values: bytes) -> int:
    """Puts a run where it belongs, whole or reading by reading; answers how many belong nowhere."""
    if _put(shelves, times, values):
        return 0
    return sum(not _put(shelves, times[at : at + 8], values[at : at + 8]) for at in range(0, len(times), 8))


def _put(shelves: dict[int, _Shelf], times: bytes, values: bytes) -> bool:
    identity = identity_of(*struct.unpack_from("<d", values))
    if identity is None or (shelf := shelves.get(identity[0])) is None:
        return False
    place = shelf.place(*identity[1:])
    return place is not None and shelf.take(place, times, values)
