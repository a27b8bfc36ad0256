"""Long work: it is asked for in a transaction, worked off once, watched, cancelled, and it outlives the process that works on it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import pytest
from parts.plant import DAY_US, Plant
from parts.rest import Rest
from parts.stored import readings_of

from webmacs.clock import to_datetime
from webmacs.fanout.hub import Client, Hub
from webmacs.http.audit import Actor
from webmacs.http.guard import Identity
from webmacs.ingest_core import Core
from webmacs.jobs import queue
from webmacs.jobs.deletion import Deletion, delete_readings
from webmacs.jobs.queue import Job
from webmacs.jobs.runner import Kind, Runner, Work
from webmacs.storage import pool as database_pool


@pytest.fixture(autouse=True)
async def empty(rest: Rest) -> AsyncIterator[None]:
    yield
    async with rest.connection() as conn, conn.transaction():
        await conn.execute("LOCK TABLE rewriting IN EXCLUSIVE MODE")  # else a merge under way writes what is deleted here
        await conn.execute("DELETE FROM jobs; DELETE FROM datapoints")


@pytest.fixture
async def plant(rest: Rest) -> AsyncIterator[Plant]:
    async with Plant(rest.database, Random(1)) as made:
        yield made


def actor(rest: Rest, role: str = "operator") -> Actor:
    return Actor("user", rest.users[role], role, None)


async def ask(rest: Rest, deletion: Deletion, role: str = "operator") -> Job:
    async with rest.app.state.parts.pool.acquire() as conn, conn.transaction():
        return await delete_readings(conn, deletion, "readings of a test", actor(rest, role))


async def look(rest: Rest, public_id: UUID, role: str = "operator") -> Any:
    async with rest.client(role) as client:
        return (await client.get(f"/api/v1/jobs/{public_id}")).json()


async def ended(rest: Rest, public_id: UUID) -> Any:
    """The job, when it is over."""
    async with asyncio.timeout(20):
        while True:
            job = await look(rest, public_id, "admin")
            if job["finished_on"] is not None:
                return job
            await asyncio.sleep(0.02)


def everything(plant: Plant, event_ids: list[int] | None = None) -> Deletion:
    return Deletion(event_ids, to_datetime(plant.now_us - 10 * DAY_US), to_datetime(plant.now_us + DAY_US))


async def test_the_readings_of_a_range_are_deleted_and_the_others_stay(rest: Rest, plant: Plant) -> None:
    for event in (1, 2):
        for days in (0, 1, 5):
            await plant.write(event, plant.now_us - days * DAY_US - 7_200_000_000, [1.0, 2.0, 3.0])
    begin_us = plant.now_us - DAY_US - 7_200_000_000
    asked = await ask(rest, Deletion([1], to_datetime(begin_us + 1_000), to_datetime(plant.now_us)))
    assert (asked.state, asked.owner, asked.kind) == ("queued", "operator", "delete_readings")
    job = await ended(rest, asked.public_id)
    assert (job["state"], job["result"], job["progress"]) == ("done", {"readings": 5, "events": 1}, 1.0)
    async with rest.connection() as conn:
        assert sorted(await readings_of(conn, 1)) == [t for t in sorted(plant.model[1]) if t <= begin_us]
        assert await readings_of(conn, 2) == plant.model[2]
        told = await conn.fetchrow("SELECT action, actor_kind, actor_name, after FROM audit_log WHERE kind = 'job'")
    assert (told["action"], told["actor_kind"], told["actor_name"]) == ("done", "system", "operator")
    assert json.loads(told["after"]) == job["result"]


async def test_of_all_events_is_said_by_naming_none(rest: Rest, plant: Plant) -> None:
    for event in (1, 2, 3):
        await plant.write(event, plant.now_us - 7_200_000_000, [1.0])
    job = await ended(rest, (await ask(rest, everything(plant))).public_id)
    assert job["result"] == {"readings": 3, "events": 3}


async def test_a_request_that_fails_asks_for_nothing(rest: Rest, plant: Plant) -> None:
    async with rest.app.state.parts.pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await delete_readings(conn, everything(plant), "never", actor(rest))
        await transaction.rollback()
    async with rest.client("admin") as client:
        assert (await client.get("/api/v1/jobs")).json()["total"] == 0


async def test_a_run_that_cannot_be_read_fails_its_job_with_the_place(rest: Rest, plant: Plant) -> None:
    begin_us = plant.now_us - 7_200_000_000
    await plant.write(1, begin_us, [1.0, 2.0])
    await plant.conn.execute("UPDATE datapoints SET payload = '\\x00'")
    job = await ended(rest, (await ask(rest, Deletion([1], to_datetime(begin_us + 500), to_datetime(plant.now_us)))).public_id)
    assert (job["state"], job["problem"]["type"]) == ("failed", "/problems/unreadable-run")
    assert "of event 1" in job["problem"]["detail"]


async def test_people_see_their_own_jobs_and_an_admin_all(rest: Rest, plant: Plant) -> None:
    mine = await ask(rest, everything(plant), "viewer")
    theirs = await ask(rest, everything(plant), "operator")
    for role, total in (("viewer", 1), ("operator", 1), ("admin", 2)):
        async with rest.client(role) as client:
            assert (await client.get("/api/v1/jobs")).json()["total"] == total
            assert (await client.get("/api/v1/jobs", params={"kind": mine.kind})).json()["total"] == total
            assert (await client.get("/api/v1/jobs", params={"kind": "other"})).json()["total"] == 0
    for job, role, status in ((mine, "viewer", 200), (mine, "operator", 404), (theirs, "viewer", 404), (theirs, "admin", 200)):
        async with rest.client(role) as client:
            assert (await client.get(f"/api/v1/jobs/{job.public_id}")).status_code == status
    async with rest.client("viewer") as client:
        assert (await client.post(f"/api/v1/jobs/{theirs.public_id}/cancel")).status_code == 404


async def test_a_job_that_is_over_cannot_be_cancelled(rest: Rest, plant: Plant) -> None:
    job = await ended(rest, (await ask(rest, everything(plant))).public_id)
    async with rest.client("operator") as client:
        assert (await client.post(f"/api/v1/jobs/{job['public_id']}/cancel")).status_code == 409


# ---- with kinds of the tests' own


class Steps:
    """A kind whose work waits for the test at each step."""

    def __init__(self) -> None:
        self.begun = asyncio.Semaphore(0)
        self.go_on = asyncio.Semaphore(0)
        self.ended = asyncio.Semaphore(0)
        self.at_once = self.most = 0

    async def work(self, work: Work) -> dict[str, Any]:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            for step in range(work.parameters["steps"]):
                self.begun.release()
                await self.go_on.acquire()
                work.at((step + 1) / work.parameters["steps"], f"step {step}")
            return {"steps": work.parameters["steps"]}
        finally:
            self.at_once -= 1
            self.ended.release()


@asynccontextmanager
async def running(rest: Rest, work: Callable[[Work], Any], hub: Hub | None = None, *, repeatable: bool = True) -> AsyncIterator[Runner]:
    """A runner beside the application's own, which does not know this kind. It listens when the block begins."""
    pool = await database_pool.open_pool(rest.database, 3)
    runner = Runner(pool, rest.database, hub or Hub(Core()), {"steps": Kind(work, repeatable)})
    began = await pool.fetchval("SELECT now()")
    tasks = [asyncio.create_task(runner.follow()), asyncio.create_task(runner.run())]
    listening = """SELECT EXISTS (SELECT FROM pg_stat_activity
                    WHERE datname = current_database() AND backend_start >= $1 AND query LIKE 'LISTEN%' AND state = 'idle')"""
    try:
        while not await pool.fetchval(listening, began):  # noqa: ASYNC110 the server is asked, it does not tell
            await asyncio.sleep(0.01)
        yield runner
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await pool.close()


