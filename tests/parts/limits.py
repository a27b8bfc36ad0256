"""Limits as tests and benches want them: all their load comes from one address and few callers. Tests of the limits set their own."""

from typing import Final

UNLIMITED: Final = {
    "requests_per_minute": 100_000_000,
    "address_requests_per_minute": 100_000_000,
    "readings_requests_per_minute": 100_000_000,
    "readings_mb_per_minute": 1_000_000,
    "address_readings_requests_per_minute": 100_000_000,
    "address_sockets_max": 100_000,
}
