"""A small process plant that exists only here: a heated reactor, fed through a valve, in a room. For trying WebMACS without
hardware. The same seed gives the same readings; every reading is marked as simulated.
"""

import math
import random
from collections.abc import Sequence
from typing import ClassVar, Final

from webmacs_controller.sdk import Channel, Column, Readings, Settings, SyncDevice
from webmacs_controller.wire import QualityCode

LEVEL_LOW: Final = 30.0
LEVEL_HIGH: Final = 80.0


class PluginSettings(Settings, frozen=True):
    seed: int = 1
    interval_ms: int = 100


class SimulatedDevice(SyncDevice):
    quality: ClassVar[QualityCode | None] = "simulated"

    def __init__(self, settings: PluginSettings) -> None:
        self.read_interval_ms = settings.interval_ms
        self._step_s = settings.interval_ms / 1000
        self._random = random.Random(settings.seed)  # noqa: S311 (noise, not a secret)
        self._elapsed_s = 0.0
        self._reactor = 62.0
        self._jacket = 66.0
        self._level = 48.0
        self._flow = 0.0
        self._humidity = 46.0
        self._valve_open = True

    def channels(self) -> Sequence[Channel]:
        interval_ms = self.read_interval_ms
        return [
            Channel("reactor_temperature", "Reactor temperature", "°C", "sensor", 0.0, 120.0, 2, interval_ms),
            Channel("jacket_temperature", "Jacket temperature", "°C", "sensor", 0.0, 150.0, 2, interval_ms),
            Channel("room_temperature", "Room temperature", "°C", "sensor", -10.0, 50.0, 2, interval_ms),
            Channel("reactor_pressure", "Reactor pressure", "bar", "sensor", 0.0, 6.0, 3, interval_ms),
            Channel("feed_pressure", "Feed pressure", "bar", "sensor", 0.0, 10.0, 3, interval_ms),
            Channel("feed_flow", "Feed flow", "L/h", "sensor", 0.0, 400.0, 1, interval_ms),
            Channel("room_humidity", "Room humidity", "%", "sensor", 0.0, 100.0, 1, interval_ms),
            Channel("tank_level", "Tank level", "%", "sensor", 0.0, 100.0, 2, interval_ms),
            Channel("feed_valve", "Feed valve", "", "sensor", 0.0, 1.0, 0, interval_ms),
        ]

    def read(self) -> Readings:
        self._advance()
        noise = self._random.gauss
        room = 21.5 + 1.5 * math.sin(2 * math.pi * self._elapsed_s / 1800)
        values = {
            "reactor_temperature": round(self._reactor + noise(0, 0.05), 2),
            "jacket_temperature": round(self._jacket + noise(0, 0.08), 2),
            "room_temperature": round(room + noise(0, 0.02), 2),
            "reactor_pressure": round(max(0.0, 1.0 + 0.035 * (self._reactor - 20) + 0.004 * self._level + noise(0, 0.004)), 3),
            "feed_pressure": round(max(0.0, 5.2 - 0.004 * self._flow + noise(0, 0.015)), 3),
            "feed_flow": round(max(0.0, self._flow + noise(0, 0.8) * min(1.0, self._flow / 20)), 1),
            "room_humidity": round(min(100.0, max(0.0, self._humidity + noise(0, 0.1))), 1),
            "tank_level": round(min(100.0, max(0.0, self._level + noise(0, 0.03))), 2),
            "feed_valve": float(self._valve_open),
        }
        return {key: Column(None, (value,)) for key, value in values.items()}

    def _advance(self) -> None:
        """One step of first-order lags: the heater swings around 70 °C, the tank fills and empties between its two marks."""
        step_s = self._step_s
        self._elapsed_s += step_s
        heater = 78.0 + 14.0 * math.sin(2 * math.pi * self._elapsed_s / 420)
        self._jacket += (heater - self._jacket) * step_s / 25
        self._reactor += (self._jacket - 6.0 - self._reactor) * step_s / 90
        if self._level >= LEVEL_HIGH:
            self._valve_open = False
        elif self._level <= LEVEL_LOW:
            self._valve_open = True
        self._flow += ((240.0 if self._valve_open else 0.0) - self._flow) * step_s / 3
        self._level += (self._flow - 110.0) / 400.0 * step_s
        self._humidity += (46.0 - self._humidity) * step_s / 600 + self._random.gauss(0, 0.05) * math.sqrt(step_s)


def make(settings: PluginSettings) -> SimulatedDevice:
    return SimulatedDevice(settings)
