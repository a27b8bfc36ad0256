"""Public ids: UUIDv7, made here because PostgreSQL has `uuidv7()` from 18 on only; and those of readings, which have no row each."""

import os
from typing import Final
from uuid import UUID

from webmacs import clock

RANDOM_BITS: Final = 62


def uuid7() -> UUID:
    """48 bits of ms since 1970, 12 bits of the ms's fraction, 62 random bits: ids made later sort later, to 0.25 µs."""
    ms, us = divmod(clock.now_us(), 1_000)
    fraction = us * 4_096 // 1_000
    random = int.from_bytes(os.urandom(8), "big") >> (64 - RANDOM_BITS)
    return UUID(int=ms << 80 | 0x7 << 76 | fraction << 64 | 0b10 << RANDOM_BITS | random)


def reading_id(event_id: int, t_us: int) -> UUID:
    """A UUIDv8 made of a reading's event and time, which is all that a reading is known by: it stays the same however runs are rewritten.

    From the top: 48 and 12 bits of µs since 1970 plus 2^59, 31 bits of the event, 31 bits that are 0; between them version and variant.
    """
    moment = t_us + (1 << 59)
    return UUID(int=moment >> 12 << 80 | 0x8 << 76 | (moment & 0xFFF) << 64 | 0b10 << RANDOM_BITS | event_id << 31)


def read_reading_id(public_id: UUID) -> tuple[int, int] | None:
    """(event id, µs since 1970, before the year 2255); None when it is the id of no reading."""
    event_id = public_id.int >> 31 & 0x7FFF_FFFF
    t_us = (public_id.int >> 80 << 12 | public_id.int >> 64 & 0xFFF) - (1 << 59)
    return (event_id, t_us) if 0 <= t_us < 1 << 53 and public_id == reading_id(event_id, t_us) else None
