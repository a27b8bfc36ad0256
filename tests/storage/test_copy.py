"""Rows by COPY while the server takes nothing: the end of the connection is an error, and not a wait for ever."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import asyncpg
import pytest

from webmacs.storage import copy, pool
from webmacs.storage.faults import FAULTS, passes

CHUNK: Final = b"x" * (1 << 20)
CHUNKS: Final = 64
"""Far more than the sockets' buffers hold."""


@contextmanager
def frozen(pid: int) -> Iterator[int]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


class Parts(list[bytes]):
    """What is to be written; counts how much of it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.begun = asyncio.Event()

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(CHUNKS):
            self.asked += 1
            self.begun.set()
            yield CHUNK


async def until_asked(parts: Parts, copying: "asyncio.Task[Any]") -> None:
    """Waits until the sockets are full: the writer has a part and asks for no other."""
    await parts.begun.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert parts.asked < CHUNKS
    assert not copying.done()


async def test_the_end_of_a_connection_that_takes_nothing_is_noticed(module_database: str) -> None:
    """As of a server that is stopped while its disk is busy: the driver alone waits for room for ever."""
    conn = await pool.connect(module_database)
    other = await pool.connect(module_database)
    parts = Parts()
    with frozen(conn.get_server_pid()) as server:
        copying = asyncio.create_task(copy.copy_rows(conn, "datapoints", ["payload"], parts))
        await until_asked(parts, copying)
        await other.execute("SELECT pg_terminate_backend($1)", server)
    with pytest.raises(FAULTS) as failed:
        async with asyncio.timeout(20):
            await copying
    assert passes(failed.value)
    assert not isinstance(failed.value, TimeoutError)
    assert conn.is_closed()
    await other.close()


async def test_a_server_that_takes_nothing_for_long_is_given_up(module_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy, "COPY_S_MAX", 0.2)
    conn = await pool.connect(module_database)
    with frozen(conn.get_server_pid()), pytest.raises(asyncpg.ConnectionDoesNotExistError):
        await asyncio.wait_for(copy.copy_rows(conn, "datapoints", ["payload"], Parts()), 20)
    assert conn.is_closed()


async def test_so_is_that_of_a_connection_of_the_pool_which_opens_another(module_database: str) -> None:
    opened = await pool.open_pool(module_database, 1)
    other = await pool.connect(module_database)
    await other.execute("CREATE TABLE kept (what text)")
    server = await opened.fetchval("SELECT pg_backend_pid()")
    texts = Parts()

    def records() -> Iterator[tuple[str]]:
        os.kill(server, signal.SIGSTOP)  # now: what the driver asks before must be answered
        for text in texts:
            yield (text.decode(),)

    async def write() -> None:
        async with opened.acquire() as conn:
            await copy.copy_records(conn, "kept", ["what"], records())

    writing = asyncio.create_task(write())
    await until_asked(texts, writing)
    await other.execute("SELECT pg_terminate_backend($1)", server)
    os.kill(server, signal.SIGCONT)
    with pytest.raises(FAULTS):
        await asyncio.wait_for(writing, 20)
    assert await opened.fetchval("SELECT count(*) FROM kept") == 0
    await opened.close()
    await other.close()
