"""Which database errors pass by themselves: whoever stores readings waits for those, and treats the others as poison."""

from typing import Final

import asyncpg

from webmacs.storage.pool import DatabaseError

PASSING_CLASSES: Final = ("08", "40", "53", "57", "58")
"""SQLSTATE: connection, serialization, resources (a full disk too), operator intervention (shutdown), system."""

FAULTS: Final = (DatabaseError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""What comes when the database refuses or is gone; the driver calls a session that ends at a bad moment its internal error."""


def passes(fault: BaseException) -> bool:
    """Whether trying the same again later can succeed."""
    if isinstance(fault, asyncpg.PostgresError):
        return (fault.sqlstate or "")[:2] in PASSING_CLASSES
    return isinstance(fault, FAULTS)
