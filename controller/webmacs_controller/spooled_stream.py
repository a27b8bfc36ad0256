"""One stream in the spool: how its frames are numbered, where they are held, and what of it is lost, settled or under way.

Inside, a frame has an index that never changes; on the wire it has a seq, and seqs close up when frames are lost. Here is the map
between the two, and the state that keeps it on disk.
"""

from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec

from webmacs_controller import segment, wire
from webmacs_controller.segment import Record


class Loss(msgspec.Struct, array_like=True):
    """Frames first...last that are gone."""

    first: int
    last: int
    n: int
    from_us: int
    to_us: int
    cause: wire.GapCause


class State(msgspec.Struct, array_like=True):
    """What a stream's segments do not say: how it is called and numbered now. Kept on disk from the first loss on, with what makes it
    a stream when every segment is gone."""

    version: int
    order: int
    head: segment.Head
    id: bytes
    pieces: list[tuple[int, int]]
    """(index, seq) from which on seq rises with index, rising"""
    gaps: dict[int, bytes]
    """seq -> gap frame, for seqs that stand for a loss; the piece behind it begins with the next seq"""
    losses: list[Loss]
    """Losses that have no gap frame yet, rising"""
    next_index: int


class Stored(NamedTuple):
    path: Path
    first: int
    bytes: int


class Settled(msgspec.Struct, frozen=True):
    """What is known at the end of a frame: readings up to it and its last time."""

    index: int
    readings: int
    to_us: int


class SpooledStream:
    """One stream's frames and numbers. `home` is the id in its file names, `state.id` the one on the wire."""

    def __init__(self, order: int, home: bytes, head: segment.Head, live: bool) -> None:
        self.order = order
        self.home = home
        self.head = head
        self.live = live
        self.state = State(0, order, head, home, [(1, 1)], {}, [], 1)
        self.disk: deque[Stored] = deque()
        self.writer: segment.Writer | None = None
        self.writer_bytes = 0  # as counted in the spool's size
        self.memory: dict[int, tuple[Record, int]] = {}  # index -> (record, made at), rising, not on disk
        self.next_index = 1
        self.readings = 0
        self.committed_index = 0
        self.sent_index = 0  # from committed to here it may be stored at the other end: not to be dropped
        self.certain = live  # False for what a dead process left until the backend has said how far it came
        self.handed: dict[int, Settled] = {}  # frames under way
        self.settled = Settled(0, 0, head.started_us)

    def seq_of(self, index: int) -> int:
        for first, seq in reversed(self.state.pieces):
            if index >= first:
                return seq + index - first
        return 0

    def index_of(self, seq: int) -> int:
        """The last index that is settled when this seq is."""
        pieces = self.state.pieces
        for position in range(len(pieces) - 1, -1, -1):
            first, first_seq = pieces[position]
            if seq >= first_seq:
                if seq in self.state.gaps and position + 1 < len(pieces):
                    return pieces[position + 1][0] - 1
                return first + seq - first_seq
        first, first_seq = pieces[0]
        return max(0, first + seq - first_seq)

    def expects(self, index: int) -> bool:
        """The frame is neither dropped nor covered by a gap frame; shared memory may hold one that is."""
        for (first, seq), (next_first, next_seq) in pairwise(self.state.pieces):
            if first + next_seq - 1 - seq <= index < next_first:
                return False
        return not any(loss.first <= index <= loss.last for loss in self.state.losses)

    def renumber_behind(self, seq: int, end: int, gap: bytes) -> None:
        """`gap` takes `seq` and the frame `end` the next one. Gaps that were declared behind it are losses again, to be declared anew."""
        state = self.state
        losses = [loss for loss in state.losses if loss.first >= end]
        for (before, before_seq), (first, first_seq) in pairwise(state.pieces):
            if first > end and (declared := state.gaps.get(first_seq - 1)) is not None:
                lost = msgspec.msgpack.decode(declared, type=wire.Gap)
                losses.append(Loss(before + first_seq - 1 - before_seq, first - 1, lost.n, lost.from_us, lost.to_us, lost.cause))
        state.losses = sorted(losses, key=lambda loss: loss.first)
        state.pieces = [*(piece for piece in state.pieces if piece[1] <= seq), (end, seq + 1)]
        state.gaps = {**{earlier: kept for earlier, kept in state.gaps.items() if earlier < seq}, seq: gap}

    @property
    def finished(self) -> bool:
        return not self.live and self.committed_index >= self.next_index - 1
