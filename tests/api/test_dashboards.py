"""Dashboards and their widgets over REST: whose they are, what fits into the grid, and one version for the whole."""

import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts.rest import PASSWORD, Rest

from webmacs import accounts, keys
from webmacs.api.widgets import Config
from webmacs.http import guard

DASHBOARDS = "/api/v1/dashboards"
MISSING = "01a20a7a-1b53-79ca-9623-0f2e8d54601f"
COLUMN, SIZE = st.integers(-1, 13) | st.integers(0, 4), st.integers(0, 13) | st.integers(1, 4)
TYPES = [kind.__struct_config__.tag for kind in Config.__args__]


@pytest.fixture(autouse=True)
async def empty(rest: Rest) -> AsyncIterator[None]:
    yield
    async with rest.connection() as conn:
        await conn.execute("DELETE FROM dashboards; DELETE FROM events; DELETE FROM users WHERE username = 'other'")


@pytest.fixture
async def other(rest: Rest) -> AsyncIterator[Any]:
    """Another operator."""
    async with rest.connection() as conn:
        key = accounts.password_key(keys.load_or_make_signing_key(rest.data_dir))
        await accounts.create_user(conn, key, email="other@example.org", username="other", password=PASSWORD, role="operator")
        public_id, valid_from = await conn.fetchrow("SELECT public_id, sessions_valid_from FROM users WHERE username = 'other'")
    token = guard.issue_token(rest.session_key, UUID(str(public_id)), valid_from)
    async with rest.client() as client:
        client.headers["Authorization"] = f"Bearer {token.text}"
        yield client


async def make(client: Any, **fields: Any) -> dict[str, Any]:
    made = await client.post(DASHBOARDS, json={"name": "Reactor"} | fields)
    assert made.status_code == 201, made.text
    dashboard: dict[str, Any] = made.json()
    return dashboard


async def make_event(client: Any, name: str) -> str:
    made = await client.post("/api/v1/events", json={"name": name, "type": "sensor", "unit": "°C"})
    return str(made.json()["public_id"])


async def add(client: Any, dashboard: dict[str, Any], widget_type: str = "gauge", **fields: Any) -> dict[str, Any]:
    body = {"config": {"widget_type": widget_type} | fields.pop("config", {})} | fields
    made = await client.post(f"{DASHBOARDS}/{dashboard['public_id']}/widgets", json=body)
    assert made.status_code == 201, made.text
    widget: dict[str, Any] = made.json()
    return widget


