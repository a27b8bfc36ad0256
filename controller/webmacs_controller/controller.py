"""The controller: devices are sampled, readings become frames, frames wait in the spool until the link has delivered them.
Called by the command line; everything else in this package is a part that is put together here.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from webmacs_controller import __version__, clock, frame, logs, wire
from webmacs_controller.link import Link
from webmacs_controller.protocol import Delivery
from webmacs_controller.sampler import Missed, Sampler
from webmacs_controller.sdk import Channel, Device, Settings, SyncDevice
from webmacs_controller.spool import Spool

SEAL_S: Final = 0.1
SPILL_S: Final = 0.5
REBASE_US: Final = 1_000_000
REPORT_US: Final = 60_000_000
DELIVER_AT_END_S: Final = 3.0
WITHHELD_LASTS_US: Final = 60_000_000
"""While channels are refused, what they gave is declared in pieces of this length."""
HELD_READINGS_MAX: Final = 1_000_000
"""What is held back while nobody knows what time it is (16 MB). Beyond it readings go out as they are stamped: the backend refuses them
and counts them as lost."""

log = logs.get(__name__)


class Installed(NamedTuple):
    """A device with the name of its instance; its channels' keys begin with it."""

    name: str
    plugin: str
    device: Device | SyncDevice
    settings: type[Settings]
    channels: Sequence[Channel]

    def key(self, channel: Channel) -> str:
        return f"{self.name}.{channel.key}"


def describe(installed: Sequence[Installed]) -> list[wire.Instance]:
    return [
        wire.Instance(item.name, item.plugin, True, _schema(item.settings), [_described(item, channel) for channel in item.channels])
        for item in installed
    ]


def _schema(settings: type[Settings]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(msgspec.json.schema(settings)))


def _described(item: Installed, channel: Channel) -> wire.DescribedChannel:
    return wire.DescribedChannel(
        item.key(channel),
        channel.name,
        channel.unit,
        channel.type,
        channel.min_value,
        channel.max_value,
        channel.decimals,
        channel.interval_ms,
    )


def number_channels(installed: Sequence[Installed]) -> list[wire.HelloChannel]:
    """The channel table: numbers from 1, in the order of the devices."""
    table: list[wire.HelloChannel] = []
    for item in installed:
        for channel in item.channels:
            table.append(wire.HelloChannel(len(table) + 1, item.key(channel), None, channel.name, channel.unit, channel.type))
    return table


