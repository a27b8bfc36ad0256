"""The spool through full disks, dead processes and damaged files: every reading is sent once, or counted in a gap."""

import errno
import os
import random
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from parts.double import Backend
from webmacs_controller import clock, frame, segment, wire
from webmacs_controller.clock import Now
from webmacs_controller.disk import Disk
from webmacs_controller.protocol import Delivery
from webmacs_controller.spool import Spool, SpoolError

CHANNELS = [wire.HelloChannel(1, "bench.1", None, "Channel", "", "sensor")]
READINGS = 4


class Machine:
    """A controller's place: directories that stay, a clock, and processes that come and go. Readings are numbered 0, 1, 2 ..."""

    def __init__(self, place: Path, bytes_max: int = 1 << 20) -> None:
        self.disk, self.shared = place / "spool", place / "shared"
        self._bytes_max = bytes_max
        self._monotonic_us = 10_000_000
        self._ids = random.Random(str(place))
        self.made = 0
        self.spool = self._start()

    def _start(self) -> Spool:
        return Spool(self.disk, CHANNELS, self._bytes_max, self.shared, self._now, lambda: self._ids.randbytes(16))

    def _now(self) -> Now:
        return Now(1_800_000_000_000_000 + self._monotonic_us, self._monotonic_us)

    def pass_time(self, s: float) -> None:
        self._monotonic_us += int(s * 1e6)

    def sample(self, frames: int = 1, readings: int = READINGS) -> None:
        for _ in range(frames):
            column = frame.Readings()
            column.times_us.extend(range(self.made, self.made + readings))
            column.values.extend(float(i) for i in range(self.made, self.made + readings))
            self.made += readings
            self.spool.append(next(frame.seal({1: column}, 0)))
            self.pass_time(0.1)

    def die(self) -> None:
        """kill -9: what the kernel would close is closed, nothing is said."""
        if self.spool._lock is not None:
            os.close(self.spool._lock)

    def restart(self) -> None:
        self.die()
        self.spool = self._start()

    def stop(self) -> None:
        self.spool.close()
        self.spool = self._start()

    async def to_disk(self) -> None:
        self.pass_time(11)  # also past the pause after a failure
        await self.spool.spill()

    def segments(self) -> list[Path]:
        return sorted(self.disk.glob("*.segment"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def deliver(spool: Spool, backend: Backend, messages: int = 1_000_000) -> Delivery:
    """One connection on which at most so many messages are sent before it is cut."""
    source = Delivery(spool, [], "test", 1 << 30)
    backend.forget_connection()
    source.connected(Now(0, 0))
    while messages and (message := source.next_message(Now(0, 0))) is not None:
        messages -= 1
        for answer in backend.take(message):
            source.received(answer, Now(0, 0))
    source.disconnected()
    return source


def values(backend: Backend) -> list[int]:
    """Every reading that is stored, in the order of storing."""
    found: list[int] = []
    for kind, _, _, columns, *_ in (stored for frames in backend.stored.values() for stored in frames):
        if kind == wire.KIND_DATA:
            for _, _, _, packed in columns:  # type: ignore[attr-defined]
                found += map(int, memoryview(packed).cast("d"))
    return found


def lost(backend: Backend) -> int:
    return sum(stored[5] for frames in backend.stored.values() for stored in frames if stored[0] == wire.KIND_GAP)  # type: ignore[misc]


def gaps(backend: Backend) -> list[wire.Gap]:
    return [msgspec.convert(stored, wire.Gap) for frames in backend.stored.values() for stored in frames if stored[0] == wire.KIND_GAP]


def assert_whole(machine: Machine, backend: Backend) -> None:
    """What is stored is in order and once, and what is missing is counted exactly: readings and numbers."""
    stored = values(backend)
    assert stored == sorted(set(stored))
    assert len(stored) + lost(backend) == machine.made
    for frames in backend.stored.values():
        reached = 0
        for kind, seq, *fields in frames:
            assert isinstance(seq, int)
            assert seq - reached == (fields[-1] if kind == wire.KIND_GAP else 1), "a gap stands for exactly the numbers that are missing"
            reached = seq


def test_an_acknowledged_frame_never_touches_the_disk(machine: Machine) -> None:
    backend = Backend()
    for _ in range(50):
        machine.sample()
        assert deliver(machine.spool, backend).delivered
    assert machine.segments() == []
    assert len(list(machine.shared.iterdir())) <= 2
    assert (machine.spool.frames, machine.spool.held_bytes) == (0, 0)


async def test_what_waits_longer_than_a_second_goes_to_disk_and_is_sent_from_there(machine: Machine) -> None:
    machine.sample(30)
    await machine.spool.spill()
    assert len(machine.segments()) == 1
    backend = Backend()
    assert deliver(machine.spool, backend).delivered
    assert_whole(machine, backend)
    machine.stop()
    assert (machine.segments(), machine.spool.held_bytes) == ([], 0)


def test_a_killed_process_leaves_what_it_appended(machine: Machine) -> None:
    for _ in range(3):
        machine.sample(7)
        machine.restart()
    machine.sample(5)
    backend = Backend()
    assert deliver(machine.spool, backend).delivered
    assert values(backend) == list(range(machine.made))
    assert [len(frames) for frames in backend.stored.values()] == [7, 7, 7, 5]


def test_a_stop_in_order_keeps_everything_on_disk_and_remembers_when_it_was(machine: Machine) -> None:
    machine.sample(7)
    machine.stop()
    assert machine.spool.last_reading_us == machine.made - 1
    assert list(machine.shared.glob("*.segment")) == []
    backend = Backend()
    deliver(machine.spool, backend)
    machine.stop()
    assert machine.spool.last_reading_us == machine.made - 1
    assert_whole(machine, backend)


def test_a_second_controller_on_the_same_spool_is_told_so(machine: Machine) -> None:
    with pytest.raises(SpoolError, match=r"^Another controller uses the spool .*: stop it"):
        Spool(machine.disk, CHANNELS, 1 << 20, machine.shared)


@pytest.mark.parametrize("seed", range(80))
async def test_random_lives_of_a_controller_lose_and_double_nothing(tmp_path: Path, seed: int) -> None:
    """Samples, disk, cut connections, kills, and a spool that is too small, in any order."""
    chance = random.Random(seed)
    machine, backend = Machine(tmp_path, chance.choice([4_000, 20_000, 1 << 20])), Backend(chance.choice([200, 100_000]))
    for _ in range(60):
        match chance.choice(["sample", "sample", "sample", "disk", "deliver", "cut", "kill"]):
            case "sample":
                machine.sample(chance.randint(1, 20))
            case "disk":
                await machine.to_disk()
            case "deliver":
                assert deliver(machine.spool, backend).delivered
            case "cut":
                deliver(machine.spool, backend, chance.randint(1, 20))
            case "kill" if chance.random() < 0.3:
                machine.restart()
    assert deliver(machine.spool, backend).delivered
    assert_whole(machine, backend)
    assert sum(machine.spool.lost.values()) <= lost(backend)


async def test_a_full_spool_drops_the_oldest_and_declares_one_gap_with_the_exact_count(tmp_path: Path) -> None:
    machine, backend = Machine(tmp_path, 20_000), Backend()
    for _ in range(40):
        machine.sample(10)
        await machine.to_disk()
        assert machine.spool.held_bytes <= 20_000
    assert deliver(machine.spool, backend).delivered
    (gap,) = gaps(backend)
    stored = values(backend)
    assert (gap.cause, gap.channel, gap.seq * READINGS, gap.n) == ("spool_overflow", None, gap.n, machine.made - len(stored))
    assert (gap.from_us, gap.to_us) == (0, stored[0] - 1)
    assert stored == list(range(gap.n, machine.made))
    assert machine.spool.lost == {"spool_overflow": gap.n}


async def test_a_dropped_count_survives_a_kill(tmp_path: Path) -> None:
    machine, backend = Machine(tmp_path, 20_000), Backend()
    for _ in range(40):
        machine.sample(10)
        await machine.to_disk()
    machine.restart()
    deliver(machine.spool, backend, 3)  # describe, hello and the gap frame, whose acknowledgement is lost
    machine.restart()
    assert deliver(machine.spool, backend).delivered
    assert len(gaps(backend)) == 1
    assert_whole(machine, backend)


def test_frames_under_way_are_not_dropped_by_a_full_spool(tmp_path: Path) -> None:
    machine, backend = Machine(tmp_path, 4_000), Backend()
    machine.sample(10)
    source = Delivery(machine.spool, [], "test", 2_000)
    source.connected(Now(0, 0))
    backend.acknowledging = False
    while (message := source.next_message(Now(0, 0))) is not None:
        for answer in backend.take(message):
            source.received(answer, Now(0, 0))
    before = values(backend)
    assert before
    machine.sample(100)
    source.disconnected()
    backend.acknowledging = True
    assert deliver(machine.spool, backend).delivered
    assert values(backend)[: len(before)] == before
    assert_whole(machine, backend)


def _flip(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _zero(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    data[at : at + 512] = bytes(len(data[at : at + 512]))


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


@pytest.mark.parametrize("harm", [_flip, _zero, _cut])
async def test_damage_costs_what_it_hit_and_no_wrong_reading_is_sent(
    tmp_path: Path, harm: Callable[[bytearray, random.Random], None]
) -> None:
    machine = Machine(tmp_path / "whole", 40_000)
    for _ in range(24):
        machine.sample(10)
        await machine.to_disk()
    machine.die()
    files = {path.name: path.read_bytes() for path in machine.segments()}
    assert len(files) >= 3
    for seed in range(60):
        chance = random.Random(seed)
        name = chance.choice(sorted(files)[:-1])  # damage to the last file's end cannot be told from a torn tail
        harmed = bytearray(files[name])
        harm(harmed, chance)
        place = tmp_path / f"{harm.__name__}-{seed}"
        (place / "spool").mkdir(parents=True)
        for other, data in files.items():
            (place / "spool" / other).write_bytes(bytes(harmed) if other == name else data)
        after, backend = Machine(place, 40_000), Backend()
        after.made = machine.made
        assert deliver(after.spool, backend).delivered
        assert_whole(after, backend)
        assert all(gap.cause == "spool_damaged" for gap in gaps(backend))
        if harm is _flip:
            assert lost(backend) <= READINGS
        after.die()


async def test_every_prefix_of_the_last_segment_starts_and_gives_its_whole_records(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "whole")
    machine.sample(6)
    await machine.to_disk()
    machine.die()
    (path,) = machine.segments()
    data = path.read_bytes()
    whole = len(segment.parse(data).records)
    assert whole == 6
    counts = []
    for length in range(len(data) + 1):
        records = segment.parse(data[:length]).records
        assert [record.index for record in records] == list(range(1, len(records) + 1))
        counts.append(len(records))
        if length % 97 == 0 or length == len(data):
            place = tmp_path / str(length)
            (place / "spool").mkdir(parents=True)
            (place / "spool" / path.name).write_bytes(data[:length])
            after, backend = Machine(place), Backend()
            after.sample()
            assert deliver(after.spool, backend).delivered
            assert values(backend)[:-READINGS] == list(range(len(records) * READINGS))
            after.die()
    assert counts == sorted(counts)


async def test_a_lost_segment_becomes_one_gap_with_its_count(tmp_path: Path) -> None:
    machine, backend = Machine(tmp_path, 40_000), Backend()
    for _ in range(24):
        machine.sample(10)
        await machine.to_disk()
    deliver(machine.spool, backend, 4)
    machine.segments()[1].unlink()
    machine.restart()
    assert deliver(machine.spool, backend).delivered
    assert [gap.cause for gap in gaps(backend)] == ["spool_damaged"]
    assert_whole(machine, backend)


def test_foreign_and_empty_files_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    for name in ("notes.txt", "x.segment", str(segment.Name(1, b"a" * 16, 1, 0)), f"{'00' * 16}.stream", "stopped"):
        (tmp_path / "spool" / name).write_bytes(b"")
    machine, backend = Machine(tmp_path), Backend()
    machine.sample(3)
    assert deliver(machine.spool, backend).delivered
    assert_whole(machine, backend)
    assert (tmp_path / "spool" / "notes.txt").exists()


@pytest.mark.parametrize("call", ["write", "fdatasync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_a_failing_disk_keeps_frames_in_memory_until_it_works_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    real = getattr(os, call)

    def fail(file: int, *rest: object) -> object:
        if str(machine.disk) in os.readlink(f"/proc/self/fd/{file}"):
            raise OSError(code, os.strerror(code))
        return real(file, *rest)

    machine.sample(10)
    await machine.to_disk()
    with monkeypatch.context() as broken:
        broken.setattr(os, call, fail)
        machine.sample(10)
        await machine.to_disk()
        machine.sample(10)
        await machine.to_disk()
    assert machine.spool.disk_failures == 2
    machine.restart()  # shared memory still has what never reached the disk
    machine.sample(10)
    await machine.to_disk()
    backend = Backend()
    assert deliver(machine.spool, backend).delivered
    assert values(backend) == list(range(machine.made))


def test_a_spool_that_cannot_be_made_does_not_keep_the_controller_from_starting(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file stands here")
    machine, backend = Machine.__new__(Machine), Backend()
    Machine.__init__(machine, tmp_path)
    machine.sample(5)
    assert machine.spool.disk_failures >= 1
    assert deliver(machine.spool, backend).delivered
    assert_whole(machine, backend)


async def test_an_older_disk_image_of_the_spool_doubles_nothing(tmp_path: Path) -> None:
    machine, backend = Machine(tmp_path), Backend()
    machine.sample(20)
    await machine.to_disk()
    image = {path: path.read_bytes() for path in machine.segments()}
    machine.sample(20)
    assert deliver(machine.spool, backend).delivered
    machine.die()
    for path in machine.shared.iterdir():
        path.unlink()
    for path, data in image.items():
        path.write_bytes(data)
    machine.spool = machine._start()
    machine.sample(5)
    assert deliver(machine.spool, backend).delivered
    assert values(backend) == list(range(machine.made))


def test_a_machine_that_was_put_back_in_mid_stream_begins_a_new_stream(machine: Machine) -> None:
    backend = Backend()
    machine.sample(3)
    stream = machine.spool.current().id
    backend.stored[stream] = [[wire.KIND_DATA, seq, 0, []] for seq in range(1, 11)]  # from a future that is gone
    assert deliver(machine.spool, backend).delivered
    machine.sample(2)
    machine.restart()
    assert deliver(machine.spool, backend).delivered
    assert machine.spool.current().id != stream
    assert values(backend) == list(range(machine.made))


def test_a_backend_restored_from_an_older_backup_gets_the_rest_and_a_gap(machine: Machine) -> None:
    backend = Backend()
    machine.sample(20)
    assert deliver(machine.spool, backend).delivered
    (frames,) = backend.stored.values()
    del frames[12:]
    machine.sample(5)
    assert deliver(machine.spool, backend).delivered
    (gap,) = gaps(backend)
    assert (gap.seq, gap.n) == (20, 8 * READINGS)
    assert_whole(machine, backend)


@pytest.mark.parametrize("since", [0, 5], ids=["nothing sampled since", "sampled since"])
def test_what_a_restored_backend_lacks_is_counted_exactly_however_uneven_the_frames(machine: Machine, since: int) -> None:
    backend = Backend()
    machine.sample(10, readings=1)
    machine.sample(10, readings=9)
    assert deliver(machine.spool, backend).delivered
    (frames,) = backend.stored.values()
    del frames[12:]
    machine.sample(since)
    assert deliver(machine.spool, backend).delivered
    (gap,) = gaps(backend)
    assert gap.n == 8 * 9
    assert_whole(machine, backend)


def test_the_clock_of_the_spool_is_the_machine_s_by_default(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a", CHANNELS, 1 << 20, tmp_path / "b")
    assert spool.current().live
    assert clock.now().wall_us > 1_700_000_000_000_000
    spool.close()


def test_a_state_that_cannot_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    """A disk with room for a part of it: the write is short, and that is no success."""
    target = tmp_path / "stream.state"
    target.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            Disk().replace(target, bytes(8_008))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert target.read_bytes() == b"old"


async def overflowed(place: Path) -> Machine:
    """A machine whose spool dropped its oldest frames while the backend was away."""
    machine = Machine(place, 20_000)
    for _ in range(40):
        machine.sample(10)
        await machine.to_disk()
    return machine


async def test_a_damaged_state_file_doubles_nothing(tmp_path: Path) -> None:
    machine, backend = await overflowed(tmp_path), Backend()
    deliver(machine.spool, backend, 30)
    (state,) = machine.disk.glob("*.stream")
    state.write_bytes(state.read_bytes()[:-1])
    machine.restart()
    assert deliver(machine.spool, backend).delivered
    stored = values(backend)
    assert stored == sorted(set(stored))


async def test_an_older_image_from_before_a_loss_doubles_nothing(tmp_path: Path) -> None:
    machine, backend = Machine(tmp_path, 20_000), Backend()
    while machine.spool.dropped_frames == 0:
        image = {path: path.read_bytes() for path in machine.disk.iterdir()}
        machine.sample(10)
        await machine.to_disk()
    deliver(machine.spool, backend, 100)
    machine.die()
    for path in [*machine.shared.iterdir(), *machine.disk.iterdir()]:
        path.unlink()
    for path, data in image.items():
        path.write_bytes(data)
    machine.spool = machine._start()
    assert deliver(machine.spool, backend).delivered
    stored = values(backend)
    assert stored == sorted(set(stored))


async def test_a_segment_that_grew_since_it_was_read_is_dropped_with_all_its_frames(tmp_path: Path) -> None:
    machine, backend = Machine(tmp_path, 20_000), Backend()
    machine.sample(5)
    await machine.to_disk()
    source = Delivery(machine.spool, [], "test", 1 << 30)
    source.connected(Now(0, 0))
    for _ in range(3):  # describe, hello, and a frame that is read and gets lost
        for answer in backend.take(message) if (message := source.next_message(Now(0, 0))) and message[1] != wire.KIND_DATA else ():
            source.received(answer, Now(0, 0))
    source.disconnected()
    deliver(machine.spool, backend, 2)
    while not machine.spool.dropped_frames:
        machine.sample(5)
        await machine.to_disk()
    assert deliver(machine.spool, backend).delivered
    assert {gap.cause for gap in gaps(backend)} == {"spool_overflow"}
    assert_whole(machine, backend)


async def test_what_a_killed_process_wrote_is_synced_before_shared_memory_lets_go_of_it(machine: Machine) -> None:
    """A process that dies between write and sync leaves a file that a power cut would take."""
    machine.sample(3)
    machine.pass_time(2)
    unsynced = machine.spool.begin_writing(0)
    assert unsynced is not None
    unsynced.run()
    machine.die()
    synced: list[str] = []

    class Watched(Disk):
        def sync(self, path: Path) -> None:
            synced.append(path.name)
            super().sync(path)

    machine.spool = Spool(machine.disk, CHANNELS, 1 << 20, machine.shared, machine._now, lambda: b"n" * 16, Watched())
    assert synced == [path.name for path in machine.segments()]


async def test_a_sync_that_failed_at_the_start_is_tried_again_before_anything_is_written(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what the killed process wrote would be taken for safe, and shared memory would let go of it."""
    machine.sample(3)
    machine.pass_time(2)
    unsynced = machine.spool.begin_writing(0)
    assert unsynced is not None
    unsynced.run()
    machine.sample(2)
    left = set(machine.shared.glob("*.segment"))
    calls: list[str] = []
    sync = Disk.sync

    def fail(self: Disk, path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def watch(self: Disk, path: Path) -> None:
        calls.append(path.name)
        sync(self, path)

    unsettled = machine.segments()
    with monkeypatch.context() as broken:
        broken.setattr(Disk, "sync", fail)
        machine.restart()
        machine.sample(2)
        await machine.to_disk()
        assert machine.segments() == unsettled
        assert left <= set(machine.shared.glob("*.segment"))
    monkeypatch.setattr(Disk, "sync", watch)
    await machine.to_disk()
    assert calls == [path.name for path in unsettled]
    assert len(machine.segments()) > len(unsettled)
    assert not left & set(machine.shared.glob("*.segment"))
    await machine.to_disk()
    assert len(calls) == len(unsettled)


async def test_a_stream_without_a_readable_head_is_declared_with_its_count(tmp_path: Path) -> None:
    machine, backend = Machine(tmp_path), Backend()
    machine.sample(6)
    await machine.to_disk()
    machine.die()
    for path in [*machine.segments(), *machine.shared.iterdir()]:
        data = bytearray(path.read_bytes())
        data[20] ^= 1
        path.write_bytes(data)
    machine.spool = machine._start()
    machine.restart()
    machine.sample(2)
    assert deliver(machine.spool, backend).delivered
    assert [(gap.cause, gap.n) for gap in gaps(backend)] == [("spool_damaged", 6 * READINGS)]
    assert_whole(machine, backend)


async def begun_with_a_damaged_record(place: Path) -> tuple[Machine, Backend, segment.Name]:
    """A process on a spool whose oldest segment (its name) has lost its first record; the backend has what came before it."""
    machine, backend = Machine(place, 40_000), Backend()
    machine.spool.append(frame.seal_gap(wire.Gap(0, 1, 0, 0, 700, "device_error")))  # frames are not alike
    for _ in range(8):
        machine.sample(10)
        await machine.to_disk()
    first = segment.parse_name(machine.segments()[1])
    assert first is not None
    deliver(machine.spool, backend, 1 + first.first)  # describe, hello, and the frames of the first segment
    machine.die()
    data = bytearray(machine.segments()[0].read_bytes())
    data[data.index(b"\xf5REC") + 60] ^= 1
    machine.segments()[0].write_bytes(data)
    machine.spool = machine._start()
    return machine, backend, first


async def test_a_damaged_first_record_of_a_segment_costs_its_count_and_no_more(tmp_path: Path) -> None:
    machine, backend, _ = await begun_with_a_damaged_record(tmp_path)
    assert deliver(machine.spool, backend).delivered
    assert [(gap.cause, gap.n) for gap in gaps(backend)] == [("device_error", 700), ("spool_damaged", READINGS)]


async def test_a_damaged_first_record_is_counted_also_when_its_segment_is_dropped(tmp_path: Path) -> None:
    """The segment's name alone says how many readings the backend has, so it must have been heard before it goes."""
    machine, backend, first = await begun_with_a_damaged_record(tmp_path)
    while first in map(segment.parse_name, machine.segments()):
        machine.sample(10)
        await machine.to_disk()
    assert deliver(machine.spool, backend).delivered
    assert lost(backend) + len(values(backend)) == machine.made + 700


async def test_a_gap_frame_that_is_lost_still_counts_what_it_declared(tmp_path: Path) -> None:
    machine, backend = Machine(tmp_path, 20_000), Backend()
    machine.spool.append(frame.seal_gap(wire.Gap(0, 1, 0, 0, 7, "device_error")))
    for _ in range(40):
        machine.sample(10)
        await machine.to_disk()
    assert deliver(machine.spool, backend).delivered
    assert lost(backend) + len(values(backend)) == machine.made + 7


async def test_small_frames_under_way_do_not_make_the_spool_outgrow_its_bound(tmp_path: Path) -> None:
    machine, backend = Machine(tmp_path, 20_000), Backend()
    source = Delivery(machine.spool, [], "test", machine.spool.window_bytes)
    backend.acknowledging = False
    source.connected(Now(0, 0))
    for _ in range(500):
        machine.spool.append(frame.seal_quality(wire.Quality(0, 1, 0, None, "simulated")))
        while (message := source.next_message(Now(0, 0))) is not None:
            for answer in backend.take(message):
                source.received(answer, Now(0, 0))
    await machine.to_disk()  # where each segment has a head as well
    assert machine.spool.held_bytes <= 20_000


@pytest.mark.parametrize("end", ["works again", "stop", "kill"])
async def test_a_loss_that_the_failing_disk_did_not_take_is_on_disk_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Shared memory keeps it meanwhile; a power cut would take that."""
    machine = Machine(tmp_path, 4_000)
    with monkeypatch.context() as broken:

        def fail(self: Disk, path: Path, data: bytes) -> None:
            if path.parent == machine.disk:
                raise OSError(errno.EIO, "Input/output error")
            replace(self, path, data)

        replace = Disk.replace
        broken.setattr(Disk, "replace", fail)
        machine.sample(60)
    assert (len(list(machine.shared.glob("*.stream"))), len(list(machine.disk.glob("*.stream")))) == (1, 0)
    match end:
        case "works again":
            await machine.to_disk()
        case "stop":
            machine.stop()
        case "kill":
            machine.restart()
    assert len(list(machine.disk.glob("*.stream"))) == 1
