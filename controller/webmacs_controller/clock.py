"""Time, for everything in the controller: the only caller of the operating system's clocks, and the timeline by which readings are
stamped. Readings are timed on the monotonic clock; the timeline turns that into UTC without ever running backwards.
"""

import time
from typing import Final, NamedTuple

CORRECTION_NOTED_US: Final = 100_000
"""A wall clock that disagrees with the timeline by more than this was set by somebody: it is logged and counted."""


class Now(NamedTuple):
    wall_us: int
    """µs since 1970 UTC, as the machine believes"""
    monotonic_us: int


def now() -> Now:
    return Now(time.time_ns() // 1000, time.monotonic_ns() // 1000)


class Timeline:
    """Monotonic µs -> UTC µs. `rebase` is called about once a second by one thread, `at` by any.

    A wall clock that is ahead is followed at once. One that was set back is followed at half speed, so that times go on rising:
    while it lasts, readings are stamped later than the wall clock says, by at most what it was set back.
    """

    def __init__(self, start: Now) -> None:
        self._anchor = (start.monotonic_us, start.wall_us, 0)  # replaced whole, so that readers in other threads see one state
        self.corrections = 0

    def at(self, monotonic_us: int) -> int:
        monotonic0_us, utc0_us, ahead_us = self._anchor
        elapsed_us = monotonic_us - monotonic0_us
        return utc0_us + max(elapsed_us // 2, elapsed_us - ahead_us)  # half speed until `ahead_us` is made good, then full

    def rebase(self, now: Now) -> int | None:
        """Follows the wall clock. Returns by how many µs it was set, when it was; None otherwise."""
        utc_us = self.at(now.monotonic_us)
        off_us = now.wall_us - utc_us
        still_ahead_us = max(0, self._anchor[2] - (now.monotonic_us - self._anchor[0]) // 2)
        set_by_us = off_us + still_ahead_us
        self._anchor = (now.monotonic_us, max(utc_us, now.wall_us), max(0, -off_us))
        if abs(set_by_us) < CORRECTION_NOTED_US:
            return None
        self.corrections += 1
        return set_by_us
