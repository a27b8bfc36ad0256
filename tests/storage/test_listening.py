"""LISTEN: a connection that ends, or whose other end is silently gone, is noticed."""

import asyncio
from functools import partial

import pytest
from parts.proxy import DatabaseProxy

from webmacs.storage import listening as module
from webmacs.storage import pool
from webmacs.storage.faults import FAULTS
from webmacs.storage.listening import Word, listening


async def test_words_of_each_channel_are_heard_and_an_end_is_an_error(module_database: str) -> None:
    other = await pool.connect(module_database)
    async with listening(module_database, "one", "two") as listener:
        await other.execute("SELECT pg_notify('one', 'a'); SELECT pg_notify('two', 'b'); SELECT pg_notify('three', 'c')")
        assert await listener.next() == Word("one", "a")
        assert await listener.next() == Word("two", "b")
        await other.execute("SELECT pg_terminate_backend($1)", listener.conn.get_server_pid())
        with pytest.raises(FAULTS):
            await asyncio.wait_for(listener.next(), 20)
    await other.close()


async def test_who_hears_nothing_asks_whether_the_other_end_is_there(module_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET_S", 0.1)
    monkeypatch.setattr(module, "connect", partial(pool.connect, command_timeout=1.0))
    async with DatabaseProxy(module_database) as proxy, listening(proxy.database, "one") as listener:
        hearing = asyncio.create_task(listener.next())
        assert await asyncio.wait({hearing}, timeout=0.5) == (set(), {hearing})  # asked several times, and answered
        proxy.black_hole = True
        with pytest.raises(FAULTS):
            await asyncio.wait_for(hearing, 20)
        proxy.black_hole = False
