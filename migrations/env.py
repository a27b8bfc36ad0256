"""Alembic's way in: one connection through SQLAlchemy's asyncpg dialect, one transaction under an advisory lock.

Whoever comes second waits for the lock, finds the work done, and does nothing. All revisions commit together or not at all.
"""

import asyncio

from alembic import context
from sqlalchemy import Connection, pool
from sqlalchemy.ext.asyncio import create_async_engine

MIGRATION_LOCK = 7_305_801_001
"""Also taken by webmacs.storage.partitions, so that partitions are never made under a migration."""


def run(connection: Connection) -> None:
    context.configure(connection=connection)
    with context.begin_transaction():
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        context.run_migrations()


async def connect() -> None:
    url = context.config.attributes["url"].replace("postgres://", "postgresql://", 1).replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(url, poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()


asyncio.run(connect())
