"""The hand on the preloaded shim (shim.c): makes one process's disk fail below a directory, and sets its clock, while it runs."""

import errno
import mmap
import struct
import subprocess
import time
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("shim.c")
DISK: Final = struct.Struct("<iiiii")
FAILED: Final = struct.Struct("<i")
CLOCK: Final = struct.Struct("<qqq")


def build(place: Path) -> Path:
    """Raises CalledProcessError."""
    library = place / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, SOURCE, "-ldl"], check=True)
    return library


class Shim:
    """`environment` goes to the process that is to have a wrong disk, below `below`, and a wrong clock."""

    def __init__(self, library: Path, place: Path, below: Path | None = None) -> None:
        control = place / "shim"
        size = DISK.size + FAILED.size + CLOCK.size
        control.write_bytes(bytes(size))
        with control.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), size)
        self.environment = {"LD_PRELOAD": str(library), "SHIM_CONTROL": str(control), "SHIM_BELOW": str(below or "")}

    @property
    def failed(self) -> int:
        """Calls that the shim made fail."""
        (failed,) = FAILED.unpack_from(self._control, DISK.size)
        return int(failed)

    def _set(self, write: int = 0, sync: int = 0, open_: int = 0, rename: int = 0, room: int = 0) -> None:
        DISK.pack_into(self._control, 0, write, sync, open_, rename, room)

    def mend(self) -> None:
        self._set()

    def full(self, room: int = 0) -> None:
        """So many bytes may still be written, the last ones by a short count."""
        self._set(write=errno.ENOSPC, open_=0 if room else errno.ENOSPC, room=room)

    def read_only(self) -> None:
        self._set(write=errno.EROFS, open_=errno.EROFS, rename=errno.EROFS)

    def broken_sync(self) -> None:
        self._set(sync=errno.EIO)

    def set_clock(self, by_s: float, drift_ppm: int = 0) -> None:
        """From now on the wall clock is this far from the machine's, and runs faster by the drift."""
        CLOCK.pack_into(self._control, DISK.size + FAILED.size, int(by_s * 1e6), drift_ppm, time.monotonic_ns() // 1000)
