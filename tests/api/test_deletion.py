"""Events and experiments are deleted: what was said to be kept can still be read, and what was said to be deleted is gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from parts.rest import Rest

from webmacs import clock
from webmacs.http.audit import NOBODY
from webmacs.jobs.deletion import ALWAYS, Deletion, delete_readings
from webmacs.storage.ids import reading_id

EVENTS = "/api/v1/events"
EXPERIMENTS = "/api/v1/experiments"
DATAPOINTS = "/api/v1/datapoints"
SECOND = timedelta(seconds=1)


@pytest.fixture(autouse=True)
async def empty(rest: Rest) -> AsyncIterator[None]:
    yield
    async with rest.connection() as conn:
        await conn.execute(
            """DELETE FROM experiments; DELETE FROM events; DELETE FROM datapoints; DELETE FROM gaps; DELETE FROM latest;
               DELETE FROM dashboards; DELETE FROM webhooks; DELETE FROM annotations; DELETE FROM jobs"""
        )


@pytest.fixture
async def admin(rest: Rest) -> AsyncIterator[httpx.AsyncClient]:
    async with rest.client("admin") as client:
        yield client


@pytest.fixture
def begin() -> datetime:
    return (clock.now() - timedelta(days=1)).replace(hour=12, minute=0, second=0, microsecond=0)


async def make_event(client: httpx.AsyncClient, name: str, **fields: Any) -> str:
    made = await client.post(EVENTS, json={"name": name, "type": "sensor", "unit": "V"} | fields)
    assert made.status_code == 201, made.text
    public_id: str = made.json()["public_id"]
    return public_id


async def send(client: httpx.AsyncClient, event: str, begin: datetime, *values: float) -> None:
    """A reading a second."""
    items = [{"event_public_id": event, "value": value, "timestamp": (begin + n * SECOND).isoformat()} for n, value in enumerate(values)]
    answer = await client.post(f"{DATAPOINTS}/batch", json={"datapoints": items})
    assert answer.json()["accepted"] == len(values), answer.text


async def experiment_of(rest: Rest, client: httpx.AsyncClient, events: list[str], begin: datetime) -> str:
    """The address of one that ran for a minute."""
    address: str = (await client.post(EXPERIMENTS, json={"name": "x", "event_public_ids": events})).headers["location"]
    async with rest.connection() as conn:
        await conn.execute(
            "UPDATE experiments SET started_on = $2, stopped_on = $3 WHERE public_id = $1",
            address.rpartition("/")[2], begin, begin + 60 * SECOND,
        )  # fmt: skip
    return address


async def listed(client: httpx.AsyncClient, event: str, **query: Any) -> list[float]:
    answer = await client.get(DATAPOINTS, params={"event_public_ids": event, "sort": "timestamp"} | query)
    assert answer.status_code == 200, answer.text
    return [one["value"] for one in answer.json()["data"]]


async def delete(client: httpx.AsyncClient, address: str) -> Any:
    """With its readings: the result of the job."""
    accepted = await client.delete(address, params={"data": "delete"})
    assert accepted.status_code == 202, accepted.text
    job = await ended(client, accepted.headers["location"])
    assert job["state"] == "done", job
    return job["result"]


async def ended(client: httpx.AsyncClient, job_address: str) -> Any:
    """The job, when it is over."""
    async with asyncio.timeout(20):
        while (job := (await client.get(job_address)).json())["finished_on"] is None:
            pass
    return job


@asynccontextmanager
async def held(rest: Rest) -> AsyncIterator[None]:
    """Whatever deletes stored runs waits."""
    async with rest.connection() as conn, conn.transaction():
        await conn.execute("LOCK TABLE rewriting IN EXCLUSIVE MODE")
        yield


async def told(rest: Rest, public_id: str) -> list[tuple[str, str, str | None]]:
    """(kind, action, detail) of the audit log's rows of an object."""
    async with rest.connection() as conn:
        rows = await conn.fetch("SELECT kind, action, detail FROM audit_log WHERE object_public_id = $1 ORDER BY id", public_id)
    return [tuple(row) for row in rows]


