"""Time, for everything in the controller: the only caller of the operating system's clocks, and the timeline by which readings are
stamped. Readings are timed on the monotonic clock; the timeline turns that into UTC without ever running backwards.
"""

import time
from typing import Final, NamedTuple

CORRECTION_NOTED_US: Final = 100_000
"""A wall clock that disagrees with the timeline by more than this was set by somebody: it is logged and counted."""
EARLIEST_US: Final = 1_735_689_600_000_000
"""2025: a wall clock before this was never set. The machine started without a clock of its own, and nothing has told it the time yet."""
PAST_US_MAX: Final = 30 * 86_400_000_000
FUTURE_US_MAX: Final = 86_400_000_000
"""The backend refuses a whole frame for one reading outside these."""


class Now(NamedTuple):
    wall_us: int
    """µs since 1970 UTC, as the machine believes"""
    monotonic_us: int


def now() -> Now:
    return Now(time.time_ns() // 1000, time.monotonic_ns() // 1000)


def possible(t_us: int, now_us: int) -> bool:
    """A reading of this time can be stored now."""
    return now_us - PAST_US_MAX < t_us < now_us + FUTURE_US_MAX


class Timeline:
    """Monotonic µs -> UTC µs. `rebase` is called about once a second by one thread, `at` by any.

    A wall clock that is ahead is followed at once. One that was set back is followed at half speed, so that times go on rising:
    while it lasts, readings are stamped later than the wall clock says, by at most what it was set back. Only where that is more than
    the backend accepts it is followed back at once: nothing that was stamped so far ahead is stored.
    """

    def __init__(self, start: Now, newest_us: int | None = None) -> None:
        """`newest_us`: up to here an earlier process stamped readings. When the clock was set back since, times go on from there."""
        ahead_us = newest_us + 1 - start.wall_us if newest_us is not None and possible(newest_us, start.wall_us) else 0
        self.started_ahead_us = max(0, ahead_us)
        """By how much readings are stamped later than the wall clock said at the start."""
        # replaced whole, so that readers in other threads see one state
        self._anchor = (start.monotonic_us, start.wall_us + self.started_ahead_us, self.started_ahead_us)
        self.corrections = 0

    @property
    def known(self) -> bool:
        """False while the wall clock was never set: readings are then stamped in 1970, and nobody can store them."""
        return self._anchor[1] >= EARLIEST_US

    def at(self, monotonic_us: int) -> int:
        monotonic0_us, utc0_us, ahead_us = self._anchor
        elapsed_us = monotonic_us - monotonic0_us
        return utc0_us + max(elapsed_us // 2, elapsed_us - ahead_us)  # half speed until `ahead_us` is made good, then full

    def rebase(self, now: Now) -> int | None:
        """Follows the wall clock. Returns by how many µs it was set, when it was; None otherwise. A clock that was lost while we run is
        not followed: times go on by the monotonic clock until it is set again."""
        if self.known and now.wall_us < EARLIEST_US:
            return None
        utc_us = self.at(now.monotonic_us)
        off_us = now.wall_us - utc_us
        still_ahead_us = max(0, self._anchor[2] - (now.monotonic_us - self._anchor[0]) // 2)
        set_by_us = off_us + still_ahead_us
        ahead_us = max(0, -off_us)
        if ahead_us >= FUTURE_US_MAX:
            ahead_us = 0
        self._anchor = (now.monotonic_us, now.wall_us + ahead_us, ahead_us)
        if abs(set_by_us) < CORRECTION_NOTED_US:
            return None
        self.corrections += 1
        return set_by_us
