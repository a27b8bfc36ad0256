"""`webmacs serve`: the backend alone, in one Granian worker. It ends in order on SIGTERM, and its worker cannot outlive it."""

import argparse
import signal
import socket
from functools import partial
from typing import Any

from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import Server as Granian

from webmacs import logs, processes
from webmacs.settings import Settings, SettingsError

DRAIN_S_MAX = 15
"""A worker that has not ended this long after SIGTERM is killed; what it had not committed was not acknowledged."""
HEADER_S_MAX = 10.0
"""A request whose headers are not there by then is cut; so is a connection that asks nothing for as long."""
GRANIAN_LOGS: dict[str, Any] = {
    "loggers": {
        "_granian": {"handlers": [], "propagate": True},
        "granian.access": {"handlers": [], "propagate": True},
    },
    "handlers": {},
    "formatters": {},
}


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    if settings.database_url is None:
        raise SettingsError("`webmacs serve` needs WEBMACS_DATABASE_URL; `webmacs up` brings its own database.")
    server = Granian(
        "webmacs.app",
        address=str(socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][4][0]),
        port=settings.port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=round(HEADER_S_MAX * 1_000)),
        loop=Loops.uvloop,
        workers=1,
        workers_kill_timeout=DRAIN_S_MAX,
        log_level=LogLevels.warning,
        log_dictconfig=GRANIAN_LOGS,
    )
    server.serve(target_loader=partial(make_app, settings), wrap_loader=False)
    return 0


def make_app(settings: Settings) -> Any:
    """Called in the worker, in its main thread: a worker whose parent is killed would hold the port and go on writing."""
    processes.die_with_parent(signal.SIGKILL)
    logs.set_up(settings.log_level)
    from webmacs.app import create_app

    return create_app(settings)
