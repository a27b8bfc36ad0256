"""`webmacs source add NAME`: registers a controller and prints its credential, which is shown only this once."""

import argparse
import sys
from typing import Any

import asyncpg

from webmacs.commands import making
from webmacs.commands.database import bring_up_to_date, database_url, with_connection
from webmacs.settings import Settings


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    async def add(conn: "asyncpg.Connection[Any]") -> str:
        return await making.make_source(conn, parsed.name)

    with database_url(settings) as url:
        bring_up_to_date(url)
        credential = with_connection(url, add)
    print(f"Source {parsed.name} is registered. Put this credential into its controller's credential file:", file=sys.stderr)
    print(credential)
    return 0
