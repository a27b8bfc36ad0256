"""What earlier processes left in a spool: their segments on disk, the newest frames in shared memory, and the state of their streams.
Called once, when the spool is opened; nothing that it finds makes it fail.
"""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from webmacs_controller import logs, segment
from webmacs_controller.disk import Disk
from webmacs_controller.segment import Contents, Head, Name, Record
from webmacs_controller.spooled_stream import SpooledStream, State, Stored

log = logs.get(__name__)


class Left(NamedTuple):
    streams: list[SpooledStream]
    """Oldest first."""
    shared: list[Path]
    """Files in shared memory whose frames are in the streams' memory now."""
    unsaved: list[SpooledStream]
    """Among the streams: those whose state is not on disk."""
    newest_us: int | None
    """The time of the newest reading."""


class Recovery:
    """`read` answers what a file holds, `remove` removes it; neither raises."""

    def __init__(self, disk: Disk, directory: Path, shared: Path, read: Callable[[Path], Contents], remove: Callable[[Path], None]) -> None:
        self._disk = disk
        self._directory = directory
        self._shared = shared
        self._read = read
        self._remove = remove
        self._unsaved: list[SpooledStream] = []
        self._newest_us: int | None = None

    def run(self) -> Left:
        stored, shared = self._segments(self._directory), self._segments(self._shared)
        states = self._states()
        orders = {name.stream: name.order for name, _ in (*stored, *shared)} | {home: state.order for home, (state, _) in states.items()}
        streams = []
        for home, order in orders.items():
            mine = [(name, path) for name, path in stored if name.stream == home]
            newest = [path for name, path in shared if name.stream == home]
            state, place = states.get(home, (None, None))
            stream = self._stream(order, home, mine, newest, state)
            if stream is not None:
                streams.append(stream)
                if place == self._shared:
                    self._unsaved.append(stream)
        streams.sort(key=lambda stream: stream.order)
        return Left(streams, [path for _, path in shared], self._unsaved, self._newest_us)

    def _segments(self, directory: Path) -> list[tuple[Name, Path]]:
        named = ((segment.parse_name(path), path) for path in self._listed(directory, ".segment"))
        return sorted((name, path) for name, path in named if name is not None)

    def _states(self) -> dict[bytes, tuple[State, Path]]:
        """The newest state of each stream, and where it was."""
        states: dict[bytes, tuple[State, Path]] = {}
        for directory in (self._directory, self._shared):
            for path in self._listed(directory, ".new"):
                self._remove(path)  # a state that was not written to its end
            for path in self._listed(directory, ".stream"):
                try:
                    home = bytes.fromhex(path.stem)
                    body = segment.unsealed(self._disk.read(path), 0)
                    state = _state.decode(body) if body is not None else None
                except (OSError, ValueError, msgspec.DecodeError):
                    state = None
                if state is None:
                    log.warning("spool_damaged", file=path.name)
                elif home not in states or states[home][0].version < state.version:
                    states[home] = state, directory
        return states

    def _listed(self, directory: Path, suffix: str) -> list[Path]:
        try:
            return [path for path in self._disk.list(directory) if path.suffix == suffix]
        except OSError:
            return []  # it is missing or cannot be read: nothing was left there that could be sent

    def _stream(
        self, order: int, home: bytes, files: list[tuple[Name, Path]], shared: list[Path], state: State | None
    ) -> SpooledStream | None:
        head = state.head if state is not None else None
        newest: Record | None = None
        stored: deque[Stored] = deque()
        seen: list[Record] = []  # without their frames, while no head is found
        for name, path in reversed(files):  # the newest tells where the stream ends; the others are read when they are sent
            if newest is None or head is None:
                contents = self._read(path)
                head = head or _of(home, contents.head)
                if not contents.records:
                    self._remove(path)
                    continue
                newest = newest or contents.records[-1]
                seen += [msgspec.structs.replace(record, frame=b"") for record in contents.records] if head is None else []
            stored.appendleft(Stored(path, name.first, name.before, self._size(path)))
        young: dict[int, Record] = {}
        for path in shared:
            contents = self._read(path)
            head = head or _of(home, contents.head)
            young.update({record.index: record for record in contents.records if newest is None or record.index > newest.index})
        newest = young[max(young)] if young else newest
        if newest is None and state is None:
            return None
        stream = SpooledStream(order, home, head or Head(home, [], min((record.from_us for record in seen), default=0)), live=False)
        if state is not None:
            stream.state = state
        if newest is not None:
            self._newest_us = max(self._newest_us or 0, newest.to_us)
            if newest.index >= stream.next_index:
                stream.state.next_index, stream.state.readings = newest.index + 1, newest.before + newest.n
        stream.sent_index = stream.next_index - 1
        if head is None:  # what the channels of its frames were is not known; how many readings they had is
            stream.lose(sorted([*seen, *young.values()], key=lambda record: record.index), "spool_damaged")
            self._unsaved.append(stream)
            log.error("spool_unreadable", stream=home.hex(), reason="no segment says which channels the frames belong to")
        stream.disk = stored
        stream.memory = {index: (young[index], 0) for index in sorted(young) if stream.loss_at(index) is None}
        return stream

    def _size(self, path: Path) -> int:
        try:
            return self._disk.size(path)
        except OSError:
            return 0


def _of(home: bytes, head: Head | None) -> Head | None:
    return head if head is not None and head.stream == home else None


_state: msgspec.msgpack.Decoder[State] = msgspec.msgpack.Decoder(State)
