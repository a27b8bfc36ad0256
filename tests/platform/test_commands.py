"""What the commands for whoever holds the installation leave behind: rows of the audit log, versions, passwords for a day."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest
from parts.installation import command
from parts.rest import Rest, serve


@pytest.fixture
async def told(database: str) -> Any:
    """Reads the rows of the audit log."""
    conn = await asyncpg.connect(database)

    async def read() -> list[tuple[Any, ...]]:
        rows = await conn.fetch("SELECT actor_kind, actor_name, action, kind, object_name FROM audit_log ORDER BY id")
        return [tuple(row) for row in rows]

    yield read
    await conn.close()


def run(rest: Rest, *arguments: str) -> str:
    """Runs a command on the installation of the rest; what it printed."""
    result = command(*arguments, WEBMACS_DATABASE_URL=rest.database, WEBMACS_DATA_DIR=str(rest.data_dir))
    assert result.returncode == 0, result.stderr
    return result.stdout


async def test_the_command_line_is_in_the_audit_log_and_leaves_versions(database: str, tmp_path: Path, told: Any) -> None:
    by = ("system", "command line")
    async with serve(database, tmp_path) as rest, rest.client("admin") as admin:
        run(rest, "admin", "create", "--email", "eve@example.org")
        run(rest, "admin", "reset-password", "--email", "EVE@example.org")
        run(rest, "source", "add", "press-4")
        run(rest, "key", "rotate")
        assert await told() == [
            (*by, "create", "user", "eve"),
            (*by, "password_changed", "user", "eve"),
            (*by, "create", "source", "press-4"),
            (*by, "rotate", "signing key", None),
        ]
        versions = (await admin.get("/api/v1/versions?content=true")).json()["data"]
        users = (await admin.get("/api/v1/users?search=eve")).json()["data"]
        sources = (await admin.get("/api/v1/sources?search=press")).json()["data"]
    assert [(one["kind"], one["number"], one["actor_name"]) for one in versions] == [
        ("source", 1, "command line"), ("user", 2, "command line"), ("user", 1, "command line"),
    ]  # fmt: skip
    assert [versions[1]["content"], versions[0]["content"]] == [users[0], sources[0]]
    assert users[0]["version"] == 2


async def test_what_a_command_could_not_do_is_not_told(database: str, tmp_path: Path, told: Any) -> None:
    async with serve(database, tmp_path) as rest:
        given = {"WEBMACS_DATABASE_URL": rest.database, "WEBMACS_DATA_DIR": str(rest.data_dir)}
        assert command("admin", "create", "--email", "viewer@example.org", **given).returncode == 1
        assert command("admin", "reset-password", "--email", "nobody@example.org", **given).returncode == 1
        assert command("source", "add", "source", **given).returncode == 1
        assert await told() == []


async def test_a_key_is_rotated_without_a_database_too(tmp_path: Path) -> None:
    for url in ({}, {"WEBMACS_DATABASE_URL": "postgresql://127.0.0.1:9/nothing"}):
        rotated = command("key", "rotate", WEBMACS_DATA_DIR=str(tmp_path), **url)
        assert (rotated.returncode, "audit log" in rotated.stderr) == (0, True), rotated.stderr
    assert (tmp_path / "secrets" / "signing.former.key").exists()


@pytest.mark.parametrize(("action", "email"), [("create", "eve@example.org"), ("reset-password", "operator@example.org")])
async def test_a_password_of_the_command_line_is_for_a_day_and_for_choosing_an_own(
    database: str, tmp_path: Path, action: str, email: str
) -> None:
    async with serve(database, tmp_path) as rest, rest.client() as client:
        given = {"email": email, "password": run(rest, "admin", action, "--email", email).split()[-1]}
        session = (await client.post("/api/v1/auth/login", json=given)).json()
        assert session["user"]["must_change_password"] is True
        refused = await client.get("/api/v1/events")
        assert (refused.status_code, refused.json()["type"]) == (403, "/problems/password-change-needed")
        async with rest.connection() as conn:
            left = "initial_password_until - clock_timestamp() BETWEEN interval '23 h' AND interval '24 h'"
            assert await conn.fetchval(f"SELECT {left} FROM users WHERE email = $1", email)
            await conn.execute("UPDATE users SET initial_password_until = now() - interval '1 s' WHERE email = $1", email)
        assert (await client.post("/api/v1/auth/login", json=given)).status_code == 401