async def read(client: Any, dashboard: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = (await client.get(f"{DASHBOARDS}/{dashboard['public_id']}")).json()
    return answer


async def test_a_dashboard_is_made_read_changed_and_deleted(rest: Rest) -> None:
    async with rest.client("operator") as client:
        dashboard = await make(client, description="d", tags=["hall"], range_seconds=3600)
        assert dashboard == {
            "public_id": dashboard["public_id"], "name": "Reactor", "description": "d", "tags": ["hall"], "is_global": False,
            "range_seconds": 3600, "owner": "operator", "widgets": [], "created_on": dashboard["created_on"],
            "changed_on": dashboard["created_on"], "version": 1,
        }  # fmt: skip
        assert await read(client, dashboard) == dashboard
        address = f"{DASHBOARDS}/{dashboard['public_id']}"
        change = {"name": "R1", "range_seconds": None}
        changed = (await client.put(address, json=change, headers={"If-Match": '"1"'})).json()
        assert changed == dashboard | change | {"changed_on": changed["changed_on"], "version": 2}
        assert (await client.put(address, json=change, headers={"If-Match": '"1"'})).status_code == 412
        assert (await client.delete(address)).status_code == 204
        assert (await client.get(address)).status_code == 404


async def test_anothers_own_dashboard_answers_as_one_that_does_not_exist(rest: Rest, other: Any) -> None:
    async with rest.client("operator") as client, rest.client("viewer") as viewer, rest.client("admin") as admin:
        own = await make(client)
        widget = await add(client, own)
        body = {"config": {"widget_type": "gauge"}}
        requests = [
            ("GET", "", None), ("PUT", "", {"name": "x"}), ("DELETE", "", None), ("POST", "/copy", None),
            ("PUT", "/layout", {"widgets": []}),
            ("POST", "/widgets", body), ("GET", f"/widgets/{widget['public_id']}", None), ("PUT", f"/widgets/{widget['public_id']}", body),
            ("DELETE", f"/widgets/{widget['public_id']}", None),
        ]  # fmt: skip
        for method, path, content in requests:
            answers = []
            for public_id in (own["public_id"], MISSING):
                answer = await other.request(method, f"{DASHBOARDS}/{public_id}{path}", json=content)
                answers.append((answer.status_code, answer.json() | {"request_id": None}))
            assert answers[0] == answers[1]
            assert answers[0][0] == 404
        assert (await viewer.get(f"{DASHBOARDS}/{own['public_id']}")).status_code == 404
        assert (await other.get(DASHBOARDS)).json()["total"] == 0
        assert (await admin.get(DASHBOARDS)).json()["total"] == 1
        assert (await read(client, own))["version"] == 2


async def test_one_for_all_is_seen_by_all_and_changed_by_its_owner_and_administrators(rest: Rest, other: Any) -> None:
    async with rest.client("operator") as client, rest.client("viewer") as viewer, rest.client("admin") as admin:
        dashboard = await make(client, is_global=True)
        widget = await add(client, dashboard)
        address = f"{DASHBOARDS}/{dashboard['public_id']}"
        for reader in (other, viewer, admin):
            assert (await reader.get(address)).json()["widgets"] == [widget]
            assert (await reader.get(DASHBOARDS, params={"is_global": "true"})).json()["total"] == 1
        assert (await other.put(address, json={"name": "x"})).status_code == 403
        assert (await other.delete(f"{address}/widgets/{widget['public_id']}")).status_code == 403
        assert (await admin.put(address, json={"is_global": False})).json()["owner"] == "operator"
        assert (await viewer.get(address)).status_code == 404


async def test_a_copy_is_the_callers_own_with_widgets_of_its_own(rest: Rest, other: Any) -> None:
    async with rest.client("operator") as client:
        event = await make_event(client, "a")
        dashboard = await make(client, is_global=True, name="x" * 200, tags=["t"])
        widget = await add(client, dashboard, "line_chart", event_public_ids=[event], x=8, y=2, config={"legend": False})
        made = await other.post(f"{DASHBOARDS}/{dashboard['public_id']}/copy")
        copy = made.json()
        assert (made.status_code, made.headers["location"]) == (201, f"{DASHBOARDS}/{copy['public_id']}")
        assert (copy["owner"], copy["is_global"], copy["name"], copy["tags"]) == ("other", False, "x" * 193 + " (copy)", ["t"])
        (copied,) = copy["widgets"]
        assert copied == widget | {"public_id": copied["public_id"]}
        assert copied["public_id"] != widget["public_id"]
        assert (await client.get(made.headers["location"])).status_code == 404


async def test_a_dashboard_stays_when_its_owner_leaves(rest: Rest, other: Any) -> None:
    own = await make(other)
    async with rest.connection() as conn, rest.client("admin") as admin:
        await conn.execute("DELETE FROM users WHERE username = 'other'")
        assert (await read(admin, own))["owner"] == "other"
        assert (await admin.put(f"{DASHBOARDS}/{own['public_id']}", json={"is_global": True})).status_code == 200


async def test_a_change_of_a_widget_is_a_change_of_its_dashboard(rest: Rest) -> None:
    async with rest.client("operator") as client, rest.connection() as conn:
        dashboard = await make(client)
        widgets = f"{DASHBOARDS}/{dashboard['public_id']}/widgets"
        made = await client.post(widgets, json={"config": {"widget_type": "gauge"}}, headers={"If-Match": '"1"'})
        assert (made.status_code, made.headers["etag"]) == (201, '"2"')
        address = made.headers["location"]
        assert address == f"{widgets}/{made.json()['public_id']}"
        shown = await client.get(address)
        assert (shown.status_code, shown.headers["etag"], shown.json()) == (200, '"2"', made.json())
        assert (await client.put(address, json={"title": "x"}, headers={"If-Match": '"1"'})).status_code == 412
        changed = await client.put(address, json={"title": "x"}, headers={"If-Match": '"2"'})
        assert (changed.headers["etag"], changed.json()) == ('"3"', made.json() | {"title": "x"})
        assert (await client.delete(address, headers={"If-Match": '"2"'})).status_code == 412
        deleted = await client.delete(address, headers={"If-Match": '"3"'})
        assert (deleted.status_code, deleted.headers["etag"]) == (204, '"4"')
        assert (await client.delete(address)).status_code == 404
        assert (await client.get(address)).status_code == 404
        after = await read(client, dashboard)
        assert (after["version"], after["widgets"]) == (4, [])
        versions = await conn.fetch(
            """SELECT version, jsonb_array_length(content -> 'widgets') FROM versions
                WHERE kind = 'dashboard' AND object_public_id = $1 ORDER BY version""",
            UUID(dashboard["public_id"]),
        )
        assert [tuple(row) for row in versions] == [(1, 0), (2, 1), (3, 1), (4, 0)]


@pytest.mark.parametrize("widget_type", TYPES)
async def test_every_type_has_a_configuration_and_refuses_what_it_does_not_know(rest: Rest, widget_type: str) -> None:
    async with rest.client("operator") as client:
        dashboard = await make(client)
        widget = await add(client, dashboard, widget_type)
        assert widget["config"]["widget_type"] == widget_type
        assert (await read(client, dashboard))["widgets"] == [widget]
        address = f"{DASHBOARDS}/{dashboard['public_id']}/widgets"
        refused = await client.post(address, json={"config": {"widget_type": widget_type, "colour": "red"}})
        assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, ["body", "config", "colour"])
        changed = await client.put(f"{address}/{widget['public_id']}", json={"config": {"widget_type": "text", "markdown": "*x*"}})
        assert changed.json() == widget | {"config": {"widget_type": "text", "markdown": "*x*"}}