async def ask_steps(rest: Rest, steps: int, role: str = "operator") -> UUID:
    async with rest.app.state.parts.pool.acquire() as conn, conn.transaction():
        return (await queue.enqueue(conn, "steps", "steps", {"steps": steps}, actor(rest, role))).public_id


async def cancel(rest: Rest, public_id: UUID) -> Any:
    async with rest.client("operator") as client:
        answer = await client.post(f"/api/v1/jobs/{public_id}/cancel")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_few_jobs_run_at_once_and_the_others_wait_their_turn(rest: Rest) -> None:
    steps = Steps()
    asked = [await ask_steps(rest, 1) for _ in range(5)]
    async with running(rest, steps.work), asyncio.timeout(20):
        await steps.begun.acquire()
        for _ in asked[1:]:
            await steps.begun.acquire()
            steps.go_on.release()
        steps.go_on.release()
        assert {(await ended(rest, one))["state"] for one in asked} == {"done"}
    assert steps.most == 2


async def test_one_that_is_cancelled_ends_at_its_next_step(rest: Rest) -> None:
    steps = Steps()
    async with running(rest, steps.work), asyncio.timeout(20):
        job = await ask_steps(rest, 1_000)
        await steps.begun.acquire()
        assert (await cancel(rest, job))["cancel_requested"]
        for _ in range(1_000):  # the wish is read once a second
            steps.go_on.release()
            await asyncio.sleep(0.01)
            if (await look(rest, job))["state"] == "cancelled":
                break
        shown = await ended(rest, job)
    assert (shown["state"], shown["result"]) == ("cancelled", None)
    assert 0 < shown["progress"] < 1


async def test_one_that_waits_is_cancelled_at_once(rest: Rest) -> None:
    job = await ask_steps(rest, 1)
    shown = await cancel(rest, job)
    assert (shown["state"], shown["started_on"]) == ("cancelled", None)
    steps = Steps()
    async with running(rest, steps.work):
        other = await ask_steps(rest, 0)
        assert (await ended(rest, other))["state"] == "done"
    assert steps.begun.locked()


