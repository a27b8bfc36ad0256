"""A plain model of what a flush does in PostgreSQL: one transaction of readings, the stream's number and the flush's number, behind the
fence of the writer's generation."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from simulation.journal import Journal, Key


class Segment(NamedTuple):
    """What one connection brought to a flush."""

    stream: bytes
    generation: int
    frames: list[tuple[int, bytes]]
    """(seq, frame)"""


class Backup(NamedTuple):
    generation: int
    committed: dict[bytes, int]
    flushes: dict[int, int]
    stored: dict[bytes, int]


class Database:
    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._generation = 0
        self._committed: dict[bytes, int] = defaultdict(int)
        self._flushes: dict[int, int] = {}
        self.up = True

    def backup(self) -> "Backup":
        return Backup(self._generation, dict(self._committed), dict(self._flushes), dict(self.journal.stored))

    def restore(self, backup: "Backup", held: set[Key]) -> None:
        """`held`: the frames that the source still has."""
        self._generation = backup.generation
        self._committed = defaultdict(int, backup.committed)
        self._flushes = dict(backup.flushes)
        self.journal.restored(backup.stored, held)

    def take_over(self) -> int:
        """Fences whoever wrote until now."""
        self._generation += 1
        return self._generation

    def committed(self, stream: bytes) -> int:
        return self._committed[stream]

    def has_flush(self, owner: int, number: int) -> bool:
        """A COMMIT that was not answered took place."""
        return self._flushes.get(owner) == number

    def fenced(self, segment: Segment) -> bool:
        return segment.generation != self._generation

    def commit(self, owner: int, number: int, segments: Sequence[Segment]) -> None:
        """One transaction; the segments are those that are not fenced."""
        for segment in segments:
            self.write(segment)
            self.advance(segment)
        self._flushes[owner] = number

    def write(self, segment: Segment) -> None:
        for seq, frame in segment.frames:
            self.journal.commit(segment.stream, seq, frame)

    def advance(self, segment: Segment) -> None:
        self._committed[segment.stream] = max(self._committed[segment.stream], segment.frames[-1][0])
