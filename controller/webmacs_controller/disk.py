"""The file system as the spool uses it: every file that it opens, syncs, renames or removes goes through here, and a simulated power
cut takes the place of this one class. What a call promises is what counts after a power cut.
"""

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Final

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 (the directory below it is ours alone, and checked)


class AppendFile:
    """A new file that only grows. Raises OSError; then what it holds behind the last `sync` is not known."""

    def __init__(self, path: Path) -> None:
        self.bytes = 0
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes) -> None:
        """All of it, to where a killed process leaves it."""
        view = memoryview(data)
        while view:
            written = os.write(self._handle, view)
            self.bytes += written
            view = view[written:]

    def sync(self) -> None:
        """Everything written survives a power cut, if the file's name does."""
        os.fdatasync(self._handle)

    def close(self) -> None:
        os.close(self._handle)


class Disk:
    """Directories of ours. Every call raises OSError."""

    def make_directory(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def lock(self, path: Path) -> int:
        """A lock that ends with the process, or by `unlock`. Raises BlockingIOError when another process has it."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        return handle

    def unlock(self, handle: int) -> None:
        os.close(handle)

    def list(self, directory: Path) -> list[Path]:
        return sorted(directory.iterdir())

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def sync(self, path: Path) -> None:
        """What another process wrote to this file survives a power cut."""
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def create(self, path: Path) -> AppendFile:
        return AppendFile(path)

    def replace(self, path: Path, data: bytes) -> None:
        """After a power cut it is the whole file or the old one; after the return it is the new one."""
        temporary = path.with_suffix(".new")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        self.sync_directory(path.parent)

    def remove(self, path: Path) -> None:
        """It may be gone already, and may be back after a power cut."""
        path.unlink(missing_ok=True)

    def remove_directory(self, directory: Path) -> None:
        """Raises OSError when it is not empty."""
        directory.rmdir()

    def sync_directory(self, directory: Path) -> None:
        """Names made and removed in it stay so after a power cut."""
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def shared_memory(directory: Path) -> Path:
    """A directory of ours in shared memory that belongs to `directory`. Raises OSError where there is none."""
    place = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
    shared = SHARED_MEMORY / f"webmacs-spool-{place}"
    shared.mkdir(mode=0o700, exist_ok=True)
    if shared.is_symlink() or shared.stat().st_uid != os.geteuid():
        raise PermissionError(f"{shared} belongs to somebody else")
    return shared
