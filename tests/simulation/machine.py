"""The controller's machine: a disk, clocks, and processes that come and go on it. The spool and the delivery are the real ones."""

import contextlib
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from webmacs_controller import frame, segment, wire
from webmacs_controller.clock import FUTURE_US_MAX, Now, Timeline
from webmacs_controller.protocol import Delivery, Phase, ProtocolError
from webmacs_controller.spool import SPILL_AGE_US, Spool
from webmacs_controller.writing import Writing, size

from simulation.backend import SILENCE_US
from simulation.disk import Died, MemoryDisk
from simulation.journal import POWER_CUT_LOSES_US, Journal, Key, Violation
from simulation.network import Connection

DISK, SHARED = Path("/disk"), Path("/shared")
CHANNELS = [wire.HelloChannel(1, "bench.1", None, "Channel", "", "sensor")]
INTERVAL_US = 100_000
WALL_US = 1_800_000_000_000_000
SPILL_US = 500_000
REBASE_US = 1_000_000


class Machine:
    """`clock` gives the world's monotonic µs. Raises Died in the middle of what the disk was told to interrupt."""

    def __init__(self, chance: random.Random, clock: Callable[[], int], journal: Journal, bytes_max: int) -> None:
        self._chance = chance
        self._clock = clock
        self._journal = journal
        self._bytes_max = bytes_max
        self._value = 0
        self._largest = 0  # frame so far, as it is held
        self.disk = MemoryDisk(SHARED)
        self._disk_failed = False  # and not everything that was due meanwhile is on it
        self.wall_us = WALL_US
        """The wall clock when the monotonic one was 0."""
        self.frozen_us = 0
        """How long it did not run."""
        self.alive = False
        self._ended_us = clock()
        self.connection: Connection | None = None
        self.start()

    def now(self) -> Now:
        monotonic_us = self._clock()
        return Now(max(0, self.wall_us + monotonic_us), monotonic_us)

    @property
    def running_us(self) -> int:
        return self._clock() - self.frozen_us

    # a process

    def start(self) -> None:
        now = self.now()
        self.alive = True
        self.frozen_us += now.monotonic_us - self._ended_us
        self.connection = None
        self.connect_us = now.monotonic_us
        self._writing: Writing | None = None
        self._written = False
        self._spilled_us, self._rebased_us = now.monotonic_us - SPILL_US, now.monotonic_us
        self._last_us = -1
        files = self._segment_files()
        self.spool = Spool(DISK, CHANNELS, self._bytes_max, SHARED, self.now, lambda: self._chance.randbytes(16), self.disk)
        if self.spool.dropped_frames:
            self._judge_drop(files)
        self._timeline = Timeline(now, self.spool.last_reading_us)
        self.delivery = Delivery(self.spool, [], "simulated", self.spool.window_bytes)
        self._declare_absence(now)

    def _declare_absence(self, now: Now) -> None:
        last_us = self.spool.last_reading_us
        n = 0 if last_us is None else (now.wall_us - last_us) // INTERVAL_US
        if last_us is not None and n > 0:
            self._append(frame.seal_gap(wire.Gap(0, None, last_us + 1, now.wall_us, n, "source_stopped")))

    def sample(self) -> None:
        if not self._timeline.known:
            return  # readings wait until somebody knows what time it is
        n = self._chance.choice((1, 1, 2, 3, 40))
        now = self.now()
        t0_us = self._timeline.at(now.monotonic_us)
        if self._last_us - FUTURE_US_MAX < t0_us < self._last_us:
            raise Violation(f"a reading is stamped {t0_us} after {self._last_us}")
        self._last_us = t0_us
        values = struct.pack(f"<{n}d", *range(self._value, self._value + n))
        self._value += n
        sealed = wire.encode(wire.Data(0, now.wall_us, [wire.Column(1, t0_us, 1, values)]))
        self._append(frame.Sealed(sealed, n, t0_us, t0_us + n - 1))

    def _append(self, sealed: frame.Sealed) -> None:
        live = self.spool._live
        key = live.state.id, live.seq_of(live.next_index)
        self._largest = max(self._largest, len(sealed.frame) + segment.RECORD_OVERHEAD)
        self._journal.sampled(*key, sealed.frame, sealed.n, self.running_us)
        try:
            with self._drops_judged():
                if self.spool.append(sealed) != key[1]:
                    raise Violation(f"frame {key[1]} got another number")
        except Died:
            self._journal.excused.add(key)  # killed before it was said to be kept
            raise

    def keep(self) -> None:
        """What is due by the clock: spilling in its three parts, and following the wall clock."""
        now_us = self._clock()
        if self._writing is None and self.spool.held_bytes > self._bytes_max:
            raise Violation(f"the spool holds {self.spool.held_bytes} bytes of at most {self._bytes_max}")
        if self._written:
            self._written = False
            with self._drops_judged():
                self.spool.end_writing(self._result)
            self._writing = None
            if not self.disk.failing and self.spool._disk_failed_us is None and not self.spool._unsaved:
                self._disk_failed = False
        elif self._writing is not None:
            self._result = self._writing.run()
            self._written = True
        elif now_us - self._spilled_us >= SPILL_US:
            self._spilled_us = now_us
            self._writing = self.spool.begin_writing(SPILL_AGE_US)
        if now_us - self._rebased_us >= REBASE_US:
            self._rebased_us = now_us
            self._timeline.rebase(self.now())
            if not self._timeline.known:
                self._last_us = -1

    @contextlib.contextmanager
    def _drops_judged(self) -> Iterator[None]:
        """Whatever the spool says that it dropped within the block had no room."""
        before, files = self._dropped(), self._segment_files()
        yield
        if self._dropped() > before:
            self._judge_drop(files)

    def _dropped(self) -> int:
        """Frames that the spool will declare as dropped."""
        losses = (loss for stream in self.spool._streams for loss in stream.state.losses)
        return sum(loss.last + 1 - loss.first for loss in losses if loss.cause == "spool_overflow")

    def _judge_drop(self, files: dict[Path, int]) -> None:
        """`files`: the segments on disk before. What is held is counted here, in files and in memory; the spool's count is not asked."""
        left = self._segment_files()
        held = sum(left.values()) + sum(size(record) for stream in self.spool._streams for record, _ in stream.memory.values())
        largest = max((bytes_ for path, bytes_ in files.items() if path not in left), default=0)
        self._journal.dropped(held, max(largest, self._largest), self._bytes_max)

    def _segment_files(self) -> dict[Path, int]:
        return {path: self.disk.size(path) for path in self.disk.files(".segment") if path.parent == DISK}

    def stop(self) -> None:
        """In order: everything goes to disk."""
        while self._writing is not None:
            self.keep()
        self.spool.close()
        self.kill()

    # its link

    def connect(self, connection: Connection) -> None:
        self.connection = connection
        self._heard_us = self._clock()
        self.delivery.connected(self.now())

    def send(self) -> bool:
        if self.connection is None:
            return False
        message = self.delivery.next_message(self.now())
        if message is None:
            return False
        self.connection.send_up(message)
        return True

    def hear(self) -> bool:
        connection, now_us = self.connection, self._clock()
        if connection is None:
            return False
        if connection.heard_out(at_backend=False) or now_us - self._heard_us >= SILENCE_US:
            self.disconnect()
            return True
        if not connection.down.messages:
            return False
        self._heard_us = now_us
        message = connection.down.messages.popleft()
        if self.delivery.phase is Phase.STREAM and message[1] == _ACK:
            self._journal.acknowledge(self.delivery._stream.id, wire.decode_from_backend(message).committed_seq)
        elif message[1] == _WELCOME:
            welcome = wire.decode_from_backend(message)
            self._journal.acknowledge(welcome.stream, welcome.committed_seq)
        hole = message[1] == _NACK and wire.decode_from_backend(message).code == "seq_gap"
        try:
            self.delivery.received(message, self.now())
        except ProtocolError:
            self.disconnect()
        if hole:
            self._journal.seen["holes answered"] += 1
            if self.connection is not None:
                raise Violation("the source was told of a hole and goes on as if nothing were missing")
        return True

    def disconnect(self) -> None:
        if self.connection is not None:
            self.connection.source_open = False
        self.connection = None
        self.delivery.disconnected()
        self.connect_us = self._clock() + self._chance.randint(100_000, 2_000_000)

    # its ends

    def _end(self) -> None:
        self.alive = False
        self._ended_us = self._clock()
        if self.connection is not None:
            self.connection.source_open = False
            self.connection = None
        self.disk.process_ended()

    def kill(self) -> None:
        self._end()
        self._excuse_harmed_tails()

    def cut_power(self) -> None:
        self._journal.damage = True
        if self.connection is not None:
            self.connection.cut(self._chance)
        self._end()
        self.disk.cut_power(self._chance)
        promised_us = self.running_us - POWER_CUT_LOSES_US if not self._disk_failed else 0  # nothing while the disk fails
        for stream, seq in self._journal.missing() - self.held():
            if self._journal.made[stream][seq].made_us >= promised_us:
                self._journal.excused.add((stream, seq))
        self._excuse_harmed_tails()

    def put_back(self, image: dict[Path, bytes], shared_too: bool) -> None:
        """The disk is another one now; with an empty image it is new."""
        self._journal.damage = True
        self._end()
        self.disk.put_back(image, shared_too)
        present = self.held()
        self._journal.excused |= self._journal.missing() - present
        self._journal.uncounted |= set(self._journal.made)
        self._excuse_harmed_tails()

    def fail_disk(self) -> None:
        self.disk.failing = True
        self._disk_failed = True

    def mend_disk(self) -> None:
        self.disk.failing = False

    def flip_a_bit(self) -> bool:
        files = [path for path in self.disk.files(".segment") + self.disk.files(".stream") if path.parent == DISK]
        if not files:
            return False
        path = self._chance.choice(files)
        before = self._frames(path)
        self.disk.flip_a_bit(path, self._chance)
        self._journal.damage = True
        self._journal.harmed |= before - self._frames(path)
        if path.suffix == ".stream":
            self._journal.uncounted.add(bytes.fromhex(path.stem))
        if not self.alive:
            self._excuse_harmed_tails()
        return True

    def _excuse_harmed_tails(self) -> None:
        """A damaged record behind which nothing is left cannot be told from one that was never written."""
        present = self.held()
        for stream, seq in self._journal.harmed | {key for key in self._journal.missing() if key[0] in self._journal.uncounted}:
            if not any(other == stream and later > seq for other, later in present):
                self._journal.excused.add((stream, seq))

    def held(self) -> set[Key]:
        """Frames in its files."""
        return {key for path in self.disk.files(".segment") for key in self._frames(path)}

    def _frames(self, path: Path) -> set[Key]:
        name = segment.parse_name(path)
        return {(name.stream, record.index) for record in segment.parse(self.disk.read(path)).records} if name is not None else set()


_WELCOME = 2
_ACK = 8
_NACK = 9
