"""The spool after a power cut at any moment and after any damage to a file: it starts, it sends no wrong reading, what it was told to keep
is there unless the damage hit it, and what is missing is counted.

Readings are numbered 0, 1, 2 ... and taken a µs one after the other, so every gap can be compared with what is really missing.
"""

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec
import pytest
from parts import sabotage
from parts.double import Backend
from parts.torture import Row
from webmacs_controller import frame, segment, wire
from webmacs_controller.clock import Now
from webmacs_controller.disk import AppendFile, Disk
from webmacs_controller.protocol import Delivery
from webmacs_controller.spool import Spool

CHANNELS: Final = [wire.HelloChannel(1, "bench.1", None, "Channel", "", "sensor")]
READINGS: Final = 4
SECTOR: Final = 512
STEPS: Final = 30
START_US: Final = 1_800_000_020_000_000


@dataclass
class Inode:
    data: bytearray = field(default_factory=bytearray)
    synced: int = 0


Files = dict[str, bytes]


class RecordedFile(AppendFile):
    def __init__(self, path: Path, inode: Inode, told: Callable[[], None]) -> None:
        super().__init__(path)
        self._inode, self._told = inode, told

    def write(self, data: bytes) -> None:
        super().write(data)
        self._inode.data += data
        self._told()

    def sync(self) -> None:
        self._told()  # the power may go before it returns
        self._inode.synced = len(self._inode.data)
        self._told()


class RecordedDisk(Disk):
    """Real files, and beside them what of them a power cut leaves: names since the last sync of the directory in any order, data since
    the last sync of the file in any order of sectors. `watch` is called after every step of it."""

    def __init__(self, directory: Path, watch: Callable[["RecordedDisk"], None]) -> None:
        self._directory = directory
        self._watch = watch
        self.durable: dict[str, Inode] = {}
        self.names: dict[str, Inode] = {}
        self.pending: list[tuple[str, Inode | None]] = []
        """Names that were made (or replaced) and removed since the directory was synced."""

    def _changed(self) -> None:
        self._watch(self)

    def _name(self, name: str, inode: Inode | None) -> None:
        self.pending.append((name, inode))
        if inode is None:
            self.names.pop(name, None)
        else:
            self.names[name] = inode
        self._changed()

    def create(self, path: Path) -> AppendFile:
        if path.parent != self._directory:
            return super().create(path)
        inode = Inode()
        file = RecordedFile(path, inode, self._changed)
        self._name(path.name, inode)
        return file

    def replace(self, path: Path, data: bytes) -> None:
        super().replace(path, data)
        if path.parent == self._directory:
            self._name(path.name, Inode(bytearray(data), len(data)))
            self.sync_directory(path.parent)

    def remove(self, path: Path) -> None:
        super().remove(path)
        if path.parent == self._directory and path.name in self.names:
            self._name(path.name, None)

    def sync_directory(self, directory: Path) -> None:
        super().sync_directory(directory)
        if directory == self._directory:
            self.durable = dict(self.names)
            self.pending = []
            self._changed()

    def after_power_cut(self, chance: random.Random) -> Files:
        files = dict(self.durable)
        for name, inode in self.pending:
            if chance.random() < 0.5:
                if inode is None:
                    files.pop(name, None)
                else:
                    files[name] = inode
        return {name: _torn(inode, chance) for name, inode in files.items()}

    @property
    def promised(self) -> set[int]:
        """Readings that a power cut must leave: synced, under a name that is synced, and not given up since."""
        kept: set[int] = set()
        for name, inode in self.durable.items():
            if name.endswith(".segment") and self.names.get(name) is inode:
                for record in segment.parse(bytes(inode.data[: inode.synced])).records:
                    kept.update(_numbers(record.frame))
        return kept