class Controller:
    """Raises SpoolError when the spool belongs to another process."""

    def __init__(
        self, url: str, read_credential: Callable[[], str], spool: Path, spool_bytes_max: int, installed: Sequence[Installed]
    ) -> None:
        table = number_channels(installed)
        self._installed = installed
        self._spool = Spool(spool, table, spool_bytes_max)
        start = clock.now()
        self._timeline = clock.Timeline(start, self._spool.last_reading_us)
        if self._timeline.started_ahead_us > clock.CORRECTION_NOTED_US:
            log.warning("clock_was_set", by_us=-self._timeline.started_ahead_us, corrections=0)
        self._delivery = Delivery(self._spool, describe(installed), f"webmacs-controller {__version__}", self._spool.window_bytes)
        self._link = Link(url, read_credential, self._delivery)
        self._numbers = {channel.key: channel.number for channel in table}
        self._keys = {channel.number: channel.key for channel in table}
        self._samplers = [
            Sampler(
                item.name,
                item.device,
                item.channels,
                {channel.key: self._numbers[item.key(channel)] for channel in item.channels},
                self._timeline,
            )
            for item in installed
        ]
        self._withheld = self._remembered = self._spool.recall_withheld()
        self._readings_withheld = 0
        self._started_us = start.wall_us
        self._rebased_us = self._reported_us = start.monotonic_us
        self._frames_dropped = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; then what was sampled is delivered or made durable."""
        if self._timeline.known:
            self._declare_start()
        else:
            log.warning("clock_unknown", meaning="readings wait in memory until the clock is set, here or by the backend's")
        for sampler in self._samplers:
            sampler.start()
        link = asyncio.create_task(self._link.run())
        spilling = asyncio.create_task(self._spill(stop))
        try:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SEAL_S):
                        await stop.wait()
                self.seal_once()
                self._keep_time()
                for task in (link, spilling):
                    if task.done() and not stop.is_set():
                        task.result()  # a bug: it ends the process, and the supervisor starts a new one on the same spool
            await asyncio.gather(*(asyncio.to_thread(sampler.stop, 1.0) for sampler in self._samplers))
            self.seal_once(at_end=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DELIVER_AT_END_S):
                    await self._link.delivered()
                    if self._declare_withheld(at_once=True):  # what the last frames went without
                        self._link.appended()
                        await self._link.delivered()
        finally:
            stop.set()  # also when it was a bug: spilling ends by it
            link.cancel()
            await asyncio.gather(link, spilling, return_exceptions=True)
            self._declare_withheld(at_once=True)
            self._remember_withheld()
            self._spool.close()
            log.info("controller_stopped", frames_waiting=self._spool.frames)

    def seal_once(self, at_end: bool = False) -> None:
        """Everything that was sampled since the last time goes into the spool, and its newest is shown while storing is behind. What was
        sampled before anybody knew the time waits."""
        if not self._timeline.known and not at_end and sum(sampler.held for sampler in self._samplers) <= HELD_READINGS_MAX:
            return
        now = clock.now()
        columns: dict[int, frame.Readings] = {}
        all_missed: list[Missed] = []
        for sampler in self._samplers:
            taken = sampler.take()
            columns.update(taken.columns)
            all_missed += taken.missed
        refused = self._delivery.live_refused
        for missed in all_missed:
            if missed.number in refused:
                self._withhold(frame.LeftOut(missed.n, missed.from_us, missed.to_us))
        for number in refused & columns.keys():
            if times_us := columns.pop(number).times_us:
                self._withhold(frame.LeftOut(len(times_us), times_us[0], times_us[-1]))
        self._remember_withheld()  # before the frames of the same moment: they say until when the next process need declare nothing
        appended = False
        for missed in all_missed:
            if missed.number not in refused:
                self._spool.append(frame.seal_gap(wire.Gap(0, missed.number, missed.from_us, missed.to_us, missed.n, missed.cause)))
                appended = True
        for sealed in frame.seal(columns, now.wall_us):
            self._spool.append(sealed)
            appended = True
        if self._delivery.behind(now):
            newest = {number: column for number, column in columns.items() if column.times_us}  # all that came may have been refused
            self._delivery.show({self._keys[number]: (column.times_us[-1], column.values[-1]) for number, column in newest.items()})
        if self._declare_withheld(at_end) or appended:
            self._link.appended()
        self._remember_withheld()

    def _withhold(self, left_out: frame.LeftOut) -> None:
        self._readings_withheld += left_out.n
        self._withheld = left_out.plus(self._withheld)

    def _declare_withheld(self, at_once: bool) -> bool:
        """What refused channels gave is a gap of all channels: one that has no event cannot be named. Whether one was declared."""
        if self._delivery.withheld is not None:
            self._withhold(self._delivery.withheld)
            self._delivery.withheld = None
        withheld = self._withheld
        if withheld is None:
            return False
        lasts = self._delivery.live_refused and withheld.to_us - withheld.from_us < WITHHELD_LASTS_US
        if lasts and not at_once:
            return False
        self._spool.append(frame.seal_gap(wire.Gap(0, None, withheld.from_us, withheld.to_us, withheld.n, "disabled")))
        self._withheld = None
        return True

    def _remember_withheld(self) -> None:
        """A killed process must not take with it what it had not declared. The gap is in the spool before it is forgotten here: a kill
        in between, or while frames are under way, declares readings twice rather than never."""
        undeclared = self._delivery.undeclared
        if self._withheld is not None:
            undeclared = self._withheld.plus(undeclared)
        if undeclared != self._remembered:
            self._spool.remember_withheld(undeclared)
            self._remembered = undeclared

    async def _spill(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._spool.spill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SPILL_S):
                    await stop.wait()

    def _declare_start(self) -> None:
        self._declare_absence()
        self._declare_quality()

    def _declare_absence(self) -> None:
        """What the channels would have given between the process before this one and its start."""
        last_us, now_us = self._spool.last_reading_us, self._started_us
        if last_us is None or last_us >= now_us:
            return
        n = sum((now_us - last_us) // (channel.interval_ms * 1000) for item in self._installed for channel in item.channels)
        if n:
            self._spool.append(frame.seal_gap(wire.Gap(0, None, last_us + 1, now_us, n, "source_stopped")))

    def _declare_quality(self) -> None:
        now_us = clock.now().wall_us
        for item in self._installed:
            if item.device.quality is not None:
                for channel in item.channels:
                    number = self._numbers[item.key(channel)]
                    self._spool.append(frame.seal_quality(wire.Quality(0, number, now_us, None, item.device.quality)))

    def _keep_time(self) -> None:
        now = clock.now()
        if now.monotonic_us - self._rebased_us >= REBASE_US:
            self._rebased_us = now.monotonic_us
            self._rebase(now)
        if now.monotonic_us - self._reported_us >= REPORT_US:
            self._reported_us = now.monotonic_us
            self._report()

    def _rebase(self, now: clock.Now) -> None:
        """Follows the wall clock, or the backend's where ours was never set."""
        if now.wall_us < clock.EARLIEST_US:
            if self._delivery.clock_offset_us is None:
                return
            now = now._replace(wall_us=now.wall_us + self._delivery.clock_offset_us)
        was_known = self._timeline.known
        set_by_us = self._timeline.rebase(now)
        if set_by_us is None:
            return
        log.warning("clock_was_set", by_us=set_by_us, corrections=self._timeline.corrections)
        for sampler in self._samplers:
            sampler.restamp(set_by_us, now.wall_us)
        if self._timeline.known and not was_known:
            self._started_us += set_by_us
            self._declare_start()

    def _report(self) -> None:
        if self._spool.dropped_frames > self._frames_dropped:
            self._frames_dropped = self._spool.dropped_frames
            self._declare_quality()  # what said it before may be among the frames that were dropped
        log.info(
            "controller_state",
            frames_waiting=self._spool.frames,
            spool_bytes=self._spool.held_bytes,
            frames_dropped=self._spool.dropped_frames,
            readings_lost=dict(self._spool.lost),
            frames_refused=dict(self._delivery.nacks),
            readings_of_refused_channels=self._readings_withheld,
            device_failures=sum(sampler.failures for sampler in self._samplers),
            disk_failures=self._spool.disk_failures,
            clock_offset_us=self._delivery.clock_offset_us,
        )
