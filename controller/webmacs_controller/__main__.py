"""The command `webmacs-controller`: reads the command line and the environment, puts the controller together, ends it in order."""

import argparse
import asyncio
import ctypes
import importlib
import os
import signal
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from webmacs_controller import __version__, logs
from webmacs_controller.controller import Controller, Installed
from webmacs_controller.sdk import Device, DeviceError, Settings, SyncDevice
from webmacs_controller.spool import SpoolError

PLUGINS: Final = ("system", "simulated")
EXIT_SETTINGS: Final = 78
SPOOL_MIB: Final = 1024
_PR_SET_PDEATHSIG: Final = 1

log = logs.get(__name__)


class SettingsError(Exception):
    """Something that the command line, the environment or a file says is wrong. One sentence: what, where, how to mend it."""


def install(argument: str) -> Installed:
    """`NAME` or `NAME=SETTINGS.toml`."""
    name, _, file = argument.partition("=")
    if name not in PLUGINS:
        raise SettingsError(f"There is no device {name!r}: --device takes {' or '.join(PLUGINS)}.")
    module = importlib.import_module(f"webmacs_controller.plugins.{name}.plugin")
    settings: Settings = read_settings(Path(file), module.PluginSettings) if file else module.PluginSettings()
    device: Device | SyncDevice = module.make(settings)
    try:
        return Installed(name, name, device, module.PluginSettings, device.channels())
    except DeviceError as error:
        raise SettingsError(f"The device {name} cannot be set up: {error}") from error


def read_settings(file: Path, type_: type[Settings]) -> Settings:
    try:
        return msgspec.convert(tomllib.loads(file.read_text()), type_)
    except OSError as error:
        raise SettingsError(f"The device settings {file} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"The device settings {file} are not TOML: {error}.") from error
    except msgspec.ValidationError as error:
        raise SettingsError(f"The device settings {file} are wrong: {error}; sample.toml beside the plugin explains each.") from error


def read_credential(file: Path) -> str:
    """Raises OSError."""
    return file.read_text().strip()


def parse(arguments: Sequence[str] | None, environ: dict[str, str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="webmacs-controller",
        description="Reads devices and delivers their readings to WebMACS, each exactly once.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="sample and deliver until stopped",
        epilog="Every option can also be given as an environment variable: --spool-mib is WEBMACS_CONTROLLER_SPOOL_MIB, "
        "several devices are separated by commas in WEBMACS_CONTROLLER_DEVICE.",
    )
    _add(run, environ, "--url", "the backend's telemetry socket, for example ws://127.0.0.1:8000/ws/controller/telemetry")
    _add(run, environ, "--credential-file", "file with this source's credential, as `webmacs source add` printed it")
    _add(run, environ, "--spool", "directory where frames wait until they are stored")
    _add(run, environ, "--spool-mib", f"most that may wait there, in MiB (default {SPOOL_MIB})", str(SPOOL_MIB))
    _add(run, environ, "--log-level", "debug, info, warning or error (default info)", "info")
    devices = environ.get("WEBMACS_CONTROLLER_DEVICE")
    run.add_argument(
        "--device",
        action="append",
        required=devices is None,
        default=None,
        metavar="NAME[=SETTINGS.toml]",
        help=f"a device to read ({', '.join(PLUGINS)}); give it once for each",
    )
    parsed = parser.parse_args(arguments)
    if parsed.device is None and devices is not None:
        parsed.device = [device.strip() for device in devices.split(",")]
    return parsed


def _add(parser: argparse.ArgumentParser, environ: dict[str, str], option: str, text: str, default: str | None = None) -> None:
    default = environ.get(f"WEBMACS_CONTROLLER_{option.removeprefix('--').replace('-', '_').upper()}", default)
    parser.add_argument(option, required=default is None, default=default, help=text)


def make(parsed: argparse.Namespace) -> Controller:
    """Raises SettingsError and SpoolError."""
    if not parsed.url.startswith(("ws://", "wss://")):
        raise SettingsError(f"--url must begin with ws:// or wss://, not {parsed.url!r}.")
    credential_file = Path(parsed.credential_file)
    try:
        credential = read_credential(credential_file)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"The credential file {credential_file} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from error
    if not credential.isascii() or not credential or len(credential.split()) != 1:
        raise SettingsError(f"The credential file {credential_file} holds no credential: put in what `webmacs source add` printed.")
    if not parsed.spool_mib.isascii() or not parsed.spool_mib.isdigit() or int(parsed.spool_mib) < 1:
        raise SettingsError(f"--spool-mib must be a whole number of MiB from 1, not {parsed.spool_mib!r}.")
    names = [argument.partition("=")[0] for argument in parsed.device]
    if len(set(names)) < len(names):
        raise SettingsError("--device names the same device twice.")
    installed = [install(argument) for argument in parsed.device]
    return Controller(parsed.url, lambda: read_credential(credential_file), Path(parsed.spool), int(parsed.spool_mib) << 20, installed)


async def run(controller: Controller) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await controller.run(stop)


def main(arguments: Sequence[str] | None = None) -> int:
    environ = dict(os.environ)
    if environ.get("WEBMACS_CONTROLLER_FOLLOW_PARENT") == "1":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            return 0  # it died before we asked to follow it
    parsed = parse(arguments, environ)
    if parsed.log_level not in ("debug", "info", "warning", "error"):
        return _say(f"--log-level must be debug, info, warning or error, not {parsed.log_level!r}.")
    logs.set_up(parsed.log_level)
    try:
        controller = make(parsed)
    except (SettingsError, SpoolError) as error:
        return _say(str(error))
    try:
        uvloop.run(run(controller))
    except Exception as error:  # a bug, but nobody is helped by a traceback on the console
        log.error("controller_failed", reason=repr(error))
        return 1
    return 0


def _say(sentence: str) -> int:
    print(f"webmacs-controller: {sentence}", file=sys.stderr)
    return EXIT_SETTINGS


if __name__ == "__main__":
    sys.exit(main())
