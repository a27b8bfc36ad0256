import tomllib
from pathlib import Path

import msgspec
import psutil
import pytest

from webmacs_controller.plugins.system.plugin import PluginSettings, make
from webmacs_controller.sdk import DeviceError


def test_it_reads_every_channel_that_it_declares_within_its_range() -> None:
    device = make(PluginSettings())
    channels = {channel.key: channel for channel in device.channels()}
    device.open()
    readings = device.read()
    assert readings.keys() == channels.keys()
    for key, column in readings.items():
        (value,) = column.values
        assert column.times_us is None
        assert value >= (channels[key].min_value or -273.15)
        assert value <= (channels[key].max_value or float("inf"))


def test_its_figures_are_this_machine_s() -> None:
    device = make(PluginSettings())
    device.open()
    readings = device.read()
    assert sum(key.startswith("cpu_") for key in readings) == (psutil.cpu_count() or 1) + 1
    assert readings["disk_used"].values[0] * 2**30 == pytest.approx(psutil.disk_usage("/").used, rel=0.05)
    assert ("temperature" in readings) == any(psutil.sensors_temperatures().values())


def test_a_disk_that_is_not_there_says_what_to_set() -> None:
    with pytest.raises(DeviceError, match="set `disk` to a mounted directory"):
        make(PluginSettings(disk="/no/such/place")).channels()


def test_the_sample_holds_every_setting_with_its_default() -> None:
    sample = tomllib.loads((Path(__file__).parent / "sample.toml").read_text())
    assert sample == msgspec.to_builtins(PluginSettings())
