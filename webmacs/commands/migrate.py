"""`webmacs migrate`: brings the database's schema up to date. Several at once do not race."""

import argparse

from webmacs.commands.database import bring_up_to_date, database_url
from webmacs.settings import Settings
from webmacs.storage.migrate import head


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    with database_url(settings) as url:
        changed = bring_up_to_date(url)
    print(f"The database was brought to schema {head()}." if changed else f"The database has schema {head()} already.")
    return 0
