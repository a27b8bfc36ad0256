"""The controller as a process: it delivers, is killed, is stopped, and says clearly what is wrong with its settings."""

import asyncio
import os
import signal
import struct
import sys
from pathlib import Path

import msgspec
import pytest
from parts.double import Backend
from webmacs_controller import wire

MODULE = (sys.executable, "-m", "webmacs_controller", "run")
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2] / "controller")}


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, str]:
    credential = tmp_path / "credential"
    credential.write_text("wms_test\n")
    return {
        "--url": "ws://127.0.0.1:1/ws",
        "--credential-file": str(credential),
        "--spool": str(tmp_path / "spool"),
        "--device": "simulated",
    }


async def start(arguments: dict[str, str], **environment: str) -> asyncio.subprocess.Process:
    flat = [part for option in arguments.items() for part in option]
    return await asyncio.create_subprocess_exec(
        *MODULE, *flat, env=ENVIRONMENT | environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


def times(backend: Backend, channel: int) -> list[list[int]]:
    """For each stream the times of one channel's readings."""
    return [
        [t_us for frame in frames if frame[0] == wire.KIND_DATA for t_us in _times(frame, channel)] for frames in backend.stored.values()
    ]


def _times(frame: list[object], channel: int) -> list[int]:
    data = msgspec.convert(frame, wire.Data)
    found = []
    for column in data.columns:
        if column.channel == channel:
            n = len(column.values) // 8
            offsets = range(0, n * column.times, column.times) if isinstance(column.times, int) else struct.unpack(f"<{n}i", column.times)
            found += [column.t0_us + offset for offset in offsets]
    return found


async def test_a_killed_controller_goes_on_with_its_spool_and_declares_what_it_missed(arguments: dict[str, str]) -> None:
    backend = Backend()
    async with backend.serving() as (_, url):
        arguments["--url"] = url
        for streams in (1, 2):
            process = await start(arguments)
            await backend.until(lambda streams=streams: len(backend.stored) >= streams and len([*backend.stored.values()][-1]) > 15)
            process.kill()
            await process.communicate()
        process = await start(arguments)
        await backend.until(lambda: len(backend.stored) >= 3 and len([*backend.stored.values()][-1]) > 12)
        process.send_signal(signal.SIGTERM)
        assert (await process.communicate(), process.returncode)[1] == 0
    gaps = [frame for frames in backend.stored.values() for frame in frames if frame[0] == wire.KIND_GAP]
    assert [(gap[2], gap[6]) for gap in gaps] == [(None, "source_stopped")] * 2
    ended = [stream[-1] for stream in times(backend, 1)]
    assert [gap[3] for gap in gaps] == [t_us + 1 for t_us in ended[:2]]
    for stream in times(backend, 1):
        assert stream == sorted(set(stream))


async def test_a_stop_delivers_what_was_sampled_and_ends_with_0(arguments: dict[str, str], tmp_path: Path) -> None:
    backend = Backend()
    async with backend.serving() as (_, url):
        arguments |= {"--url": url}
        process = await start(arguments)
        await backend.until(lambda: sum(map(len, backend.stored.values())) > 12)
        process.send_signal(signal.SIGINT)
        _, said = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in said
    assert b"wms_" not in said
    assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == ["lock", "stopped"]
    (instance,) = backend.described[0].instances
    assert (instance.name, instance.create_events, len(instance.channels)) == ("simulated", True, 9)
    assert [frame[4:] for frame in next(iter(backend.stored.values()))[:9] if frame[0] == wire.KIND_QUALITY] == [[None, "simulated"]] * 9


async def test_settings_come_from_the_environment_too(arguments: dict[str, str]) -> None:
    backend = Backend()
    async with backend.serving() as (_, url):
        process = await start(
            {},
            WEBMACS_CONTROLLER_URL=url,
            WEBMACS_CONTROLLER_CREDENTIAL_FILE=arguments["--credential-file"],
            WEBMACS_CONTROLLER_SPOOL=arguments["--spool"],
            WEBMACS_CONTROLLER_DEVICE="system,simulated",
            WEBMACS_CONTROLLER_FOLLOW_PARENT="1",
        )
        await backend.until(lambda: backend.described != [])
        process.terminate()
        await process.communicate()
    assert [instance.name for instance in backend.described[0].instances] == ["system", "simulated"]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"--url": "http://127.0.0.1"}, "--url must begin with ws:// or wss://, not 'http://127.0.0.1'."),
        ({"--credential-file": "/no/such/file"}, "The credential file /no/such/file cannot be read: No such file or directory."),
        ({"--device": "toaster"}, "There is no device 'toaster': --device takes system or simulated."),
        ({"--device": "system=/no/such.toml"}, "The device settings /no/such.toml cannot be read: No such file or directory."),
        ({"--spool-mib": "much"}, "--spool-mib must be a whole number of MiB from 1, not 'much'."),
        ({"--log-level": "loud"}, "--log-level must be debug, info, warning or error, not 'loud'."),
    ],
)
async def test_a_wrong_setting_ends_the_start_with_one_sentence(arguments: dict[str, str], wrong: dict[str, str], sentence: str) -> None:
    process = await start(arguments | wrong)
    _, said = await process.communicate()
    assert (said.decode(), process.returncode) == (f"webmacs-controller: {sentence}\n", 78)


async def test_an_unknown_device_setting_is_named(arguments: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("sede = 1\n")
    process = await start(arguments | {"--device": f"simulated={tmp_path / 's.toml'}"})
    _, said = await process.communicate()
    assert "unknown field `sede`" in said.decode()
    assert (len(said.splitlines()), process.returncode) == (1, 78)
