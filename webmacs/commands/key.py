"""`webmacs key rotate`: a new key for sessions. Those that have begun go on until they end, 24 h at most."""

import argparse
import sys
from typing import Any

import asyncpg

from webmacs import clock, keys
from webmacs.commands.database import COMMAND_LINE, database_url, with_connection
from webmacs.http import audit
from webmacs.http.audit import Entry
from webmacs.instance import AlreadyRunning, make_data_dir
from webmacs.postgres import PostgresError
from webmacs.settings import Settings
from webmacs.storage.faults import FAULTS


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    keys.rotate_signing_key(make_data_dir(settings.data_dir), clock.now_us())
    print("Sessions are signed with a new key from now on. The former is accepted for 24 h; rotate twice to end every session now.")

    async def tell(conn: "asyncpg.Connection[Any]") -> None:
        await audit.write(conn, COMMAND_LINE, None, [Entry("rotate", "signing key")])

    try:
        with database_url(settings) as url:
            with_connection(url, tell)
    except (*FAULTS, PostgresError, AlreadyRunning) as error:  # a key that has leaked is changed without a database too
        print(f"The audit log does not tell of it: {error}", file=sys.stderr)
    return 0
