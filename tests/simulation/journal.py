"""The independent witness: it writes down every reading that was sampled and every frame that was committed or acknowledged, and knows
nothing of how the spool or the backend count. A reading is a number that is given once.
"""

from collections import Counter, defaultdict
from typing import NamedTuple

import msgspec
from webmacs_controller import wire

POWER_CUT_LOSES_US = 2_000_000
"""What a power cut may take of the time sampled last."""


class Violation(AssertionError):
    """A promise was broken."""


class Made(NamedTuple):
    """A frame as it was given to the spool."""

    frame: bytes
    n: int
    made_us: int
    """The controller's running time."""


Key = tuple[bytes, int]
"""(stream, seq)"""


class Journal:
    def __init__(self) -> None:
        self.made: dict[bytes, dict[int, Made]] = {}
        self.stored: dict[bytes, int] = defaultdict(int)
        """The newest seq committed, by stream."""
        self.acknowledged: dict[bytes, int] = defaultdict(int)
        self.excused: set[Key] = set()
        """Frames that may be missing: taken by a power cut within its bound, or with a disk."""
        self.harmed: set[Key] = set()
        """Frames that a flipped bit took from the disk: nobody knows any more how many readings there were up to them."""
        self.damage = False
        """A disk lost something."""
        self.uncounted: set[bytes] = set()
        """Streams whose counts were lost with a disk: their gaps may say too much or too little."""
        self._holes: set[Key] = set()
        self._restored_from: dict[bytes, int] = {}
        self.seen: Counter[str] = Counter()
        """What happened, by name: frames and readings stored, gaps by cause, faults that hit. "readings lost" and "readings twice" are
        those that broke a promise, so a life in which there are any has failed."""

    def sampled(self, stream: bytes, seq: int, frame: bytes, n: int, made_us: int) -> None:
        frames = self.made.setdefault(stream, {})
        if seq != len(frames) + 1:
            raise Violation(f"frame {seq} was numbered after {len(frames)}")
        frames[seq] = Made(frame, n, made_us)

    def commit(self, stream: bytes, seq: int, message: bytes) -> None:
        """This frame is in the database now, whatever number the database remembers."""
        before = self.stored[stream]
        if seq <= before:
            self.seen["readings twice"] += self._readings(stream, seq, seq)
            raise Violation(f"frame {seq} of {stream.hex()[:6]} was committed twice")
        frames = self.made.get(stream, {})
        made = frames.get(seq)
        if made is not None and seq == before + 1 and _unnumbered(message) == _unnumbered(made.frame):
            self.seen["frames stored"] += 1
            self.seen["readings stored"] += made.n
            if (stream, seq) in self._holes:
                self._holes.remove((stream, seq))
                self.seen["holes filled"] += 1
        else:
            self._declared(stream, before + 1, seq, message)
        self.stored[stream] = seq

    def _declared(self, stream: bytes, first: int, last: int, message: bytes) -> None:
        if message[1] != wire.KIND_GAP:
            self.seen["readings lost"] += self._readings(stream, first, last - 1)
            raise Violation(f"frame {last} of {stream.hex()[:6]} after {first - 1} is not what was sampled, or leaves a hole")
        gap = _gap.decode(message)
        if gap.cause not in ("spool_overflow", "spool_damaged") or gap.channel is not None or gap.from_us > gap.to_us or gap.n < 0:
            raise Violation(f"no such gap was declared: {gap}")
        if gap.cause == "spool_damaged" and not self.damage:
            raise Violation(f"nothing was damaged: {gap}")
        frames = self.made.get(stream, {})
        if last not in frames:
            raise Violation(f"a gap up to frame {last} of {stream.hex()[:6]}, which has {len(frames)}")
        lost = sum(frames[seq].n for seq in range(first, last + 1))
        known = stream not in self.uncounted and (stream, first - 1) not in self.harmed
        if gap.n != lost and known and not any((stream, seq) in self.excused for seq in range(first, last + 1)):
            self.seen["readings lost"] += max(0, lost - gap.n)
            raise Violation(f"frames {first} to {last} of {stream.hex()[:6]} held {lost} readings, their gap says {gap.n} ({gap.cause})")
        self.seen[f"gaps {gap.cause}"] += 1
        self.seen["readings declared lost"] += gap.n

    def _readings(self, stream: bytes, first: int, last: int) -> int:
        frames = self.made.get(stream, {})
        return sum(frames[seq].n for seq in range(first, last + 1) if seq in frames)

    def refused_behind_a_hole(self, stream: bytes, missing: int) -> None:
        """The backend did not take a frame, because this one comes first."""
        self.seen["holes refused"] += 1
        self._holes.add((stream, missing))

    def dropped(self, held: int, largest: int, bytes_max: int) -> None:
        """The spool let frames go and holds this much now. The last that went, at most `largest` bytes, had no room beside it."""
        self.seen["drops"] += 1
        if held + largest <= bytes_max:
            raise Violation(
                f"a frame was dropped while there was room: {held} of {bytes_max} bytes are held, the largest that went has {largest}"
            )

    def acknowledge(self, stream: bytes, seq: int) -> None:
        """The source was told, and forgets."""
        if self.stored[stream] < seq <= self._restored_from.get(stream, 0):  # said before an older database was put back
            self.excused |= {(stream, told) for told in range(self.stored[stream] + 1, seq + 1)}
        elif seq > self.stored[stream]:
            self.seen["readings lost"] += self._readings(stream, self.stored[stream] + 1, seq)
            raise Violation(f"frame {seq} of {stream.hex()[:6]} was acknowledged, committed is {self.stored[stream]}")
        self.acknowledged[stream] = max(self.acknowledged[stream], seq)

    def restored(self, stored: dict[bytes, int], held: set[Key]) -> None:
        """The database is an older one. What the source was told to forget, or holds no more, is gone; the rest must come again."""
        self.damage = True
        for stream, seq in self.stored.items():
            before = stored.get(stream, 0)
            self._restored_from[stream] = max(seq, self._restored_from.get(stream, 0))
            if before < seq:
                self.uncounted.add(stream)
                gone = {(stream, lost) for lost in range(before + 1, seq + 1)}
                self.excused |= {key for key in gone if key not in held or key[1] <= self.acknowledged[stream]}
        self.stored = defaultdict(int, stored)
        self.acknowledged = defaultdict(int, {stream: min(seq, stored.get(stream, 0)) for stream, seq in self.acknowledged.items()})

    def missing(self) -> set[Key]:
        """Frames that are neither stored nor declared."""
        return {(stream, seq) for stream, frames in self.made.items() for seq in range(self.stored[stream] + 1, len(frames) + 1)}

    def close(self) -> None:
        """Everything was delivered: nothing may be missing that nobody can answer for."""
        lost = sorted(self.missing() - self.excused)
        if lost:
            self.seen["readings lost"] += sum(self.made[stream][seq].n for stream, seq in lost)
            stream, seq = lost[0]
            raise Violation(f"{len(lost)} frames are missing and nobody said so, the first is {seq} of {stream.hex()[:6]}")


def _unnumbered(frame: bytes) -> bytes:
    first = frame[2]
    return frame[3 if first < 0x80 else 3 + (1 << (first - 0xCC)) :]


_gap: msgspec.msgpack.Decoder[wire.Gap] = msgspec.msgpack.Decoder(wire.Gap)
