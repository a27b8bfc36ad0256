"""Jobs are worked off: claimed, done beside requests on a connection of their own, watched, and told of on the sockets.

A kind is a coroutine. It says how far it is with `work.at(...)`, which is also where it ends when somebody cancelled it, and it commits
in steps of its own. A job outlives its process: one that stops gives it back, one that dies is found by its silence. Its kind says
whether it may begin anew; else it has failed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

import msgspec

from webmacs import logs
from webmacs.fanout.hub import Hub
from webmacs.http import access, audit
from webmacs.http.audit import Actor, Entry
from webmacs.http.guard import Identity
from webmacs.http.problem import Problem, bug
from webmacs.jobs import queue
from webmacs.jobs.queue import Claimed, State
from webmacs.storage import pool as database
from webmacs.storage.faults import FAULTS, passes
from webmacs.storage.listening import listening
from webmacs.storage.pool import Connection, Pool

log = logs.get(__name__)

AT_ONCE: Final = 2
"""Jobs that a process works on; the others wait."""
BEAT_S: Final = 1.0
LOOK_S: Final = 5.0
"""For jobs whose worker has died, and for those that are to be forgotten."""
RETRY_S: Final = 1.0
STATEMENT_S_MAX: Final = 30.0


class Cancelled(Exception):
    """Somebody wants the job to end, or it was taken away."""


@dataclass(slots=True)
class Work:
    """One job as its kind sees it."""

    conn: Connection
    """Of its own, without a transaction."""
    parameters: Mapping[str, Any]
    progress: float = 0.0
    text: str = ""
    stop: bool = False

    def at(self, progress: float, text: str) -> None:
        """How far it is: 0 to 1, and in words. Raises Cancelled: call it where nothing is half done."""
        self.progress, self.text = progress, text
        if self.stop:
            raise Cancelled


@dataclass(frozen=True, slots=True)
class Kind:
    work: Callable[[Work], Awaitable[dict[str, Any]]]
    """Answers the job's result; raises a Problem when it cannot be done."""
    repeatable: bool
    """It may begin anew after it was interrupted: what it did is not done twice."""


INTERRUPTED: Final = Problem(
    500,
    "interrupted",
    "Interrupted",
    "The process that worked on it ended before it was done; look at what was done, and ask for the rest.",
)


