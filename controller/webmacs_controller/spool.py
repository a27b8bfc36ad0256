"""The spool: every frame from the moment it is sealed until the backend says that it is stored. It is bounded in bytes.

The newest frames are in memory, and in shared memory as files that outlive a killed process; what is not acknowledged within a
second goes to disk. The rest of the controller sees seqs; inside, frames have an index that never changes, because seqs must close
up when frames are lost: a loss becomes one gap frame, and what follows it moves down. Where it moved is in the stream's state file.

One thread calls everything but `_write_due`, which `spill` runs in a worker thread.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from webmacs_controller import clock, frame, logs, segment, wire
from webmacs_controller.protocol import Stream
from webmacs_controller.segment import Record
from webmacs_controller.spooled_stream import Loss, Settled, SpooledStream, State, Stored

SPILL_AGE_US: Final = 1_000_000
"""Frames that are acknowledged younger than this never touch the disk: 64 channels at 1 kHz would wear flash with 66 GB a day."""
SHARED_SEGMENT_US: Final = 500_000
SEGMENT_BYTES: Final = 4 * 1024 * 1024
MEMORY_BYTES: Final = 64 * 1024 * 1024
"""What may wait in memory when the disk cannot be written; beyond it the oldest frames are dropped and counted."""
DISK_RETRY_US: Final = 10_000_000
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 (the directory below it is ours alone, and checked)

log = logs.get(__name__)


class SpoolError(Exception):
    """The spool cannot be used by this process. One sentence."""


class Spool:
    """`directory` holds the segments and the lock; `shared` the files that only a power cut may take."""

    def __init__(
        self,
        directory: Path,
        channels: Sequence[wire.HelloChannel],
        bytes_max: int,
        shared: Path | None = None,
        now: Callable[[], clock.Now] = clock.now,
        new_id: Callable[[], bytes] = lambda: os.urandom(16),
    ) -> None:
        """Takes over what earlier processes left and begins a new stream. Raises SpoolError when another process uses it."""
        self._directory = directory
        self._bytes_max = bytes_max
        self._segment_bytes = min(SEGMENT_BYTES, bytes_max // 8)
        self._now = now
        self._new_id = new_id
        self._disk_failed_us: int | None = None
        self._shared_failed = False
        self._loaded: tuple[Path, dict[int, Record]] | None = None
        self._bytes = 0
        self._memory_bytes = 0
        self._writing = False
        self._shared_files: deque[segment.Writer] = deque()  # of the live stream, the last one open
        self._shared_writer: segment.Writer | None = None
        self._shared_since_us = 0
        self._left_shared: list[Path] = []  # of dead processes; removed once their frames are on disk
        self.disk_failures = 0
        self.damaged = 0
        self.dropped_frames = 0
        """Frames that the bounds made go."""
        self.lost: Counter[str] = Counter()
        """Readings lost, by cause: exactly what the gap frames said so far."""
        self.last_reading_us: int | None = None
        """The time of the newest reading; before the first append that of an earlier process, as far as the spool remembers."""
        self._prepare()
        self._read_stopped()
        self._shared = self._prepare_shared(shared)
        self._streams = deque(self._recover())
        order = max((stream.order for stream in self._streams), default=0) + 1
        home = self._new_id()
        self._live = SpooledStream(order, home, segment.Head(home, list(channels), now().wall_us), live=True)
        self._streams.append(self._live)
        self._drop_until_bounded()

    # taking over

    def _prepare(self) -> None:
        self._lock = -1
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._disk_failed(error)
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise SpoolError(
                f"Another controller uses the spool {self._directory}: stop it, or give this one a spool of its own with --spool."
            ) from None

    def _read_stopped(self) -> None:
        try:
            body = segment.unsealed((self._directory / "stopped").read_bytes(), 0)
            if body is not None:
                self.last_reading_us = msgspec.msgpack.decode(body, type=int)
        except (OSError, msgspec.DecodeError):
            return  # there was no stop in order

    def _prepare_shared(self, given: Path | None) -> Path:
        """A directory of ours in shared memory, or beside the segments where there is none: written without fsync either way."""
        if given is not None:
            given.mkdir(mode=0o700, parents=True, exist_ok=True)
            return given
        place = hashlib.sha256(os.fsencode(self._directory.resolve())).hexdigest()[:16]
        shared = SHARED_MEMORY / f"webmacs-spool-{place}"
        try:
            shared.mkdir(mode=0o700, exist_ok=True)
            if not shared.is_symlink() and shared.stat().st_uid == os.geteuid():
                return shared
        except OSError as error:
            log.warning("shared_memory_unusable", reason=str(error))
        shared = self._directory / "newest"
        try:
            shared.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            self._shared_failure(error)
        return shared

    def _recover(self) -> list[SpooledStream]:
        """The streams of dead processes, oldest first."""
        homes: dict[bytes, tuple[int, list[tuple[int, Path]], list[Path]]] = {}
        for directory, on_disk in ((self._directory, True), (self._shared, False)):
            for path in _listed(directory, ".segment"):
                parsed = segment.parse_name(path)
                if parsed is None:
                    continue
                order, home, first = parsed
                _, disk, shared = homes.setdefault(home, (order, [], []))
                if on_disk:
                    disk.append((first, path))
                else:
                    shared.append(path)
        states = self._read_states()
        for home, state in states.items():
            homes.setdefault(home, (state.order, [], []))
        streams = [self._recover_stream(order, home, disk, shared, states.get(home)) for home, (order, disk, shared) in homes.items()]
        return sorted((stream for stream in streams if stream is not None), key=lambda stream: stream.order)

    def _recover_stream(
        self, order: int, home: bytes, disk: list[tuple[int, Path]], shared: list[Path], state: State | None
    ) -> SpooledStream | None:
        head: segment.Head | None = state.head if state is not None else None
        last: Record | None = None
        stored: deque[Stored] = deque()
        for first, path in sorted(disk, reverse=True):  # the newest tells where the stream ends; the others are read when sent
            if last is not None and head is not None:
                stored.appendleft(Stored(path, first, path.stat().st_size))
                continue
            contents = self._read(path)
            head = head or contents.head
            if contents.records:
                last = last or contents.records[-1]
                stored.appendleft(Stored(path, first, path.stat().st_size))
            else:
                self._remove(path)
        records: dict[int, Record] = {}
        for path in shared:
            contents = self._read(path)
            head = head or contents.head
            records.update({record.index: record for record in contents.records if last is None or record.index > last.index})
            self._left_shared.append(path)
        newest = records[max(records)] if records else last
        if head is None or head.stream != home or (newest is None and state is None):
            for item in stored:
                self._remove(item.path)
            if stored or records:
                log.error("spool_unreadable", stream=home.hex(), reason="no segment says which channels the frames belong to")
            return None
        stream = SpooledStream(order, home, head, live=False)
        stream.disk = stored
        if newest is not None:
            stream.next_index = newest.index + 1
            stream.readings = newest.before + newest.n
            self.last_reading_us = max(self.last_reading_us or 0, newest.to_us)
        if state is not None:
            stream.state = state
            stream.next_index = max(stream.next_index, state.next_index)
        stream.sent_index = stream.next_index - 1
        stream.memory = {index: (records[index], 0) for index in sorted(records) if stream.expects(index)}
        held = sum(_size(record) for record, _ in stream.memory.values())
        self._memory_bytes += held
        self._bytes += held + sum(item.bytes for item in stored)
        return stream

    def _read(self, path: Path) -> segment.Contents:
        try:
            contents = segment.read(path)
        except OSError as error:
            self._disk_failed(error)
            return segment.Contents(None, [], 1)
        if contents.head is None or contents.damaged:
            self.damaged += 1
            log.warning("spool_damaged", file=path.name, head_lost=contents.head is None, damaged_places=contents.damaged)
        return contents

    def _read_states(self) -> dict[bytes, State]:
        states: dict[bytes, State] = {}
        for directory in (self._directory, self._shared):
            for path in _listed(directory, ".stream"):
                try:
                    home = bytes.fromhex(path.stem)
                    body = segment.unsealed(path.read_bytes(), 0)
                    state = _state.decode(body) if body is not None else None
                except (OSError, ValueError, msgspec.DecodeError):
                    state = None
                if state is None:
                    log.warning("spool_damaged", file=path.name)
                elif home not in states or states[home].version < state.version:
                    states[home] = state
        return states

    # the sampling loop's side

    @property
    def held_bytes(self) -> int:
        """What is held on disk and in memory."""
        return self._bytes

    @property
    def frames(self) -> int:
        """Frames that are not acknowledged, of every stream; those that were dropped count until their gap is declared."""
        return sum(stream.next_index - 1 - stream.committed_index for stream in self._streams)

    def append(self, sealed: frame.Sealed) -> int:
        """Takes a frame and gives its seq. Never fails: what does not fit makes the oldest go."""
        stream, now = self._live, self._now()
        record = Record(stream.next_index, stream.readings, sealed.n, sealed.from_us, sealed.to_us, sealed.frame)
        stream.next_index += 1
        stream.readings += sealed.n
        if sealed.n:
            self.last_reading_us = sealed.to_us
        stream.memory[record.index] = (record, now.monotonic_us)
        self._memory_bytes += _size(record)
        self._bytes += _size(record)
        self._share(record, now.monotonic_us)
        self._drop_until_bounded()
        return stream.seq_of(record.index)

    def _share(self, record: Record, now_us: int) -> None:
        """Puts the record where it outlives this process."""
        try:
            if self._shared_writer is None or now_us - self._shared_since_us >= SHARED_SEGMENT_US:
                self._end_shared()
                path = self._shared / segment.name(self._live.order, self._live.home, record.index)
                self._shared_writer = segment.Writer(path, record.index, self._live.head, durable=False)
                self._shared_files.append(self._shared_writer)
                self._shared_since_us = now_us
                self._unshare()
            self._shared_writer.append((record,))
            self._shared_failed = False
        except OSError as error:
            self._end_shared()
            self._shared_failure(error)

    def _end_shared(self) -> None:
        if self._shared_writer is not None:
            self._shared_writer.close()
            self._shared_writer = None

    def _shared_failure(self, error: OSError) -> None:
        if not self._shared_failed:
            log.warning("shared_memory_full", reason=str(error), meaning="a kill of the controller now loses up to a second of samples")
        self._shared_failed = True

    def _unshare(self) -> None:
        """Removes files in shared memory whose frames are stored or on disk; the newest stays and tells when we last sampled."""
        live = self._live
        needed = max(live.committed_index + 1, next(iter(live.memory), live.next_index))
        while len(self._shared_files) > 1 and self._shared_files[1].first <= needed:
            self._shared_files.popleft().path.unlink(missing_ok=True)

    # going to disk

    async def spill(self) -> None:
        """Takes what has waited too long in memory to disk. Called about twice a second, one call at a time."""
        due = self._due(SPILL_AGE_US)
        if due and not self._disk_pauses():
            self._writing = True
            try:
                written = await asyncio.to_thread(self._write, due)
            finally:
                self._writing = False
            self._settle_written(written)

    def close(self) -> None:
        """Takes everything to disk and gives the spool back."""
        self._settle_written(self._write(self._due(0)))
        self._end_shared()
        if self.last_reading_us is not None:
            with contextlib.suppress(OSError):  # then the next process declares no gap since now
                _replace(self._directory / "stopped", segment.sealed(wire.encode(self.last_reading_us)))
        if not self._live.memory:
            while self._shared_files:
                self._shared_files.popleft().path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it is not empty when an older stream could not be taken to disk
                self._shared.rmdir()
        for stream in self._streams:
            self._end_segment(stream)
        if self._lock >= 0:
            os.close(self._lock)

    def _disk_pauses(self) -> bool:
        return self._disk_failed_us is not None and self._now().monotonic_us - self._disk_failed_us < DISK_RETRY_US

    def _due(self, age_us: int) -> list[tuple[SpooledStream, segment.Writer | None, list[Record]]]:
        latest_us = self._now().monotonic_us - (age_us if self._memory_bytes < MEMORY_BYTES // 4 else 0)
        due = []
        for stream in self._streams:
            records = [record for record, made_us in stream.memory.values() if made_us <= latest_us]
            if records:
                due.append((stream, stream.writer, records))
        return due

    def _write(self, due: list[tuple[SpooledStream, segment.Writer | None, list[Record]]]) -> list["_Written"]:
        """In a worker thread: touches nothing but the writers."""
        return [self._write_stream(*item) for item in due]

    def _write_stream(self, stream: SpooledStream, writer: segment.Writer | None, records: list[Record]) -> "_Written":
        ended: list[segment.Writer] = []
        safe = 0
        try:
            for part in _parts(records, self._segment_bytes):
                if writer is not None and writer.bytes >= self._segment_bytes:
                    ended.append(writer)
                    writer = None
                if writer is None:
                    path = self._directory / segment.name(stream.order, stream.home, part[0].index)
                    writer = segment.Writer(path, part[0].index, stream.head, durable=True)
                writer.append(part)
                safe += len(part)
        except OSError as error:
            if writer is not None:
                ended.append(writer)
            return _Written(stream, ended, None, records[:safe], error)
        return _Written(stream, ended, writer, records, None)

    def _settle_written(self, all_written: list["_Written"]) -> None:
        for written in all_written:
            stream = written.stream
            self._bytes -= stream.writer_bytes
            stream.writer, stream.writer_bytes = None, 0
            for writer in written.ended:
                writer.close()
                if writer.synced:
                    stream.disk.append(Stored(writer.path, writer.first, writer.bytes))
                    self._bytes += writer.bytes
                else:
                    self._remove(writer.path)
            if written.writer is not None:
                stream.writer, stream.writer_bytes = written.writer, written.writer.bytes
                self._bytes += stream.writer_bytes
            for record in written.safe:
                self._forget(stream, record.index)
            if written.error is not None:
                self._disk_failed(written.error)
            elif self._disk_failed_us is not None:
                self._disk_failed_us = None
                log.info("spool_disk_works", directory=str(self._directory))
            if stream not in self._streams:  # delivered while it was written
                self._remove_stream(stream)
        if all_written and not any(stream.memory for stream in self._streams if not stream.live):
            self._remove_left_shared()
        self._unshare()
        self._drop_until_bounded()

    def _disk_failed(self, error: OSError) -> None:
        self.disk_failures += 1
        if self._disk_failed_us is None:
            log.error(
                "spool_disk_failed",
                directory=str(self._directory),
                reason=str(error),
                meaning="readings wait in memory only; make room or mend the disk, the controller tries again by itself",
            )
        self._disk_failed_us = self._now().monotonic_us

    def _end_segment(self, stream: SpooledStream) -> None:
        if stream.writer is not None:
            stream.writer.close()
            stream.disk.append(Stored(stream.writer.path, stream.writer.first, stream.writer_bytes))
            stream.writer, stream.writer_bytes = None, 0

    # delivery's side

    def current(self) -> Stream:
        stream = self._streams[0]
        return Stream(stream.state.id, stream.seq_of(stream.next_index), stream.head.channels, stream.live)

    def frame(self, seq: int) -> bytes | None:
        stream = self._streams[0]
        if seq in stream.state.gaps:
            return stream.state.gaps[seq]
        index = stream.index_of(seq)
        if index >= stream.next_index:
            return None
        record = self._find(stream, index)
        if record is None:
            return self._declare(stream, seq, index)
        stream.sent_index = max(stream.sent_index, index)
        stream.handed[index] = Settled(index, record.before + record.n, record.to_us)
        return frame.numbered(record.frame, seq)

    def welcomed(self, committed_seq: int) -> None:
        stream = self._streams[0]
        stream.certain = True
        stream.handed = {}
        index = stream.index_of(committed_seq)
        if index < stream.committed_index:  # a backend restored from an older state forgot what it had
            stream.committed_index, stream.settled = index, Settled(0, 0, stream.head.started_us)
        elif index > stream.settled.index and (record := self._find(stream, index)) is not None:
            stream.handed[index] = Settled(index, record.before + record.n, record.to_us)
        self.committed(committed_seq)
        if self._streams[0] is stream:
            stream.sent_index = stream.committed_index

    def committed(self, seq: int) -> None:
        stream = self._streams[0]
        index = stream.index_of(seq)
        if index <= stream.committed_index:
            return
        stream.committed_index = index
        while stream.handed and (first := next(iter(stream.handed))) <= index:
            stream.settled = stream.handed.pop(first)
        while stream.memory and (first := next(iter(stream.memory))) <= index:
            self._forget(stream, first)
        if not self._writing and next(iter(stream.memory), stream.next_index) - 1 <= index:
            self._end_segment(stream)
        while stream.disk and self._end(stream, 0) <= index:
            self._remove_stored(stream, 0)
        state = stream.state
        while len(state.pieces) > 1 and state.pieces[1][0] <= index + 1:
            state.pieces.pop(0)
        state.gaps = {gap_seq: gap for gap_seq, gap in state.gaps.items() if gap_seq > seq}
        state.losses = [loss for loss in state.losses if loss.last > index]
        if stream.finished:
            self._streams.popleft()
            self._remove_stream(stream)

    def begin_anew(self) -> None:
        stream = self._streams[0]
        if not stream.live:  # its frames never change, so what the backend has under these numbers is what is here
            stream.committed_index = stream.next_index - 1
            self._streams.popleft()
            self._remove_stream(stream)
            return
        log.warning("stream_begun_anew", reason="the backend knows this stream's numbers from a later state of this machine")
        stream.state.id = self._new_id()
        stream.state.pieces = [(stream.committed_index + 1, 1)]
        stream.state.gaps = {}
        stream.sent_index = stream.committed_index
        stream.handed = {}
        self._save(stream)

    def _find(self, stream: SpooledStream, index: int) -> Record | None:
        if index in stream.memory:
            return stream.memory[index][0]
        path = None
        for stored in reversed(stream.disk):
            if stored.first <= index:
                path = stored.path
                break
        if stream.writer is not None and stream.writer.first <= index:
            path = stream.writer.path
        return self._load(path, index).get(index) if path is not None else None

    def _load(self, path: Path, wanted: int) -> dict[int, Record]:
        """The records of a segment; one is kept, because frames are sent in order."""
        if self._loaded is None or self._loaded[0] != path or wanted > max(self._loaded[1], default=0):
            self._loaded = (path, {record.index: record for record in self._read(path).records})
        return self._loaded[1]

    def _declare(self, stream: SpooledStream, seq: int, index: int) -> bytes:
        """Frames from `index` on are gone: one gap frame takes this seq, and what follows moves down behind it."""
        following = self._following(stream, index)
        end = following.index if following is not None else stream.next_index
        losses = [loss for loss in stream.state.losses if index <= loss.first < end]
        before = stream.handed.get(index - 1, stream.settled)
        cause: wire.GapCause = losses[0].cause if losses else "spool_damaged"
        if before.index == index - 1 and following is not None:
            n, from_us, to_us = following.before - before.readings, before.to_us + 1, following.from_us - 1
        elif losses or following is None:
            n = sum(loss.n for loss in losses)
            from_us, to_us = before.to_us, losses[-1].to_us if losses else before.to_us
        else:  # the backend forgot what we were told to forget: how many readings that was is known in proportion
            lost_part = (end - index) / max(1, end - 1)
            n, to_us = round(following.before * lost_part), following.from_us - 1
            from_us = to_us - round((to_us - stream.head.started_us) * lost_part)
        if losses:
            from_us, to_us = min(loss.from_us for loss in losses), max(loss.to_us for loss in losses)
        gap = wire.encode(wire.Gap(seq, None, from_us, max(from_us, to_us), n, cause))
        self.lost[cause] += n
        log.error("readings_lost", cause=cause, readings=n, from_us=from_us, to_us=to_us)
        stream.renumber_behind(seq, end, gap)
        stream.sent_index = max(stream.sent_index, end - 1)
        stream.handed[end - 1] = Settled(end - 1, following.before if following is not None else before.readings + n, to_us)
        self._save(stream)
        return gap

    def _following(self, stream: SpooledStream, index: int) -> Record | None:
        """The first frame behind `index` that is still there."""
        paths = [stored.path for position, stored in enumerate(stream.disk) if self._end(stream, position) >= index]
        if stream.writer is not None:
            paths.append(stream.writer.path)
        for path in paths:
            found = min((i for i in self._load(path, index) if i >= index), default=None)
            if found is not None:
                return self._load(path, index)[found]
        return next((record for i, (record, _) in stream.memory.items() if i >= index), None)

    # bounds

    def _drop_until_bounded(self) -> None:
        if self._writing:
            return  # what is being written must stay; the bound is looked at again when it is
        while self._bytes > self._bytes_max or self._memory_bytes > MEMORY_BYTES:
            over_all = self._bytes > self._bytes_max
            if not any(self._drop_oldest(stream, over_all) for stream in self._streams):
                return

    def _drop_oldest(self, stream: SpooledStream, from_disk: bool) -> bool:
        """Drops the oldest segment, or else the oldest frame in memory, that was never sent."""
        sendable = stream.sent_index + 1 if stream.certain else stream.committed_index + 1
        if from_disk:
            if stream.writer is not None and stream.writer.bytes >= self._segment_bytes:
                self._end_segment(stream)
            for position, stored in enumerate(stream.disk):
                if stored.first >= sendable:
                    self._lose(stream, list(self._load(stored.path, stored.first).values()))
                    self._remove_stored(stream, position)
                    return True
        found = next((i for i in stream.memory if i >= sendable), None)
        if found is None:
            return False
        self._lose(stream, [stream.memory[found][0]])
        self._forget(stream, found)
        return True

    def _lose(self, stream: SpooledStream, records: list[Record]) -> None:
        if self.dropped_frames == 0:
            log.error(
                "spool_full",
                bytes_max=self._bytes_max,
                meaning="the oldest readings are dropped and will be declared as a gap; bring the backend back or allow a bigger spool",
            )
        self.dropped_frames += len(records)
        losses = stream.state.losses
        for record in records:
            if stream.certain and losses and losses[-1].last + 1 == record.index:
                last = losses[-1]
                last.last, last.n = record.index, last.n + record.n
                last.from_us, last.to_us = min(last.from_us, record.from_us), max(last.to_us, record.to_us)
            else:
                losses.append(Loss(record.index, record.index, record.n, record.from_us, record.to_us, "spool_overflow"))
        self._save(stream)

    # files

    def _end(self, stream: SpooledStream, position: int) -> int:
        """The last index that this segment can hold."""
        if position + 1 < len(stream.disk):
            return stream.disk[position + 1].first - 1
        if stream.writer is not None:
            return stream.writer.first - 1
        return next(iter(stream.memory), stream.next_index) - 1

    def _forget(self, stream: SpooledStream, index: int) -> None:
        """Takes a frame out of memory; it may have gone already."""
        held = stream.memory.pop(index, None)
        if held is not None:
            self._memory_bytes -= _size(held[0])
            self._bytes -= _size(held[0])

    def _remove_stored(self, stream: SpooledStream, position: int) -> None:
        self._bytes -= stream.disk[position].bytes
        self._remove(stream.disk[position].path)
        del stream.disk[position]

    def _remove_stream(self, stream: SpooledStream) -> None:
        for index in list(stream.memory):
            self._forget(stream, index)
        if not self._writing:
            self._end_segment(stream)
        while stream.disk:
            self._remove_stored(stream, 0)
        for directory in (self._directory, self._shared):
            self._remove(directory / f"{stream.home.hex()}.stream")
        if not any(other.memory for other in self._streams if not other.live):
            self._remove_left_shared()

    def _remove_left_shared(self) -> None:
        while self._left_shared:
            self._remove(self._left_shared.pop())

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._disk_failed(error)

    def _save(self, stream: SpooledStream) -> None:
        """Makes the stream's state durable; in shared memory when the disk does not take it."""
        stream.state.version += 1
        stream.state.next_index = stream.next_index
        data = segment.sealed(wire.encode(stream.state))
        try:
            if not self._disk_pauses():
                _replace(self._directory / f"{stream.home.hex()}.stream", data)
                return
        except OSError as error:
            self._disk_failed(error)
        try:
            _replace(self._shared / f"{stream.home.hex()}.stream", data)
        except OSError as error:
            self._shared_failure(error)


class _Written(NamedTuple):
    stream: SpooledStream
    ended: list[segment.Writer]
    writer: segment.Writer | None
    safe: list[Record]
    error: OSError | None


def _size(record: Record) -> int:
    return len(record.frame) + segment.RECORD_OVERHEAD


def _parts(records: list[Record], bytes_max: int) -> Iterator[list[Record]]:
    """Cuts what is written at once, so that no segment becomes much longer than it should."""
    part: list[Record] = []
    size = 0
    for record in records:
        if part and size + _size(record) > bytes_max:
            yield part
            part, size = [], 0
        part.append(record)
        size += _size(record)
    if part:
        yield part


def _listed(directory: Path, suffix: str) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.suffix == suffix)
    except OSError:
        return []  # it is missing or cannot be read: nothing was left there that could be sent


def _replace(path: Path, data: bytes) -> None:
    """The whole file or the old one: what is written short raises, and is not renamed."""
    temporary = path.with_suffix(".new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    segment.sync_directory(path.parent)


_state: msgspec.msgpack.Decoder[State] = msgspec.msgpack.Decoder(State)
