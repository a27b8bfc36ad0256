"""Events, experiments, sources and gaps over REST: what is answered is what the database holds, and listeners hear of each change."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from parts.rest import Rest

from webmacs.storage.changes import CHANNEL

EVENT = {"name": "Boiler", "type": "sensor", "unit": "°C", "min_value": -10.5, "max_value": 120, "expected_interval_ms": 1000}


@asynccontextmanager
async def announced(rest: Rest) -> AsyncIterator[asyncio.Queue[str]]:
    """What listeners hear while the block runs."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with rest.connection() as conn:
        await conn.add_listener(CHANNEL, lambda _c, _p, _n, what: heard.put_nowait(what))
        yield heard
        await conn.remove_listener(CHANNEL, heard.put_nowait)


@pytest.fixture(autouse=True)
async def empty(rest: Rest) -> AsyncIterator[None]:
    yield
    async with rest.connection() as conn:
        await conn.execute("DELETE FROM experiments; DELETE FROM events; DELETE FROM gaps; DELETE FROM sources WHERE name <> 'source'")


async def make_event(client: Any, name: str = "Boiler") -> dict[str, Any]:
    made = await client.post("/api/v1/events", json=EVENT | {"name": name})
    assert made.status_code == 201
    event: dict[str, Any] = made.json()
    return event


async def test_an_event_is_made_read_changed_and_deleted_and_each_change_is_announced(rest: Rest) -> None:
    async with rest.client("admin") as client, announced(rest) as heard:
        made = await client.post("/api/v1/events", json=EVENT)
        event = made.json()
        assert made.status_code == 201
        address = made.headers["location"]
        assert address == f"/api/v1/events/{event['public_id']}"
        assert event == event | EVENT | {"decimals": None, "source": None, "instance": None, "channel_key": None, "quality": None}
        assert (await client.get(address)).json() == event
        changed = (await client.put(address, json={"max_value": None, "decimals": 2})).json()
        assert changed == event | {"max_value": None, "decimals": 2, "changed_on": changed["changed_on"], "version": 2}
        assert changed["changed_on"] > event["changed_on"]
        assert (await client.delete(address)).status_code == 204
        assert (await client.get(address)).json()["deleted_on"] is not None
        assert (await client.delete(address)).status_code == 204  # it is already
        async with asyncio.timeout(5):
            assert [await heard.get() for _ in range(3)] == ["events"] * 3
        assert heard.empty()


async def test_names_of_events_are_taken_once(rest: Rest) -> None:
    async with rest.client("admin") as client:
        await make_event(client, "a")
        b = await make_event(client, "b")
        refused = await client.post("/api/v1/events", json=EVENT | {"name": "a"})
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/conflict")
        assert (await client.put(f"/api/v1/events/{b['public_id']}", json={"name": "a"})).status_code == 409
        assert (await client.put(f"/api/v1/events/{b['public_id']}", json={"name": "b"})).status_code == 200


async def test_bounds_are_judged_against_what_is_stored(rest: Rest) -> None:
    async with rest.client("admin") as client:
        event = await make_event(client)
        refused = await client.put(f"/api/v1/events/{event['public_id']}", json={"min_value": 120.5})
        assert refused.status_code == 422
        assert (await client.put(f"/api/v1/events/{event['public_id']}", json={"min_value": 120})).status_code == 200


async def test_deleting_an_event_keeps_its_readings(rest: Rest) -> None:
    async with rest.client("admin") as client, rest.connection() as conn:
        event = await make_event(client)
        event_id = await conn.fetchval("SELECT id FROM events WHERE name = 'Boiler'")
        await conn.execute("INSERT INTO latest VALUES ($1, now(), 1.5)", event_id)
        await conn.execute(
            """INSERT INTO datapoints (event_id, created_on, last_on, n, min, max, sum, first, last, encoding, overlapping, payload)
               VALUES ($1, now(), now(), 1, 1.5, 1.5, 1.5, 1.5, 1.5, 0, false, '')""",
            event_id,
        )
        assert (await client.delete(f"/api/v1/events/{event['public_id']}")).status_code == 204
        assert await conn.fetchval("SELECT count(*) FROM datapoints WHERE event_id = $1", event_id) == 1
        assert await conn.fetchval("SELECT count(*) FROM latest WHERE event_id = $1", event_id) == 1


