"""The days of `datapoints`: one partition a day UTC, from 31 days ago to 8 days ahead. Called at start and every hour."""

from datetime import UTC, datetime, timedelta
from typing import Final

from webmacs import clock
from webmacs.storage.pool import Connection

DAYS_BEFORE: Final = 31
"""A live reading may be 30 days old; one more, because the server's clock and the source's differ."""
DAYS_AHEAD: Final = 8
"""A live reading may be 24 hours ahead; the rest is for a week in which nobody could make partitions."""
MIGRATION_LOCK: Final = 7_305_801_001
"""The advisory lock of migrations/env.py."""

NAME: Final = "datapoints_%Y%m%d"
VACUUM: Final = ", ".join(
    f"{table}autovacuum_vacuum_{setting}"
    for table in ("", "toast.")
    for setting in ("threshold = 20000", "scale_factor = 0", "cost_delay = 0")
)
"""Compaction leaves a steady stream of dead rows: at a million readings/s the dead space settles at 150 to 250 MB when autovacuum looks
every 10 s; at its default of 60 s it grew by 14 MB/s (docs/decisions/0010-compaction.md)."""


async def ensure_partitions(conn: Connection, now_us: int) -> int:
    """Makes the days that are missing and returns how many. Quick when none is, and safe for several processes at once."""
    if not await _missing(conn, now_us):
        return 0
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
        missing = await _missing(conn, now_us)
        for day in missing:
            # ATTACH, because PARTITION OF would lock every other day too. The table is empty, so there is nothing to prove with a CHECK.
            # The identity of `id` comes with ATTACH (since PostgreSQL 17), so do the indexes.
            await conn.execute(
                f"""
                CREATE TABLE {name(day)} (LIKE datapoints INCLUDING DEFAULTS INCLUDING STORAGE) WITH ({VACUUM});
                ALTER TABLE datapoints ATTACH PARTITION {name(day)}
                    FOR VALUES FROM ('{day.isoformat()}') TO ('{(day + timedelta(days=1)).isoformat()}');
                """
            )
    return len(missing)


def name(day: datetime) -> str:
    """The table of the day that begins at `day`."""
    return day.strftime(NAME)


async def present(conn: Connection) -> list[datetime]:
    """Beginnings of the days that have a partition, oldest first."""
    rows = await conn.fetch(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'datapoints'::regclass"
    )
    return sorted(datetime.strptime(row["relname"], NAME).replace(tzinfo=UTC) for row in rows)


async def _missing(conn: Connection, now_us: int) -> list[datetime]:
    """Beginnings of the days that have no partition yet, oldest first."""
    there = set(await present(conn))
    today = day_of(now_us)
    days = (today + timedelta(days=offset) for offset in range(-DAYS_BEFORE, DAYS_AHEAD + 1))
    return [day for day in days if day not in there]


def day_of(us: int) -> datetime:
    """The beginning of the day UTC that holds an instant."""
    return clock.to_datetime(us).replace(hour=0, minute=0, second=0, microsecond=0)
