"""Jobs: what was asked for and takes longer than a request may. A request that starts one answers 202 and where to look."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from webmacs.http.page import Page, PageQuery, fetch_page
from webmacs.http.problem import Conflict, NotFound
from webmacs.http.route import Call, route
from webmacs.jobs import queue
from webmacs.jobs.queue import Job, State
from webmacs.jobs.runner import is_concerned
from webmacs.storage.pool import Connection, Pool


class JobsQuery(PageQuery, frozen=True):
    sort: Literal["created_on", "-created_on", "finished_on", "-finished_on"] = "-created_on"
    kind: Annotated[Annotated[str, Meta(max_length=50)] | None, Meta(description="Only those of this kind.")] = None
    state: Annotated[State | None, Meta(description="Only those in this state.")] = None


@route("GET", "/api/v1/jobs")
async def list_jobs(call: Call[None, JobsQuery]) -> Page[Job]:
    """List your jobs, the newest first; an admin sees everybody's. `search` looks into their subjects."""
    query = call.query
    mine = None if call.identity.role == "admin" else call.identity.public_id
    matching = (
        queue.SELECT
        + """ WHERE ($1::uuid IS NULL OR owner_public_id = $1) AND ($2::text IS NULL OR state = $2)
                AND strpos(lower(subject), lower($3)) > 0 AND ($4::text IS NULL OR kind = $4)"""
    )
    total, rows = await fetch_page(call.pool, matching, [mine, query.state, query.search, query.kind], query, query.sort)
    return Page(query.page, query.page_size, total, [queue.job_of(row) for row in rows])


@route("GET", "/api/v1/jobs/{public_id}")
async def get_job(call: Call) -> Job:
    """Read a job: how far it is, and what came of it. Its changes also come over `/ws/datapoints/stream`."""
    return await _read(call, call.pool)


@route("POST", "/api/v1/jobs/{public_id}/cancel", problems=(409,), changes="job")
async def cancel_job(call: Call) -> Job:
    """Cancel a job. One that is worked on ends at its next step; what it did until then is done."""
    before = await _read(call, call.conn, lock=True)
    if before.finished_on is not None:
        raise Conflict(f"This job is over: it is {before.state}.")
    await queue.cancel(call.conn, before.public_id, running=before.state == "running")
    after = await _read(call, call.conn)
    return call.changed(before, after, action="cancel", name=before.subject)


def accepted(call: Call[Any, Any], job: Job) -> Job:
    """The answer of a request that started a job: 202, and where to look; a dry run's job is not there to be looked at."""
    call.status = 202
    if not call.dry_run:
        call.headers["Location"] = f"/api/v1/jobs/{job.public_id}"
    return job


async def _read(call: Call, database: Pool | Connection, *, lock: bool = False) -> Job:
    """Raises NotFound, also for a job of somebody else."""
    found = await queue.read(database, call.public_id, lock=lock)
    if found is None or not is_concerned(call.identity, found[1]):
        raise NotFound("job")
    return found[0]


routes = [list_jobs, get_job, cancel_job]
