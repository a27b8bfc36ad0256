"""Connections to PostgreSQL: their codecs, their time limits, and one clear sentence when there is none."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import asyncpg
import orjson
from asyncpg.pool import PoolConnectionProxy

if TYPE_CHECKING:  # the driver's classes are generic in its stubs only
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:
    Pool = asyncpg.Pool
    Connection = asyncpg.Connection | PoolConnectionProxy

SERVER_VERSION_MIN: Final = 17
CONNECT_S_MAX: Final = 5.0
STATEMENT_S_MAX: Final = 8.0
"""The server ends a longer statement: a locked table or a slow disk becomes an answer, not a wait."""
COMMAND_S_MAX: Final = 9.0
"""The same limit on our side, for a server that does not answer at all."""
IDLE_IN_TRANSACTION_S_MAX: Final = 30.0
LINE_S_MAX: Final = 12.0
"""The server gives a connection up when what it sends is not acknowledged for so long."""


class DatabaseError(ConnectionError):
    """The database cannot be used. The message is one sentence: what, where and how to mend it."""


async def open_pool(dsn: str, size: int) -> Pool:
    """At most `size` connections, of which one is opened and judged now. Raises DatabaseError.

    They are for requests, many small ones: a statement on small tables is planned once and not each time (0.3 ms of the server's
    processor), whatever the server's own `plan_cache_mode` is. What reads `datapoints` by its parameters is costed with each of its
    partitions, so that PostgreSQL goes on planning it anew.
    """
    with _clear_errors(dsn):
        pool = await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=size,
            timeout=CONNECT_S_MAX,
            command_timeout=COMMAND_S_MAX,
            init=_prepare,
            reset=_leave,
            server_settings=_server_settings(STATEMENT_S_MAX) | {"plan_cache_mode": "auto"},
        )
        async with pool.acquire() as conn:
            major = conn.get_server_version().major
    if major < SERVER_VERSION_MIN:
        await pool.close()
        raise DatabaseError(f"The database at {_place(dsn)} is PostgreSQL {major}; WebMACS needs {SERVER_VERSION_MIN} or newer.")
    return pool


async def connect(dsn: str, *, command_timeout: float = COMMAND_S_MAX) -> "asyncpg.Connection[asyncpg.Record]":
    """One connection outside the pool (listening, flushing), with the same codecs. Raises DatabaseError."""
    with _clear_errors(dsn):
        conn = await asyncpg.connect(
            dsn, timeout=CONNECT_S_MAX, command_timeout=command_timeout, server_settings=_server_settings(command_timeout)
        )
        await _prepare(conn)
    return conn


def _server_settings(statement_s: float) -> dict[str, str]:
    return {
        "application_name": "webmacs",
        "timezone": "GMT",
        "statement_timeout": str(int(statement_s * 1_000)),
        "idle_in_transaction_session_timeout": str(int(IDLE_IN_TRANSACTION_S_MAX * 1_000)),
        # a client whose machine or line is gone keeps no locks: in a COPY none of the limits above counts, and TCP itself waits for hours
        "tcp_keepalives_idle": "5",
        "tcp_keepalives_interval": "2",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": str(int(LINE_S_MAX * 1_000)),
    }


class Session(NamedTuple):
    """One connection as the server knows it; a pid alone may be another's in time."""

    pid: int
    began: datetime


async def session_of(conn: Connection) -> Session:
    (row,) = await conn.fetch("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
    return Session(row["pid"], row["backend_start"])


async def end_session(conn: Connection, session: Session) -> None:
    """Ends another connection of the same user, with its transaction and its locks, where it lives on behind a line that is dead."""
    await conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2", *session)


@contextmanager
def _clear_errors(dsn: str) -> Iterator[None]:
    """Turns what can go wrong while connecting into a DatabaseError."""
    where = _place(dsn)
    try:
        yield
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError):
        raise DatabaseError(f"The database at {where} refuses this user or password; correct WEBMACS_DATABASE_URL.") from None
    except asyncpg.InvalidCatalogNameError:
        raise DatabaseError(f"There is no database {where}; create it or correct WEBMACS_DATABASE_URL.") from None
    except asyncpg.CannotConnectNowError:
        raise DatabaseError(f"The database at {where} is starting or stopping; try again in a moment.") from None
    except asyncpg.TooManyConnectionsError:
        raise DatabaseError(
            f"The database at {where} has no free connection; raise its max_connections or end other users of it."
        ) from None
    except (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError) as error:
        reason = str(error) or "no answer"
        raise DatabaseError(f"The database at {where} cannot be reached ({reason}); start it or correct WEBMACS_DATABASE_URL.") from None


async def _prepare(conn: Connection) -> None:
    """jsonb as objects; UUIDs (the driver's own kind of them) and times, aware and in UTC, come by themselves."""
    await conn.set_type_codec("jsonb", schema="pg_catalog", encoder=_encode_json, decoder=_decode_json, format="binary")


async def _leave(conn: Connection) -> None:
    """Nothing: an open transaction the driver itself rolls back first. Its own reset (listeners, session variables, session locks) is a
    round trip after each request, and nobody may leave such things on a connection of the pool."""


def _encode_json(value: object) -> bytes:
    return b"\x01" + orjson.dumps(value, default=_spell)


def _spell(value: object) -> str:
    """The driver's UUIDs are no plain ones for orjson."""
    if isinstance(value, uuid.UUID):
        return str(value)
    raise TypeError


def _decode_json(data: bytes) -> Any:
    return orjson.loads(data[1:])


def _place(dsn: str) -> str:
    """host/database of a DSN, without user and password."""
    rest = dsn.partition("://")[2]
    return rest.rpartition("@")[2].partition("?")[0] or "the given address"
