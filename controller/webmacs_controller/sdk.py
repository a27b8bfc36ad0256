"""Everything that a plugin's author imports. A device declares its channels and gives columns of readings, each with its time or
stamped by the sampler; the sampler calls it, one thread for each device, so a slow device holds up nobody else.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import msgspec

from webmacs_controller.wire import ChannelType, QualityCode

__all__ = ["Channel", "Column", "Device", "DeviceError", "Readings", "Settings", "SyncDevice"]


class DeviceError(Exception):
    """The device could not be read. One sentence: what failed, where, how to mend it. Every channel counts as missed."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plugin's settings: each field with its default; an unknown one in the file stops the start."""


class Channel(msgspec.Struct, frozen=True):
    key: str
    """Never changes and is unique within the device; readings are found by it for ever."""
    name: str
    unit: str
    type: ChannelType = "sensor"
    min_value: float | None = None
    max_value: float | None = None
    decimals: int | None = None
    interval_ms: int = 1000
    """The distance at which readings of this channel are expected."""


class Column(NamedTuple):
    """Readings of one channel. `times_us`: µs since 1970 UTC, strictly increasing, as many as values; None lets the sampler stamp
    one value with the moment of the read."""

    times_us: Sequence[int] | None
    values: Sequence[float]


Readings = Mapping[str, Column]
"""By channel key. A channel that is due and absent counts as missed: leave it out when it alone cannot be read."""


class _Declared(ABC):
    quality: ClassVar[QualityCode | None] = None
    """A doubt that holds for every reading of this device, for example "simulated"."""
    read_interval_ms: int = 1000
    """How often read() is called; what it should be is the device's to say, keeping the beat is the sampler's."""

    @abstractmethod
    def channels(self) -> Sequence[Channel]:
        """Called once, before open(). The table stays as it is while the controller runs."""


class Device(_Declared):
    """A device whose reads are awaited. An error in open() or read() closes it; it is opened again after a pause."""

    async def open(self) -> None: ...

    @abstractmethod
    async def read(self) -> Readings:
        """Raises DeviceError when nothing could be read."""

    async def close(self) -> None: ...


class SyncDevice(_Declared):
    """The same for reads that block."""

    def open(self) -> None: ...

    @abstractmethod
    def read(self) -> Readings:
        """Raises DeviceError when nothing could be read."""

    def close(self) -> None: ...
