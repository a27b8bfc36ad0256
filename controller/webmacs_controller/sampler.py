"""Samples one device on a steady beat, in a thread of its own, and accounts for every reading that was due: it came, or it is in a
gap. Deadlines are absolute on the monotonic clock, so a late read delays nothing but itself.
"""

import asyncio
import math
import threading
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from webmacs_controller import clock, frame, logs
from webmacs_controller.clock import Timeline
from webmacs_controller.sdk import Channel, Column, Device, DeviceError, Readings, SyncDevice
from webmacs_controller.wire import GapCause

REOPEN_US: Final = (1_000_000, 60_000_000)
"""The pause before a failed device is opened again doubles from the first to the last."""
GAP_LASTS_US: Final = 60_000_000
"""A gap that goes on is declared in pieces of this length, so that it is known while it lasts."""
log = logs.get(__name__)


class Missed(NamedTuple):
    """Readings of one channel that were due and did not come."""

    number: int
    n: int
    from_us: int
    to_us: int
    cause: GapCause

    def moved(self, move: Callable[[int], int]) -> "Missed":
        return self._replace(from_us=move(self.from_us), to_us=move(self.to_us))


class Taken(NamedTuple):
    columns: dict[int, frame.Readings]
    missed: list[Missed]


class _Account:
    """What one channel owes and gave."""

    def __init__(self, number: int, interval_ms: int) -> None:
        self.number = number
        self.interval_ms = interval_ms
        self.last_us = 0
        self.came = False  # since it was last due
        self.missed: Missed | None = None


