"""`webmacs up`: what a person sees, what is left when it ends, what happens when a part of it dies."""

import asyncio
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest
from parts.installation import Up, command, empty_directory, environment, eventually, running

from webmacs import instance
from webmacs.postgres import Server


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """A data directory that one test after the other starts WebMACS on."""
    with empty_directory() as folder:
        yield folder


@pytest.fixture
def up(data: Path) -> Iterator[Up]:
    with running(data) as started:
        started.ready()
        yield started


def is_healthy(address: str) -> bool:
    answer = instance.probe(address, 2.0)
    return answer is not None and answer[0] == 200


def gone(family: list[psutil.Process]) -> bool:
    return not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_the_first_start_tells_the_address_and_the_administrator_and_the_second_only_the_address(data: Path) -> None:
    with running(data) as first:
        url = first.ready()
        assert is_healthy(url)
        said = "".join(first.said)
        assert "e-mail    admin@webmacs.local" in said
        password = said.partition("password  ")[2].split()[0]
        assert len(password) == 22
        session = httpx.post(f"{url}/api/v1/auth/login", json={"email": "admin@webmacs.local", "password": password}).json()
        assert made_by_the_command_line(data) == [("create", "user", "admin", 1), ("create", "source", "this-machine", 1)]
        assert session["user"]["must_change_password"] is True
        signed_in = {"Authorization": f"Bearer {session['access_token']}"}
        refused = httpx.get(f"{url}/api/v1/events", headers=signed_in)
        assert (refused.status_code, refused.json()["type"]) == (403, "/problems/password-change-needed")
        family = first.family()
        assert first.interrupt() == 0
        assert gone(family)
    assert not (data / "state.json").exists()
    with running(data) as second:
        assert is_healthy(second.ready())
        assert "password" not in "".join(second.said)


def test_secrets_can_be_read_by_their_owner_only(data: Path) -> None:
    folder = data / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    names = {path.name for path in folder.iterdir()}
    assert names == {"installation.key", "signing.key", "controller.credential", "postgres.password"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_no_process_outlives_a_supervisor_that_is_killed(up: Up) -> None:
    family = up.family()
    assert len(family) > 5
    up.process.kill()
    up.wait()
    eventually(lambda: gone(family), "every child has ended")


def test_a_killed_backend_and_a_killed_database_are_started_again(up: Up) -> None:
    before = up.children
    address = str((instance.read_state(up.data) or {})["url"])
    for name in ("backend", "database", "controller"):
        os.kill(before[name], signal.SIGKILL)
        eventually(lambda name=name: up.children[name] != before[name], f"the {name} has started again")  # type: ignore[misc]
        eventually(lambda: is_healthy(address), "WebMACS is healthy again")
    assert f"The {name} ended (killed by SIGKILL)" in "".join(up.said)


def test_a_second_ctrl_c_does_not_wait_for_what_hangs(up: Up) -> None:
    os.kill(up.children["controller"], signal.SIGSTOP)
    up.process.send_signal(signal.SIGINT)
    eventually(lambda: "Stopping ...\n" in up.said, "it stops")
    assert up.interrupt() == 0
    assert up.said[-1] == "Stopped.\n"


def made_by_the_command_line(data: Path) -> list[tuple[Any, ...]]:
    """Of the audit log, each with the version that it left."""

    async def read() -> list[tuple[Any, ...]]:
        conn = await asyncpg.connect(Server(data).url)
        rows = await conn.fetch(
            """SELECT a.action, a.kind, a.object_name, v.version
                 FROM audit_log a LEFT JOIN versions v USING (kind, object_public_id, at)
                WHERE a.actor_name = 'command line' ORDER BY a.id"""
        )
        await conn.close()
        return [tuple(row) for row in rows]

    return asyncio.run(read())


def test_a_lost_controller_credential_is_made_anew(data: Path) -> None:
    credential = data / "secrets" / "controller.credential"
    old = credential.read_text()
    credential.unlink()
    with running(data) as up:
        up.ready()
        assert made_by_the_command_line(data)[-1] == ("renew_credential", "source", "this-machine", None)
    assert credential.read_text() != old


def test_a_second_start_on_the_same_data_names_the_first(up: Up) -> None:
    result = command("up", "--port", "0", "--data", str(up.data))
    assert result.returncode == 1
    assert result.stderr.startswith(f"webmacs: WebMACS is already running on {up.data} at http://127.0.0.1:")


def test_commands_find_the_running_installation(up: Up) -> None:
    data = ["--data", str(up.data)]
    assert command("status", *data).stdout.startswith("WebMACS runs at http://127.0.0.1:")
    added = command("source", "add", "press-4", *data)
    assert added.stdout.startswith("wms_")
    assert command("source", "add", "press-4", *data).stderr == (
        "webmacs: There is a source called press-4 already; choose another name.\n"
    )
    assert "password  " in command("admin", "create", "--email", "eve@example.org", *data).stdout


def test_commands_start_the_database_themselves_when_nothing_runs(data: Path) -> None:
    status = command("status", "--json", "--data", str(data))
    assert (status.returncode, '"running": false' in status.stdout) == (3, True)
    assert "password  " in command("admin", "reset-password", "--data", str(data)).stdout
    assert command("admin", "reset-password", "--email", "nobody@example.org", "--data", str(data)).stderr == (
        "webmacs: There is no user with the e-mail nobody@example.org.\n"
    )


def test_a_port_in_use_is_one_line_with_the_fix(data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = command("up", "--port", str(port), "--data", str(data))
    assert result.returncode == 1
    assert result.stderr == f"webmacs: Port {port} on 127.0.0.1 is in use by another program: end that one, or start with `--port 0`.\n"


def test_an_unreachable_database_is_one_line(tmp_path: Path) -> None:
    url = "postgresql://webmacs:secret@127.0.0.1:9/webmacs"
    result = command("up", "--port", "0", "--data", str(tmp_path), WEBMACS_DATABASE_URL=url)
    assert result.returncode == 1
    assert result.stderr.startswith("webmacs: The database at 127.0.0.1:9/webmacs cannot be reached")
    assert "secret" not in result.stderr + result.stdout


def test_an_ordinary_user_can_start_it() -> None:
    """As root: as the user nobody where that one can run this Python, else as user 1000 of a user namespace."""
    prefix: list[str] = []
    identity: dict[str, Any] = {}
    owner = None
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        try:
            subprocess.run([sys.executable, "-c", "import asyncpg"], env=environment(), cwd="/", check=True, **identity)
            owner = nobody.pw_uid
        except (OSError, subprocess.CalledProcessError):
            prefix, identity = ["unshare", "--user", "--map-user=1000", "--map-group=1000"], {}
    with empty_directory(owner) as data, running(data, prefix, identity) as up:
        assert is_healthy(up.ready())
        assert "run by user" not in "".join(up.said)
        assert not (data / "postgres").is_symlink()
        assert up.interrupt() == 0
