"""Public ids: UUIDv7, made here because PostgreSQL has `uuidv7()` from 18 on only."""

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
