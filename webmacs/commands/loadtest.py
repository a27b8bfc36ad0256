"""`webmacs loadtest`: the controller's own sender at full speed, against any installation. Its readings are stored like any others."""

import argparse
import array
import asyncio
import functools
import math
import random
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import uvloop
from webmacs_controller import wire
from webmacs_controller.frame import encode_data
from webmacs_controller.sender import FastSender, SenderError

from webmacs import clock
from webmacs.settings import Settings

STEP_US: Final = 1_000
"""Readings are 1 ms apart, as of a channel sampled at 1 kHz, give or take JITTER_US."""
JITTER_US: Final = 20
BEGIN_US: Final = 3_600_000_000
"""The first reading's age: at a thousandfold rate the last one still lies within the day ahead that is allowed."""
CONNECTING_MAX: Final = 16
"""Connections that are opened at once: it is the sending that is measured."""
BLOCK: Final = 1 << 18
"""Distinct values that the frames are cut from; every frame begins elsewhere."""


class LoadtestError(Exception):
    """The load test cannot run. One sentence."""


@dataclass(frozen=True, slots=True)
class Load:
    """What each connection sends: frames of so many channels x so many readings, for so long, `frames_per_s` or as fast as it goes."""

    channels: int
    readings: int
    seconds: float
    frames_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    readings: int
    """acknowledged, so committed"""
    refused: int
    seconds: float
    """from the first frame to the last acknowledgement"""
    latencies_ms: list[float]
    """frame by frame, from handing it to the socket to its acknowledgement, ascending"""

    @property
    def readings_per_s(self) -> float:
        return self.readings / self.seconds

    def latency_ms(self, quantile: float) -> float:
        return self.latencies_ms[min(len(self.latencies_ms) - 1, math.floor(quantile * len(self.latencies_ms)))]


@functools.cache
def _values() -> bytes:
    """BLOCK float64 around 20, rounded as a sensor's, for all connections."""
    chance = random.Random(1)  # noqa: S311 readings, not secrets
    drawn = array.array("d", (round(chance.gauss(20.0, 5.0), 2) for _ in range(4_096)))
    return (drawn * (BLOCK // len(drawn) + 1)).tobytes()


class Frames:
    """Encodes the frames of one connection, each with times and values of its own."""

    def __init__(self, load: Load, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 readings, not secrets
        self._values = _values()
        jitter = sorted(chance.randrange(i * STEP_US, i * STEP_US + JITTER_US) for i in range(load.readings))
        self._times = struct.pack(f"<{load.readings}i", *jitter)
        self._channels = tuple(range(1, load.channels + 1))
        self._load = load
        self._start_us = clock.now_us() - BEGIN_US
        self._offsets = [chance.randrange(0, BLOCK - load.readings) * 8 for _ in self._channels]

    def encode(self, seq: int) -> bytes:
        load, size = self._load, self._load.readings * 8
        shift = (seq * 8_009 * 8) % (BLOCK * 8 - size)
        values = [self._values[(o := (offset + shift) % (BLOCK * 8 - size) & ~7) : o + size] for offset in self._offsets]
        return encode_data(seq, clock.now_us(), self._channels, self._start_us + seq * load.readings * STEP_US, self._times, values)


async def send(sender: FastSender, load: Load, seed: int) -> Result:
    """One source's share, over a connection that is open."""
    frames = Frames(load, seed)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    phase = 0.0 if load.frames_per_s is None else random.Random(seed).random() / load.frames_per_s  # noqa: S311 sources do not beat together
    while loop.time() - begun < load.seconds:
        if load.frames_per_s is not None:
            await asyncio.sleep(begun + phase + (sender.next_seq - 1) / load.frames_per_s - loop.time())
        await sender.send(frames.encode(sender.next_seq))
    await sender.acknowledged()
    elapsed = loop.time() - begun
    sent = sender.next_seq - 1 - len(sender.nacks)
    latencies = sorted(latency * 1000 for latency in sender.ack_latencies_s)
    return Result(sent * load.channels * load.readings, len(sender.nacks), elapsed, latencies)


async def send_all(url: str, credentials: list[str], load: Load) -> Result:
    """Every credential is a source with a connection of its own; all are opened before the first frame goes. The channels are called
    `Load 1 1` and so on, their events are made if they are missing. The result is that of all together."""
    senders = [FastSender(url, credential) for credential in credentials]
    entering = asyncio.Semaphore(CONNECTING_MAX)

    async def enter(sender: FastSender, number: int) -> None:
        async with entering:
            await sender.connect(
                [
                    wire.DescribedChannel(f"loadtest.{channel}", f"Load {number} {channel}", "", "sensor", None, None, 2, None)
                    for channel in range(1, load.channels + 1)
                ]
            )

    try:
        await asyncio.gather(*(enter(sender, number) for number, sender in enumerate(senders, 1)))
        results = await asyncio.gather(*(send(sender, load, number) for number, sender in enumerate(senders, 1)))
    finally:
        await asyncio.gather(*(sender.close() for sender in senders), return_exceptions=True)
    return Result(
        sum(result.readings for result in results),
        sum(result.refused for result in results),
        max(result.seconds for result in results),
        sorted(latency for result in results for latency in result.latencies_ms),
    )


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    credentials = _read_credentials(parsed.credential_file)
    load = Load(parsed.channels, parsed.readings, parsed.seconds, parsed.frames_per_s)
    _check(load)
    url = f"{parsed.url.rstrip('/')}/ws/controller/telemetry"
    try:
        result = uvloop.run(send_all(url, credentials, load))
    except SenderError as error:
        raise LoadtestError(str(error)) from error
    print(f"acknowledged  {result.readings:,} readings in {result.seconds:.2f} s over {len(credentials)} connections")
    print(f"rate          {result.readings_per_s:,.0f} readings/s, each stored before it was acknowledged")
    print(f"latency       p50 {result.latency_ms(0.5):.1f} ms, p99 {result.latency_ms(0.99):.1f} ms, of {len(result.latencies_ms)} frames")
    print(f"refused       {result.refused} frames")
    return 0 if result.refused == 0 else 1


def _read_credentials(path: Path) -> list[str]:
    credentials = path.read_text("utf-8").split()
    if not credentials:
        raise LoadtestError(f"{path} holds no credential; `webmacs source add NAME` prints one, put each on a line of its own.")
    for first, second in pairwise(sorted(credentials)):
        if first == second:
            raise LoadtestError(f"{path} holds a credential twice: a source's newer connection would end the older.")
    return credentials


def _check(load: Load) -> None:
    if load.channels < 1 or load.readings < 1 or load.seconds <= 0 or (load.frames_per_s is not None and load.frames_per_s <= 0):
        raise LoadtestError("--channels, --readings, --seconds and --frames-per-s must be positive.")
    if load.channels * load.readings > wire.FRAME_READINGS_MAX or load.channels * (load.readings * 12 + 32) > wire.FRAME_BYTES_MAX:
        raise LoadtestError(
            f"A frame of {load.channels} x {load.readings} readings is too large: at most {wire.FRAME_READINGS_MAX:,} readings"
            f" and {wire.FRAME_BYTES_MAX:,} bytes; lower --channels or --readings."
        )
