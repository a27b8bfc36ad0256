"""Jobs: work that takes longer than a request may. A row of `jobs` is all there is of one; every statement on them stands here.

Each change is told on CHANNEL with the job's public id, in its transaction: to processes that work, and to those whose sockets show it.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from webmacs import clock
from webmacs.http.audit import Actor
from webmacs.http.problem import Problem, ProblemDocument
from webmacs.http.shape import Timestamp
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Connection, Pool

CHANNEL: Final = "webmacs_jobs"
State = Literal["queued", "running", "done", "failed", "cancelled"]
KEPT_DAYS: Final = 7
"""After its end, where the settings do not say otherwise."""
SILENCE_S: Final = 15.0
"""Whoever works on a job says so every second; after so long a silence it has died."""
ATTEMPTS_MAX: Final = 5
"""A job whose worker died so often is no longer tried: it may be what kills it."""


class Job(msgspec.Struct, frozen=True):
    public_id: UUID
    kind: Annotated[str, Meta(examples=["delete_readings"])]
    subject: Annotated[str, Meta(description="What it is about.", examples=["readings of 12 events"])]
    owner: Annotated[str | None, Meta(description="Who asked for it.")]
    state: State
    progress: Annotated[float, Meta(ge=0, le=1)]
    progress_text: str
    result: Annotated[dict[str, Any] | None, Meta(description="Of one that is done; what it holds depends on the kind.")]
    problem: Annotated[ProblemDocument | None, Meta(description="Why it failed.")]
    cancel_requested: bool
    created_on: Timestamp
    started_on: Timestamp | None
    finished_on: Timestamp | None
    expires_on: Annotated[Timestamp | None, Meta(description="When it is forgotten; null until it is over.")]


class Claimed(msgspec.Struct, frozen=True):
    """A job that this process works on."""

    id: int
    public_id: UUID
    kind: str
    subject: str
    parameters: dict[str, Any]
    owner_name: str | None


SELECT: Final = """
    SELECT id, public_id, kind, subject, owner_name AS owner, state, progress, progress_text, result, problem, cancel_requested,
           created_on, started_on, finished_on, expires_on, owner_public_id
      FROM jobs
"""
OVER: Final = f"""
    finished_on = $2::timestamptz, runner = NULL, expires_on = $2 + make_interval(days => coalesce(
        (SELECT (content->>'jobs_kept_days')::int4 FROM settings), {KEPT_DAYS}))
"""  # noqa: S608 - ours


async def enqueue(conn: Connection, kind: str, subject: str, parameters: Any, owner: Actor) -> Job:
    """In the transaction of the request that asks for it. `parameters`: what the kind's work takes, as a Struct."""
    public_id = uuid7()
    row = await conn.fetchrow(
        """INSERT INTO jobs (public_id, kind, subject, parameters, owner_public_id, owner_name, created_on)
           VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING *, owner_name AS owner""",
        public_id, kind, subject, msgspec.to_builtins(parameters), owner.public_id, owner.name, clock.now(),
    )  # fmt: skip
    await _tell(conn, public_id)
    return job_of(row)


async def read(database: Pool | Connection, public_id: UUID, *, lock: bool = False) -> tuple[Job, UUID | None] | None:
    """(the job, its owner), None when there is none. With `lock` nobody else changes it until the transaction ends."""
    row = await database.fetchrow(f"{SELECT} WHERE public_id = $1" + (" FOR NO KEY UPDATE" if lock else ""), public_id)
    return None if row is None else (job_of(row), row["owner_public_id"])


async def find_unfinished(conn: Connection, kind: str, sought: Sequence[Mapping[str, Any]]) -> Job | None:
    """The oldest job that waits or is worked on, and whose parameters hold all that stands in one of `sought`."""
    row = await conn.fetchrow(
        f"""{SELECT} WHERE finished_on IS NULL AND kind = $1
                       AND EXISTS (SELECT FROM jsonb_array_elements($2) AS s (part) WHERE parameters @> s.part) ORDER BY id LIMIT 1""",
        kind, sought,
    )  # fmt: skip
    return None if row is None else job_of(row)


def job_of(row: Any) -> Job:
    return msgspec.convert({name: row[name] for name in Job.__struct_fields__}, Job)