async def heard(client: httpx.AsyncClient) -> None:
    """What was changed is loaded at the latest when a reading comes of an event that was made since."""
    event = await make_event(client, str(uuid4()))
    assert (await client.post(DATAPOINTS, json={"event_public_id": event, "value": 1})).status_code == 201


async def stored(rest: Rest) -> int:
    async with rest.connection() as conn:
        count: int = await conn.fetchval("SELECT coalesce(sum(n), 0) FROM datapoints")
    return count


async def test_readings_that_were_kept_are_read_as_before(rest: Rest, admin: httpx.AsyncClient, begin: datetime) -> None:
    event = await make_event(admin, "a")
    await send(admin, event, begin, 1, 2, 3)
    async with rest.connection() as conn:
        event_id = await conn.fetchval("SELECT id FROM events WHERE public_id = $1", event)
    one = f"{DATAPOINTS}/{reading_id(event_id, clock.from_datetime(begin))}"
    recording = (await admin.get(f"{EVENTS}/{event}/recording")).json()
    assert (await admin.delete(f"{EVENTS}/{event}")).status_code == 204

    assert await listed(admin, event) == [1, 2, 3]
    assert (await admin.get(one)).json()["value"] == 1
    body = {"event_public_ids": [event], "from": begin.isoformat(), "to": (begin + 9 * SECOND).isoformat()}
    (series,) = (await admin.post(f"{DATAPOINTS}/series", json=body)).json()["series"]
    assert sum(series["n"]) == 3
    (newest,) = (await admin.get(f"{DATAPOINTS}/latest", params={"event_public_ids": event})).json()["data"]
    assert newest["value"] == 3
    assert (await admin.get(f"{DATAPOINTS}/latest")).json()["data"] == []
    assert (await admin.get(f"{EVENTS}/{event}/recording")).json() == recording
    assert (await admin.get("/api/v1/gaps", params={"event_public_id": event})).status_code == 200
    # and they can be deleted one by one and by the stretch
    assert (await admin.delete(one)).status_code == 204
    erased = await admin.delete(DATAPOINTS, params={"event_public_id": event, "from": body["from"], "to": body["to"]})
    assert erased.json()["deleted"] == 2


async def test_a_deleted_event_leaves_the_lists_and_its_name(rest: Rest, admin: httpx.AsyncClient) -> None:
    event = await make_event(admin, "a", path="plant")
    assert (await admin.delete(f"{EVENTS}/{event}")).status_code == 204
    assert (await admin.get(EVENTS)).json()["total"] == 0
    assert "a," not in (await admin.get(f"{EVENTS}/export/csv")).text
    assert (await admin.get("/api/v1/configuration")).json()["events"] == []
    (shown,) = (await admin.get(EVENTS, params={"deleted": "true"})).json()["data"]
    assert (shown["public_id"], shown["name"], shown["path"]) == (event, "a", "plant")
    assert shown["deleted_on"] is not None
    answer = await admin.get(f"{EVENTS}/{event}")
    assert (answer.json(), answer.headers["etag"]) == (shown, '"2"')

    other = await make_event(admin, "a")
    assert other != event
    assert (await admin.get(f"{EVENTS}/{other}")).json()["deleted_on"] is None
    bulk = await admin.post(f"{EVENTS}/bulk", json={"events": [{"name": "a", "unit": "K"}]})
    assert [one["public_id"] for one in bulk.json()["data"]] == [other]
    assert (await admin.delete(f"{EVENTS}/{other}")).status_code == 204
    assert (await admin.get(EVENTS, params={"deleted": "true"})).json()["total"] == 2


async def test_a_series_of_line_protocol_begins_anew_when_its_event_was_deleted(admin: httpx.AsyncClient) -> None:
    async def write(value: float) -> str:
        assert (await admin.post("/api/v1/write", content=f"m v={value}")).status_code == 204
        public_id: str = (await admin.get(EVENTS, params={"search": "m"})).json()["data"][0]["public_id"]
        return public_id

    first = await write(1)
    assert (await admin.delete(f"{EVENTS}/{first}")).status_code == 204
    await heard(admin)
    second = await write(2)
    assert first != second
    assert (await listed(admin, first), await listed(admin, second)) == ([1], [2])


