"""A device whose readings are numbered, as a plugin of the real controller: `python -m parts.ramp run --device ramp=SETTINGS.toml ...`.

Reading n of channel c has the value n + c * CHANNEL: a reading carries its identity. Before it gives a reading the device writes it
into a journal of its own, which outlives every kill and goes on with the next number in the next process.
"""

import os
import struct
import sys
import time
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Final

from webmacs_controller import __main__ as command
from webmacs_controller import protocol, spool
from webmacs_controller.sdk import Channel, Column, DeviceError, Readings, Settings, SyncDevice

CHANNEL: Final = 1 << 40
ENTRY: Final = struct.Struct("<qqqq")


class Kind(IntEnum):
    GIVEN = 1
    """(first number, how many, monotonic µs at which it was asked): of every channel ..."""
    OMITTED = 2
    """... but (first number, how many, channel) that were left out, one beat ..."""
    INFINITE = 3
    """... and (first number, how many, channel) that came as infinity"""
    FAILED = 4
    """(next number, 0, 0): DeviceError was raised"""
    STARTED = 5
    """(next number, 0, monotonic µs): the device was opened"""
    STOPPED = 6
    """(next number, 0, monotonic µs): it was closed"""


class PluginSettings(Settings, frozen=True):
    journal: str
    interval_ms: int = 5
    channels: int = 2
    burst: int = 1
    """Readings of each channel with every read; from 2 on they have times of their own."""
    fail_every: int = 0
    """Every so manieth read fails."""
    omit_every: int = 0
    """The first channel is left out of every so manieth read that does not fail."""
    infinite_every: int = 0
    """The second channel is infinite in every so manieth read."""
    disk_retry_s: float = 10.0
    """Of the spool, so that a test need not wait as long as an operator would."""
    refused_retry_s: float = 10.0
    """Of the delivery, likewise."""


class RampDevice(SyncDevice):
    def __init__(self, settings: PluginSettings) -> None:
        self._settings = settings
        self.read_interval_ms = settings.interval_ms
        self._journal = os.open(settings.journal, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        self._number = self._reads = self._t_us = 0

    def channels(self) -> Sequence[Channel]:
        return [Channel(f"c{c}", f"Ramp {c}", "", interval_ms=self.read_interval_ms) for c in range(self._settings.channels)]

    def open(self) -> None:
        size = os.fstat(self._journal).st_size
        if size:
            _, first, count, _ = ENTRY.unpack(os.pread(self._journal, ENTRY.size, size - ENTRY.size))
            self._number = first + count
        self._t_us = max(self._t_us, time.time_ns() // 1000)
        self._write((Kind.STARTED, self._number, 0, time.monotonic_ns() // 1000))

    def close(self) -> None:
        self._write((Kind.STOPPED, self._number, 0, time.monotonic_ns() // 1000))

    def _write(self, *entries: tuple[int, int, int, int]) -> None:
        os.write(self._journal, b"".join(ENTRY.pack(*entry) for entry in entries))

    def read(self) -> Readings:
        settings, first, asked_us = self._settings, self._number, time.monotonic_ns() // 1000
        self._reads += 1
        if settings.fail_every and self._reads % settings.fail_every == 0:
            self._write((Kind.FAILED, first, 0, 0))
            raise DeviceError("The ramp fails because the test says so.")
        self._number += settings.burst
        times: range | None = None
        if settings.burst > 1:
            step_us = settings.interval_ms * 1000 // settings.burst
            times = range(self._t_us, self._t_us + settings.burst * step_us, step_us)
            self._t_us += settings.burst * step_us
        columns = {c: Column(times, [float(c * CHANNEL + n) for n in range(first, self._number)]) for c in range(settings.channels)}
        entries = []
        if settings.omit_every and self._reads % settings.omit_every == 0:
            del columns[0]
            entries.append((Kind.OMITTED, first, settings.burst, 0))
        if settings.infinite_every and self._reads % settings.infinite_every == 0:
            columns[1] = Column(times, [float("inf")] * settings.burst)
            entries.append((Kind.INFINITE, first, settings.burst, 1))
        self._write(*entries, (Kind.GIVEN, first, settings.burst, asked_us))
        return {f"c{c}": column for c, column in columns.items()}


def make(settings: PluginSettings) -> RampDevice:
    spool.DISK_RETRY_US = int(settings.disk_retry_s * 1e6)  # type: ignore[misc]
    protocol.REFUSED_RETRY_US = int(settings.refused_retry_s * 1e6)  # type: ignore[misc]
    return RampDevice(settings)


def read_journal(path: Path) -> list[tuple[Kind, int, int, int]]:
    data = path.read_bytes()
    return [(Kind(kind), first, count, more) for kind, first, count, more in ENTRY.iter_unpack(data[: len(data) // 32 * 32])]


if __name__ == "__main__":
    sys.modules["webmacs_controller.plugins.ramp.plugin"] = sys.modules[__name__]
    command.PLUGINS = (*command.PLUGINS, "ramp")  # type: ignore[misc]
    sys.exit(command.main())
