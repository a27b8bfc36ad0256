import tomllib
from pathlib import Path

import msgspec

from webmacs_controller.plugins.simulated.plugin import PluginSettings, SimulatedDevice, make


def run(device: SimulatedDevice, reads: int) -> list[dict[str, float]]:
    return [{key: column.values[0] for key, column in device.read().items()} for _ in range(reads)]


def test_the_same_seed_gives_the_same_readings_and_another_does_not() -> None:
    assert run(make(PluginSettings(seed=7)), 50) == run(make(PluginSettings(seed=7)), 50)
    assert run(make(PluginSettings(seed=7)), 50) != run(make(PluginSettings(seed=8)), 50)


def test_an_hour_stays_within_the_declared_ranges_and_decimals_and_moves() -> None:
    device = make(PluginSettings())
    readings = run(device, 36_000)
    for channel in device.channels():
        values = [reading[channel.key] for reading in readings]
        assert channel.min_value is not None
        assert channel.max_value is not None
        assert channel.min_value <= min(values) < max(values) <= channel.max_value
        assert all(value == round(value, channel.decimals) for value in values)


def test_its_readings_are_marked_as_simulated() -> None:
    assert make(PluginSettings()).quality == "simulated"


def test_the_sample_holds_every_setting_with_its_default() -> None:
    sample = tomllib.loads((Path(__file__).parent / "sample.toml").read_text())
    assert sample == msgspec.to_builtins(PluginSettings())