async def test_a_deleted_event_takes_nothing_new(rest: Rest, admin: httpx.AsyncClient) -> None:
    event, other = await make_event(admin, "a", type="actuator"), await make_event(admin, "b")
    rule = {"name": "r", "event_public_id": event, "operator": "gt", "threshold": 1}
    assert (await admin.post("/api/v1/rules", json=rule)).status_code == 201
    assert (await admin.delete(f"{EVENTS}/{event}")).status_code == 204
    assert (await admin.get("/api/v1/rules")).json()["total"] == 0

    await heard(admin)
    posted = await admin.post(DATAPOINTS, json={"event_public_id": event, "value": 1})
    assert (posted.status_code, posted.json()["errors"][0]["loc"]) == (422, ["body", "event_public_id"])
    changed = await admin.put(f"{EVENTS}/{event}", json={"unit": "K"})
    assert (changed.status_code, changed.json()["type"]) == (409, "/problems/conflict")
    assert "/events/bulk" in changed.json()["detail"]
    assert "create another one" in changed.json()["detail"]
    restored = await admin.post(f"/api/v1/versions/event/{event}/1/restore")
    assert restored.status_code == 409
    bulk = await admin.post(f"{EVENTS}/bulk", json={"events": [{"public_id": event, "unit": "K"}]})
    assert (bulk.status_code, bulk.json()["errors"][0]["loc"]) == (422, ["body", "events", 0, "name"])
    dashboard = (await admin.post("/api/v1/dashboards", json={"name": str(uuid4())})).headers["location"]
    command = {"type": "command", "event_public_id": event, "value": 1}
    for path, body in (
        ("/api/v1/rules", rule),
        ("/api/v1/rules", rule | {"event_public_id": other, "actions": [command]}),
        ("/api/v1/webhooks", {"url": "https://example.org/", "events": ["sensor.reading"], "event_public_ids": [event]}),
        (f"{dashboard}/widgets", {"config": {"widget_type": "gauge"}, "event_public_ids": [event]}),
        (EXPERIMENTS, {"name": "x", "event_public_ids": [event]}),
    ):
        refused = await admin.post(path, json=body)
        assert refused.status_code == 422, (path, refused.text)
        assert f"There is no event {event}" in refused.text


async def test_a_deleted_event_that_is_made_again_under_its_id_has_its_readings(admin: httpx.AsyncClient, begin: datetime) -> None:
    event = await make_event(admin, "a")
    await send(admin, event, begin, 1, 2)
    await admin.delete(f"{EVENTS}/{event}")
    await make_event(admin, "a")
    item = {"public_id": event, "name": "a", "type": "sensor", "unit": "K"}
    taken = await admin.post(f"{EVENTS}/bulk", json={"events": [item]})
    assert (taken.status_code, taken.json()["errors"][0]["loc"]) == (422, ["body", "events", 0, "name"])
    back = await admin.post(f"{EVENTS}/bulk", json={"events": [item | {"name": "b"}]})
    assert (back.json()["created"], back.json()["updated"]) == (1, 0)
    found = (await admin.get(f"{EVENTS}/{event}")).json()
    assert (found["name"], found["unit"], found["deleted_on"]) == ("b", "K", None)
    await send(admin, event, begin + 2 * SECOND, 3)
    assert await listed(admin, event) == [1, 2, 3]


async def test_an_event_is_deleted_once(rest: Rest, admin: httpx.AsyncClient, begin: datetime) -> None:
    event = await make_event(admin, "a")
    await send(admin, event, begin, 1, 2)
    address = f"{EVENTS}/{event}"
    created, deleted = ("event", "create", None), ("event", "delete", None)
    for _ in range(2):
        assert (await admin.delete(address)).status_code == 204
    deleted_on = (await admin.get(address)).json()["deleted_on"]
    assert await told(rest, event) == [created, deleted]
    dry = await admin.delete(address, params={"data": "delete", "dry_run": "true"})
    assert (dry.status_code, dry.headers.get("location")) == (202, None)
    assert (await admin.delete(address, params={"data": "delete"}, headers={"If-Match": '"1"'})).status_code == 412
    assert (await admin.get(address)).json()["deleted_on"] == deleted_on
    assert await delete(admin, address) == {"readings": 2, "events": 1}
    assert await told(rest, event) == [created, deleted, ("event", "delete", "with its readings")]
    assert (await admin.get(address)).status_code == 404
    assert (await admin.get(DATAPOINTS, params={"event_public_ids": event})).status_code == 422
    assert (await admin.get(EVENTS, params={"deleted": "true"})).json()["total"] == 0
    assert await stored(rest) == 0