class Sampler:
    """`numbers`: the channel number for each key. `take` may be called from any thread."""

    def __init__(
        self,
        name: str,
        device: Device | SyncDevice,
        channels: Sequence[Channel],
        numbers: Mapping[str, int],
        timeline: Timeline,
        now: Callable[[], clock.Now] = clock.now,
    ) -> None:
        self._name = name
        self._device = device
        self._interval_us = device.read_interval_ms * 1000
        self._accounts = {channel.key: _Account(numbers[channel.key], channel.interval_ms) for channel in channels}
        self._timeline = timeline
        self._now = now
        self._lock = threading.Lock()
        self._columns: dict[int, frame.Readings] = {}
        self._missed: list[Missed] = []
        self._opened = False
        self._reopen_us = 0
        self._reopen_wait_us = REOPEN_US[0]
        self._start_us: int | None = None
        self._tick = -1
        self._slow = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sampler-{name}", daemon=True)
        self.failures = 0
        self.readings_refused = 0
        """Readings that the device gave with a time or a value that cannot be; each is in a gap."""

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Waits for the read under way, but not for ever: a hanging device does not hold up the end."""
        self._stop.set()
        self._thread.join(timeout_s)

    def take(self) -> Taken:
        """What came since the last call, and the gaps that ended."""
        with self._lock:
            taken = Taken(self._columns, self._missed)
            self._columns, self._missed = {}, []
        return taken

    @property
    def held(self) -> int:
        """Readings that wait to be taken."""
        with self._lock:
            return sum(len(readings.times_us) for readings in self._columns.values())

    def restamp(self, by_us: int, now_us: int) -> None:
        """The wall clock was set by `by_us` and says `now_us`: what was stamped with a time that cannot be is moved by as much."""

        def moved(t_us: int) -> int:
            return t_us if now_us - clock.PAST_US_MAX < t_us < now_us + clock.FUTURE_US_MAX // 2 else t_us + by_us

        with self._lock:
            for readings in self._columns.values():
                readings.times_us = array("q", map(moved, readings.times_us))
            self._missed = [missed.moved(moved) for missed in self._missed]
            for account in self._accounts.values():
                account.last_us = moved(account.last_us)
                account.missed = account.missed and account.missed.moved(moved)

    def _run(self) -> None:
        asyncio.run(self._sample_until_stopped())

    async def _sample_until_stopped(self) -> None:
        await self.open()
        while not self._stop.is_set():
            wait_s = max(0.0, (self.deadline_us - self._now().monotonic_us) / 1e6)
            if isinstance(self._device, SyncDevice):
                self._stop.wait(wait_s)  # this thread's loop serves nobody else
            else:
                await asyncio.sleep(wait_s)
            if not self._stop.is_set():
                await self.sample_once()
        self._end_gaps()
        await self._close()

    @property
    def deadline_us(self) -> int:
        """When the next read is due, on the monotonic clock: one interval after open() at the earliest."""
        return (self._start_us or 0) + (self._tick + 2) * self._interval_us

    async def open(self) -> None:
        """Opens the device and begins the beat."""
        await self._open()
        self._start_us = self._now().monotonic_us

    async def sample_once(self) -> None:
        """One read, now: stamps what came, puts what did not come into gaps."""
        now_us = self._now().monotonic_us
        tick = max(self._tick + 1, (now_us - (self._start_us or 0)) // self._interval_us - 1)
        for skipped in range(self._tick + 1, min(tick, self._tick + 1 + 100_000)):
            self._settle(skipped, "device_error" if self._slow else "source_stopped")
        self._tick = tick
        if self._opened:
            await self._read(now_us)
        elif now_us >= self._reopen_us:
            await self._open()
        self._settle(tick, "device_error")
        self._slow = self._now().monotonic_us - now_us >= self._interval_us

    async def _read(self, now_us: int) -> None:
        try:
            readings = self._device.read() if isinstance(self._device, SyncDevice) else await self._device.read()
            unknown = readings.keys() - self._accounts.keys()
            if unknown:
                raise DeviceError(f"The device gave readings of channels that it did not declare: {', '.join(sorted(unknown))}.")
            self._accept(readings, now_us)
        except Exception as error:  # whatever a plugin raises is a failure of its device
            await self._failed(error)

    def _accept(self, readings: Readings, now_us: int) -> None:
        with self._lock:
            stamp_us = self._timeline.at(now_us)
            for key, column in readings.items():
                account = self._accounts[key]
                into = self._columns.get(account.number)
                if into is None:
                    into = self._columns[account.number] = frame.Readings()
                if self._accept_column(account, column, stamp_us, into):
                    account.came = True
        if self._reopen_wait_us != REOPEN_US[0]:
            self._reopen_wait_us = REOPEN_US[0]
            log.info("device_works", device=self._name)

    def _accept_column(self, account: _Account, column: Column, stamp_us: int, into: frame.Readings) -> int:
        """Appends the readings that can be, and gives their number."""
        times_us = column.times_us
        if times_us is None:
            times_us = (max(stamp_us, account.last_us + 1),)
        if len(times_us) != len(column.values):
            raise DeviceError(f"Channel {account.number} came with {len(times_us)} times for {len(column.values)} values.")
        accepted = 0
        for t_us, value in zip(times_us, column.values, strict=True):
            if account.last_us < t_us and clock.possible(t_us, stamp_us) and math.isfinite(value):
                into.times_us.append(t_us)
                into.values.append(value)
                account.last_us = t_us
                accepted += 1
        refused = len(times_us) - accepted
        if refused:
            if self.readings_refused == 0:
                log.warning("readings_refused", device=self._name, channel=account.number, meaning="not finite, or times that do not rise")
            self.readings_refused += refused
            self._miss(account, refused, stamp_us, stamp_us, "device_error")
            account.came = True  # the refused ones are accounted for
        elif account.missed is not None:
            self._missed.append(account.missed)
            account.missed = None
        return accepted

    def _settle(self, tick: int, cause: GapCause) -> None:
        """Every channel that was due by the end of this tick has given a reading since it was last due, or missed one."""
        interval_ms = self._interval_us // 1000
        t_us = self._timeline.at((self._start_us or 0) + (tick + 1) * self._interval_us)
        with self._lock:
            for account in self._accounts.values():
                due = (tick + 1) * interval_ms // account.interval_ms - tick * interval_ms // account.interval_ms
                if due == 0:
                    continue
                if not account.came:
                    self._miss(account, due, t_us, t_us, cause)
                account.came = False

    def _miss(self, account: _Account, n: int, from_us: int, to_us: int, cause: GapCause) -> None:
        missed = account.missed
        if missed is not None and (missed.cause != cause or to_us - missed.from_us > GAP_LASTS_US):
            self._missed.append(missed)
            missed = None
        if missed is None:
            account.missed = Missed(account.number, n, from_us, to_us, cause)
        else:
            account.missed = missed._replace(n=missed.n + n, to_us=max(to_us, missed.to_us))

    def _end_gaps(self) -> None:
        with self._lock:
            for account in self._accounts.values():
                if account.missed is not None:
                    self._missed.append(account.missed)
                    account.missed = None

    async def _open(self) -> None:
        try:
            if isinstance(self._device, SyncDevice):
                self._device.open()
            else:
                await self._device.open()
            self._opened = True
        except Exception as error:  # as in _read
            await self._failed(error)

    async def _failed(self, error: Exception) -> None:
        self.failures += 1
        if self._reopen_wait_us == REOPEN_US[0]:
            reason = str(error) if isinstance(error, DeviceError) else repr(error)
            log.error("device_failed", device=self._name, reason=reason)
        await self._close()
        self._reopen_us = self._now().monotonic_us + self._reopen_wait_us
        self._reopen_wait_us = min(REOPEN_US[1], self._reopen_wait_us * 2)

    async def _close(self) -> None:
        self._opened = False
        try:
            if isinstance(self._device, SyncDevice):
                self._device.close()
            else:
                await self._device.close()
        except Exception as error:  # as in _read
            log.warning("device_close_failed", device=self._name, reason=repr(error))