async def test_the_database_knows_the_same_types(rest: Rest) -> None:
    async with rest.connection() as conn:
        check = await conn.fetchval(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'dashboard_widgets_widget_type_check'"
        )
    assert sorted(re.findall(r"'(\w+)'::text", check)) == sorted(TYPES)


@pytest.mark.parametrize(
    "body",
    [
        {}, {"config": {}}, {"config": {"widget_type": "clock"}}, {"config": {"widget_type": "histogram", "bins": 1}},
        {"config": {"widget_type": "histogram", "bins": 501}}, {"config": {"widget_type": "slider", "step": 0}},
        {"config": {"widget_type": "spectrum", "size": 1000}}, {"config": {"widget_type": "text", "markdown": "x" * 20_001}},
        {"config": {"widget_type": "process_picture", "bindings": [{"element": "", "event": 0}]}}, {"widget_type": "gauge"},
    ],
)  # fmt: skip
async def test_a_configuration_that_is_none_is_refused(rest: Rest, body: dict[str, Any]) -> None:
    async with rest.client("operator") as client:
        dashboard = await make(client)
        assert (await client.post(f"{DASHBOARDS}/{dashboard['public_id']}/widgets", json=body)).status_code == 422
        assert await read(client, dashboard) == dashboard


@pytest.mark.parametrize(
    ("place", "fits"),
    [
        ({"x": 0, "w": 12}, True), ({"x": 11, "w": 1}, True), ({"x": 1, "w": 12}, False), ({"x": 11, "w": 2}, False),
        ({"x": 12, "w": 1}, False), ({"x": -1}, False), ({"y": -1}, False), ({"y": 1_000}, True), ({"y": 1_001}, False),
        ({"w": 0}, False), ({"w": 13}, False), ({"h": 0}, False), ({"h": 12}, True), ({"h": 13}, False), ({"x": 0.5}, False),
    ],
)  # fmt: skip
async def test_a_widget_lies_within_twelve_columns(rest: Rest, place: dict[str, Any], fits: bool) -> None:
    async with rest.client("operator") as client:
        dashboard = await make(client)
        address = f"{DASHBOARDS}/{dashboard['public_id']}"
        body = {"config": {"widget_type": "gauge"}} | place
        assert (await client.post(f"{address}/widgets", json=body)).status_code == (201 if fits else 422)
        widget = await add(client, dashboard, x=0, y=0, w=1, h=1)
        assert (await client.put(f"{address}/widgets/{widget['public_id']}", json=place)).status_code == (200 if fits else 422)