async def test_what_an_experiment_covers_is_frozen(rest: Rest, admin: httpx.AsyncClient, begin: datetime) -> None:
    a, b, c = [await make_event(admin, name) for name in "abc"]
    for event in (a, b, c):
        await send(admin, event, begin, 1, 2)
    address = await experiment_of(rest, admin, [a, b], begin)
    await admin.put(f"{EVENTS}/{a}", json={"name": "renamed"})
    await admin.delete(f"{EVENTS}/{a}")
    await make_event(admin, "a")

    async def covered() -> tuple[list[str], list[str]]:
        found = (await admin.get(address)).json()
        return found["event_public_ids"], found["event_names"]

    async def summary() -> list[tuple[str, str, int]]:
        page = (await admin.get(f"{address}/summary")).json()
        return [(one["event_public_id"], one["name"], one["n"]) for one in page["data"]]

    assert await covered() == ([a, b], ["a", "b"])
    assert await summary() == [(a, "a", 2), (b, "b", 2)]
    assert await listed(admin, a, experiment_public_id=address.rpartition("/")[2]) == [1, 2]
    assert await delete(admin, f"{EVENTS}/{b}") == {"readings": 2, "events": 1}
    assert await covered() == ([a, b], ["a", "b"])
    assert await summary() == [(a, "a", 2)]


async def test_an_experiments_readings_are_deleted_though_its_event_was(rest: Rest, admin: httpx.AsyncClient, begin: datetime) -> None:
    event, other = await make_event(admin, "a"), await make_event(admin, "b")
    for one in (event, other):
        await send(admin, one, begin, *range(90))
    address = await experiment_of(rest, admin, [event], begin)
    assert (await admin.delete(f"{EVENTS}/{event}")).status_code == 204
    dry = await admin.delete(address, params={"data": "delete", "dry_run": "true"})
    assert (dry.status_code, dry.headers.get("location")) == (202, None)
    assert await delete(admin, address) == {"readings": 60, "events": 1}
    assert await listed(admin, event, limit=200) == list(range(60, 90))
    assert len(await listed(admin, other, limit=200)) == 90


async def test_an_experiment_of_every_channel_tells_of_those_deleted_since(rest: Rest, admin: httpx.AsyncClient) -> None:
    before, since = await make_event(admin, "before"), await make_event(admin, "since")
    await admin.delete(f"{EVENTS}/{before}")
    address = (await admin.post(EXPERIMENTS, json={"name": "x"})).headers["location"]
    await send(admin, since, clock.now(), 1)
    await admin.put(f"{address}/stop")
    await admin.delete(f"{EVENTS}/{since}")
    page = (await admin.get(f"{address}/summary")).json()
    assert [(one["event_public_id"], one["n"]) for one in page["data"]] == [(since, 1)]


async def test_nothing_is_left_of_readings_that_come_while_their_event_is_deleted(rest: Rest, admin: httpx.AsyncClient) -> None:
    for _ in range(10):
        event = await make_event(admin, "a")
        posts = [admin.post(DATAPOINTS, json={"event_public_id": event, "value": n}) for n in range(8)]
        *answers, _ = await asyncio.gather(*posts, delete(admin, f"{EVENTS}/{event}"))
        assert {answer.status_code for answer in answers} <= {201, 422, 503}
        assert await stored(rest) == 0


