"""Damaged frames from a seed, quickly: whole frames of every kind whose fields are right, nearly right or wrong, and injuries to bytes."""

import math
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

DAY_US: Final = 86_400_000_000
FLOATS: Final = (math.nan, -math.nan, math.inf, -math.inf, -0.0, 5e-324, -2.2e-308, 1.7976931348623157e308, 0.1, 1e-3)
CAUSES: Final = ("spool_overflow", "spool_damaged", "source_stopped", "device_error", "disabled")
_NO_COUNTS: Final = (-1, -(2**63), 2**63, 2**64 - 1, None, True, 1.0, "1", b"", [1])
QUALITIES: Final = ("good", "stale", "out_of_range", "device_error", "simulated", "manual", "maintenance")
_HEADS: Final = """
90 91 94 dcffff ddffffffff dd00000000 c4ff c400 c5ffff c6ffffffff c680000000 c0 c1 c2 80 dfffffffff a178 dbffffffff c702016162 c9ffffffff00
d40000 d6ff00000000 cfffffffffffffffff d38000000000000000 ca7fc00000 cb7ff0000000000000 91919191919191
"""
HEADS: Final = tuple(map(bytes.fromhex, _HEADS.split()))
"""Of MessagePack: arrays, bins and texts with lengths that lie, extensions, maps, numbers at their ends, nesting."""


class Mutations:
    """Frames for a core in which `granted` channels may write and `refused` may not, at the time `now_us`."""

    def __init__(self, chance: random.Random, now_us: int, granted: Sequence[int], refused: Sequence[int]) -> None:
        self._chance = chance
        self._now_us = now_us
        self._granted = list(granted)
        self._refused = list(refused)
        self._strangers = [-1, 0, 6, 2**40, 2**63 - 1, -(2**63)]
        self._instants = [
            edge + by
            for edge in (now_us - 30 * DAY_US, now_us + DAY_US, 0, -(2**31), 2**31, 2**53, -now_us, 2**63 - 2, -(2**63) + 1)
            for by in (-1, 0, 1)
        ]
        self._previous = b"\x90"

    def frames(self) -> Iterator[bytes]:
        """For ever. Half of them are whole, the others injured."""
        chance = self._chance
        made: tuple[Callable[[], list[Any]], ...] = (self._data, self._data, self._data, self._gap, self._quality, self._preview)
        while True:
            frame = msgspec.msgpack.encode(chance.choice(made)())
            injured = frame
            if chance.random() < 0.5:
                for _ in range(chance.choice((1, 1, 1, 2, 3))):
                    injured = self._injure(injured)
            self._previous = frame
            yield injured

    # fields

    def _rarely(self) -> bool:
        return self._chance.random() < 0.03

    def _channel(self) -> int:
        return self._stranger() if self._rarely() else self._chance.choice(self._granted)

    def _stranger(self) -> int:
        return self._chance.choice(self._chance.choice((self._refused, self._strangers)))

    def _instant(self) -> int:
        if self._rarely():
            return self._chance.choice(self._instants)
        return self._now_us + self._chance.randint(-DAY_US, DAY_US // 2)

    def _value(self) -> Any:
        chance = self._chance
        if self._rarely():
            return chance.choice((*FLOATS, 2**53, 2**53 + 1, -(2**53) - 1, 2**64 - 1, None, True, "1", b"", [1.0], {}))
        return chance.choice((chance.uniform(-1e6, 1e6), chance.randint(-1000, 1000), float(chance.randint(-9, 9))))

    def _seq(self) -> Any:
        return (
            self._chance.choice((0, -1, 2**63 - 1, 2**63, 2**64 - 1, None, 1.0, "1")) if self._rarely() else self._chance.randint(1, 2**40)
        )

    def _column(self, channel: Any) -> list[Any]:
        chance = self._chance
        n = chance.choice((1, 1, 2, 3, 5, 20))
        values: Any
        if chance.random() < 0.7:
            packed = [chance.uniform(-1e6, 1e6) for _ in range(n)]
            if self._rarely():
                packed[chance.randrange(n)] = chance.choice(FLOATS)
            values = struct.pack(f"<{n}d", *packed)
        else:
            values = [self._value() for _ in range(n)]
        times: Any
        if chance.random() < 0.6:
            offsets = sorted(chance.sample(range(-(10**6), 10**6), n))
            if self._rarely():
                offsets[chance.randrange(n)] = chance.choice((0, -(2**31), 2**31 - 1, offsets[0], offsets[-1]))
            times = struct.pack(f"<{n}i", *offsets)
        else:
            times = chance.choice((0, -1, 2**62, 2**63 - 1, 2**63, 1.0, None, b"", DAY_US)) if self._rarely() else chance.randint(1, 10**7)
        if self._rarely():
            values = values[: chance.randrange(len(values))]
        return [channel, self._instant(), times, values]

    def _data(self) -> list[Any]:
        channels = self._chance.sample(self._granted, self._chance.randint(0, len(self._granted)))
        if self._rarely() or self._rarely():
            channels.append(self._chance.choice((self._channel, self._stranger))())
        return [4, self._seq(), self._instant(), [self._column(channel) for channel in channels]]

    def _interval(self) -> tuple[int, int]:
        start = self._instant()
        return start, self._instant() if self._rarely() else start + self._chance.randint(0, 10**6)

    def _gap(self) -> list[Any]:
        chance = self._chance
        cause = "gremlins" if self._rarely() else chance.choice(CAUSES)
        n = chance.choice(_NO_COUNTS) if self._rarely() else chance.choice((0, 1, 1200, 2**63 - 1))
        frames = chance.choice((0, *_NO_COUNTS)) if self._rarely() else chance.choice((1, 1, 1, 1, 2, 1200, 2**63 - 1))
        return [5, self._seq(), None if chance.random() < 0.3 else self._channel(), *self._interval(), n, cause, frames]

    def _quality(self) -> list[Any]:
        chance = self._chance
        start, end = self._interval()
        code = "excellent" if self._rarely() else chance.choice(QUALITIES)
        return [6, self._seq(), self._channel(), start, None if chance.random() < 0.5 else end, code]

    def _preview(self) -> list[Any]:
        return [7, [[self._channel(), self._instant(), self._value()] for _ in range(self._chance.randint(0, 5))]]

    # bytes

    def _injure(self, frame: bytes) -> bytes:
        chance = self._chance
        at = chance.randint(0, len(frame))
        match chance.randrange(9):
            case 0:
                return frame[:at]
            case 1:
                return frame + chance.randbytes(chance.randint(1, 20))
            case 2:
                return frame[:at] + chance.randbytes(1) + frame[at + 1 :]
            case 3:
                return frame[:at] + chance.randbytes(1) + frame[at:]
            case 4:
                return frame[:at] + frame[at + chance.randint(1, 9) :]
            case 5:
                head = chance.choice(HEADS)
                return frame[:at] + head + frame[at + chance.choice((0, len(head))) :]
            case 6:
                number = chance.choice(self._instants).to_bytes(9, chance.choice(("big", "little")), signed=True)
                return frame[:at] + number[:8] + frame[at + 8 :]
            case 7:
                return frame[:at] + struct.pack(chance.choice("<>") + "d", chance.choice(FLOATS)) + frame[at + 8 :]
            case _:
                return frame[:at] + self._previous[chance.randint(0, len(self._previous)) :]
