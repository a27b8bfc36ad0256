"""What runs besides requests: core and flush, fan-out, catalogue, upkeep of days, compaction, jobs; and the orderly end of it all."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Final
from uuid import uuid4

import orjson
from starlette.applications import Starlette

from webmacs import accounts, clock, logs
from webmacs.fanout.hub import Hub
from webmacs.http import idempotency
from webmacs.http.audit import Refusals
from webmacs.http.socket import CLOSE_STOP, OpenSockets
from webmacs.ingest_core import Core
from webmacs.jobs import deletion
from webmacs.jobs.runner import Runner
from webmacs.storage.compact import Compactor
from webmacs.storage.faults import FAULTS
from webmacs.storage.partitions import ensure_partitions
from webmacs.storage.pool import Pool
from webmacs.storage.vitals import Vitals
from webmacs.telemetry import status
from webmacs.telemetry.catalogue import Catalogue
from webmacs.telemetry.flush import Flusher
from webmacs.telemetry.intake import Intake

log = logs.get(__name__)

DRAIN_S_MAX: Final = 5.0
"""At the end: what was received is committed and acknowledged within this time, or its sources send it again."""
UPKEEP_S: Final = 3600.0
EXIT_BROKEN: Final = 70


@asynccontextmanager
async def run(app: Starlette, pool: Pool, dsn: str, vitals: Vitals, refusals: Refusals) -> AsyncIterator[None]:
    """Starts everything and hangs what sockets need on `app.state`: core, hub, catalogue, intake, sockets."""
    core = Core()
    hub = Hub(core)
    owner = uuid4()
    flusher = Flusher(core, dsn, vitals, owner)
    catalogue = Catalogue(pool, core, flusher.flushing, lambda what: hub.broadcast(orjson.dumps({"type": "config", "what": what})))
    intake = Intake(pool, core, flusher, catalogue, vitals, owner)
    sockets = OpenSockets(app.state.parts.settings)
    jobs = Runner(pool, dsn, hub, {deletion.DELETE_READINGS: deletion.KIND})
    app.state.hub, app.state.catalogue, app.state.intake, app.state.sockets = hub, catalogue, intake, sockets
    async with pool.acquire() as conn:
        await ensure_partitions(conn, clock.now_us())
    await catalogue.load()
    await catalogue.load_latest(pool)
    tasks = [
        asyncio.create_task(_vital(name, work))
        for name, work in (
            ("flush", flusher.run()),
            ("hub", hub.run()),
            ("catalogue", catalogue.follow(dsn)),
            ("status", status.tell(pool, hub, intake, vitals)),
            ("sweep", sockets.sweep(pool)),
            ("upkeep", _keep_up(pool)),
            ("refusals", refusals.run(pool)),
            ("compaction", Compactor(dsn, vitals).run()),
            ("jobs", jobs.run()),
            ("jobs_told", jobs.follow()),
        )
    ]

    async def drain() -> None:
        try:
            async with asyncio.timeout(DRAIN_S_MAX):
                await flusher.barrier()
        except TimeoutError:
            log.warning("drain_given_up", reason="storing was not possible; sources will send again what was not acknowledged")
        await sockets.end_all(CLOSE_STOP, "the backend stops")

    restore = _drain_before_stop(drain)
    try:
        yield
    finally:
        restore()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(*FAULTS):
            await refusals.write(pool)


async def _vital(name: str, work: Awaitable[None]) -> None:
    """Without this task the process cannot do its work: a fault nobody foresaw ends it, the supervisor starts it anew."""
    try:
        await work
    except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic of the core is no Exception
        log.exception("task_failed", task=name)
        os._exit(EXIT_BROKEN)


async def _keep_up(pool: Pool) -> None:
    """Makes the days that come, and forgets what is kept for a time only."""
    while True:
        await asyncio.sleep(UPKEEP_S)
        try:
            async with pool.acquire() as conn:
                await ensure_partitions(conn, clock.now_us())
                await idempotency.forget_old(conn)
                await accounts.forget_ended(conn, clock.now())
        except FAULTS as fault:
            log.warning("upkeep_failed", reason=str(fault))


def _drain_before_stop(drain: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """The server cuts its sockets as soon as SIGTERM comes, before the application's shutdown: so the signal waits for the drain."""
    loop = asyncio.get_running_loop()
    previous = signal.getsignal(signal.SIGTERM)
    draining: set[asyncio.Task[None]] = set()

    async def drain_then_stop(signum: int, frame: FrameType | None) -> None:
        await drain()
        if callable(previous):
            previous(signum, frame)
        else:
            signal.signal(signum, previous)
            signal.raise_signal(signum)

    def begin(signum: int, frame: FrameType | None) -> None:
        if not draining:
            loop.call_soon_threadsafe(lambda: draining.add(loop.create_task(drain_then_stop(signum, frame))))

    signal.signal(signal.SIGTERM, begin)

    def restore() -> None:
        signal.signal(signal.SIGTERM, previous)

    return restore