async def test_a_list_is_paged_sorted_and_searched(rest: Rest) -> None:
    async with rest.client("operator") as client:
        for name in ("pump", "Boiler 1", "boiler 2", "100 %"):
            await make_event(client, name)

        async def names(**query: Any) -> tuple[int, list[str]]:
            page = (await client.get("/api/v1/events", params=query)).json()
            assert page.keys() == {"page", "page_size", "total", "data"}
            return page["total"], [event["name"] for event in page["data"]]

        assert await names() == (4, ["100 %", "Boiler 1", "boiler 2", "pump"])
        assert await names(page_size=2, page=2) == (4, ["boiler 2", "pump"])
        assert await names(page_size=2, page=3) == (4, [])
        assert await names(sort="-name", page_size=1) == (4, ["pump"])
        assert await names(search="BOILER") == (2, ["Boiler 1", "boiler 2"])
        assert await names(search="%") == (1, ["100 %"])
        assert await names(search="_") == (0, [])
        assert await names(type="actuator") == (0, [])


async def test_an_experiment_starts_at_once_and_stops_once(rest: Rest) -> None:
    async with rest.client("operator") as client, announced(rest) as heard:
        started = await client.post("/api/v1/experiments", json={"name": "run 1", "notes": "n", "tags": ["a", "b"]})
        assert started.status_code == 201
        experiment = started.json()
        assert (experiment["stopped_on"], experiment["started_by"], experiment["event_public_ids"]) == (None, "operator", None)
        address = started.headers["location"]
        assert (await client.delete(address)).status_code == 409
        stopped = (await client.put(f"{address}/stop")).json()
        assert stopped["stopped_on"] > stopped["started_on"]
        assert (await client.put(f"{address}/stop")).json() == stopped
        renamed = (await client.put(address, json={"name": "run 2", "tags": []})).json()
        assert renamed == stopped | {"name": "run 2", "tags": [], "version": 3}
        assert (await client.delete(address)).status_code == 204
        assert (await client.put(f"{address}/stop")).status_code == 404
        async with asyncio.timeout(5):
            assert [await heard.get() for _ in range(4)] == ["experiments"] * 4
        assert heard.empty()


async def test_experiments_that_share_a_channel_do_not_run_together(rest: Rest) -> None:
    async with rest.client("operator") as client:
        a, b = (await make_event(client, "a"))["public_id"], (await make_event(client, "b"))["public_id"]

        async def start(scope: list[str] | None) -> Any:
            return await client.post("/api/v1/experiments", json={"name": "x", "event_public_ids": scope})

        first = await start([a])
        assert first.json()["event_public_ids"] == [a]
        for scope in ([a], [a, b], None):
            assert (await start(scope)).status_code == 409
        assert (await start([b])).status_code == 201
        for scope in ([], ["01a20a7a-1b53-79ca-9623-0f2e8d54601f"], ["x"]):
            assert (await start(scope)).status_code == 422
        assert (await client.get("/api/v1/experiments", params={"running": "true"})).json()["total"] == 2


