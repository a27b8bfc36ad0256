"""The command line, `webmacs`. A command is a module of `webmacs.commands`, imported only when it runs, so that each starts quickly."""

import argparse
import asyncio
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from webmacs import logs
from webmacs.settings import SettingsError, load

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
EXIT_SETTINGS = 78
"""A setting is unknown or wrong (EX_CONFIG of sysexits.h): starting again does not help."""


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Runs one command and returns its exit code. What went wrong is one sentence on stderr; a traceback only at log level debug."""
    parsed = parser().parse_args(arguments)
    given = {name: value for name in ("host", "port", "data_dir") if (value := getattr(parsed, name, None)) is not None}
    try:
        settings = load(environ, given)
        logs.set_up(settings.log_level)
        return int(importlib.import_module(f"webmacs.commands.{parsed.command}").run(parsed, settings))
    except SettingsError as error:
        print(f"webmacs: {error}", file=sys.stderr)
        return EXIT_SETTINGS
    except (KeyboardInterrupt, asyncio.CancelledError):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_FAILED
    except Exception as error:
        print(f"webmacs: {sentence(error)}", file=sys.stderr)
        if environ.get("WEBMACS_LOG_LEVEL") == "debug":
            traceback.print_exception(error)
        return EXIT_FAILED


def sentence(error: Exception) -> str:
    """What to tell a person. Our own errors are sentences already; anything else is named as what it is."""
    if type(error).__module__.startswith("webmacs."):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    return f"unexpected {type(error).__name__}: {error}. Set WEBMACS_LOG_LEVEL=debug to see where, and report it."


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    top = argparse.ArgumentParser(
        prog="webmacs",
        description="Sensor monitoring, data acquisition and automation for people who run machines.",
        epilog="Settings come from the command line, WEBMACS_* variables or a file: `webmacs settings` lists them.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")

    up = commands.add_parser("up", help="start the whole system: database, backend, controller", description=(
        "Starts everything in one go, prints the address, and stops everything in order on Ctrl-C. Without WEBMACS_DATABASE_URL it runs"
        " a PostgreSQL of its own in the data directory."))  # fmt: skip
    serve = commands.add_parser("serve", help="start the backend alone, on an existing database", description=(
        "Starts the backend alone. It needs WEBMACS_DATABASE_URL and a migrated database (`webmacs migrate`)."))  # fmt: skip
    for command in (up, serve):
        command.add_argument("--host", metavar="ADDRESS", help="address to listen on (default 127.0.0.1; 0.0.0.0 is every network)")
        command.add_argument("--port", type=int, metavar="PORT", help="port to listen on (default 8000; 0 takes a free one)")

    migrate = commands.add_parser("migrate", help="bring the database's schema up to date", description=(
        "Brings the database's schema up to date. Several at once do not race: one migrates, the others wait."))  # fmt: skip

    admin = commands.add_parser("admin", help="make an administrator, or reset a password", description="Administrators.")
    actions = admin.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    create = actions.add_parser("create", help="make an administrator and print the generated password")
    create.add_argument("--username", metavar="NAME", help="name shown to others (default: the e-mail up to the @)")
    reset = actions.add_parser("reset-password", help="generate a new password for a user; open sessions end")
    for action in (create, reset):
        action.add_argument("--email", default="admin@webmacs.local", metavar="ADDRESS", help="the user's e-mail (default %(default)s)")

    source = commands.add_parser("source", help="register a controller", description="Sources: whoever sends readings.")
    source_actions = source.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    add = source_actions.add_parser("add", help="register a controller and print its credential, once")
    add.add_argument("name", metavar="NAME", help="how the source is called, such as the machine's name")

    key = commands.add_parser("key", help="make a new key for sessions", description="The key that signs sessions.")
    rotate = key.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions").add_parser(
        "rotate", help="make a new one; sessions that have begun go on until they end"
    )

    status = commands.add_parser("status", help="tell whether WebMACS runs and how it is", description=(
        "Tells whether WebMACS runs and how it is. Exit code 0: it runs, 3: it does not."))  # fmt: skip
    status.add_argument("--json", action="store_true", help="print JSON")

    settings = commands.add_parser("settings", help="list every setting, its value and where it comes from")
    settings.add_argument("--markdown", action="store_true", help="print the page docs/settings.md")
    commands.add_parser("openapi", help="print the OpenAPI document of the REST interface")

    loadtest = commands.add_parser("loadtest", help="send readings as fast as an installation stores them", description=(
        "Sends readings as fast as an installation takes them, and says how many were stored and how long it took. They are stored like"
        " any others, an hour back, and their channels stay on the dashboard: use an installation that may hold them."))  # fmt: skip
    loadtest.add_argument("--url", default="ws://127.0.0.1:8000", metavar="URL", help="where the backend is (default %(default)s)")
    loadtest.add_argument(
        "--credential-file", type=Path, required=True, metavar="FILE", help="credentials of sources, one a line: a connection for each"
    )
    loadtest.add_argument("--channels", type=int, default=500, metavar="N", help="channels in a frame (default %(default)s)")
    loadtest.add_argument("--readings", type=int, default=200, metavar="N", help="of each channel in a frame (default %(default)s)")
    loadtest.add_argument("--seconds", type=float, default=10.0, metavar="S", help="how long to send (default %(default)s)")
    loadtest.add_argument("--frames-per-s", type=float, metavar="N", help="of each connection, a second (default: as fast as it goes)")

    for command in (up, serve, migrate, create, reset, add, rotate, status):
        command.add_argument("--data", dest="data_dir", type=Path, metavar="DIR", help="data directory (default ./data)")
    return top


if __name__ == "__main__":
    sys.exit(main())
