"""`webmacs admin create` and `webmacs admin reset-password`: for whoever may read the installation's secrets."""

import argparse
import sys
from typing import Any

import asyncpg

from webmacs import accounts, keys
from webmacs.commands import making
from webmacs.commands.database import bring_up_to_date, database_url, with_connection
from webmacs.instance import make_data_dir
from webmacs.settings import Settings


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    key = accounts.password_key(keys.load_or_make_installation_key(make_data_dir(settings.data_dir)))
    email, password, issuer = parsed.email, accounts.new_password(), settings.sso_issuer
    username = parsed.username if parsed.action == "create" and parsed.username else email.partition("@")[0]

    async def create(conn: "asyncpg.Connection[Any]") -> None:
        await making.make_user(conn, key, issuer, email=email, username=username, password=password, role="admin")

    async def reset(conn: "asyncpg.Connection[Any]") -> None:
        await making.reset_password(conn, key, issuer, email=email, password=password)

    with database_url(settings) as url:
        bring_up_to_date(url)
        with_connection(url, create if parsed.action == "create" else reset)
    print(f"The password is good for {accounts.INITIAL_PASSWORD_H} h; the user chooses another when they sign in.", file=sys.stderr)
    print(f"e-mail    {email}\npassword  {password}")
    return 0