async def test_of_experiments_started_at_once_one_wins(rest: Rest) -> None:
    async with rest.client("operator") as client:
        answers = await asyncio.gather(*(client.post("/api/v1/experiments", json={"name": str(n)}) for n in range(5)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]


async def test_a_source_is_renamed_disabled_and_given_a_new_credential(rest: Rest) -> None:
    async with rest.client("admin") as client, announced(rest) as heard:
        made = await client.post("/api/v1/sources", json={"name": "hall"})
        address = made.headers["location"]
        await client.post("/api/v1/sources", json={"name": "yard"})
        changed = await client.put(address, json={"name": "press hall", "enabled": False}, headers={"If-Match": '"1"'})
        assert (changed.json()["name"], changed.json()["enabled"], changed.headers["etag"]) == ("press hall", False, '"2"')
        assert (await client.get(address)).json() == changed.json()
        assert (await client.put(address, json={"name": "yard"})).status_code == 409
        late = await client.post(f"{address}/credential", headers={"If-Match": '"1"'})
        assert (late.status_code, late.json()["type"]) == (412, "/problems/changed-meanwhile")
        renewed = await client.post(f"{address}/credential", headers={"If-Match": '"2"'})
        assert renewed.status_code == 200
        assert renewed.json()["credential"] != made.json()["credential"]
        async with asyncio.timeout(5):
            assert [await heard.get() for _ in range(4)] == ["sources"] * 4
        assert (await client.put(address, json={"enabled": True})).json()["version"] == 3
    async with rest.client() as client:  # the wrong role is refused, the wrong credential is not known
        for credential, status in ((made.json()["credential"], 401), (renewed.json()["credential"], 403)):
            answer = await client.get("/api/v1/sources", headers={"Authorization": f"Bearer {credential}"})
            assert answer.status_code == status


async def test_a_source_shows_its_credential_once_and_deleting_it_voids_it_at_once(rest: Rest) -> None:
    async with rest.client("admin") as client, rest.connection() as conn, announced(rest) as heard:
        made = await client.post("/api/v1/sources", json={"name": "hall"})
        source = made.json()
        credential = source.pop("credential")
        assert credential.startswith("wms_")
        assert source["state"] == "never_seen"
        assert (await client.post("/api/v1/sources", json={"name": "hall"})).status_code == 409
        (listed,) = (await client.get("/api/v1/sources", params={"search": "hall"})).json()["data"]
        assert listed == source
        await conn.execute("UPDATE sources SET last_seen_on = now() WHERE name = 'hall'")
        (listed,) = (await client.get("/api/v1/sources", params={"search": "hall"})).json()["data"]
        assert listed["state"] == "live"
        for query, found in (({"state": "live"}, 1), ({"state": "offline"}, 0), ({"enabled": "true"}, 1), ({"enabled": "false"}, 0)):
            assert (await client.get("/api/v1/sources", params={"search": "hall"} | query)).json()["total"] == found, query
        writer = await conn.fetchval("SELECT w.id FROM writers w JOIN sources s ON s.id = w.source_id WHERE s.name = 'hall'")
        event = await make_event(client)
        await conn.execute("UPDATE events SET writer_id = $1, channel_key = 'k', instance = 'i'", writer)
        assert (await client.get(f"/api/v1/events/{event['public_id']}")).json()["source"] == "hall"
        headers = {"Authorization": f"Bearer {credential}"}
        assert (await client.get("/api/v1/auth/me", headers=headers)).status_code == 403
        assert (await client.delete(made.headers["location"])).status_code == 204
        assert (await client.get("/api/v1/auth/me", headers=headers)).status_code == 401
        orphan = (await client.get(f"/api/v1/events/{event['public_id']}")).json()
        assert (orphan["source"], orphan["channel_key"]) == (None, None)
        assert await conn.fetchval("SELECT count(*) FROM writers WHERE id = $1", writer) == 0
        async with asyncio.timeout(5):
            assert [await heard.get() for _ in range(4)] == ["sources", "events", "sources", "events"]


async def test_gaps_of_an_event_include_those_of_all_channels_of_its_source(rest: Rest) -> None:
    async with rest.client("viewer") as client, rest.client("operator") as operator, rest.connection() as conn:
        event = await make_event(operator)
        other = await make_event(operator, "other")
        source_id, writer = await conn.fetchrow("SELECT source_id, id FROM writers WHERE source_id IS NOT NULL")
        event_id = await conn.fetchval("UPDATE events SET writer_id = $1, channel_key = 'k' WHERE name = 'Boiler' RETURNING id", writer)
        gap = """INSERT INTO gaps (source_id, event_id, from_on, to_on, n, cause)
                 VALUES ($1, $2, $3::timestamptz, $3 + interval '1 min', 5, $4)"""
        noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
        await conn.execute(gap, source_id, event_id, noon, "device_error")
        await conn.execute(gap, source_id, None, noon.replace(hour=13), "spool_overflow")
        await conn.execute(gap, source_id, 2_000_000_000, noon, "of a deleted event")
        await conn.execute(gap, source_id, None, noon.replace(hour=11), "disabled")  # channels that have no event

        async def causes(**query: Any) -> list[str]:
            answer = (await client.get("/api/v1/gaps", params=query)).json()
            assert answer["next"] is None
            return [one["cause"] for one in answer["data"]]

        assert await causes() == ["disabled", "spool_overflow", "device_error"]
        assert await causes(event_public_id=event["public_id"]) == ["spool_overflow", "device_error"]
        assert await causes(event_public_id=other["public_id"]) == []
        assert await causes(**{"from": "2026-11-23T12:01:00Z", "to": "2026-11-23T13:00:00Z"}) == ["device_error"]
        assert await causes(**{"from": "2026-11-23T12:01:00.000001Z", "to": "2026-11-23T13:00:00.000001Z"}) == ["spool_overflow"]
        page = (await client.get("/api/v1/gaps", params={"limit": 1})).json()
        assert [one["cause"] for one in page["data"]] == ["disabled"]
        further = (await client.get("/api/v1/gaps", params={"limit": 1, "cursor": page["next"]})).json()
        (first,) = further["data"]
        assert first == {
            "event_public_id": None, "source": "source", "from": "2026-11-23T13:00:00Z", "to": "2026-11-23T13:01:00Z",
            "n": 5, "cause": "spool_overflow", "detail": None,
            "declared_on": first["declared_on"],
        }  # fmt: skip


async def test_a_chart_of_no_time_at_all_is_refused_with_the_reason(rest: Rest) -> None:
    async with rest.client("admin") as client:
        event = await make_event(client)
        moment = "2026-11-23T12:00:00Z"
        body = {"event_public_ids": [event["public_id"]], "from": moment, "to": moment}
        refused = await client.post("/api/v1/datapoints/series", json=body)
    assert (refused.status_code, refused.json()["errors"][0]["msg"]) == (422, "A range ends after it begins.")
