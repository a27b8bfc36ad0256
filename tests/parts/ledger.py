"""The ledger of a station: what its device says that it gave, against what the database holds and what is declared as missing.

The device's own journal is one side, `datapoints`, `gaps` and `receipts` the other; runs are read with the core's `decode_run`, and no
counter of the controller or the backend is believed.
"""

import struct
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from parts import stored
from parts.ramp import CHANNEL, Kind, read_journal
from webmacs import ingest_core
from webmacs.clock import from_datetime

Stretch = tuple[int, int]
"""Numbers from the first to before the second."""


class Gap(NamedTuple):
    channel: int | None
    cause: str
    code: str | None
    n: int
    from_us: int | None
    to_us: int | None


def length(stretches: Iterable[Stretch]) -> int:
    return sum(end - first for first, end in stretches)


def without(whole: Sequence[Stretch], taken: Sequence[Stretch]) -> list[Stretch]:
    """What of `whole` is not in `taken`; both rising."""
    left: list[Stretch] = []
    waiting = list(reversed(taken))
    for first, end in whole:
        while waiting and waiting[-1][1] <= first:
            waiting.pop()
        for away_first, away_end in reversed(waiting):
            if away_first >= end or first >= end:
                break
            if away_first > first:
                left.append((first, away_first))
            first = max(first, away_end)
        if first < end:
            left.append((first, end))
    return left


def _joined(stretches: Iterable[Stretch]) -> list[Stretch]:
    joined: list[Stretch] = []
    for first, end in sorted(stretches):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((first, end))
    return joined


@dataclass
class Channel:
    given: list[Stretch]
    """Readings that the device gave, and that can be readings."""
    stored: list[Stretch]
    twice: int
    """Copies beyond the first."""
    foreign: int
    """Stored and never given."""
    backwards: int
    """Readings that are stored at a time that does not lie after the one before them."""
    first_us: dict[int, int]
    """Time of the first reading of each stored stretch and ..."""
    last_us: dict[int, int]
    """... of the last one, by its number."""

    @property
    def missing(self) -> list[Stretch]:
        return without(self.given, self.stored)

    def missing_of(self, begin: int, end: int) -> int:
        """How many readings are missing among those from number `begin` to before `end`."""
        return length((max(first, begin), min(last, end)) for first, last in self.missing if first < end and last > begin)


NOT_SAMPLED = frozenset({"device_error", "source_stopped"})
"""Causes of gaps for beats at which the device was not read, as on a machine that has other work: it gave nothing then."""


@dataclass
class Ledger:
    channels: list[Channel]
    gaps: list[Gap]
    receipts: int
    started: list[int]
    """The number with which each process of the controller began."""

    @property
    def given(self) -> int:
        return sum(length(channel.given) for channel in self.channels)

    @property
    def stored(self) -> int:
        return sum(length(channel.stored) for channel in self.channels)

    @property
    def missing(self) -> int:
        return sum(length(channel.missing) for channel in self.channels)

    @property
    def twice(self) -> int:
        return sum(channel.twice for channel in self.channels)

    @property
    def true(self) -> bool:
        """Nothing is stored twice, nothing that was not given, no time runs back, and the receipts say what is stored."""
        wrong = sum(channel.foreign + channel.backwards for channel in self.channels)
        return (self.twice, wrong, self.receipts) == (0, 0, self.stored)

    def declared(self, *causes: str, channel: int | None = None) -> int:
        """Readings that gaps of these causes declare: of all channels together, or of one by its name."""
        return sum(gap.n for gap in self.gaps if gap.cause in causes and gap.channel == channel)

    @property
    def not_sampled(self) -> int:
        return sum(self.causes[cause] for cause in NOT_SAMPLED)

    @property
    def causes(self) -> Counter[str]:
        """Readings that gaps of each cause declare, of the whole source or of one of its channels."""
        counted: Counter[str] = Counter()
        for gap in self.gaps:
            counted[gap.cause] += gap.n
        return counted


async def read_ledger(
    conn: "asyncpg.Connection[Any]", source: str, journal: Path, channels: int, former: Mapping[int, int] | None = None
) -> Ledger:
    """`former`: channel -> id of an event that it had and that was deleted; its readings stay."""
    entries = read_journal(journal)
    given = [(first, first + count) for kind, first, count, _ in entries if kind is Kind.GIVEN]
    events = await stored.events_of(conn, source)
    made = []
    for c in range(channels):
        spoilt = (Kind.OMITTED, Kind.INFINITE)
        withheld = _joined((number, number + count) for kind, number, count, more in entries if kind in spoilt and more == c)
        ids = [event for event in (events.get(f"ramp.c{c}"), (former or {}).get(c)) if event is not None]
        made.append(await _read_channel(conn, ids, c, without(_joined(given), withheld)))
    numbers = {event: int(key.removeprefix("ramp.c")) for key, event in events.items()} | {
        event: channel for channel, event in (former or {}).items()
    }
    gaps = [
        Gap(
            None if row["event_id"] is None else numbers[row["event_id"]],
            row["cause"],
            row["code"],
            row["n"] or 0,  # a refused frame that held no readings
            None if row["from_on"] is None else from_datetime(row["from_on"]),
            None if row["to_on"] is None else from_datetime(row["to_on"]),
        )
        for row in await conn.fetch(
            "SELECT g.* FROM gaps g JOIN sources s ON s.id = g.source_id WHERE s.name = $1 ORDER BY g.from_on, g.id", source
        )
    ]
    receipts = await conn.fetchval(
        "SELECT coalesce(sum(r.readings), 0)::int8 FROM receipts r JOIN sources s ON s.id = r.source_id WHERE s.name = $1", source
    )
    return Ledger(made, gaps, receipts, [first for kind, first, _, _ in entries if kind is Kind.STARTED])


async def _read_channel(conn: "asyncpg.Connection[Any]", events: list[int], channel: int, given: list[Stretch]) -> Channel:
    found: list[tuple[int, int, int, int]] = []  # (first number, end, time of the first, of the last), rising in time
    rows = await conn.fetch("SELECT created_on, encoding, payload FROM datapoints WHERE event_id = ANY($1) ORDER BY created_on, id", events)
    for row in rows:
        packed_times, packed = ingest_core.decode_run(from_datetime(row["created_on"]), row["encoding"], row["payload"])
        n = len(packed_times) // 8
        first = int(struct.unpack_from("<d", packed)[0]) - channel * CHANNEL
        times = array("q", packed_times)
        whole = packed == array("d", range(channel * CHANNEL + first, channel * CHANNEL + first + n)).tobytes()
        if whole and all(before < after for before, after in pairwise(times)):
            found.append((first, first + n, times[0], times[-1]))
        else:
            for t_us, value in zip(times, array("d", packed), strict=True):
                number = int(value) - channel * CHANNEL
                found.append((number, number + 1, t_us, t_us))
    stored = _joined((first, end) for first, end, _, _ in found)
    backwards = sum(after[2] <= before[3] or after[0] < before[1] for before, after in pairwise(found))
    return Channel(
        given,
        stored,
        length((first, end) for first, end, _, _ in found) - length(stored),
        length(without(stored, given)),
        backwards,
        {first: t_us for first, _, t_us, _ in found},
        {end - 1: t_us for _, end, _, t_us in found},
    )