async def claim(conn: Connection, kinds: Collection[str], runner: UUID) -> Claimed | None:
    """The oldest job that waits is this process's now; None when none does."""
    async with conn.transaction():
        row = await conn.fetchrow(
            """UPDATE jobs SET state = 'running', runner = $2, heartbeat_on = now(), started_on = $3, attempts = attempts + 1
                WHERE id = (SELECT id FROM jobs WHERE state = 'queued' AND kind = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1)
            RETURNING id, public_id, kind, subject, parameters, owner_name""",
            list(kinds), runner, clock.now(),
        )  # fmt: skip
        if row is None:
            return None
        await _tell(conn, row["public_id"])
        return Claimed(**row)


async def beat(pool: Pool, job: Claimed, runner: UUID, progress: float, text: str) -> bool | None:
    """Says that the work goes on, and how far it is. Answers whether it shall stop; None: it was taken away."""
    row = await pool.fetchrow(
        """WITH told AS (UPDATE jobs j SET heartbeat_on = now(), progress = $3, progress_text = $4
                           FROM (SELECT id, progress, progress_text FROM jobs WHERE id = $1) AS before
                          WHERE j.id = before.id AND j.runner = $2
                      RETURNING j.cancel_requested, (before.progress, before.progress_text) IS DISTINCT FROM ($3, $4) AS further)
           SELECT cancel_requested, CASE WHEN further THEN pg_notify($5, $6) END FROM told""",
        job.id, runner, progress, text, CHANNEL, str(job.public_id),
    )  # fmt: skip
    return None if row is None else row["cancel_requested"]


async def finish(
    conn: Connection, job: Claimed, runner: UUID, state: State, result: Mapping[str, Any] | None = None, problem: Problem | None = None
) -> bool:
    """Ends it, in a transaction of the caller's. False: it was taken away meanwhile."""
    ended = await conn.fetchval(
        f"""UPDATE jobs SET state = $4, result = $5, problem = $6, progress = CASE $4::text WHEN 'done' THEN 1 ELSE progress END, {OVER}
             WHERE id = $1 AND runner = $3 RETURNING true""",  # noqa: S608 - ours
        job.id, clock.now(), runner, state, result, None if problem is None else msgspec.to_builtins(problem.document()),
    )  # fmt: skip
    if ended:
        await _tell(conn, job.public_id)
    return ended is not None


async def give_back(conn: Connection, job: Claimed, runner: UUID) -> None:
    """It waits again, for whoever comes next: this process ends."""
    async with conn.transaction():
        await conn.execute(
            "UPDATE jobs SET state = 'queued', runner = NULL, attempts = attempts - 1 WHERE id = $1 AND runner = $2", job.id, runner
        )
        await _tell(conn, job.public_id)


async def revive(conn: Connection, repeatable: Collection[str], interrupted: Problem) -> None:
    """Jobs whose worker has died: those that may begin anew wait again, unless that happened too often; the others have failed."""
    async with conn.transaction():
        dead = await conn.fetch(
            f"""SELECT id, public_id, kind = ANY($1) AND attempts < {ATTEMPTS_MAX} AND NOT cancel_requested AS again FROM jobs
                 WHERE state = 'running' AND heartbeat_on < now() - make_interval(secs => {SILENCE_S}) FOR UPDATE SKIP LOCKED""",  # noqa: S608 - ours
            list(repeatable),
        )
        for row in dead:
            if row["again"]:
                await conn.execute("UPDATE jobs SET state = 'queued', runner = NULL WHERE id = $1", row["id"])
            else:
                await conn.execute(
                    f"UPDATE jobs SET state = 'failed', problem = $3, {OVER} WHERE id = $1",  # noqa: S608 - ours
                    row["id"], clock.now(), msgspec.to_builtins(interrupted.document()),
                )  # fmt: skip
            await _tell(conn, row["public_id"])


async def cancel(conn: Connection, public_id: UUID, *, running: bool) -> None:
    """One that waits is over; one that is worked on is asked to stop."""
    if running:
        await conn.execute("UPDATE jobs SET cancel_requested = true WHERE public_id = $1", public_id)
    else:
        await conn.execute(
            f"UPDATE jobs SET state = 'cancelled', cancel_requested = true, {OVER} WHERE public_id = $1",  # noqa: S608 - ours
            public_id, clock.now(),
        )  # fmt: skip
    await _tell(conn, public_id)


async def forget_expired(conn: Connection) -> None:
    await conn.execute("DELETE FROM jobs WHERE expires_on < $1", clock.now())


async def _tell(conn: Connection, public_id: UUID) -> None:
    await conn.execute("SELECT pg_notify($1, $2)", CHANNEL, str(public_id))
