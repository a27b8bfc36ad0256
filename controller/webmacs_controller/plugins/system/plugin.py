"""This machine's own figures: processor, memory, disk, network, temperature and load, as psutil reads them from the kernel."""

import os
import time
from collections.abc import Sequence
from typing import Final

import psutil

from webmacs_controller.sdk import Channel, Column, DeviceError, Readings, Settings, SyncDevice

GIB: Final = 2**30
TEMPERATURE_SENSORS: Final = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal", "acpitz")
"""The names under which kernels list the processor's sensor, the best first."""


class PluginSettings(Settings, frozen=True):
    disk: str = "/"
    interval_ms: int = 1000


class SystemDevice(SyncDevice):
    def __init__(self, settings: PluginSettings) -> None:
        self._disk = settings.disk
        self.read_interval_ms = settings.interval_ms
        self._cores = psutil.cpu_count() or 1
        self._sensor = _find_sensor()
        self._traffic: dict[str, tuple[int, int]] = {}
        self._traffic_at = 0.0

    def channels(self) -> Sequence[Channel]:
        channels = [("cpu_total", "CPU total", "%", 100.0, 1)]
        channels += [(f"cpu_{core}", f"CPU core {core}", "%", 100.0, 1) for core in range(1, self._cores + 1)]
        channels += [
            ("memory_percent", "Memory", "%", 100.0, 1),
            ("memory_used", "Memory used", "GiB", psutil.virtual_memory().total / GIB, 2),
            ("disk_percent", "Disk", "%", 100.0, 1),
            ("disk_used", "Disk used", "GiB", self._disk_usage().total / GIB, 2),
        ]
        table = [
            Channel(key, name, unit, min_value=0.0, max_value=maximum, decimals=decimals, interval_ms=self.read_interval_ms)
            for key, name, unit, maximum, decimals in channels
        ]
        for key, name, unit, decimals in (
            ("network_received", "Network received", "B/s", 0),
            ("network_sent", "Network sent", "B/s", 0),
            ("load_1m", "Load (1 min)", "", 2),
        ):
            table.append(Channel(key, name, unit, min_value=0.0, decimals=decimals, interval_ms=self.read_interval_ms))
        if self._sensor is not None:
            table.append(Channel("temperature", "CPU temperature", "°C", decimals=1, interval_ms=self.read_interval_ms))
        return table

    def open(self) -> None:
        psutil.cpu_percent()  # both are figures since the call before: this one only begins the period
        psutil.cpu_percent(percpu=True)
        self._traffic, self._traffic_at = _traffic(), time.monotonic()

    def read(self) -> Readings:
        memory, disk = psutil.virtual_memory(), self._disk_usage()
        values = {
            "cpu_total": psutil.cpu_percent(),
            "memory_percent": memory.percent,
            "memory_used": (memory.total - memory.available) / GIB,
            "disk_percent": disk.percent,
            "disk_used": disk.used / GIB,
            "load_1m": os.getloadavg()[0],
        }
        for core, percent in enumerate(psutil.cpu_percent(percpu=True)[: self._cores], 1):
            values[f"cpu_{core}"] = percent
        values["network_received"], values["network_sent"] = self._network_rates()
        if (temperature := self._temperature()) is not None:
            values["temperature"] = temperature
        return {key: Column(None, (value,)) for key, value in values.items()}

    def _disk_usage(self) -> "psutil._ntp.sdiskusage":
        try:
            return psutil.disk_usage(self._disk)
        except OSError as error:
            raise DeviceError(f"The disk at {self._disk} cannot be read: {error.strerror}; set `disk` to a mounted directory.") from error

    def _network_rates(self) -> tuple[float, float]:
        """Bytes a second since the last read, over the interfaces that were there both times."""
        before, before_at = self._traffic, self._traffic_at
        self._traffic, self._traffic_at = _traffic(), time.monotonic()
        elapsed_s = self._traffic_at - before_at
        both = before.keys() & self._traffic.keys()
        received = sum(self._traffic[name][0] - before[name][0] for name in both)
        sent = sum(self._traffic[name][1] - before[name][1] for name in both)
        return received / elapsed_s, sent / elapsed_s

    def _temperature(self) -> float | None:
        sensors = psutil.sensors_temperatures().get(self._sensor, []) if self._sensor is not None else []
        return sensors[0].current if sensors else None


def _traffic() -> dict[str, tuple[int, int]]:
    """(bytes received, bytes sent) of each interface that leads out of the machine."""
    return {name: (io.bytes_recv, io.bytes_sent) for name, io in psutil.net_io_counters(pernic=True).items() if name != "lo"}


def _find_sensor() -> str | None:
    present = psutil.sensors_temperatures()
    return next((name for name in (*TEMPERATURE_SENSORS, *present) if present.get(name)), None)


def make(settings: PluginSettings) -> SystemDevice:
    return SystemDevice(settings)
