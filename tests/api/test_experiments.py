"""Experiments over REST: what they were run with, how they are found, and what they hold of each event."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from parts.rest import Rest

from webmacs import clock

EXPERIMENTS = "/api/v1/experiments"
SECOND = timedelta(seconds=1)


@pytest.fixture(autouse=True)
async def empty(rest: Rest) -> AsyncIterator[None]:
    yield
    async with rest.connection() as conn:
        await conn.execute("DELETE FROM experiments; DELETE FROM events; DELETE FROM datapoints; DELETE FROM gaps; DELETE FROM latest")


@pytest.fixture
async def operator(rest: Rest) -> AsyncIterator[httpx.AsyncClient]:
    async with rest.client("operator") as client:
        yield client


async def make_event(rest: Rest, client: httpx.AsyncClient, name: str) -> tuple[int, str]:
    made = (await client.post("/api/v1/events", json={"name": name, "type": "sensor", "unit": "V"})).json()
    async with rest.connection() as conn:
        return await conn.fetchval("SELECT id FROM events WHERE public_id = $1", made["public_id"]), made["public_id"]


async def store(conn: Any, event_id: int, start: datetime, *values: float, overlapping: bool = False) -> None:
    """A run of a reading a second, as far as its statistics go."""
    await conn.execute(
        """INSERT INTO datapoints (event_id, created_on, last_on, n, min, max, sum, first, last, encoding, overlapping, payload)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $10, $11)""",
        event_id, start, start + (len(values) - 1) * SECOND, len(values), min(values), max(values), sum(values), values[0], values[-1],
        overlapping, bytes(16 * len(values)),
    )  # fmt: skip


async def ran(rest: Rest, client: httpx.AsyncClient, start: datetime, end: datetime | None, **fields: Any) -> str:
    """The address of an experiment that ran from then to then."""
    address: str = (await client.post(EXPERIMENTS, json={"name": "x"} | fields)).headers["location"]
    async with rest.connection() as conn:
        await conn.execute(
            "UPDATE experiments SET started_on = $2, stopped_on = $3 WHERE public_id = $1", address.rpartition("/")[2], start, end
        )
    return address


async def test_an_experiment_keeps_its_parameters(operator: httpx.AsyncClient) -> None:
    parameters = {"charge": "A 17", "set points": [80, 81.5, None], "gas": {"name": "N2", "pure": True}}
    made = await operator.post(EXPERIMENTS, json={"name": "x", "parameters": parameters, "tags": [" a ", "a"]})
    assert (made.json()["parameters"], made.json()["tags"]) == (parameters, ["a"])
    address = made.headers["location"]
    assert (await operator.put(address, json={"notes": "n"})).json()["parameters"] == parameters
    assert (await operator.put(address, json={"parameters": {}})).json()["parameters"] == {}


@pytest.mark.parametrize(
    ("size", "status"),
    [(64 * 1024 - len('{"a":""}'), 200), (64 * 1024 - len('{"a":""}') + 1, 422)],
)
async def test_parameters_have_a_bound(operator: httpx.AsyncClient, size: int, status: int) -> None:
    address = (await operator.post(EXPERIMENTS, json={"name": "x"})).headers["location"]
    assert (await operator.put(address, json={"parameters": {"a": "x" * size}})).status_code == status


@pytest.mark.parametrize("parameters", [[1], "a", None, {"": 1}, {"x" * 101: 1}, {str(n): n for n in range(201)}, {"a": "\0"}])
async def test_what_are_no_parameters_is_refused(operator: httpx.AsyncClient, parameters: Any) -> None:
    assert (await operator.post(EXPERIMENTS, json={"name": "x", "parameters": parameters})).status_code == 422


async def test_a_list_is_filtered_by_time_tags_and_words(rest: Rest, operator: httpx.AsyncClient) -> None:
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    hour = timedelta(hours=1)
    await ran(rest, operator, noon, noon + hour, name="first", tags=["a", "b"])
    await ran(rest, operator, noon + 2 * hour, noon + 3 * hour, name="second", tags=["a"], notes="With NITROGEN")
    await ran(rest, operator, noon + 4 * hour, None, name="third")

    async def names(**query: Any) -> list[str]:
        return [one["name"] for one in (await operator.get(EXPERIMENTS, params=query)).json()["data"]]

    def at(hours: float) -> str:
        return (noon + hours * hour).isoformat().replace("+00:00", "Z")

    assert await names() == ["third", "second", "first"]
    assert await names(tag="a") == ["second", "first"]
    assert await names(tag="a,b") == ["first"]
    assert await names(search="nitrogen") == ["second"]
    assert await names(**{"from": at(1), "to": at(4)}) == ["second"]
    assert await names(**{"from": at(0.9), "to": at(4.1)}) == ["third", "second", "first"]
    assert await names(**{"from": at(9)}) == ["third"]
    assert (await operator.get(EXPERIMENTS, params={"from": at(1), "to": at(0)})).status_code == 422


async def test_a_summary_says_what_an_experiment_holds_of_each_event(rest: Rest, operator: httpx.AsyncClient) -> None:
    a, a_public = await make_event(rest, operator, "a")
    _, b_public = await make_event(rest, operator, "b")
    await make_event(rest, operator, "outside its scope")
    start = clock.to_datetime(clock.now_us()).replace(hour=0, minute=0, second=1, microsecond=0) - timedelta(days=1)
    address = await ran(rest, operator, start, start + 60 * SECOND, event_public_ids=[a_public, b_public])
    async with rest.connection() as conn:
        await store(conn, a, start - SECOND, 99.0)
        await store(conn, a, start, 1.0, 2.0)
        await store(conn, a, start + 10 * SECOND, -4.0, 8.0, 3.0)
        await store(conn, a, start + 60 * SECOND, -99.0)
        writer, source = await conn.fetchrow("SELECT id, source_id FROM writers WHERE source_id IS NOT NULL")
        await conn.execute("UPDATE events SET writer_id = $1, channel_key = 'a' WHERE id = $2", writer, a)
        for event_id, from_on, n, cause in (
            (a, start + 2 * SECOND, 7, "spool_overflow"),
            (None, start + 3 * SECOND, 500, "device_error"),
            (None, start + 3 * SECOND, None, "disabled"),
            (a, start + 60 * SECOND, 9, "spool_overflow"),
        ):
            await conn.execute(
                """INSERT INTO gaps (source_id, event_id, from_on, to_on, n, cause)
                   VALUES ($1, $2, $3::timestamptz, $3 + interval '1 s', $4, $5)""",
                source, event_id, from_on, n, cause,
            )  # fmt: skip
    page = (await operator.get(f"{address}/summary")).json()
    assert (page["total"], page["data"][0]) == (
        2,
        {
            "event_public_id": a_public, "name": "a", "unit": "V", "n": 5, "min": -4.0, "max": 8.0, "mean": 2.0, "first": 1.0, "last": 3.0,
            "first_on": f"{start:%Y-%m-%dT%H:%M:%SZ}", "last_on": f"{start + 12 * SECOND:%Y-%m-%dT%H:%M:%SZ}", "gaps": 2, "missing": 7,
            "exact": True,
        },
    )  # fmt: skip
    assert page["data"][1] | {"n": 0, "min": None, "mean": None, "first_on": None, "gaps": 0, "missing": None} == page["data"][1]
    second = (await operator.get(f"{address}/summary", params={"page_size": 1, "page": 2, "sort": "-name"})).json()
    assert [one["name"] for one in second["data"]] == ["a"]
    assert (await operator.get(f"{address}/summary", params={"search": "B"})).json()["total"] == 1
    assert (await operator.get(f"{address}/summary", params={"page": 3})).json() == {"page": 3, "page_size": 25, "total": 2, "data": []}


@pytest.mark.parametrize("loose", ["before", "reaching in", "reaching in and marked", "within", "reaching out"])
async def test_a_summary_says_when_runs_are_not_settled_yet(rest: Rest, operator: httpx.AsyncClient, loose: str) -> None:
    a, _ = await make_event(rest, operator, "a")
    start = clock.to_datetime(clock.now_us()).replace(hour=0, minute=0, second=30, microsecond=0)
    address = await ran(rest, operator, start, start + 60 * SECOND)
    async with rest.connection() as conn:
        await store(conn, a, start, 1.0, 2.0)
        match loose:
            case "before":
                await store(conn, a, start - 2 * SECOND, 1.0, 1.0)
            case "reaching in":
                await store(conn, a, start - SECOND, 1.0, 1.0)
            case "reaching in and marked":
                await store(conn, a, start - SECOND, 1.0, 1.0, overlapping=True)
            case "within":
                await store(conn, a, start + SECOND, 5.0, overlapping=True)
            case "reaching out":
                await store(conn, a, start + 59 * SECOND, 5.0, 5.0)
    (summary,) = (await operator.get(f"{address}/summary")).json()["data"]
    assert summary["exact"] == (loose == "before")


async def test_a_running_experiment_is_summarised_and_one_of_months_is_not(rest: Rest, operator: httpx.AsyncClient) -> None:
    a, _ = await make_event(rest, operator, "a")
    now = clock.to_datetime(clock.now_us())
    running = await ran(rest, operator, now - timedelta(days=1), None)
    async with rest.connection() as conn:
        await store(conn, a, now, 1.0, 2.0)
    (summary,) = (await operator.get(f"{running}/summary")).json()["data"]
    assert (summary["n"], summary["mean"]) == (2, 1.5)
    async with rest.connection() as conn:
        await conn.execute("UPDATE experiments SET started_on = $1, stopped_on = $2", now - timedelta(days=41), now)
    refused = await operator.get(f"{running}/summary")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/conflict")
    assert (await operator.get(f"{EXPERIMENTS}/01a20a7a-1b53-79ca-9623-0f2e8d54601f/summary")).status_code == 404


async def test_a_recording_tells_since_when_an_event_is_recorded_and_how_much(rest: Rest, operator: httpx.AsyncClient) -> None:
    a, public_id = await make_event(rest, operator, "a")
    address = f"/api/v1/events/{public_id}/recording"
    assert (await operator.get(address)).json() == {"first_on": None, "last_on": None, "n": 0, "bytes": 0}
    now = clock.to_datetime(clock.now_us()).replace(microsecond=0)
    async with rest.connection() as conn:
        await store(conn, a, now - timedelta(days=20), 1.0, 2.0)
        await store(conn, a, now - timedelta(hours=23), 1.0, 2.0, 3.0)
        await conn.execute("INSERT INTO latest VALUES ($1, $2, 3)", a, now - timedelta(hours=23) + 2 * SECOND)
    found = (await operator.get(address)).json()
    assert (datetime.fromisoformat(found["first_on"]), datetime.fromisoformat(found["last_on"])) == (
        now - timedelta(days=20), now - timedelta(hours=23) + 2 * SECOND,
    )  # fmt: skip
    assert (found["n"], found["bytes"]) == (3, 48)
    assert (await operator.get("/api/v1/events/01a20a7a-1b53-79ca-9623-0f2e8d54601f/recording")).status_code == 404


async def ended(client: httpx.AsyncClient, address: str) -> Any:
    """The job, when it is over."""
    async with asyncio.timeout(20):
        while True:
            job = (await client.get(address)).json()
            if job["finished_on"] is not None:
                return job
            await asyncio.sleep(0.02)


async def test_deleting_asks_what_becomes_of_the_readings(rest: Rest, operator: httpx.AsyncClient) -> None:
    a, a_public = await make_event(rest, operator, "a")
    b, _ = await make_event(rest, operator, "b")
    start = clock.to_datetime(clock.now_us()).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=2)

    async def stored() -> list[tuple[int, datetime]]:
        async with rest.connection() as conn:
            return [tuple(row) for row in await conn.fetch("SELECT event_id, created_on FROM datapoints ORDER BY 1, 2")]

    async with rest.connection() as conn:
        for event_id in (a, b):
            for day in (0, 1):
                await store(conn, event_id, start + timedelta(days=day), 1.0, 2.0)
    everything = await stored()
    kept = await ran(rest, operator, start, start + timedelta(hours=1))
    assert (await operator.delete(kept)).status_code == 204
    assert await stored() == everything
    address = await ran(rest, operator, start, start + timedelta(hours=1), event_public_ids=[a_public])
    assert (await operator.delete(address, params={"data": "delete"})).status_code == 403
    async with rest.client("admin") as admin:
        assert (await admin.delete(address, params={"data": "perhaps"})).status_code == 422
        dry = await admin.delete(address, params={"data": "delete", "dry_run": "true"})
        assert (dry.status_code, "location" in dry.headers) == (202, False)
        assert (await admin.get(f"/api/v1/jobs/{dry.json()['public_id']}")).status_code == 404
        accepted = await admin.delete(address, params={"data": "delete"})
        assert (accepted.status_code, accepted.json()["kind"]) == (202, "delete_readings")
        assert (await admin.get(address)).status_code == 404
        job = await ended(admin, accepted.headers["location"])
        assert (job["state"], job["result"]) == ("done", {"readings": 2, "events": 1})
        assert await stored() == [run for run in everything if run != (a, start)]
        gone = await admin.delete(f"/api/v1/events/{a_public}", params={"data": "delete"})
        assert (await ended(admin, gone.headers["location"]))["result"] == {"readings": 2, "events": 1}
        assert await stored() == [run for run in everything if run[0] == b]


@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "1" + "0" * 400])
async def test_a_number_that_cannot_be_kept_is_refused_with_its_place(rest: Rest, number: str) -> None:
    async with rest.client("operator") as client:
        body = f'{{"name": "far", "parameters": {{"a": {number}}}}}'
        refused = await client.post("/api/v1/experiments", content=body, headers={"Content-Type": "application/json"})
    assert (refused.status_code, refused.json()["errors"][0]["loc"][:2]) == (422, ["body", "parameters"])


async def test_an_experiment_is_stopped_only_if_it_is_as_it_was_seen(operator: httpx.AsyncClient) -> None:
    started = await operator.post("/api/v1/experiments", json={"name": "Run"})
    address = started.headers["location"]
    await operator.put(address, json={"notes": "Wait for the filter."})
    late = await operator.put(f"{address}/stop", headers={"If-Match": started.headers["etag"]})
    assert (late.status_code, late.json()["type"]) == (412, "/problems/changed-meanwhile")
    stopped = await operator.put(f"{address}/stop", headers={"If-Match": '"2"'})
    assert (stopped.status_code, stopped.headers["etag"], stopped.json()["stopped_on"] is None) == (200, '"3"', False)
