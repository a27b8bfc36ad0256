"""A whole installation in a directory of its own, started and ended by the real command line."""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from webmacs import processes

ROOT = Path(__file__).parents[2]
READY = "WebMACS is ready: "
PATIENCE_S = 60.0
"""Until a hanging test is given up; nothing is judged by it."""


def environment(**variables: str) -> dict[str, str]:
    """Ours without any WEBMACS_*, so that the machine's own settings change no test."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WEBMACS_")}
    return kept | {"PYTHONPATH": f"{ROOT}:{ROOT / 'controller'}", "PYTHONWARNINGS": "default"} | variables


def command(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Runs `webmacs ARGUMENTS` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "webmacs", *arguments],
        env=environment(**variables), cwd="/", capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def eventually(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


@contextmanager
def empty_directory(owner: int | None = None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="webmacs-test-"))
    folder.chmod(0o755)
    if owner is not None:
        os.chown(folder, owner, owner)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Up:
    """`webmacs up` as a process; `said` are the lines that it has printed."""

    def __init__(self, data: Path, prefix: Sequence[str] = (), identity: dict[str, Any] | None = None, **variables: str) -> None:
        self.data = data
        self.said: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "webmacs", "up", "--port", "0", "--data", str(data)],
            env=environment(**variables), cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **(identity or {}),
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def ready(self) -> str:
        """Waits until it is, and returns the address."""
        while line := self._lines.get(timeout=PATIENCE_S):
            if line.startswith(READY):
                address = line.removeprefix(READY).split()[0]
                while self._lines.get(timeout=PATIENCE_S) != "Ctrl-C stops it.\n":
                    pass
                return address
        raise AssertionError("".join(self.said))

    @property
    def children(self) -> dict[str, int]:
        state = json.loads((self.data / "state.json").read_bytes())
        return dict(state["processes"])

    def family(self) -> list[psutil.Process]:
        """Every process that descends from it."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(PATIENCE_S)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def end(self) -> None:
        """Whatever became of the test, nothing of it is left."""
        if self.process.poll() is None:
            self.interrupt()
        data = (self.data / "postgres").resolve()
        eventually(lambda: not processes.working_in(data, "postgres"), "the database has ended")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            self._lines.put(line)
        self._lines.put(None)


@contextmanager
def running(data: Path, prefix: Sequence[str] = (), identity: dict[str, Any] | None = None, **variables: str) -> Iterator[Up]:
    up = Up(data, prefix, identity, **variables)
    try:
        yield up
    finally:
        up.end()