async def test_a_widget_shows_its_events_in_their_order_and_loses_those_that_are_deleted(rest: Rest) -> None:
    async with rest.client("admin") as client:
        a, b, c = [await make_event(client, name) for name in "abc"]
        dashboard = await make(client)
        widget = await add(client, dashboard, "xy_chart", event_public_ids=[c, a, b])
        address = f"{DASHBOARDS}/{dashboard['public_id']}/widgets/{widget['public_id']}"
        assert widget["event_public_ids"] == [c, a, b]
        assert (await client.put(address, json={"title": "t"})).json()["event_public_ids"] == [c, a, b]
        assert (await client.put(address, json={"event_public_ids": [b, c, a]})).json()["event_public_ids"] == [b, c, a]
        await client.delete(f"/api/v1/events/{c}")
        (shown,) = (await read(client, dashboard))["widgets"]
        assert shown["event_public_ids"] == [b, a]
        for wrong in ([a, c], [a, MISSING], [a, a], ["x"]):
            assert (await client.put(address, json={"event_public_ids": wrong})).status_code == 422
        assert (await client.put(address, json={"event_public_ids": []})).json()["event_public_ids"] == []


async def test_a_widget_shows_no_more_events_than_its_type_can(rest: Rest) -> None:
    async with rest.client("operator") as client:
        a, b = await make_event(client, "a"), await make_event(client, "b")
        dashboard = await make(client)
        address = f"{DASHBOARDS}/{dashboard['public_id']}/widgets"
        for widget_type, events, status in (("gauge", [a], 201), ("gauge", [a, b], 422), ("text", [a], 422), ("bar", [a, b], 201)):
            body = {"config": {"widget_type": widget_type}, "event_public_ids": events}
            assert (await client.post(address, json=body)).status_code == status
        widget = (await read(client, dashboard))["widgets"][1]
        refused = await client.put(f"{address}/{widget['public_id']}", json={"config": {"widget_type": "gauge"}})
        assert refused.json()["errors"][0]["loc"] == ["body", "event_public_ids"]


async def test_a_layout_places_all_widgets_or_none(rest: Rest) -> None:
    async with rest.client("operator") as client:
        dashboard = await make(client)
        first, second = await add(client, dashboard), await add(client, dashboard)
        foreign = await add(client, await make(client))
        address = f"{DASHBOARDS}/{dashboard['public_id']}/layout"

        def place(widget: dict[str, Any], x: int, w: int = 3) -> dict[str, Any]:
            return {"public_id": widget["public_id"], "x": x, "y": x, "w": w, "h": 2}

        before = await read(client, dashboard)
        for places, loc in (
            ([place(first, 0)], ["body", "widgets"]),
            ([], ["body", "widgets"]),
            ([place(first, 0), place(first, 3)], ["body", "widgets", 1, "public_id"]),
            ([place(first, 0), place(second, 3), place(second, 3)], ["body", "widgets", 2, "public_id"]),
            ([place(first, 0), place(foreign, 3)], ["body", "widgets", 1, "public_id"]),
            ([place(first, 0), place(second, 10)], ["body", "widgets", 1, "x"]),
            ([place(first, 0), place(second, 12)], ["body", "widgets", 1, "x"]),
        ):
            refused = await client.put(address, json={"widgets": places})
            assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, loc)
        assert await read(client, dashboard) == before
        placed = await client.put(address, json={"widgets": [place(second, 0, 12), place(first, 9)]}, headers={"If-Match": '"3"'})
        assert placed.headers["etag"] == '"4"'
        assert [(one["public_id"], one["x"], one["w"], one["h"]) for one in placed.json()["widgets"]] == [
            (first["public_id"], 9, 3, 2),
            (second["public_id"], 0, 12, 2),
        ]


