"""The only caller of the wall clock. Inside, a time is an int of µs since 1970 UTC; in the database and in JSON it is an aware datetime."""

import time
from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


def now_us() -> int:
    """The wall clock, in µs since 1970 UTC."""
    return time.time_ns() // 1_000


def now() -> datetime:
    """The same moment as the database and JSON have it."""
    return to_datetime(now_us())


def monotonic() -> float:
    """Seconds of a clock that never runs back: for durations and deadlines, never for the time of a reading."""
    return time.monotonic()


def to_datetime(us: int) -> datetime:
    """Exact to the µs (a float of seconds would not be). Raises OverflowError outside the years 1 to 9999."""
    return EPOCH + us * MICROSECOND


def from_datetime(moment: datetime) -> int:
    """µs since 1970 UTC of an aware datetime; a naive one raises TypeError, because its meaning would be a guess."""
    return (moment - EPOCH) // MICROSECOND
