"""`webmacs admin create` and `webmacs admin reset-password`: for whoever may read the installation's secrets."""

import argparse
from typing import Any

import asyncpg

from webmacs import accounts, keys
from webmacs.commands.database import bring_up_to_date, database_url, with_connection
from webmacs.instance import make_data_dir
from webmacs.settings import Settings


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    key = accounts.password_key(keys.load_or_make_installation_key(make_data_dir(settings.data_dir)))
    email, password = parsed.email, accounts.new_password()
    username = parsed.username if parsed.action == "create" and parsed.username else email.partition("@")[0]

    async def create(conn: "asyncpg.Connection[Any]") -> None:
        await accounts.create_user(conn, key, email=email, username=username, password=password, role="admin")

    async def reset(conn: "asyncpg.Connection[Any]") -> None:
        await accounts.reset_password(conn, key, email=email, password=password)

    with database_url(settings) as url:
        bring_up_to_date(url)
        with_connection(url, create if parsed.action == "create" else reset)
    print(f"e-mail    {email}\npassword  {password}")
    return 0