async def test_a_dashboard_holds_a_hundred_widgets(rest: Rest) -> None:
    async with rest.client("operator") as client, rest.connection() as conn:
        dashboard = await make(client)
        await conn.execute(
            """INSERT INTO dashboard_widgets (public_id, dashboard_id, config, title, x, y, w, h)
               SELECT gen_random_uuid(), d.id, '{"widget_type": "gauge"}', '', 0, 0, 1, 1 FROM dashboards d, generate_series(1, 99)
                WHERE d.public_id = $1""",
            UUID(dashboard["public_id"]),
        )
        await add(client, dashboard)
        refused = await client.post(f"{DASHBOARDS}/{dashboard['public_id']}/widgets", json={"config": {"widget_type": "gauge"}})
        assert refused.status_code == 409
        assert len((await read(client, dashboard))["widgets"]) == 100


async def test_tags_have_one_spelling(rest: Rest) -> None:
    async with rest.client("operator") as client:
        dashboard = await make(client, tags=[" a ", "a", "b", " "])
        assert dashboard["tags"] == ["a", "b"]
        changed = await client.put(f"{DASHBOARDS}/{dashboard['public_id']}", json={"tags": ["c", " c", "a"]})
        assert changed.json()["tags"] == ["c", "a"]


async def test_a_page_of_dashboards_comes_with_their_widgets_in_one_statement(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rest.client("operator") as client:
        event = await make_event(client, "a")
        made = [await make(client, name=name, tags=[*name]) for name in ("b2", "a1", "b1")]
        for dashboard in made:
            await add(client, dashboard, event_public_ids=[event])
        pool = rest.app.state.parts.pool
        fetch, asked = type(pool).fetch, []

        async def counted(self: Any, query: str, *arguments: Any, **given: Any) -> Any:
            asked.append(query)
            return await fetch(self, query, *arguments, **given)

        monkeypatch.setattr(type(pool), "fetch", counted)
        page = (await client.get(DASHBOARDS, params={"page_size": 2})).json()
        assert len(asked) == 1
        assert (page["total"], [one["name"] for one in page["data"]]) == (3, ["a1", "b1"])
        assert all(one["widgets"][0]["event_public_ids"] == [event] for one in page["data"])
        assert page["data"][0] == await read(client, made[1])
        assert [one["name"] for one in (await client.get(DASHBOARDS, params={"tag": "b"})).json()["data"]] == ["b1", "b2"]
        assert [one["name"] for one in (await client.get(DASHBOARDS, params={"tag": "b,2"})).json()["data"]] == ["b2"]
        assert [one["name"] for one in (await client.get(DASHBOARDS, params={"search": "B", "sort": "-name"})).json()["data"]] == [
            "b2",
            "b1",
        ]
        assert (await client.get(DASHBOARDS, params={"is_global": "true"})).json()["total"] == 0


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(-1, 13), st.integers(-1, 1_001), st.integers(0, 13), st.integers(0, 13)), min_size=3, max_size=3)
)
async def test_any_layout_is_taken_whole_and_exactly_or_refused_whole(rest: Rest, places: list[tuple[int, int, int, int]]) -> None:
    fits = all(0 <= x <= 11 and 0 <= y <= 1_000 and 1 <= w <= 12 - x and 1 <= h <= 12 for x, y, w, h in places)
    async with rest.client("operator") as client:
        dashboard = await make(client)
        widgets = [await add(client, dashboard) for _ in places]
        asked = [widget | dict(zip("xywh", place, strict=True)) for widget, place in zip(widgets, places, strict=True)]
        layout = [{name: widget[name] for name in ("public_id", "x", "y", "w", "h")} for widget in asked]
        answer = await client.put(f"{DASHBOARDS}/{dashboard['public_id']}/layout", json={"widgets": layout[::-1]})
        assert answer.status_code == (200 if fits else 422)
        assert (await read(client, dashboard))["widgets"] == (asked if fits else widgets)
