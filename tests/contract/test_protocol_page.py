"""docs/protocol.md is what a stranger writes a client from: its bytes are the golden frames, its words are those of the code, and the two
clients that it prints run as they stand."""

import asyncio
import json
import math
import re
import sys
import typing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from parts import stored
from parts.backend import Backend, make_source, make_user
from webmacs_controller import wire

from webmacs import ingest_core
from webmacs.fanout import hub
from webmacs.http import socket
from webmacs.settings import Settings
from webmacs.telemetry import protocol

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
GOLDEN: dict[str, dict[str, Any]] = {
    frame["name"]: frame for frame in json.loads((ROOT / "tests" / "contract" / "frames" / "frames.json").read_text())["frames"]
}
CLIENT_S = 60.0
"""Far more than a client of the page needs; it ends by itself."""


def blocks(language: str) -> dict[str, str]:
    """The named fenced blocks of a language: {name: text}."""
    return dict(re.findall(rf"^```{language} name=(\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def bytes_of(block: str) -> bytes:
    """A block's bytes: hex, with what follows a # for people."""
    return bytes.fromhex("".join(line.partition("#")[0] for line in block.splitlines()))


@pytest.mark.parametrize(("name", "block"), blocks("frame").items(), ids=blocks("frame"))
def test_a_frame_of_the_page_is_the_golden_one(name: str, block: str) -> None:
    assert bytes_of(block).hex() == GOLDEN[name]["hex"]


def test_the_page_shows_every_kind_and_every_refusal() -> None:
    shown = [GOLDEN[name] for name in blocks("frame")]
    assert {frame["decoded"][0] for frame in shown if frame["outcome"] == "accepted"} == set(range(1, 13))
    assert {frame["outcome"] for frame in shown} - {"accepted"} == set(typing.get_args(wire.RefusalCode))


@pytest.mark.parametrize("words", [wire.RefusalCode, wire.GapCause, wire.QualityCode, wire.ChannelType])
def test_the_page_names_every_word_of_the_protocol(words: Any) -> None:
    assert [word for word in typing.get_args(words) if f"`{word}`" not in PAGE] == []


def test_the_page_names_every_close_code() -> None:
    codes = [value for name, value in vars(socket).items() if name.startswith("CLOSE_") and isinstance(value, int)]
    assert [code for code in codes if f"| {code} |" not in PAGE] == []


def test_the_limits_of_the_page_are_those_of_the_code() -> None:
    assert ingest_core.FRAME_BYTES_MAX == wire.FRAME_BYTES_MAX == 4_194_304
    assert f"{ingest_core.FRAME_BYTES_MAX:,}" in PAGE
    assert f"{ingest_core.FRAME_READINGS_MAX:,}" in PAGE
    assert f"{ingest_core.CHANNELS_MAX:,}" in PAGE
    assert f"{ingest_core.PAST_US_MAX // 86_400_000_000} days" in PAGE
    assert f"{ingest_core.FUTURE_US_MAX // 3_600_000_000} hours" in PAGE
    assert f"{socket.SILENCE_S_MAX:.0f} s" in PAGE
    assert f"shares {protocol.CREDIT_BYTES_MAX >> 20} MiB" in PAGE
    assert f"{hub.INTERVAL_MS_MIN} to {hub.INTERVAL_MS_MAX}" in PAGE
    settings = Settings()
    people = f"{settings.user_sockets_max} for each person, {settings.address_sockets_max} for each address"
    assert f"{socket.SOURCE_SOCKETS_MAX} for each source, {people}" in PAGE


async def start(tmp_path: Path, name: str, *arguments: str) -> asyncio.subprocess.Process:
    script = tmp_path / f"{name}.py"
    script.write_text(blocks("python")[name])
    return await asyncio.create_subprocess_exec(
        sys.executable, str(script), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )


async def output(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(CLIENT_S):
        printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    return printed.decode()


async def test_the_source_of_the_page_delivers_each_reading_once(backend: Backend, conn: "asyncpg.Connection[Any]", tmp_path: Path) -> None:
    credential = await make_source(backend.database, "stranger")
    source = await start(tmp_path, "source", f"{backend.sockets}/ws/controller/telemetry", credential)
    assert "stored: 20000 readings" in await output(source)
    readings = sorted(await stored.readings(conn, "stranger", "sine"))
    assert len(readings) == 20_000
    assert [t for t, _ in readings] == list(range(readings[0][0], readings[0][0] + 20_000_000, 1_000))
    assert all(value == math.sin(t / 1e6) for t, value in readings)


async def test_the_source_of_the_page_survives_a_killed_backend(backend: Backend, conn: "asyncpg.Connection[Any]", tmp_path: Path) -> None:
    """Killed while a flush waits for a lock: what was sent and not acknowledged is sent again, and nothing is there twice."""
    credential = await make_source(backend.database, "survivor")
    async with conn.transaction():
        await conn.execute("LOCK TABLE streams IN EXCLUSIVE MODE")  # reads pass, so the hello is answered
        source = await start(tmp_path, "source", f"{backend.sockets}/ws/controller/telemetry", credential)
        while not await conn.fetchval("SELECT count(*) FROM pg_locks WHERE relation = 'streams'::regclass AND NOT granted"):
            assert source.returncode is None, await output(source)
        await backend.kill()
    await backend.start()
    printed = await output(source)
    assert "again:" in printed
    assert "stored: 20000 readings" in printed
    times = sorted(t for t, _ in await stored.readings(conn, "survivor", "sine"))
    assert times == list(range(times[0], times[0] + 20_000_000, 1_000))


async def test_the_watcher_of_the_page_sees_what_is_committed(backend: Backend, tmp_path: Path) -> None:
    email = "stranger@example.org"
    password = await make_user(backend.database, backend.data_dir, email, "viewer")
    credential = await make_source(backend.database, "watched")
    watcher = await start(tmp_path, "watcher", backend.url, email, password)
    printed = asyncio.create_task(output(watcher))
    while not printed.done():  # sources come and go until it has seen its ten batches
        await output(await start(tmp_path, "source", f"{backend.sockets}/ws/controller/telemetry", credential))
    lines = (await printed).splitlines()
    assert len(lines) >= 10
    assert all(re.fullmatch(r"\S+Z [0-9a-f-]{36} \S+ \(\S+ \.\.\. \S+, n \d+\)", line) for line in lines)
