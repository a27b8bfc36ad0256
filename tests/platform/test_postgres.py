"""The embedded server: whose data it takes, what it ends, what it refuses."""

import asyncio
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from parts.installation import empty_directory, eventually

from webmacs import instance, keys, postgres, processes
from webmacs.postgres import PostgresError, Server


@pytest.fixture
def folder() -> Iterator[Path]:
    with empty_directory() as path:
        yield path


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """A data directory with an initialised cluster that does not run."""
    with empty_directory() as path:
        server = Server(path)
        server.prepare()
        yield path
        server.forget_sockets()


async def value(server: Server, query: str) -> str:
    conn = await asyncpg.connect(server.url)
    try:
        return str(await conn.fetchval(query))
    finally:
        await conn.close()


async def test_it_is_crash_safe_and_asks_for_a_password(data: Path) -> None:
    server = Server(data)
    server.start()
    try:
        assert await value(server, "SHOW fsync") == await value(server, "SHOW full_page_writes") == "on"
        assert await value(server, "SHOW data_checksums") == "on"
        assert await value(server, "SHOW max_locks_per_transaction") == "1024"
        assert await value(server, "SHOW plan_cache_mode") == "force_custom_plan"
        assert await value(server, "SHOW listen_addresses") == ""
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.url.replace("webmacs:", "webmacs:x", 1))
    finally:
        server.stop()


async def test_a_lost_password_file_is_made_anew_by_whoever_owns_the_data(data: Path) -> None:
    (data / "secrets" / "postgres.password").unlink()
    server = Server(data)
    server.start()
    try:
        assert await value(server, "SELECT 1") == "1"
    finally:
        server.stop()


async def test_a_busy_child_of_a_killed_server_does_not_keep_the_next_from_starting(data: Path) -> None:
    first = Server(data)
    first.start()
    conn = await asyncpg.connect(first.url)
    busy = asyncio.ensure_future(conn.execute("DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$"))
    watch = await asyncpg.connect(first.url)
    active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO %' AND state = 'active'"
    while not await watch.fetchval(active):
        assert not busy.done()
    assert first.process is not None
    first.process.kill()
    first.process.wait()
    assert processes.working_in(first.data, "postgres")
    second = Server(data)
    second.start()
    try:
        assert await value(second, "SELECT 1") == "1"
        with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError)):
            await busy
    finally:
        second.stop()
    for one in (conn, watch):
        one.terminate()


def test_a_server_that_lost_its_supervisor_is_ended_first(data: Path) -> None:
    first, second = Server(data), Server(data)
    first.start()
    second.start()
    assert first.process is not None
    assert first.process.wait() == 0
    second.stop()


def test_a_server_of_somebody_else_is_left_alone(data: Path) -> None:
    server = Server(data)
    elsewhere = server.data.parent / "elsewhere"
    elsewhere.mkdir()
    if server.user is not None:
        os.chown(elsewhere, server.user.pw_uid, server.user.pw_gid)
    foreign = Server(data)
    foreign.sockets = elsewhere
    process = foreign.launch(subprocess.DEVNULL)
    try:
        eventually(foreign.is_ready, "the other server is ready")
        with pytest.raises(PostgresError, match=rf"WebMACS did not start \(process {process.pid}\)"):
            server.start()
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def test_data_of_an_older_postgresql_is_named_and_left_alone(folder: Path) -> None:
    (folder / "postgres").mkdir()
    (folder / "postgres" / "PG_VERSION").write_text("16\n")
    if os.geteuid() == 0:
        os.chown(folder / "postgres", 65534, 65534)
    with pytest.raises(PostgresError, match=r"was made by PostgreSQL 16, WebMACS needs 17 or newer: move it with pg_dump"):
        Server(folder)
    assert [path.name for path in (folder / "postgres").iterdir()] == ["PG_VERSION"]


def test_data_of_a_newer_postgresql_names_the_version_that_it_needs(folder: Path) -> None:
    (folder / "postgres").mkdir()
    (folder / "postgres" / "PG_VERSION").write_text("99\n")
    if os.geteuid() == 0:
        os.chown(folder / "postgres", 65534, 65534)
    with pytest.raises(PostgresError, match=r"needs PostgreSQL 99, found here: 17\.10"):
        Server(folder)


def test_a_link_to_data_that_is_gone_is_not_taken_for_a_first_start(folder: Path) -> None:
    (folder / "postgres").symlink_to(folder / "gone" / "postgres")
    with pytest.raises(PostgresError, match="which is gone"):
        Server(folder)


def test_an_interrupted_first_start_begins_anew(folder: Path) -> None:
    (folder / "postgres.part").mkdir()
    (folder / "postgres.part" / "half").write_text("")
    server = Server(folder)
    server.start()
    server.stop()
    assert not (folder / "postgres.part").exists()
    assert not (folder / "postgres.pw").exists()


@pytest.mark.parametrize("user", ["no-such-user", "root"])
def test_a_user_who_cannot_run_it_is_named(folder: Path, user: str) -> None:
    with pytest.raises(PostgresError, match="There is no unprivileged user"):
        postgres.find_runner(folder, user)


def test_a_signing_key_that_was_cut_is_not_replaced(folder: Path) -> None:
    assert keys.load_or_make_signing_key(folder) == keys.load_or_make_signing_key(folder)
    path = folder / "secrets" / "signing.key"
    path.write_bytes(b"short")
    with pytest.raises(keys.KeyFileError, match="restore it from a backup"):
        keys.load_or_make_signing_key(folder)
    assert path.read_bytes() == b"short"


def test_where_the_servers_user_cannot_come_the_data_lies_elsewhere_and_a_link_leads_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = folder / "home"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(postgres, "ROOT_FOLDER", folder / "var")
    data = instance.make_data_dir(closed / "data")
    server = Server(data)
    server.start()
    server.stop()
    assert (data / "postgres").is_symlink() == (os.geteuid() == 0)
    assert (data / "postgres" / "PG_VERSION").exists()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    again = Server(data)
    assert again.data == server.data
    again.start()
    again.stop()
