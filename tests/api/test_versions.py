"""Every state of what people configure is kept, compared and brought back, by those who may."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from parts.rest import Rest

EVENT = {"name": "Boiler", "type": "sensor", "unit": "°C", "max_value": 120}


@pytest.fixture(autouse=True)
async def empty(rest: Rest) -> AsyncIterator[None]:
    yield
    async with rest.connection() as conn:
        await conn.execute("DELETE FROM dashboards; DELETE FROM webhooks; DELETE FROM rules; DELETE FROM experiments; DELETE FROM events")
        await conn.execute("DELETE FROM versions; UPDATE settings SET content = '{}', smtp_password = NULL")


async def send(rest: Rest, method: str, path: str, body: Any = None, status: int = 200, role: str = "admin", **headers: str) -> Any:
    async with rest.client(role) as client:
        answer = await client.request(method, f"/api/v1/{path}", json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


async def listed(rest: Rest, query: str = "", role: str = "admin") -> list[Any]:
    found: list[Any] = (await send(rest, "GET", f"versions{query}", role=role))["data"]
    return found


async def test_versions_are_listed_newest_first_by_kind_object_actor_and_time(rest: Rest) -> None:
    event = await send(rest, "POST", "events", EVENT, 201, "operator")
    await send(rest, "PUT", f"events/{event['public_id']}", {"max_value": 130})
    other = await send(rest, "POST", "events", EVENT | {"name": "Other"}, 201)
    await send(rest, "DELETE", f"events/{event['public_id']}", status=204)
    rows = await listed(rest)
    assert [(row["name"], row["number"], row["actor_name"], row["deleted"], row["content"]) for row in rows] == [
        (None, 3, "admin", True, None), ("Other", 1, "admin", False, None), ("Boiler", 2, "admin", False, None),
        ("Boiler", 1, "operator", False, None),
    ]  # fmt: skip
    assert [row["number"] for row in await listed(rest, f"?kind=event&object_public_id={event['public_id']}")] == [3, 2, 1]
    assert [row["number"] for row in await listed(rest, "?actor_name=operator")] == [1]
    assert await listed(rest, "?kind=rule") == []
    at = rows[2]["at"]
    assert len(await listed(rest, f"?from={at}")) == 3
    assert len(await listed(rest, f"?to={at}")) == 1
    (row,) = await listed(rest, f"?content=true&object_public_id={other['public_id']}")
    assert row["content"] == other


async def test_pages_go_on_where_the_one_before_ended(rest: Rest) -> None:
    event = await send(rest, "POST", "events", EVENT, 201)
    for value in range(4):
        await send(rest, "PUT", f"events/{event['public_id']}", {"max_value": value})
    first = await send(rest, "GET", "versions?limit=3")
    second = await send(rest, "GET", f"versions?limit=3&cursor={first['next']}")
    assert [row["number"] for row in first["data"] + second["data"]] == [5, 4, 3, 2, 1]
    assert second["next"] is None


async def test_two_versions_are_compared_field_by_field(rest: Rest) -> None:
    event = await send(rest, "POST", "events", EVENT, 201)
    await send(rest, "PUT", f"events/{event['public_id']}", {"max_value": 130, "unit": "K"})
    await send(rest, "PUT", f"events/{event['public_id']}", {"max_value": 120})
    path = f"versions/event/{event['public_id']}"
    assert (await send(rest, "GET", f"{path}/3?against=1"))["changes"] == {"unit": {"from": "°C", "to": "K"}}
    assert (await send(rest, "GET", f"{path}/3?against=2"))["changes"] == {"max_value": {"from": 130.0, "to": 120.0}}
    assert (await send(rest, "GET", f"{path}/3"))["changes"] is None
    for wrong in (f"{path}/4", f"{path}/0", f"{path}/x", f"{path}/99999999999", f"versions/rule/{event['public_id']}/1"):
        await send(rest, "GET", wrong, status=404)
    await send(rest, "GET", f"{path}/3?against=9", status=404)


async def test_an_old_version_is_brought_back_as_a_new_one(rest: Rest) -> None:
    event = await send(rest, "POST", "events", EVENT, 201)
    changed = await send(rest, "PUT", f"events/{event['public_id']}", {"max_value": 130, "unit": "K"})
    path = f"versions/event/{event['public_id']}/1/restore"
    await send(rest, "POST", path, status=412, **{"If-Match": '"1"'})
    restored = await send(rest, "POST", path, **{"If-Match": '"2"'})
    assert (restored["version"], restored["content"]["unit"], restored["content"]["max_value"]) == (3, "°C", 120.0)
    now = await send(rest, "GET", f"events/{event['public_id']}")
    assert now == event | {"version": 3, "changed_on": now["changed_on"]}
    assert changed["created_on"] == now["created_on"]
    async with rest.connection() as conn:
        told = await conn.fetchrow("SELECT action, kind, detail FROM audit_log ORDER BY id DESC LIMIT 1")
    assert tuple(told) == ("restore", "event", "version 1")


async def test_what_was_deleted_is_not_brought_back(rest: Rest) -> None:
    event = await send(rest, "POST", "events", EVENT, 201)
    await send(rest, "DELETE", f"events/{event['public_id']}", status=204)
    await send(rest, "POST", f"versions/event/{event['public_id']}/1/restore", status=409)
    await send(rest, "POST", f"versions/event/{event['public_id']}/2/restore", status=409)


async def test_a_version_is_judged_as_any_change_is(rest: Rest) -> None:
    event = await send(rest, "POST", "events", EVENT, 201)
    await send(rest, "PUT", f"events/{event['public_id']}", {"name": "Kettle"})
    await send(rest, "POST", "events", EVENT, 201)
    await send(rest, "POST", f"versions/event/{event['public_id']}/1/restore", status=409)


async def test_every_kind_that_people_edit_is_brought_back(rest: Rest) -> None:
    event = await send(rest, "POST", "events", EVENT, 201)
    rule = await send(rest, "POST", "rules", {"name": "Hot", "event_public_id": event["public_id"], "operator": "gt", "threshold": 1}, 201)
    webhook = await send(rest, "POST", "webhooks", {"url": "https://example.org/", "events": ["sensor.reading"], "secret": "s"}, 201)
    experiment = await send(rest, "POST", "experiments", {"name": "Run", "parameters": {"charge": "A"}}, 201)
    note = await send(rest, "POST", "annotations", {"from": "2026-11-23T12:00:00Z", "to": "2026-11-23T13:00:00Z", "text": "leak"}, 201)
    source = await send(rest, "POST", "sources", {"name": "hall"}, 201)
    source.pop("credential")
    plugin = {"source_public_id": source["public_id"], "plugin_id": "chiller", "name": "roof", "settings": {"port": 502}}
    instance = await send(rest, "POST", "plugins", plugin, 201)
    for path, before, change in (
        (f"annotations/{note['public_id']}", note, {"to": None, "text": "no leak"}),
        (f"sources/{source['public_id']}", source, {"name": "yard", "enabled": False}),
        (f"plugins/{instance['public_id']}", instance, {"settings": {}, "demo_mode": True}),
        (f"rules/{rule['public_id']}", rule, {"threshold": 2, "actions": [{"type": "alarm"}]}),
        (f"webhooks/{webhook['public_id']}", webhook, {"enabled": False, "secret": "t"}),
        (f"experiments/{experiment['public_id']}", experiment, {"name": "Other", "parameters": {}}),
    ):
        await send(rest, "PUT", path, change)
        kind = {"plugins": "plugin%20instance"}.get(path.partition("/")[0], path.partition("s/")[0])
        assert (await send(rest, "GET", f"versions/{kind}/{before['public_id']}/1", role="admin" if kind == "webhook" else "viewer"))[
            "number"
        ]
        await send(rest, "POST", f"versions/{kind}/{before['public_id']}/1/restore")
        now = await send(rest, "GET", path)
        assert now == before | {name: now[name] for name in ("version", "changed_on") if name in now}


async def test_a_dashboard_is_brought_back_with_its_widgets(rest: Rest) -> None:
    event = await send(rest, "POST", "events", EVENT, 201)
    board = await send(rest, "POST", "dashboards", {"name": "Hall"}, 201, "operator")
    path = f"dashboards/{board['public_id']}"
    gauge = {"config": {"widget_type": "gauge"}, "event_public_ids": [event["public_id"]]}
    widget = await send(rest, "POST", f"{path}/widgets", gauge, 201, "operator")
    await send(rest, "DELETE", f"{path}/widgets/{widget['public_id']}", status=204, role="operator")
    await send(rest, "PUT", path, {"name": "Other"}, role="operator")
    restored = await send(rest, "POST", f"versions/dashboard/{board['public_id']}/2/restore", role="operator")
    assert (restored["content"]["name"], restored["content"]["owner"]) == ("Hall", "operator")
    (back,) = restored["content"]["widgets"]
    assert back == widget | {"public_id": back["public_id"]}


async def test_settings_are_brought_back_and_the_password_stays_as_it_is(rest: Rest) -> None:
    smtp = {"host": "mail.example.org", "sender": "plant@example.org"}
    first = await send(rest, "PUT", "settings", {"plant_name": "North", "smtp": smtp | {"password": "s3cret"}})
    await send(rest, "PUT", "settings", {"plant_name": "South"})
    restored = await send(rest, "POST", f"versions/settings/{first['public_id']}/{first['version']}/restore")
    assert (restored["content"]["plant_name"], restored["content"]["smtp_password_set"]) == ("North", True)
    async with rest.connection() as conn:
        assert "s3cret" not in str(await conn.fetch("SELECT content FROM versions"))


async def test_the_settings_that_nobody_has_changed_yet_are_brought_back(rest: Rest) -> None:
    shown = await send(rest, "GET", "settings")
    await send(rest, "PUT", "settings?dry_run=true", {"plant_name": "North"})
    await send(rest, "PUT", "settings", {"plant_name": shown["plant_name"]})
    assert await listed(rest, "?kind=settings") == []
    await send(rest, "PUT", "settings", {"plant_name": "North"})
    await send(rest, "PUT", "settings", {"plant_name": "South"})
    rows = await listed(rest, "?kind=settings&content=true")
    first = shown["version"]
    assert [(row["number"], row["actor_name"]) for row in rows] == [(first + 2, "admin"), (first + 1, "admin"), (first, None)]
    assert (rows[-1]["content"], rows[-1]["at"]) == (shown, shown["changed_on"])
    restored = await send(rest, "POST", f"versions/settings/{shown['public_id']}/{first}/restore")
    assert restored["content"] == shown | {"version": first + 3, "changed_on": restored["content"]["changed_on"]}


async def test_people_see_versions_of_what_they_may_read(rest: Rest) -> None:
    await send(rest, "POST", "events", EVENT, 201)
    await send(rest, "POST", "webhooks", {"url": "https://example.org/", "events": ["sensor.reading"]}, 201)
    await send(rest, "POST", "sources", {"name": "gateway"}, 201)
    person = await send(rest, "POST", "users", {"username": "maria", "email": "maria@example.org", "role": "viewer"}, 201)
    mine = await send(rest, "POST", "dashboards", {"name": "Mine"}, 201, "operator")
    await send(rest, "POST", "dashboards", {"name": "All", "is_global": True}, 201, "operator")
    seen = {role: sorted((row["kind"], row["name"]) for row in await listed(rest, role=role)) for role in ("viewer", "operator", "admin")}
    assert seen["viewer"] == [("dashboard", "All"), ("event", "Boiler"), ("source", "gateway")]
    assert seen["operator"] == [("dashboard", "All"), ("dashboard", "Mine"), ("event", "Boiler"), ("source", "gateway")]
    assert {kind for kind, _ in seen["admin"]} == {"dashboard", "event", "source", "user", "webhook"}
    await send(rest, "GET", f"versions/dashboard/{mine['public_id']}/1", status=404, role="viewer")
    await send(rest, "POST", f"versions/user/{person['public_id']}/1/restore", status=409)


async def test_only_those_who_may_change_it_bring_it_back(rest: Rest) -> None:
    event = await send(rest, "POST", "events", EVENT, 201)
    path = f"versions/event/{event['public_id']}/1/restore"
    await send(rest, "POST", path, status=403, role="viewer")
    await send(rest, "POST", path, role="operator")
    settings = await send(rest, "PUT", "settings", {"plant_name": "North"})
    await send(rest, "POST", f"versions/settings/{settings['public_id']}/{settings['version']}/restore", status=403, role="operator")


async def with_token(rest: Rest, scopes: list[str], method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """(status, answer) for a token of the admin."""
    made = await send(rest, "POST", "tokens", {"name": "program", "scopes": scopes}, 201)
    async with rest.client() as client:
        answer = await client.request(method, f"/api/v1/{path}", json=body, headers={"Authorization": f"Bearer {made['token']}"})
    return answer.status_code, answer.json()


async def test_a_token_sees_versions_of_what_its_scopes_read(rest: Rest) -> None:
    event = await send(rest, "POST", "events", EVENT, 201)
    person = await send(rest, "POST", "users", {"username": "nora", "email": "nora@example.org", "role": "viewer"}, 201)
    for scopes, kinds in (
        (["versions:read"], set()),
        (["versions:read", "events:read"], {"event"}),
        (["versions:read", "users:write"], {"user"}),
        (["read"], {"event", "user"}),
        (["write"], {"event", "user"}),
    ):
        status, answer = await with_token(rest, scopes, "GET", "versions?content=true")
        assert (status, {row["kind"] for row in answer["data"]}) == (200, kinds), scopes
        for kind, made in (("event", event), ("user", person)):
            for path in (f"versions?kind={kind}", f"versions/{kind}/{made['public_id']}/1"):
                status, answer = await with_token(rest, scopes, "GET", path)
                assert (status, answer.get("type")) == ((200, None) if kind in kinds else (403, "/problems/scope-missing")), (scopes, path)


async def test_a_token_brings_back_what_its_scopes_change(rest: Rest) -> None:
    event = await send(rest, "POST", "events", EVENT, 201)
    path = f"versions/event/{event['public_id']}/1/restore"
    for scopes, status in (
        (["versions:write"], 403),
        (["versions:write", "events:read"], 403),
        (["versions:write", "events:write"], 200),
    ):
        assert (await with_token(rest, scopes, "POST", path))[0] == status, scopes