async def test_a_bug_fails_the_job_and_the_next_one_runs(rest: Rest) -> None:
    async def work(work: Work) -> dict[str, Any]:
        return {"quotient": 1 // work.parameters["steps"]}

    async with running(rest, work):
        failed = await ended(rest, await ask_steps(rest, 0))
        done = await ended(rest, await ask_steps(rest, 1))
    assert (failed["state"], failed["problem"]["type"]) == ("failed", "/problems/internal")
    assert (done["state"], done["result"]) == ("done", {"quotient": 1})


@pytest.mark.parametrize(("repeatable", "state"), [(True, "queued"), (False, "failed")])
async def test_a_process_that_ends_gives_back_what_may_begin_anew(rest: Rest, repeatable: bool, state: str) -> None:
    steps = Steps()
    async with running(rest, steps.work, repeatable=repeatable), asyncio.timeout(20):
        job = await ask_steps(rest, 2)
        await steps.begun.acquire()
    shown = await look(rest, job)
    assert shown["state"] == state
    assert (shown["problem"] or {}).get("type") == (None if repeatable else "/problems/interrupted")
    if repeatable:
        async with running(rest, steps.work):
            steps.go_on.release()
            steps.go_on.release()
            assert (await ended(rest, job))["state"] == "done"


@pytest.mark.parametrize(("repeatable", "attempts", "state"), [(True, 1, "done"), (True, 5, "failed"), (False, 1, "failed")])
async def test_a_job_whose_worker_fell_silent_is_begun_anew_or_has_failed(rest: Rest, repeatable: bool, attempts: int, state: str) -> None:
    job = await ask_steps(rest, 0)
    async with rest.connection() as conn:
        await conn.execute(
            """UPDATE jobs SET state = 'running', runner = gen_random_uuid(), attempts = $2, started_on = now(),
                               heartbeat_on = now() - interval '20 s' WHERE public_id = $1""",
            job, attempts,
        )  # fmt: skip
    async with running(rest, Steps().work, repeatable=repeatable):
        assert (await ended(rest, job))["state"] == state


async def test_one_that_was_taken_away_does_not_end_the_job_of_another(rest: Rest) -> None:
    steps = Steps()
    async with running(rest, steps.work), asyncio.timeout(20):
        job = await ask_steps(rest, 1)
        await steps.begun.acquire()
        async with rest.connection() as conn:
            await conn.execute("UPDATE jobs SET runner = gen_random_uuid() WHERE public_id = $1", job)
        await steps.ended.acquire()
    assert (await look(rest, job))["state"] == "running"


async def test_a_job_is_forgotten_after_the_days_of_the_settings(rest: Rest) -> None:
    async with rest.connection() as conn:
        await conn.execute("""UPDATE settings SET content = '{"jobs_kept_days": 3}'""")
        async with running(rest, Steps().work):
            job = await ended(rest, await ask_steps(rest, 0))
            kept = await conn.fetchval("SELECT expires_on - finished_on FROM jobs")
            assert kept == timedelta(days=3)
            await conn.execute("UPDATE jobs SET expires_on = now() - interval '1 s'")
            async with asyncio.timeout(20):
                while await conn.fetchval("SELECT count(*) FROM jobs"):
                    pass
        await conn.execute("UPDATE settings SET content = '{}'")
    async with rest.client("operator") as client:
        assert (await client.get(f"/api/v1/jobs/{job['public_id']}")).status_code == 404


async def test_its_owner_and_admins_see_it_on_their_sockets_and_nobody_else(rest: Rest) -> None:
    hub = Hub(Core())
    clients = {role: Client(Identity("user", 1, rest.users[role], role, role)) for role in ("viewer", "operator", "admin")}  # type: ignore[arg-type]
    for client in clients.values():
        hub.join(client)
    async with running(rest, Steps().work, hub), asyncio.timeout(20):
        job = await ask_steps(rest, 0)
        for role in ("operator", "admin"):
            states = []
            while "done" not in states:
                message = json.loads(await clients[role].next())
                assert (message["type"], message["job"]["public_id"]) == ("job", str(job))
                states.append(message["job"]["state"])
    clients["viewer"].notify("the only one")
    assert await clients["viewer"].next() == "the only one"


async def test_a_token_is_told_of_jobs_only_by_the_scope_that_reads_them_and_a_kiosk_never(rest: Rest) -> None:
    hub = Hub(Core())
    owner = rest.users["operator"]
    scopes = (["datapoints:read"], ["jobs:read"], ["jobs:write"], ["read"], ["write"])
    tokens = {scope[0]: Client(Identity("token", 1, owner, "a token", "operator", scopes=frozenset(scope))) for scope in scopes}
    strangers = [
        tokens.pop("datapoints:read"),
        Client(Identity("token", 1, rest.users["admin"], "an admin's", "admin", scopes=frozenset(["datapoints:read"]))),
        Client(Identity("kiosk", 1, owner, "a kiosk", "viewer", scopes=frozenset(), dashboard=UUID(int=1))),
    ]
    for client in (*tokens.values(), *strangers):
        hub.join(client)
    async with running(rest, Steps().work, hub), asyncio.timeout(20):
        job = await ask_steps(rest, 0)
        for client in tokens.values():
            assert json.loads(await client.next())["job"]["public_id"] == str(job)
    for client in strangers:
        client.notify("the only one")
        assert await client.next() == "the only one"
