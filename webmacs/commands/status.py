"""`webmacs status`: whether WebMACS runs, how its health is, what its database holds. Exit code 0 when it runs, 3 when not."""

import argparse
import json
from typing import Any

import asyncpg

from webmacs import clock, instance
from webmacs.commands.database import with_connection
from webmacs.postgres import PostgresError, Server
from webmacs.settings import Settings
from webmacs.storage import migrate
from webmacs.storage.pool import DatabaseError

EXIT_NOT_RUNNING = 3
ANSWER_S_MAX = 3.0


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    status = read(settings)
    if parsed.json:
        print(json.dumps(status, indent=2))
    else:
        print("\n".join(sentences(status)))
    return 0 if status["running"] else EXIT_NOT_RUNNING


def read(settings: Settings) -> dict[str, Any]:
    """{"running", "url", "data_dir", "health", "uptime_s", "processes", "database"}; what is not known is null."""
    data_dir = settings.data_dir.resolve()
    held = instance.is_held(data_dir)
    state = (instance.read_state(data_dir) or {}) if held else {}
    url = state.get("url") or (None if settings.database_url is None else f"http://{settings.host}:{settings.port}")
    answer = instance.probe(url, ANSWER_S_MAX) if url else None
    return {
        "running": answer is not None,
        "url": url if answer is not None else None,
        "data_dir": str(data_dir),
        "health": None if answer is None else answer[1].get("status", f"HTTP {answer[0]}"),
        "uptime_s": None if "started_us" not in state else (clock.now_us() - int(state["started_us"])) // 1_000_000,
        "processes": state.get("processes"),
        "database": _database(settings, held),
    }


def sentences(status: dict[str, Any]) -> list[str]:
    if status["running"]:
        lines = [f"WebMACS runs at {status['url']}, health: {status['health']}."]
        if status["uptime_s"] is not None:
            lines.append(f"It was started {status['uptime_s']} s ago.")
    else:
        lines = [f"WebMACS does not run on {status['data_dir']}; `webmacs up` starts it."]
    if database := status["database"]:
        if "error" in database:
            lines.append(str(database["error"]))
        else:
            schema, size = f"schema {database['schema']} of {database['schema_known']}", f"{database['size_bytes'] / 2**20:,.1f} MiB"
            lines.append(f"Database: PostgreSQL {database['version']}, {schema}, {size}.")
    return lines


def _database(settings: Settings, held: bool) -> dict[str, Any] | None:
    """None when it is the embedded one and does not run: status starts nothing."""
    if settings.database_url is None and not held:
        return None
    try:
        url = settings.database_url or Server(settings.data_dir.resolve(), settings.postgres_os_user).url
        return with_connection(url, _facts)
    except (DatabaseError, PostgresError) as error:
        return {"error": str(error)}


async def _facts(conn: "asyncpg.Connection[Any]") -> dict[str, Any]:
    version = conn.get_server_version()
    return {
        "version": f"{version.major}.{version.minor}",
        "schema": await migrate.revision_of(conn),
        "schema_known": migrate.head(),
        "size_bytes": await conn.fetchval("SELECT pg_database_size(current_database())"),
    }
