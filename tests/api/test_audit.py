"""The audit log as administrators read and export it."""

import csv
import io
from typing import Any

import httpx
import pytest
from parts.rest import Rest

EVENT: dict[str, Any] = {"name": "Boiler", "type": "sensor", "unit": "°C"}


@pytest.fixture(scope="module")
async def done(rest: Rest) -> dict[str, Any]:
    """An event that was made and changed by an operator and deleted by the administrator; answers what it was at first."""
    async with rest.client("operator") as client:
        made = await client.post("/api/v1/events", json=EVENT | {"name": "=Boiler"})
        address = made.headers["location"]
        for unit in ("K", "F", "°C"):
            await client.put(address, json={"unit": unit})
    async with rest.client("admin") as client:
        await client.delete(address)
    event: dict[str, Any] = made.json()
    return event


async def listed(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    answer = await client.get("/api/v1/audit", params=query)
    assert answer.status_code == 200, answer.text
    entries: list[dict[str, Any]] = answer.json()["data"]
    return entries


async def test_it_is_filtered_by_who_what_and_when(rest: Rest, done: dict[str, Any]) -> None:
    async with rest.client("admin") as client:
        of_event = await listed(client, object_public_id=done["public_id"])
        assert [entry["action"] for entry in of_event] == ["delete", "update", "update", "update", "create"]
        assert [(entry["before"], entry["after"]) for entry in of_event[1:3]] == [
            ({"unit": "F"}, {"unit": "°C"}),
            ({"unit": "K"}, {"unit": "F"}),
        ]
        mine = await listed(client, object_public_id=done["public_id"], actor_public_id=str(rest.users["admin"]))
        assert [entry["actor_name"] for entry in mine] == ["admin"]
        assert await listed(client, object_public_id=done["public_id"], kind="source") == []
        created = await listed(client, object_public_id=done["public_id"], action="create")
        at = created[0]["at"]
        assert [entry["action"] for entry in await listed(client, object_public_id=done["public_id"], to=at)] == []
        assert len(await listed(client, object_public_id=done["public_id"], **{"from": at})) == 5


async def test_it_is_read_page_by_page(rest: Rest, done: dict[str, Any]) -> None:
    async with rest.client("admin") as client:
        seen: list[str] = []
        query: dict[str, Any] = {"object_public_id": done["public_id"], "limit": 2}
        while True:
            page = (await client.get("/api/v1/audit", params=query)).json()
            seen += [entry["action"] for entry in page["data"]]
            if page["next"] is None:
                break
            query["cursor"] = page["next"]
    assert seen == ["delete", "update", "update", "update", "create"]


async def test_the_export_holds_the_same_and_no_formula(rest: Rest, done: dict[str, Any]) -> None:
    async with rest.client("admin") as client:
        answer = await client.get("/api/v1/audit/export", params={"object_public_id": done["public_id"]})
        entries = await listed(client, object_public_id=done["public_id"])
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["id"] for row in rows] == [str(entry["id"]) for entry in entries]
    assert {row["object_name"] for row in rows} == {"'=Boiler"}
    assert rows[1]["after"] == '{"unit":"°C"}'


async def test_an_export_of_many_rows_is_whole(rest: Rest) -> None:
    async with rest.connection() as conn:
        await conn.execute(
            "INSERT INTO audit_log (at, action, kind, actor_kind) SELECT now(), 'update', 'many', 'system' FROM generate_series(1, 2345)"
        )
    async with rest.client("admin") as client:
        answer = await client.get("/api/v1/audit/export", params={"kind": "many"})
    assert len(answer.text.splitlines()) == 2346


@pytest.mark.parametrize(
    "query", [{"cursor": "nonsense"}, {"limit": 0}, {"from": "2026-01-01"}, {"actor_public_id": "me"}, {"colour": "red"}]
)
async def test_a_query_that_is_none_is_refused(rest: Rest, query: dict[str, Any]) -> None:
    async with rest.client("admin") as client:
        assert (await client.get("/api/v1/audit", params=query)).status_code == 422
