"""The database's schema and its revisions. `webmacs migrate` calls `upgrade` in a process of its own, because Alembic and SQLAlchemy
would add 63 MB to the one that serves; `revision_of` and `head` tell in milliseconds whether that process is needed at all.

The revisions lie in `migrations/`, beside the package: plain SQL, up and down.
"""

import logging
from pathlib import Path
from typing import Any, Final

import asyncpg

MIGRATIONS: Final = Path(__file__).parents[2] / "migrations"


def head() -> str:
    """The newest revision that this version of WebMACS knows."""
    return max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


async def revision_of(conn: "asyncpg.Connection[Any]") -> str | None:
    """The revision that a database has; None when nothing was ever made in it."""
    if await conn.fetchval("SELECT to_regclass('alembic_version')") is None:
        return None
    revision = await conn.fetchval("SELECT version_num FROM alembic_version")
    return None if revision is None else str(revision)


def upgrade(url: str, revision: str = "head") -> None:
    """Brings the database at `url` to a revision. Two at once do not race: the second waits and finds nothing to do. Starts an
    event loop of its own; a failure leaves the schema as it was."""
    _alembic(url, "upgrade", revision)


def downgrade(url: str, revision: str) -> None:
    """Takes the database back to an older revision ("base": nothing), and what newer ones added with it."""
    _alembic(url, "downgrade", revision)


def _alembic(url: str, step: str, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config(attributes={"url": url})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    getattr(command, step)(config, revision)
