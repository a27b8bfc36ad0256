"""`webmacs admin create` and `webmacs admin reset-password`: for whoever may read the installation's secrets."""

import argparse
import sys
from typing import Any

import asyncpg

from webmacs import accounts, keys
from webmacs.api import users
from webmacs.commands.database import COMMAND_LINE, bring_up_to_date, database_url, with_connection
from webmacs.http import audit
from webmacs.instance import make_data_dir
from webmacs.settings import Settings


def run(parsed: argparse.Namespace, settings: Settings) -> int:
    key = accounts.password_key(keys.load_or_make_installation_key(make_data_dir(settings.data_dir)))
    email, password = parsed.email, accounts.new_password()
    username = parsed.username if parsed.action == "create" and parsed.username else email.partition("@")[0]

    async def create(conn: "asyncpg.Connection[Any]") -> None:
        async with conn.transaction():
            until = accounts.initial_until()
            public_id = await accounts.create_user(
                conn, key, email=email, username=username, password=password, role="admin", initial_password_until=until
            )
            await account(conn, None, await users.read(conn, settings.sso_issuer, public_id), "create")

    async def reset(conn: "asyncpg.Connection[Any]") -> None:
        async with conn.transaction():
            public_id = await conn.fetchval("SELECT public_id FROM users WHERE lower(email) = lower($1) FOR NO KEY UPDATE", email)
            before = None if public_id is None else await users.read(conn, settings.sso_issuer, public_id)
            await accounts.reset_password(conn, key, email=email, password=password)
            await account(conn, before, await users.read(conn, settings.sso_issuer, public_id), "password_changed")

    with database_url(settings) as url:
        bring_up_to_date(url)
        with_connection(url, create if parsed.action == "create" else reset)
    print(f"The password is good for {accounts.INITIAL_PASSWORD_H} h; the user chooses another when they sign in.", file=sys.stderr)
    print(f"e-mail    {email}\npassword  {password}")
    return 0


async def account(conn: "asyncpg.Connection[Any]", before: users.User | None, after: users.User, action: str) -> None:
    entry, version = audit.change_of(before, after, "user", action=action, name=after.username)
    await audit.account(conn, COMMAND_LINE, None, [entry], [] if version is None else [version], ["access"])
