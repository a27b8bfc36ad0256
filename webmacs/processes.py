"""Child processes that cannot outlive us, and the search for left-over ones."""

import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

PR_SET_PDEATHSIG: Final = 1
LIBC: Final = ctypes.CDLL(None, use_errno=True)


def die_with_parent(death_signal: signal.Signals) -> None:
    """From now on the kernel sends this process `death_signal` when the thread that started it ends, whatever ends it."""
    LIBC.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)


def spawn(
    command: Sequence[str | Path],
    *,
    death_signal: signal.Signals,
    environment: Mapping[str, str],
    output: IO[Any] | int | None = None,
    user: pwd.struct_passwd | None = None,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a process in a session of its own, so that Ctrl-C reaches only us; it gets `death_signal` when we end, even by kill -9.

    `output` takes both streams. With `user` it runs as that user. Call this from the main thread: the signal follows the death of the
    thread that forked.
    """
    parent = os.getpid()

    def prepare() -> None:
        die_with_parent(death_signal)
        if os.getppid() != parent:  # we ended in between
            os._exit(1)

    identity: dict[str, Any] = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and a function before exec: ours makes two system calls
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=prepare,
            **identity,
        )


def python(*arguments: str) -> list[str]:
    """The command that runs a module of ours with this interpreter and its warning options."""
    return [sys.executable, *(f"-W{option}" for option in sys.warnoptions), "-m", *arguments]


def working_in(folder: Path, program: str) -> list[int]:
    """Processes whose working directory is `folder` and whose executable is called `program`, as far as we may see them."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return [pid for pid in pids if works_in(pid, folder, program)]


def works_in(pid: int, folder: Path, program: str) -> bool:
    """Whether that process lives, works in `folder` and runs `program`."""
    try:
        executable = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
        return os.readlink(f"/proc/{pid}/cwd") == str(folder) and Path(executable).name == program
    except OSError:
        return False


def end(pids: Iterable[int], folder: Path, program: str, signals: Sequence[signal.Signals], patience_s: float) -> None:
    """Sends the signals one after the other, each with `patience_s` to take effect, to those of `pids` that still are what they were.
    Returns when none is left, or after the last signal's patience."""
    left = list(pids)
    for signum in signals:
        for pid in left:
            try:
                os.kill(pid, signum)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + patience_s
        while (left := [pid for pid in left if works_in(pid, folder, program)]) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not left:
            return
