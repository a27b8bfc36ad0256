"""The spool: every frame from the moment it is sealed until the backend says that it is stored. It is bounded in bytes.

The newest frames are in memory, and in shared memory as files that outlive a killed process; what is not acknowledged within a
second goes to disk. A frame keeps its number whatever happens to its neighbours: frames that are lost become one gap frame, which
carries the last of their numbers.

One thread calls everything but `Writing.run`, which `spill` runs in a worker thread.
"""

import asyncio
import contextlib
import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from webmacs_controller import clock, frame, logs, segment, wire
from webmacs_controller.disk import Disk, shared_memory
from webmacs_controller.protocol import Stream
from webmacs_controller.recovery import Recovery
from webmacs_controller.segment import Record
from webmacs_controller.spooled_stream import Loss, Settled, SpooledStream, Stored
from webmacs_controller.writing import Due, Writing, Written, segment_name, size

SPILL_AGE_US: Final = 1_000_000
"""Frames that are acknowledged younger than this never touch the disk: 64 channels at 1 kHz would wear flash with 66 GB a day."""
SHARED_SEGMENT_US: Final = 500_000
SEGMENT_BYTES: Final = 4 * 1024 * 1024
MEMORY_BYTES: Final = 64 * 1024 * 1024
"""What may wait in memory when the disk cannot be written; beyond it the oldest frames are dropped and counted."""
DISK_RETRY_US: Final = 10_000_000

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
        disk: Disk | None = None,
    ) -> None:
        """Takes over what earlier processes left and begins a new stream. Raises SpoolError when another process uses it."""
        self._directory = directory
        self._bytes_max = bytes_max
        self._segment_bytes = min(SEGMENT_BYTES, bytes_max // 8)
        self._now = now
        self._new_id = new_id
        self._disk = disk or Disk()
        self._disk_failed_us: int | None = None
        self._shared_failed = False
        self._unsaved: set[SpooledStream] = set()  # their newest state is only where a power cut takes it
        self._loaded: tuple[Path, dict[int, Record]] | None = None
        self._bytes = 0
        self._memory_bytes = 0
        self._writing = False
        self._shared_files: deque[segment.Writer] = deque()  # of the live stream, the last one open
        self._shared_writer: segment.Writer | None = None
        self._shared_since_us = 0
        self.disk_failures = 0
        self.damaged = 0
        self.dropped_frames = 0
        """Frames that the bounds made go."""
        self.lost: Counter[str] = Counter()
        """Readings lost, by cause: exactly what the stored gap frames of this process said."""
        self.last_reading_us: int | None = None
        """The time of the newest reading; before the first append that of an earlier process, as far as the spool remembers."""
        self._lock = self._take()
        self._read_stopped()
        self._shared = self._prepare_shared(shared)
        left = Recovery(self._disk, directory, self._shared, self._read, self._remove).run()
        self._streams = deque(left.streams)
        self._left_shared = left.shared  # removed once their frames are on disk
        self._settled = False
        self._settle_on_disk()
        if left.newest_us is not None:
            self.last_reading_us = max(self.last_reading_us or 0, left.newest_us)
        for stream in left.streams:
            held = sum(size(record) for record, _ in stream.memory.values())
            self._memory_bytes += held
            self._bytes += held + sum(item.bytes for item in stream.disk)
        for stream in left.unsaved:
            self._save(stream)
        order = max((stream.order for stream in self._streams), default=0) + 1
        home = self._new_id()
        self._live = SpooledStream(order, home, segment.Head(home, list(channels), now().wall_us), live=True)
        self._streams.append(self._live)
        self._drop_until_bounded()

    # taking over

    def _take(self) -> int | None:
        try:
            self._disk.make_directory(self._directory)
            return self._disk.lock(self._directory / "lock")
        except BlockingIOError:
            raise SpoolError(
                f"Another controller uses the spool {self._directory}: stop it, or give this one a spool of its own with --spool."
            ) from None
        except OSError as error:
            self._disk_failed(error)
            return None

    def _read_stopped(self) -> None:
        try:
            body = segment.unsealed(self._disk.read(self._directory / "stopped"), 0)
            if body is not None:
                self.last_reading_us = msgspec.msgpack.decode(body, type=int)
        except (OSError, msgspec.DecodeError):
            return  # there was no stop in order

    def _prepare_shared(self, given: Path | None) -> Path:
        """A directory of ours in shared memory, or beside the segments where there is none: written without fsync either way."""
        try:
            shared = given or shared_memory(self._directory)
        except OSError as error:
            log.warning("shared_memory_unusable", reason=str(error))
            shared = self._directory / "newest"
        try:
            self._disk.make_directory(shared)
        except OSError as error:
            self._shared_failure(error)
        return shared

    def _settle_on_disk(self) -> bool:
        """What a killed process had written may not have been synced; a power cut would still take it. Until this has been done nothing
        is written behind it, and shared memory keeps what it has."""
        if self._settled:
            return True
        try:
            for path in [stream.disk[-1].path for stream in self._streams if stream.disk]:
                with contextlib.suppress(FileNotFoundError):  # it is found to be damage when it is sent
                    self._disk.sync(path)
            if self._streams:
                self._disk.sync_directory(self._directory)
        except OSError as error:
            self._disk_failed(error)
            return False
        self._settled = True
        return True

    def _read(self, path: Path) -> segment.Contents:
        try:
            contents = segment.parse(self._disk.read(path))
        except OSError as error:
            self._disk_failed(error)
            return segment.Contents(None, [], 1)
        if contents.head is None or contents.damaged:
            self.damaged += 1
            log.warning("spool_damaged", file=path.name, head_lost=contents.head is None, damaged_places=contents.damaged)
        return contents

    # the sampling loop's side

    @property
    def held_bytes(self) -> int:
        """What is held on disk and in memory."""
        return self._bytes

    @property
    def window_bytes(self) -> int:
        """What may be under way: it cannot be dropped, and the smallest frames take four times their bytes here."""
        return self._bytes_max // 8

    @property
    def frames(self) -> int:
        """Frames that are not acknowledged, of every stream; those that were dropped count until their gap is declared."""
        return sum(stream.next_index - 1 - stream.committed_index for stream in self._streams)

    def append(self, sealed: frame.Sealed) -> int:
        """Takes a frame and gives its seq. Never fails: what does not fit makes the oldest go."""
        stream, now = self._live, self._now()
        record = Record(*stream.number(sealed.n), sealed.n, sealed.from_us, sealed.to_us, sealed.frame)
        if sealed.n:
            self.last_reading_us = sealed.to_us
        stream.memory[record.index] = (record, now.monotonic_us)
        self._memory_bytes += size(record)
        self._bytes += size(record)
        self._share(record, now.monotonic_us)
        self._drop_until_bounded()
        return stream.seq_of(record.index)

    def remember_withheld(self, left_out: frame.LeftOut | None) -> None:
        """What of refused channels is not declared yet, for the process that comes after a kill; None when all of it is."""
        path = self._shared / "withheld"
        try:
            if left_out is None:
                self._disk.remove(path)
            else:
                self._disk.replace(path, segment.sealed(wire.encode(left_out)))
        except OSError as error:
            self._shared_failure(error)

    def recall_withheld(self) -> frame.LeftOut | None:
        """What a killed process had not declared."""
        try:
            body = segment.unsealed(self._disk.read(self._shared / "withheld"), 0)
            return None if body is None else msgspec.msgpack.decode(body, type=frame.LeftOut)
        except (OSError, msgspec.DecodeError):
            return None

    def _share(self, record: Record, now_us: int) -> None:
        """Puts the record where it outlives this process."""
        try:
            if self._shared_writer is None or now_us - self._shared_since_us >= SHARED_SEGMENT_US:
                self._end_shared()
                path = self._shared / segment_name(self._live, record)
                self._shared_writer = segment.Writer(self._disk, path, self._live.head, record, durable=False)
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
            self._disk.remove(self._shared_files.popleft().path)

    # going to disk

    async def spill(self) -> None:
        """Takes what has waited too long in memory to disk. Called about twice a second, one call at a time."""
        writing = self.begin_writing(SPILL_AGE_US)
        if writing is not None:
            self.end_writing(await asyncio.to_thread(writing.run))

    def begin_writing(self, age_us: int) -> Writing | None:
        """What has waited so long in memory; None when there is nothing, or the disk failed a moment ago. Then comes `end_writing`."""
        if self._disk_pauses() or not self._settle_on_disk():
            return None
        latest_us = self._now().monotonic_us - (age_us if self._memory_bytes < MEMORY_BYTES // 4 else 0)
        due = []
        for stream in self._streams:
            records = [record for record, made_us in stream.memory.values() if made_us <= latest_us]
            if records:
                due.append(Due(stream, stream.writer, records))
        if not due:
            return None
        self._writing = True
        return Writing(self._disk, self._directory, self._segment_bytes, due)

    def end_writing(self, all_written: Sequence[Written]) -> None:
        self._writing = False
        for written in all_written:
            stream = written.stream
            self._bytes -= stream.writer_bytes
            stream.writer, stream.writer_bytes = None, 0
            for writer in written.ended:
                writer.close()
                if writer.synced:
                    stream.disk.append(Stored(writer.path, writer.first, writer.before, writer.bytes))
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
                self._save_unsaved()
            if stream not in self._streams:  # delivered while it was written
                self._remove_stream(stream)
        if all_written and not any(stream.memory for stream in self._streams if not stream.live):
            self._remove_left_shared()
        self._unshare()
        self._drop_until_bounded()

    def close(self) -> None:
        """Takes everything to disk and gives the spool back."""
        self._disk_failed_us = None  # it is the last chance
        writing = self.begin_writing(0)
        if writing is not None:
            self.end_writing(writing.run())
        self._save_unsaved()
        self._end_shared()
        if self.last_reading_us is not None:
            with contextlib.suppress(OSError):  # then the next process declares no gap since now
                self._disk.replace(self._directory / "stopped", segment.sealed(wire.encode(self.last_reading_us)))
        if not self._live.memory:
            while self._shared_files:
                self._disk.remove(self._shared_files.popleft().path)
            with contextlib.suppress(OSError):  # it is not empty when an older stream could not be taken to disk
                self._disk.remove_directory(self._shared)
        for stream in self._streams:
            self._end_segment(stream)
        if self._lock is not None:
            self._disk.unlock(self._lock)

    def _disk_pauses(self) -> bool:
        return self._disk_failed_us is not None and self._now().monotonic_us - self._disk_failed_us < DISK_RETRY_US

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
            stream.disk.append(Stored(stream.writer.path, stream.writer.first, stream.writer.before, stream.writer_bytes))
            stream.writer, stream.writer_bytes = None, 0

    # delivery's side

    def current(self) -> Stream:
        stream = self._streams[0]
        return Stream(stream.state.id, stream.seq_of(stream.next_index), stream.head.channels, stream.live)

    def frame(self, seq: int) -> tuple[int, bytes] | None:
        stream = self._streams[0]
        index = stream.index_of(seq)
        if index >= stream.next_index:
            return None
        loss = stream.loss_at(index)
        if loss is None:
            record = self._find(stream, index)
            if record is not None:
                stream.sent_index = max(stream.sent_index, index)
                stream.handed[index] = Settled(index, record.before + record.n, record.to_us)
                return seq, frame.numbered(record.frame, seq)
            loss = self._declare_damage(stream, index)
        stream.sent_index = max(stream.sent_index, loss.last)
        stream.handed[loss.last] = Settled(loss.last, loss.before + loss.n, loss.to_us)
        last_seq = stream.seq_of(loss.last)
        return last_seq, loss.gap(last_seq, last_seq - seq + 1)

    def welcomed(self, committed_seq: int) -> None:
        stream = self._streams[0]
        index = stream.index_of(committed_seq)
        settled = self._end_of(stream, index)
        if index < stream.committed_index:  # a backend restored from an older state forgot what it had
            stream.committed_index = index
            stream.forget_after(index)
        stream.handed = {}
        self.committed(committed_seq)
        if settled is not None:
            stream.state.settled = settled
        stream.become_certain()

    def committed(self, seq: int) -> None:
        stream = self._streams[0]
        index = stream.index_of(seq)
        if index <= stream.committed_index:
            return
        stream.committed_index = index
        while stream.handed and (first := next(iter(stream.handed))) <= index:
            stream.settle(stream.handed.pop(first))
        while stream.memory and (first := next(iter(stream.memory))) <= index:
            self._forget(stream, first)
        if not self._writing and next(iter(stream.memory), stream.next_index) - 1 <= index:
            self._end_segment(stream)
        while stream.disk and self._end(stream, 0) <= index:
            self._remove_stored(stream, 0)
        declared = stream.settle_losses(index)
        for loss in declared if stream.certain else ():  # a dead process dropped what may have been stored
            self.lost[loss.cause] += loss.n
            log.error("readings_lost", cause=loss.cause, readings=loss.n, from_us=loss.from_us, to_us=loss.to_us)
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
        stream.state.base = stream.committed_index
        stream.become_certain()
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

    def _declare_damage(self, stream: SpooledStream, index: int) -> Loss:
        """Frames from `index` on are gone and nobody counted them: what is known on both sides of them tells what they held."""
        following = self._following(stream, index)
        end, readings, until_us = stream.next_index, stream.state.readings, stream.state.settled.to_us
        if following is not None:
            end, readings, until_us = following.index, following.before, following.from_us - 1
        for loss in stream.state.losses:
            if index < loss.first < end:
                end, readings, until_us = loss.first, loss.before, loss.from_us - 1
        # What is None was told to be stored and forgotten, by a backend that was put back to an older state; or the state is gone too.
        before = self._end_of(stream, index - 1) or stream.remembered(index - 1, Settled(end - 1, readings, until_us))
        n, from_us = readings - before.readings, before.to_us + 1
        loss = Loss(index, end - 1, readings - n, n, from_us, max(from_us, until_us), "spool_damaged")
        stream.state.losses = sorted([*stream.state.losses, loss], key=lambda loss: loss.first)
        self._save(stream)
        return loss

    def _end_of(self, stream: SpooledStream, index: int) -> Settled | None:
        """What is known at the end of this frame, from itself, from what stands for it, or from the name of what follows."""
        for known in (stream.handed.get(index), stream.state.settled, stream.start):
            if known is not None and known.index == index:
                return known
        for loss in stream.state.losses:
            if loss.last == index:
                return Settled(index, loss.before + loss.n, loss.to_us)
        record = self._find(stream, index)
        if record is not None:
            return Settled(index, record.before + record.n, record.to_us)
        before = next((stored.before for stored in stream.disk if stored.first == index + 1), None)
        if stream.writer is not None and stream.writer.first == index + 1:
            before = stream.writer.before
        if before is None and index + 1 in stream.memory:
            before = stream.memory[index + 1][0].before
        return Settled(index, before, stream.head.started_us) if before is not None else None

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
                    records = self._read(stored.path).records  # it may have grown since it was loaded
                    damaged = not records or records[0].index > stored.first
                    if damaged and stream.loss_at(stored.first) is None:
                        self._declare_damage(stream, stored.first)  # its name alone says how many readings came before
                    self._lose(stream, records)
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
        stream.lose(records, "spool_overflow")
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
            self._memory_bytes -= size(held[0])
            self._bytes -= size(held[0])

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
        self._unsaved.discard(stream)
        for directory in (self._directory, self._shared):
            self._remove(directory / f"{stream.home.hex()}.stream")
        if not any(other.memory for other in self._streams if not other.live):
            self._remove_left_shared()

    def _remove_left_shared(self) -> None:
        while self._settled and self._left_shared:
            self._remove(self._left_shared.pop())

    def _remove(self, path: Path) -> None:
        try:
            self._disk.remove(path)
        except OSError as error:
            self._disk_failed(error)

    def _save_unsaved(self) -> None:
        for stream in [stream for stream in self._streams if stream in self._unsaved]:
            self._save(stream)

    def _save(self, stream: SpooledStream) -> None:
        """Makes the stream's state durable; in shared memory when the disk does not take it."""
        stream.state.version += 1
        data = segment.sealed(wire.encode(stream.state))
        try:
            if not self._disk_pauses():
                self._disk.replace(self._directory / f"{stream.home.hex()}.stream", data)
                self._unsaved.discard(stream)
                return
        except OSError as error:
            self._disk_failed(error)
        self._unsaved.add(stream)
        try:
            self._disk.replace(self._shared / f"{stream.home.hex()}.stream", data)
        except OSError as error:
            self._shared_failure(error)
