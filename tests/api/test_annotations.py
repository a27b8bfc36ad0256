"""Annotations over REST: what people note about a time, found by every chart that shows it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from parts.rest import Rest

from webmacs import accounts, clock
from webmacs.http import guard
from webmacs.storage.changes import CHANNEL
from webmacs.storage.ids import uuid7

ANNOTATIONS = "/api/v1/annotations"
NOBODY = "01a20a7a-1b53-79ca-9623-0f2e8d54601f"


@pytest.fixture(autouse=True)
async def empty(rest: Rest) -> AsyncIterator[None]:
    yield
    async with rest.connection() as conn:
        await conn.execute("DELETE FROM annotations; DELETE FROM experiments; DELETE FROM events")


@pytest.fixture
async def operator(rest: Rest) -> AsyncIterator[httpx.AsyncClient]:
    async with rest.client("operator") as client:
        yield client


def at(hour: int, minute: int = 0) -> str:
    return f"2026-11-23T{hour:02}:{minute:02}:00Z"


async def note(client: httpx.AsyncClient, hour: int, until: int | None = None, **fields: Any) -> dict[str, Any]:
    body = {"from": at(hour), "to": None if until is None else at(until), "text": f"note {hour}"} | fields
    made = await client.post(ANNOTATIONS, json=body)
    assert made.status_code == 201, made.text
    annotation: dict[str, Any] = made.json()
    return annotation


async def make_event(client: httpx.AsyncClient, name: str) -> str:
    public_id: str = (await client.post("/api/v1/events", json={"name": name, "type": "sensor", "unit": "V"})).json()["public_id"]
    return public_id


async def test_an_annotation_is_made_read_changed_and_deleted_and_each_change_is_announced(rest: Rest, operator: httpx.AsyncClient) -> None:
    event = await make_event(operator, "a")
    experiment = (await operator.post("/api/v1/experiments", json={"name": "x"})).json()["public_id"]
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with rest.connection() as conn:
        await conn.add_listener(CHANNEL, lambda _c, _p, _n, what: heard.put_nowait(what))
        made = await note(operator, 8, 9, tags=["valve"], event_public_ids=[event], experiment_public_id=experiment)
        assert made == made | {
            "from": at(8), "to": at(9), "text": "note 8", "tags": ["valve"], "event_public_ids": [event],
            "experiment_public_id": experiment, "author": "operator", "author_public_id": str(rest.users["operator"]), "version": 1,
        }  # fmt: skip
        address = f"{ANNOTATIONS}/{made['public_id']}"
        assert (await operator.get(address)).json() == made
        change = {"to": None, "text": "changed", "event_public_ids": None, "experiment_public_id": None}
        changed = (await operator.put(address, json=change)).json()
        assert changed == made | change | {"version": 2, "changed_on": changed["changed_on"]}
        assert (await operator.put(address, json={"text": "lost"}, headers={"If-Match": '"1"'})).status_code == 412
        assert (await operator.delete(address)).status_code == 204
        assert (await operator.get(address)).status_code == 404
        async with asyncio.timeout(5):
            assert [await heard.get() for _ in range(3)] == ["annotations"] * 3
        accounts_of = await conn.fetch("SELECT action, object_name FROM audit_log WHERE kind = 'annotation' ORDER BY id")
        assert [tuple(row) for row in accounts_of] == [("create", "note 8"), ("update", "changed"), ("delete", "changed")]


async def test_a_chart_finds_what_touches_its_time_and_concerns_its_channels(operator: httpx.AsyncClient) -> None:
    a, b = await make_event(operator, "a"), await make_event(operator, "b")
    experiment = (await operator.post("/api/v1/experiments", json={"name": "x"})).json()["public_id"]
    await note(operator, 8, event_public_ids=[a], tags=["x", "y"])
    await note(operator, 9, 11, event_public_ids=[a, b], tags=["x"])
    await note(operator, 10, 12, text="Pump EXCHANGED", experiment_public_id=experiment)
    await note(operator, 13, 14, event_public_ids=[b])

    async def found(**query: Any) -> list[str]:
        page = (await operator.get(ANNOTATIONS, params=query)).json()
        assert page["total"] == len(page["data"])
        return [one["from"][11:13] for one in page["data"]]

    assert await found() == ["13", "10", "09", "08"]
    assert await found(sort="from") == ["08", "09", "10", "13"]
    assert await found(**{"from": at(8), "to": at(8, 30)}) == ["08"]
    assert await found(**{"from": at(8, 1), "to": at(8, 30)}) == []
    assert await found(**{"from": at(10, 30), "to": at(10, 31)}) == ["10", "09"]
    assert await found(**{"from": at(11), "to": at(13)}) == ["10", "09"]
    assert await found(**{"from": at(14, 1)}) == []
    assert await found(to=at(8, 1)) == ["08"]
    assert await found(to=at(8)) == []
    assert await found(event_public_id=a) == ["10", "09", "08"]
    assert await found(event_public_id=f"{a},{b}") == ["13", "10", "09", "08"]
    assert await found(tag="x") == ["09", "08"]
    assert await found(tag="x,y") == ["08"]
    assert await found(search="exchanged") == ["10"]
    assert await found(experiment_public_id=experiment) == ["10"]


async def test_of_a_deleted_channel_or_experiment_the_annotation_stays_and_does_not_become_everybodys(rest: Rest) -> None:
    async with rest.client("admin") as admin:
        event = await make_event(admin, "a")
        other = await make_event(admin, "b")
        experiment = (await admin.post("/api/v1/experiments", json={"name": "x"})).json()["public_id"]
        made = await note(admin, 8, event_public_ids=[event], experiment_public_id=experiment)
        await admin.put(f"/api/v1/experiments/{experiment}/stop")
        assert (await admin.delete(f"/api/v1/experiments/{experiment}")).status_code == 204
        assert (await admin.delete(f"/api/v1/events/{event}")).status_code == 204
        left = (await admin.get(f"{ANNOTATIONS}/{made['public_id']}")).json()
        assert (left["event_public_ids"], left["experiment_public_id"]) == ([event], None)  # as long as its readings are kept
        assert (await admin.get(ANNOTATIONS, params={"event_public_id": other})).json()["total"] == 0
        again = await admin.put(f"{ANNOTATIONS}/{made['public_id']}", json={"text": "still of one"})
        assert again.json()["event_public_ids"] == [event]
        async with rest.connection() as conn:
            await conn.execute("DELETE FROM events WHERE public_id = $1", event)  # as the job does that deletes its readings
        again = await admin.put(f"{ANNOTATIONS}/{made['public_id']}", json={"text": "now of nobody"})
        assert again.json()["event_public_ids"] == []
        assert (await admin.get(ANNOTATIONS, params={"event_public_id": other})).json()["total"] == 0


async def test_people_change_their_own_annotations_and_an_admin_any(rest: Rest, operator: httpx.AsyncClient) -> None:
    made = await note(operator, 8)
    address = f"{ANNOTATIONS}/{made['public_id']}"
    now = clock.to_datetime(clock.now_us())
    colleague = uuid7()
    async with rest.connection() as conn:
        await conn.execute(
            "INSERT INTO users (public_id, email, username, password_hash, role) VALUES ($1, 'c@example.org', 'colleague', $2, 'operator')",
            colleague, accounts.hash_password(b"k" * 32, "correct horse battery"),
        )  # fmt: skip
    token = guard.issue_token(rest.session_key, colleague, now).text
    async with rest.client("admin") as admin, rest.client() as other:
        other.headers["Authorization"] = f"Bearer {token}"
        assert (await other.get(address)).status_code == 200
        refused = await other.put(address, json={"text": "mine"})
        assert (refused.status_code, refused.json()["detail"]) == (
            403,
            "This annotation is operator's; its author or an admin may change it.",
        )
        assert (await other.delete(address)).status_code == 403
        changed = (await admin.put(address, json={"text": "by the admin"})).json()
        assert (changed["text"], changed["author"]) == ("by the admin", "operator")
        assert (await operator.put(address, json={"text": "by its author"})).status_code == 200
        assert (await admin.delete(address)).status_code == 204
    async with rest.connection() as conn:
        await conn.execute("DELETE FROM users WHERE username = 'colleague'")


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"to": "2026-11-23T07:59:59Z"}, ["to"]),
        ({"from": "1970-06-01T00:00:00Z"}, ["to"]),
        ({"from": "2026-11-23T08:00:00"}, ["from"]),
        ({"text": ""}, ["text"]),
        ({"text": "x" * 10_001}, ["text"]),
        ({"event_public_ids": []}, ["event_public_ids"]),
        ({"event_public_ids": [NOBODY]}, ["event_public_ids", 0]),
        ({"experiment_public_id": NOBODY}, ["experiment_public_id"]),
        ({"author": "somebody"}, ["author"]),
    ],
)
async def test_what_cannot_be_is_refused_with_the_place(operator: httpx.AsyncClient, wrong: dict[str, Any], place: list[Any]) -> None:
    made = await note(operator, 8)
    refused = await operator.post(ANNOTATIONS, json={"from": at(8), "text": "x"} | wrong)
    assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, ["body", *place])
    assert (await operator.put(f"{ANNOTATIONS}/{made['public_id']}", json=wrong)).status_code == 422
    assert (await operator.get(ANNOTATIONS)).json()["data"] == [made]


async def test_a_stretch_that_ends_where_it_begins_is_a_moment(operator: httpx.AsyncClient) -> None:
    assert (await note(operator, 8, 8))["to"] is None