def _torn(inode: Inode, chance: random.Random) -> bytes:
    data, reached = bytearray(inode.data[: inode.synced]), inode.synced
    kind = chance.random()
    for at in range(inode.synced // SECTOR * SECTOR, len(inode.data), SECTOR):
        if kind < 0.3 or (kind < 0.9 and chance.random() < 0.5):
            first, end = max(at, inode.synced), min(at + SECTOR, len(inode.data))
            data.extend(bytes(end - len(data)))
            data[first:end] = inode.data[first:end]
            reached = end
    if chance.random() < 0.3:  # the length is there before the data
        data.extend(bytes(len(inode.data) - reached))
    return bytes(data)


def _numbers(sealed: bytes) -> list[int]:
    decoded = msgspec.msgpack.decode(sealed)
    if decoded[0] != wire.KIND_DATA:
        return []
    return [int(value) for _, _, _, packed in decoded[3] for value in memoryview(packed).cast("d")]


class Life:
    """One process of a controller with a spool that is too small now and then, and a backend that comes and goes."""

    def __init__(self, place: Path, chance: random.Random, watch: Callable[["Life"], None] | None = None) -> None:
        self.directory, self.shared = place / "spool", place / "shared"
        self.directory.mkdir(parents=True)
        self.chance = chance
        self.bytes_max = chance.choice([8_000, 20_000, 1 << 20])
        self.monotonic_us = 10_000_000
        self.made = 0
        self.backend = Backend(chance.choice([300, 100_000]))
        self.disk = RecordedDisk(self.directory, lambda _: watch(self) if watch and hasattr(self, "spool") else None)
        self.spool = Spool(self.directory, CHANNELS, self.bytes_max, self.shared, self.now, lambda: chance.randbytes(16), self.disk)

    def now(self) -> Now:
        return Now(1_800_000_000_000_000 + self.monotonic_us, self.monotonic_us)

    async def live(self) -> None:
        for _ in range(STEPS):
            match self.chance.choice(["sample", "sample", "disk", "disk", "cut"]):
                case "sample":
                    for _ in range(self.chance.randint(1, 12)):
                        self.sample()
                case "disk":
                    self.monotonic_us += 1_500_000
                    await self.spool.spill()
                case "cut":
                    deliver(self.spool, self.backend, self.chance.randint(1, 10))

    def sample(self) -> None:
        column = frame.Readings()
        column.times_us.extend(range(START_US + self.made, START_US + self.made + READINGS))
        column.values.extend(map(float, range(self.made, self.made + READINGS)))
        self.made += READINGS
        self.spool.append(next(frame.seal({1: column}, 0)))
        self.monotonic_us += 100_000

    def die(self) -> None:
        if self.spool._lock is not None:
            self.disk.unlock(self.spool._lock)


def deliver(spool: Spool, backend: Backend, messages: int = 1_000_000) -> bool:
    source = Delivery(spool, [], "test", 1 << 30)
    backend.forget_connection()
    source.connected(Now(0, 0))
    while messages and (message := source.next_message(Now(0, 0))) is not None:
        messages -= 1
        for answer in backend.take(message):
            source.received(answer, Now(0, 0))
    delivered = source.delivered
    source.disconnected()
    return delivered


@dataclass
class Judged:
    stored: set[int]
    wrong: int
    """Readings that are stored twice, out of their order or at another time than they were taken."""
    miscounted: bool
    """Gaps declare less than is missing before the last one that is stored, or more than is missing at all."""
    missing: int
    undeclared: int
    """Missing for certain beyond what gaps declare."""
    twice: int
    dropped: set[int]
    """Missing because the spool was full, and declared so."""


def judge(backend: Backend, made: int) -> Judged:
    numbers: list[int] = []
    dropped: set[int] = set()
    wrong = declared = 0
    for kind, _, *rest in (stored for frames in backend.stored.values() for stored in frames):
        if kind == wire.KIND_DATA:
            for _, t0_us, times, packed in rest[1]:  # type: ignore[attr-defined]
                column = [int(value) for value in memoryview(packed).cast("d")]
                numbers += column
                wrong += (t0_us, times) != (START_US + column[0], 1)
        elif kind == wire.KIND_GAP:
            gap = msgspec.convert([wire.KIND_GAP, 0, *rest], wire.Gap)
            declared += gap.n
            if gap.cause == "spool_overflow":
                dropped.update(range(gap.from_us - START_US, gap.to_us - START_US + 1))
    wrong += sum(after <= before for before, after in pairwise(numbers))
    wrong += sum(not 0 <= number < made for number in numbers)
    stored = set(numbers)
    certainly = max(numbers, default=-1) + 1 - len(stored)
    return Judged(
        stored,
        wrong,
        not certainly <= declared <= made - len(stored),
        made - len(stored),
        max(0, certainly - declared),
        len(numbers) - len(stored),
        dropped - stored,
    )


@dataclass
class Snapshot:
    files: Files
    shared: Files
    made: int
    promised: set[int]
    """Readings that must arrive."""
    backend: Backend
    bytes_max: int


def copy_backend(backend: Backend) -> Backend:
    copy = Backend(100_000)
    copy.stored = {stream: list(frames) for stream, frames in backend.stored.items()}
    return copy


def resume(place: Path, after: Snapshot, chance: random.Random) -> Judged:
    """A new process finds this, and delivers what it can."""
    for directory, files in ((place / "spool", after.files), (place / "shared", after.shared)):
        directory.mkdir(parents=True)
        for name, data in files.items():
            (directory / name).write_bytes(data)
    now = Now(1_900_000_000_000_000, 10_000_000)
    spool = Spool(place / "spool", CHANNELS, 1 << 20, place / "shared", lambda: now, lambda: chance.randbytes(16))
    backend = copy_backend(after.backend)
    assert deliver(spool, backend)
    spool.close()
    shutil.rmtree(place)
    return judge(backend, after.made)


@pytest.fixture
def place() -> Iterator[Path]:
    """In memory where that is: nothing here waits for a real disk."""
    folder = Path(tempfile.mkdtemp(prefix="webmacs-damage-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


async def power_cuts(place: Path, chance: random.Random, states: int) -> Iterator[tuple[Snapshot, Judged]]:
    """So many states after a power cut, from as many lives as that needs."""
    found: list[tuple[Snapshot, Judged]] = []
    while len(found) < states:
        snapshots: list[Snapshot] = []

        def cut(life: Life, snapshots: list[Snapshot] = snapshots) -> None:
            if chance.random() < 0.3:
                files = life.disk.after_power_cut(chance)
                snapshots.append(Snapshot(files, {}, life.made, life.disk.promised, copy_backend(life.backend), life.bytes_max))

        life = Life(place / "life", chance, cut)
        await life.live()
        life.die()
        shutil.rmtree(place / "life")
        found += [(snapshot, resume(place / "after", snapshot, chance)) for snapshot in snapshots[: states - len(found)]]
    return iter(found)


def _flip(data: bytearray, chance: random.Random, _: list[bytes]) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _zero(data: bytearray, chance: random.Random, _: list[bytes]) -> None:
    size = chance.choice([SECTOR, 4_096])
    at = chance.randrange(len(data)) // size * size
    data[at : at + size] = bytes(len(data[at : at + size]))


def _cut(data: bytearray, chance: random.Random, _: list[bytes]) -> None:
    del data[chance.randrange(len(data)) :]


def _empty(data: bytearray, _: random.Random, __: list[bytes]) -> None:
    data.clear()


def _exchange(data: bytearray, chance: random.Random, others: list[bytes]) -> None:
    data[:] = chance.choice(others)


def _grow(data: bytearray, chance: random.Random, _: list[bytes]) -> None:
    data += chance.randbytes(chance.randrange(1, 2_000))


def _repeat(data: bytearray, chance: random.Random, _: list[bytes]) -> None:
    at = chance.randrange(len(data)) // SECTOR * SECTOR
    data[at:at] = data[at : at + SECTOR]


HARMS: Final = (_flip, _flip, _zero, _zero, _cut, _empty, _exchange, _grow, _repeat)


async def damages(place: Path, chance: random.Random, states: int) -> Iterator[tuple[Snapshot, Judged]]:
    """So many killed processes, each with one damaged or lost file of theirs."""
    found: list[tuple[Snapshot, Judged]] = []
    while len(found) < states:
        life = Life(place / "life", chance)
        await life.live()
        life.die()
        kept = [{path.name: path.read_bytes() for path in where.iterdir()} for where in (life.directory, life.shared)]
        shutil.rmtree(place / "life")
        for _ in range(min(10, states - len(found))):
            files, shared = dict(kept[0]), dict(kept[1])
            where = chance.choice([directory for directory in (files, shared) if any(directory.values())] or [files])
            name = chance.choice([name for name, data in where.items() if data] or ["new.segment"])
            if name in where and chance.random() < 0.1:
                del where[name]
            else:
                harmed = bytearray(where.get(name, b"\0"))
                chance.choice(HARMS)(harmed, chance, [*kept[0].values(), *kept[1].values()])
                where[name] = bytes(harmed)
            snapshot = Snapshot(files, shared, life.made, set(), copy_backend(life.backend), life.bytes_max)
            found.append((snapshot, resume(place / "after", snapshot, chance)))
    return iter(found)


@pytest.mark.row(15)
async def test_after_a_power_cut_what_was_synced_is_sent_and_nothing_wrong_is(place: Path, row: Row) -> None:
    states = row.count(quick=300, full=10_000)
    wrong = lost = twice = miscounted = 0
    for snapshot, judged in await power_cuts(place, row.chance, states):
        wrong += judged.wrong
        lost += len(snapshot.promised - judged.stored - judged.dropped)
        twice += judged.twice
        miscounted += judged.miscounted
    row.record(done=states, unit="states", refused=None, unknown=None, lost=lost, twice=twice, wrong=wrong, miscounted=miscounted)
    assert (wrong, lost, miscounted) == (0, 0, 0)


@pytest.mark.row(15)
async def test_after_damage_nothing_wrong_is_sent_and_what_is_gone_is_counted(place: Path, row: Row) -> None:
    states = row.count(quick=300, full=10_000)
    wrong = miscounted = missing = undeclared = twice = 0
    for _, judged in await damages(place, row.chance, states):
        wrong += judged.wrong
        miscounted += judged.miscounted
        missing += judged.missing
        undeclared += judged.undeclared
        twice += judged.twice
    row.record(
        done=states, unit="states", refused=None, unknown=None, lost=undeclared, twice=twice,
        missing=missing, wrong=wrong, miscounted=miscounted,
    )  # fmt: skip
    assert (wrong, miscounted) == (0, 0)
    assert missing


@pytest.mark.row(15)
async def test_a_checksum_that_nobody_looks_at_sends_wrong_readings(place: Path, row: Row) -> None:
    wrong = no_frames = 0
    with sabotage.applied("skip_checksum"):
        for _ in range(200):
            try:
                wrong += sum(judged.wrong for _, judged in await damages(place, row.chance, 1))
            except Exception:
                no_frames += 1  # what is believed need not even be a frame
                shutil.rmtree(place)
                place.mkdir()
    row.caught("skip_checksum", of=test_after_damage_nothing_wrong_is_sent_and_what_is_gone_is_counted, wrong=wrong, no_frames=no_frames)
    assert wrong
