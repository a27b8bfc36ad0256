"""Word of a changed configuration: NOTIFY inside the transaction that makes the change, so it is known exactly when it is true."""

from typing import Final, Literal

from webmacs.storage.pool import Connection

CHANNEL: Final = "webmacs_config"

What = Literal[
    "access",
    "annotations",
    "events",
    "experiments",
    "mappings",
    "plugins",
    "rules",
    "settings",
    "sources",
]

LATEST: Final = "webmacs_latest"
"""The other channel: ids of events whose newest reading was deleted."""

CORE: Final[frozenset[What]] = frozenset({"events", "experiments", "mappings", "rules", "sources"})
"""What the core has to know of."""


async def announce(conn: Connection, what: What) -> None:
    """Call it inside the changing transaction; listeners read the rows themselves, after the commit."""
    await conn.execute("SELECT pg_notify($1, $2)", CHANNEL, what)