async def test_an_event_does_not_come_back_while_a_job_deletes_its_readings(rest: Rest, admin: httpx.AsyncClient, begin: datetime) -> None:
    event = await make_event(admin, "a")
    await send(admin, event, begin, 1, 2)
    item = {"public_id": event, "name": "a", "type": "sensor", "unit": "V"}

    async def revive() -> list[httpx.Response]:
        sheet = f"public_id,name,type,unit\n{event},a,sensor,V\n"
        return [
            await admin.post(f"{EVENTS}/bulk", json={"events": [item]}),
            await admin.post(f"{EVENTS}/import/csv", content=sheet, headers={"Content-Type": "text/csv"}),
        ]

    async with held(rest):
        job = (await admin.delete(f"{EVENTS}/{event}", params={"data": "delete"})).headers["location"]
        for answer in await revive():
            assert (answer.status_code, answer.json()["type"]) == (409, "/problems/conflict")
            assert job.rpartition("/")[2] in answer.json()["detail"]
    assert (await ended(admin, job))["state"] == "done"
    made, again = await revive()
    assert (made.json()["created"], again.json()["unchanged"]) == (1, 1)
    await send(admin, event, begin, 3)
    assert await listed(admin, event) == [3]


async def test_after_a_job_that_failed_an_event_comes_back_with_what_is_left(rest: Rest, admin: httpx.AsyncClient, begin: datetime) -> None:
    event = await make_event(admin, "a")
    await send(admin, event, begin, 1, 2)
    async with rest.connection() as conn:
        await conn.execute("UPDATE events SET deleted_on = now(), version = 2 WHERE public_id = $1", event)
        await conn.execute(
            """INSERT INTO jobs (public_id, kind, subject, parameters, state, finished_on)
               SELECT gen_random_uuid(), 'delete_readings', 'x',
                      jsonb_build_object('event_ids', jsonb_build_array(id), 'event_version', version), 'failed', now() FROM events"""
        )
    item = {"public_id": event, "name": "a", "type": "sensor", "unit": "V"}
    assert (await admin.post(f"{EVENTS}/bulk", json={"events": [item]})).status_code == 200
    assert await listed(admin, event) == [1, 2]


@pytest.mark.parametrize(("deleted", "version"), [(False, 1), (True, 1)])
async def test_a_job_deletes_nothing_of_an_event_that_has_lived_since(
    rest: Rest, admin: httpx.AsyncClient, begin: datetime, deleted: bool, version: int
) -> None:
    """As a process does that was taken for dead, while somebody made the event again."""
    event = await make_event(admin, "a")
    await send(admin, event, begin, 1, 2)
    if deleted:
        assert (await admin.delete(f"{EVENTS}/{event}")).status_code == 204
    async with rest.app.state.parts.pool.acquire() as conn, conn.transaction():
        event_id = await conn.fetchval("SELECT id FROM events WHERE public_id = $1", event)
        deletion = Deletion([event_id], *ALWAYS, event_version=version)
        asked = await delete_readings(conn, deletion, "readings of a", NOBODY)
    job = await ended(admin, f"/api/v1/jobs/{asked.public_id}")
    assert (job["state"], job["problem"]["type"]) == ("failed", "/problems/conflict")
    assert await listed(admin, event) == [1, 2]


async def test_who_makes_an_event_again_waits_for_a_day_that_is_being_deleted(rest: Rest, admin: httpx.AsyncClient) -> None:
    event = await make_event(admin, "a")
    await admin.delete(f"{EVENTS}/{event}")
    item = {"public_id": event, "name": "a", "type": "sensor", "unit": "V"}
    async with rest.connection() as conn:
        async with conn.transaction():
            await conn.execute("SELECT FROM events WHERE public_id = $1 FOR KEY SHARE", event)  # as the job does
            reviving = asyncio.create_task(admin.post(f"{EVENTS}/bulk", json={"events": [item]}))
            async with asyncio.timeout(8):
                while not await conn.fetchval(
                    "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid)))", pid(conn)
                ):
                    assert not reviving.done()
                    await asyncio.sleep(0)
        assert (await reviving).status_code == 200


def pid(conn: Any) -> int:
    process: int = conn.get_server_pid()
    return process