class Runner:
    """The jobs of one process. `run()` is its life, `follow()` tells sockets."""

    def __init__(self, pool: Pool, dsn: str, hub: Hub, kinds: Mapping[str, Kind]) -> None:
        self._pool = pool
        self._dsn = dsn
        self._hub = hub
        self._kinds = kinds
        self._id = uuid4()
        self._some = asyncio.Event()

    async def run(self) -> None:
        """Works for ever. When it is cancelled, what was begun is given back."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(self._work_off())
            tasks.create_task(self._look())

    async def follow(self) -> None:
        """For ever: tells each change of a job to the sockets of its owner and of admins, and wakes whoever waits for work."""
        while True:
            try:
                async with listening(self._dsn, queue.CHANNEL) as listener:
                    self._some.set()  # what came while nobody listened
                    while True:
                        await self._tell(UUID((await listener.next()).what))
            except FAULTS as fault:
                log.debug("jobs_lost_database", reason=str(fault))
            await asyncio.sleep(RETRY_S)

    async def _tell(self, public_id: UUID) -> None:
        found = await queue.read(self._pool, public_id)
        if found is None:
            return
        job, owner = found
        if job.state == "queued":
            self._some.set()
        message = msgspec.json.encode({"type": "job", "job": job})
        self._hub.tell(message, lambda identity: is_told(identity, owner))

    async def _look(self) -> None:
        repeatable = [name for name, kind in self._kinds.items() if kind.repeatable]
        while True:
            try:
                async with self._pool.acquire() as conn:
                    await queue.revive(conn, repeatable, INTERRUPTED)
                    await queue.forget_expired(conn)
                self._some.set()
            except FAULTS as fault:
                log.debug("jobs_not_looked_at", reason=str(fault))
            await asyncio.sleep(LOOK_S)

    async def _work_off(self) -> None:
        while True:
            self._some.clear()
            try:
                async with self._pool.acquire() as conn:
                    job = await queue.claim(conn, self._kinds, self._id)
                if job is not None:
                    await self._work(job)
                    continue
            except FAULTS as fault:
                log.warning("job_left", reason=str(fault) or type(fault).__name__)
                await asyncio.sleep(RETRY_S)
                continue
            await self._some.wait()

    async def _work(self, job: Claimed) -> None:
        """Raises the database's faults: then the job is found by its silence, and begun anew or failed."""
        log.info("job_began", job=str(job.public_id), kind=job.kind)
        try:
            conn = await database.connect(self._dsn, command_timeout=STATEMENT_S_MAX)
        except asyncio.CancelledError:
            await self._stop(job)
            raise
        work = Work(conn, job.parameters)
        doing = asyncio.ensure_future(self._kinds[job.kind].work(work))
        beating = asyncio.create_task(self._beat(job, work))
        try:
            await asyncio.wait({doing, beating}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                doing.cancel()  # it was taken away, and is no longer this process's to end
                await asyncio.wait({doing})
                return
            await self._end(job, *_outcome(job, doing))
        except asyncio.CancelledError:
            doing.cancel()
            await asyncio.wait({doing})
            await self._stop(job)
            raise
        finally:
            beating.cancel()
            conn.terminate()

    async def _beat(self, job: Claimed, work: Work) -> None:
        """Until the job is no longer this process's."""
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                stop = await queue.beat(self._pool, job, self._id, work.progress, work.text)
            except FAULTS as fault:
                log.debug("job_without_database", job=str(job.public_id), reason=str(fault))
                continue
            if stop is None:
                return
            work.stop = stop

    async def _end(self, job: Claimed, state: State, result: dict[str, Any] | None, problem: Problem | None) -> None:
        """The end, and its row of the audit log."""
        log.info("job_ended", job=str(job.public_id), kind=job.kind, state=state)
        detail = problem.detail if problem is not None else None
        async with self._pool.acquire() as conn, conn.transaction():
            if await queue.finish(conn, job, self._id, state, result, problem):
                entry = Entry(state, "job", job.public_id, job.subject, None, result, detail)
                await audit.write(conn, Actor("system", None, job.owner_name, None), None, [entry])

    async def _stop(self, job: Claimed) -> None:
        """This process ends."""
        try:
            if self._kinds[job.kind].repeatable:
                async with self._pool.acquire() as conn:
                    await queue.give_back(conn, job, self._id)
            else:
                await self._end(job, "failed", None, INTERRUPTED)
        except FAULTS as fault:
            log.debug("job_left", job=str(job.public_id), reason=str(fault))


def is_concerned(identity: Identity, owner: UUID | None) -> bool:
    """Whose a job is, and admins."""
    return identity.role == "admin" or identity.public_id == owner


def is_told(identity: Identity, owner: UUID | None) -> bool:
    """Of whom it concerns those who could also ask for it, at GET /api/v1/jobs."""
    if identity.kind == "token" and not access.covers(identity.scopes or frozenset(), "jobs:read", by_name=False):
        return False
    return identity.kind != "kiosk" and is_concerned(identity, owner)


def _outcome(job: Claimed, doing: "asyncio.Future[dict[str, Any]]") -> tuple[State, dict[str, Any] | None, Problem | None]:
    """(state, result, problem). Raises the fault of a database that may be back later."""
    try:
        return "done", doing.result(), None
    except Cancelled:
        return "cancelled", None, None
    except Problem as problem:
        return "failed", None, problem
    except Exception as error:  # the top of the job
        if passes(error):
            raise
        log.exception("job_failed", job=str(job.public_id), kind=job.kind)
        return "failed", None, bug()
