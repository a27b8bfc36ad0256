"""A disk in memory that knows what a power cut leaves: of each file what was synced and any torn part of the rest, of each name what
was synced or any moment since. Files in `volatile` are shared memory: a power cut takes them all.
"""

import errno
import random
from collections.abc import Callable
from pathlib import Path

from webmacs_controller.disk import AppendFile, Disk


class Died(BaseException):
    """The process was killed, or the power cut, in the middle of a call."""


class Inode:
    __slots__ = ("content", "synced")

    def __init__(self, content: bytes = b"", synced: int = 0) -> None:
        self.content = bytearray(content)
        self.synced = synced


class MemoryFile(AppendFile):
    def __init__(self, path: Path, inode: Inode, step: Callable[[Path], None]) -> None:
        self.bytes = 0
        self._path = path
        self._inode = inode
        self._step = step

    def write(self, data: bytes) -> None:
        try:
            self._step(self._path)
        except OSError:
            self._inode.content += data[: len(data) // 2]
            raise
        self._inode.content += data
        self.bytes += len(data)

    def sync(self) -> None:
        self._step(self._path)
        self._inode.synced = len(self._inode.content)

    def close(self) -> None:
        pass


class MemoryDisk(Disk):
    def __init__(self, volatile: Path) -> None:
        self._volatile = volatile
        self._names: dict[Path, Inode] = {}
        self._durable: dict[Path, Inode] = {}
        self._unsynced: dict[Path, list[Inode | None]] = {}  # what became of a name since its directory was synced
        self._locked = False
        self.calls_until_death: int | None = None
        self.failing = False

    def _step(self, path: Path) -> None:
        if self.failing and path.parent != self._volatile:
            raise OSError(errno.EIO, "Input/output error")
        if self.calls_until_death is not None:
            self.calls_until_death -= 1
            if self.calls_until_death <= 0:
                raise Died

    # what the spool calls

    def make_directory(self, directory: Path) -> None:
        pass

    def lock(self, path: Path) -> int:
        self._step(path)
        if self._locked:
            raise BlockingIOError
        self._locked = True
        return 1

    def unlock(self, handle: int) -> None:
        self._locked = False

    def list(self, directory: Path) -> list[Path]:
        return sorted(path for path in self._names if path.parent == directory)

    def read(self, path: Path) -> bytes:
        if path not in self._names:
            raise FileNotFoundError(path)
        return bytes(self._names[path].content)

    def size(self, path: Path) -> int:
        return len(self._names[path].content)

    def sync(self, path: Path) -> None:
        self._step(path)
        self._names[path].synced = len(self._names[path].content)

    def create(self, path: Path) -> MemoryFile:
        self._step(path)
        inode = Inode()
        self._set(path, inode)
        return MemoryFile(path, inode, self._step)

    def replace(self, path: Path, data: bytes) -> None:
        temporary = path.with_suffix(".new")
        file = self.create(temporary)
        file.write(data)
        file.sync()
        self._step(path)
        self._set(path, self._names[temporary])
        self._set(temporary, None)
        self.sync_directory(path.parent)

    def remove(self, path: Path) -> None:
        self._step(path)
        if path in self._names:
            self._set(path, None)

    def remove_directory(self, directory: Path) -> None:
        self._step(directory / "any")

    def sync_directory(self, directory: Path) -> None:
        self._step(directory / "any")
        for path in [path for path in self._unsynced if path.parent == directory]:
            _assign(self._durable, path, self._unsynced.pop(path)[-1])

    def _set(self, path: Path, inode: Inode | None) -> None:
        _assign(self._names, path, inode)
        if path.parent != self._volatile:
            self._unsynced.setdefault(path, []).append(inode)

    # what happens to it

    def process_ended(self) -> None:
        """The kernel keeps what was written, synced or not."""
        self._locked = False
        self.calls_until_death = None

    def cut_power(self, chance: random.Random) -> None:
        for path, became in self._unsynced.items():
            reached = chance.randint(0, len(became))
            if reached:
                _assign(self._durable, path, became[reached - 1])
        self._unsynced = {}
        self._names = dict(self._durable)
        for path in sorted(self._names):
            inode = self._names[path]
            torn = chance.randint(inode.synced, len(inode.content))
            zeros = chance.choice((0, 0, len(inode.content) - torn))  # the length reached the disk, the content did not
            inode.content = inode.content[:torn] + bytes(zeros)
            inode.synced = len(inode.content)
        self.process_ended()

    def image(self) -> dict[Path, bytes]:
        """What a copy of the disk holds."""
        return {path: bytes(inode.content) for path, inode in self._names.items() if path.parent != self._volatile}

    def put_back(self, image: dict[Path, bytes], shared_too: bool) -> None:
        """The disk becomes this image; `shared_too`: the machine was started anew, so shared memory is empty."""
        kept = {} if shared_too else {path: inode for path, inode in self._names.items() if path.parent == self._volatile}
        self._durable = {path: Inode(content, len(content)) for path, content in image.items()}
        self._unsynced = {}
        self._names = {**self._durable, **kept}
        self.process_ended()

    def flip_a_bit(self, path: Path, chance: random.Random) -> None:
        content = self._names[path].content
        if content:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)

    def files(self, suffix: str) -> "list[Path]":
        return sorted(path for path in self._names if path.suffix == suffix)


def _assign(names: dict[Path, Inode], path: Path, inode: Inode | None) -> None:
    if inode is None:
        names.pop(path, None)
    else:
        names[path] = inode