async def test_asked_for_twice_a_deletion_is_one_job(rest: Rest, admin: httpx.AsyncClient, begin: datetime) -> None:
    event = await make_event(admin, "a")
    await send(admin, event, begin, 1, 2)
    address = f"{EVENTS}/{event}"
    async with held(rest):
        first, second = [await admin.delete(address, params={"data": "delete"}) for _ in range(2)]
        assert (first.status_code, second.status_code) == (202, 202)
        assert second.headers["location"] == first.headers["location"]
        assert second.json()["public_id"] == first.json()["public_id"]
        assert (await admin.get("/api/v1/jobs")).json()["total"] == 1
        assert (await admin.get(address)).headers["etag"] == '"2"'
    assert (await ended(admin, first.headers["location"]))["result"] == {"readings": 2, "events": 1}
    assert await told(rest, event) == [("event", "create", None), ("event", "delete", "with its readings")]


async def test_what_names_a_deleted_event_changes_and_that_is_told(rest: Rest, admin: httpx.AsyncClient) -> None:
    event, other = await make_event(admin, "a"), await make_event(admin, "b")
    rule = {"name": "r", "event_public_id": event, "operator": "gt", "threshold": 1}
    rule_id = (await admin.post("/api/v1/rules", json=rule)).json()["public_id"]
    hook = {"url": "https://example.org/", "events": ["sensor.reading"], "event_public_ids": [event, other]}
    hook_address = (await admin.post("/api/v1/webhooks", json=hook)).headers["location"]
    async with rest.client("operator") as operator:
        dashboard = (await operator.post("/api/v1/dashboards", json={"name": "own"})).headers["location"]
        for shown in ([event, other], [event], [other]):
            widget = {"config": {"widget_type": "line_chart"}, "event_public_ids": shown}
            assert (await operator.post(f"{dashboard}/widgets", json=widget)).status_code == 201
    before = {address: (await admin.get(address)).json()["version"] for address in (hook_address, dashboard)}

    assert (await admin.delete(f"{EVENTS}/{event}", params={"dry_run": "true"})).status_code == 204
    assert (await admin.get(f"/api/v1/rules/{rule_id}")).status_code == 200
    assert {address: (await admin.get(address)).json()["version"] for address in before} == before
    assert (await admin.delete(f"{EVENTS}/{event}")).status_code == 204

    assert (await admin.get(f"/api/v1/rules/{rule_id}")).status_code == 404
    assert (await told(rest, rule_id))[1:] == [("rule", "delete", "with its event")]
    versions = (await admin.get("/api/v1/versions", params={"kind": "rule", "object_public_id": rule_id})).json()["data"]
    assert [(one["number"], one["deleted"]) for one in versions] == [(2, True), (1, False)]

    for kind, address in (("webhook", hook_address), ("dashboard", dashboard)):
        now = await admin.get(address)
        version = before[address] + 1
        assert (now.json()["version"], now.headers["etag"]) == (version, f'"{version}"')
        assert (await told(rest, now.json()["public_id"]))[-1] == (kind, "update", None)
        kept = await admin.get(f"/api/v1/versions/{kind}/{now.json()['public_id']}/{version}")
        assert kept.json()["content"] == now.json()
    assert (await admin.get(hook_address)).json()["event_public_ids"] == [other]
    assert [one["event_public_ids"] for one in (await admin.get(dashboard)).json()["widgets"]] == [[other], [], [other]]


async def test_readings_that_were_kept_are_annotated(admin: httpx.AsyncClient, begin: datetime) -> None:
    event = await make_event(admin, "a")
    await send(admin, event, begin, 1)
    await admin.delete(f"{EVENTS}/{event}")
    note = {"from": begin.isoformat(), "text": "valve exchanged", "event_public_ids": [event]}
    made = await admin.post("/api/v1/annotations", json=note)
    assert (made.status_code, made.json()["event_public_ids"]) == (201, [event])
    assert (await admin.put(made.headers["location"], json=note | {"text": "pump exchanged"})).status_code == 200
    (found,) = (await admin.get("/api/v1/annotations", params={"event_public_id": event})).json()["data"]
    assert (found["text"], found["event_public_ids"]) == ("pump exchanged", [event])
