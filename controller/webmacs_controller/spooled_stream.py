"""One stream in the spool: where its frames are held, and what of it is lost, settled or under way.

A frame's number never changes, whatever is lost around it: a loss leaves its numbers to one gap frame that carries the last of them.
So what the backend has under a number is what is here under it, also when this is an older image of the disk or the state file
is gone. The one exception is a live stream that must begin anew: its seqs count from `base`.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from webmacs_controller import segment, wire
from webmacs_controller.segment import Record

HISTORY_MAX: Final = 4_096
"""Ends of stored frames that are remembered, so that a backend restored from a backup is told exactly what it lacks. When there are more,
every second goes: frames of the last quarter of an hour at five a second, later those of every minute."""


class Loss(msgspec.Struct, array_like=True):
    """Frames first...last that are gone, and will be one gap frame."""

    first: int
    last: int
    before: int
    """Readings in all frames before the first."""
    n: int
    from_us: int
    to_us: int
    cause: wire.GapCause

    def gap(self, seq: int, frames: int) -> bytes:
        return wire.encode(wire.Gap(seq, None, self.from_us, max(self.from_us, self.to_us), self.n, self.cause, frames))


class Settled(msgspec.Struct, array_like=True, frozen=True):
    """What is known at the end of a frame: readings up to it and its last time."""

    index: int
    readings: int
    to_us: int


class State(msgspec.Struct, array_like=True):
    """What a stream's segments do not say. Kept on disk from the first loss on, with what makes it a stream when every segment is gone."""

    version: int
    order: int
    head: segment.Head
    id: bytes
    base: int
    """seq = index - base"""
    losses: list[Loss]
    """Losses that are not known to be stored at the other end, rising."""
    next_index: int
    readings: int
    """In all frames before next_index."""
    settled: Settled
    """The newest frame that is known to be stored at the other end and to have been the end of so many readings."""


class Stored(NamedTuple):
    path: Path
    first: int
    before: int
    bytes: int


class SpooledStream:
    """One stream's frames and numbers. `home` is the id in its file names, `state.id` the one on the wire."""

    def __init__(self, order: int, home: bytes, head: segment.Head, live: bool) -> None:
        self.order = order
        self.home = home
        self.head = head
        self.live = live
        self.state = State(0, order, head, home, 0, [], 1, 0, self.start)
        self.disk: deque[Stored] = deque()
        self.writer: segment.Writer | None = None
        self.writer_bytes = 0  # as counted in the spool's size
        self.memory: dict[int, tuple[Record, int]] = {}  # index -> (record, made at), rising, not on disk
        self.committed_index = 0
        self.sent_index = 0  # from committed to here it may be stored at the other end: not to be dropped
        self.certain = live  # False for what a dead process left until the backend has said how far it came
        self.handed: dict[int, Settled] = {}  # frames under way
        self._history: list[Settled] = []  # rising

    @property
    def start(self) -> Settled:
        return Settled(0, 0, self.head.started_us)

    def settle(self, settled: Settled) -> None:
        """This frame is stored at the other end."""
        self.state.settled = settled
        self._history.append(settled)
        if len(self._history) > HISTORY_MAX:
            self._history = self._history[::2]

    def forget_after(self, index: int) -> None:
        """The other end was put back to an older state: it has nothing beyond this frame."""
        self._history = [settled for settled in self._history if settled.index <= index]

    def remembered(self, index: int, beyond: Settled) -> Settled:
        """The end of a frame before `beyond` that was forgotten: as it was, or in proportion between the nearest that are remembered."""
        known = [self.start, *(settled for settled in self._history if settled.index < beyond.index), beyond]
        at = bisect_right(known, index, key=lambda settled: settled.index)
        before, after = known[at - 1], known[min(at, len(known) - 1)]
        part = (index - before.index) / max(1, after.index - before.index)
        readings = before.readings + round((after.readings - before.readings) * part)
        return Settled(index, readings, before.to_us + round((after.to_us - before.to_us) * part))

    @property
    def next_index(self) -> int:
        return self.state.next_index

    def seq_of(self, index: int) -> int:
        return index - self.state.base

    def index_of(self, seq: int) -> int:
        return seq + self.state.base

    def number(self, n: int) -> tuple[int, int]:
        """Takes the next index for a frame of n readings: (index, readings before it)."""
        index, before = self.state.next_index, self.state.readings
        self.state.next_index += 1
        self.state.readings += n
        return index, before

    def loss_at(self, index: int) -> Loss | None:
        return next((loss for loss in self.state.losses if loss.first <= index <= loss.last), None)

    def lose(self, records: Iterable[Record], cause: wire.GapCause) -> None:
        """These frames will be declared. What may have been declared already, here or by a dead process, keeps its bounds."""
        records = list(records)
        losses = self.state.losses
        known = [loss for loss in losses if records and loss.last >= records[0].index and loss.first <= records[-1].index]
        for record in records:
            if not any(loss.first <= record.index <= loss.last for loss in known):  # a power cut may bring back files of lost frames
                losses.append(Loss(record.index, record.index, record.before, record.n, record.from_us, record.to_us, cause))
        losses.sort(key=lambda loss: loss.first)
        if self.certain:
            self._join_losses(self.sent_index)

    def settle_losses(self, index: int) -> list[Loss]:
        """Those that are stored at the other end, because everything up to `index` is."""
        settled = [loss for loss in self.state.losses if loss.last <= index]
        self.state.losses = [loss for loss in self.state.losses if loss.last > index]
        return settled

    def become_certain(self) -> None:
        """The other end has said how far it came, and nothing is under way."""
        self.certain = True
        self.handed = {}
        self.sent_index = self.committed_index
        self._join_losses(self.committed_index)

    def _join_losses(self, behind: int) -> None:
        joined: list[Loss] = []
        for loss in self.state.losses:
            last = joined[-1] if joined else None
            if last is not None and last.first > behind and (last.last + 1, last.cause) == (loss.first, loss.cause):
                last.last, last.n = loss.last, last.n + loss.n
                last.from_us, last.to_us = min(last.from_us, loss.from_us), max(last.to_us, loss.to_us)
            else:
                joined.append(loss)
        self.state.losses = joined

    @property
    def finished(self) -> bool:
        return not self.live and self.committed_index >= self.next_index - 1
