"""`webmacs source add NAME`: registers a controller and prints its credential, which is shown only this once."""

import argparse
import sys
from typing import Any

import asyncpg

from webmacs import accounts
from webmacs.api import sources
from webmacs.commands.database import COMMAND_LINE, bring_up_to_date, database_url, with_connection
from webmacs.http import audit
from webmacs.settings import Settings


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    async def add(conn: "asyncpg.Connection[Any]") -> str:
        async with conn.transaction():
            public_id, credential = await accounts.create_source(conn, parsed.name)
            entry, version = audit.change_of(None, await sources.read(conn, public_id), "source")
            await audit.account(conn, COMMAND_LINE, None, [entry], [] if version is None else [version], ["sources"])
        return credential

    with database_url(settings) as url:
        bring_up_to_date(url)
        credential = with_connection(url, add)
    print(f"Source {parsed.name} is registered. Put this credential into its controller's credential file:", file=sys.stderr)
    print(credential)
    return 0
