"""API tokens: what a program may in a person's name, and a kiosk that shows one dashboard."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from parts.dashboards import make_dashboard
from parts.rest import Rest, begin_session

from webmacs import clock
from webmacs.api import tokens
from webmacs.http import guard, kiosk
from webmacs.http.problem import Unauthorized

TOKENS = "/api/v1/tokens"
STREAM = "/ws/datapoints/stream"
MISSING = "01a20a7a-1b53-79ca-9623-0f2e8d54601f"


@pytest.fixture
async def conn(rest: Rest) -> AsyncIterator[Any]:
    async with rest.connection() as connection:
        yield connection


@pytest.fixture
async def operator(rest: Rest) -> AsyncIterator[Any]:
    async with rest.client("operator") as client:
        yield client


async def make(client: Any, **body: Any) -> dict[str, Any]:
    answer = await client.post(TOKENS, json={"name": "program"} | body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def bearer(token: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {token['token']}"}


async def test_a_token_is_shown_once_and_only_its_digest_is_kept(rest: Rest, operator: Any, conn: Any) -> None:
    made = await make(operator, scopes=["write"])
    assert made["token"].startswith("wm_")
    assert len(made["token"]) == 3 + 43
    assert (made["role"], made["scopes"], made["owner"]) == ("operator", ["write"], "operator")
    (listed,) = [one for one in (await operator.get(TOKENS)).json()["data"] if one["public_id"] == made["public_id"]]
    assert "token" not in listed
    kept = await conn.fetchval("SELECT hash FROM api_tokens WHERE public_id = $1", made["public_id"])
    assert kept == hashlib.sha256(made["token"].encode()).digest()
    told = await conn.fetchval("SELECT (SELECT json_agg(a) FROM audit_log a)::text")
    assert made["public_id"] in told
    assert made["token"] not in told
    async with rest.client() as client:
        assert (await client.get("/api/v1/auth/me", headers=bearer(made))).json()["username"] == "operator"
        event = await client.post("/api/v1/events", json={"name": "by token", "type": "sensor", "unit": ""}, headers=bearer(made))
        assert event.status_code == 201
    assert await conn.fetchval("SELECT actor_name FROM audit_log WHERE object_name = 'by token'") == "operator (program)"


async def test_a_deleted_token_is_void_at_once(rest: Rest, operator: Any) -> None:
    made = await make(operator)
    async with rest.client() as client:
        assert (await client.get("/api/v1/events", headers=bearer(made))).status_code == 200
        assert (await operator.delete(f"{TOKENS}/{made['public_id']}")).status_code == 204
        assert (await client.get("/api/v1/events", headers=bearer(made))).status_code == 401


async def test_a_token_counts_for_at_most_its_owners_role_now(rest: Rest, operator: Any, conn: Any) -> None:
    made = await make(operator, scopes=["write"])
    assert (await operator.post(TOKENS, json={"name": "more", "role": "admin"})).status_code == 422
    async with rest.client() as client:
        assert (await client.post("/api/v1/events", json={}, headers=bearer(made))).status_code == 422
        await conn.execute("UPDATE users SET role = 'viewer' WHERE username = 'operator'")
        rest.app.state.parts.known.forget()
        try:
            assert (await client.post("/api/v1/events", json={}, headers=bearer(made))).status_code == 403
        finally:
            await conn.execute("UPDATE users SET role = 'operator' WHERE username = 'operator'")
            rest.app.state.parts.known.forget()


async def test_a_token_ends_when_it_says(rest: Rest, operator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.now_us()
    until = clock.to_datetime(now + 3_600_000_000).isoformat()
    made = await make(operator, expires_on=until)
    past = clock.to_datetime(now - 1).isoformat()
    assert (await operator.post(TOKENS, json={"name": "past", "expires_on": past})).status_code == 422
    async with rest.client() as client:
        for seconds, status in ((3_599, 200), (3_600, 401)):
            monkeypatch.setattr(clock, "now_us", lambda seconds=seconds: now + seconds * 1_000_000)
            rest.app.state.parts.known.forget()
            assert (await client.get("/api/v1/events", headers=bearer(made))).status_code == status


@pytest.mark.parametrize("scopes", [["all"], ["events:delete"], ["nothing:read"], [""], [], ["read", "Write"], ["events"]])
async def test_an_unknown_scope_is_refused(operator: Any, scopes: list[str]) -> None:
    refused = await operator.post(TOKENS, json={"name": "wrong", "scopes": scopes})
    assert (refused.status_code, refused.json()["errors"][0]["loc"][:2]) == (422, ["body", "scopes"])


async def test_a_token_gives_only_scopes_that_it_has(rest: Rest) -> None:
    async with rest.client("admin") as admin, rest.client() as client:
        made = await make(admin, scopes=["tokens:write", "events:read"])
        for scopes, status in ((["events:read"], 201), (["read"], 422), (["events:write"], 422), (["users:write"], 422)):
            answer = await client.post(TOKENS, json={"name": "child", "scopes": scopes}, headers=bearer(made))
            assert answer.status_code == status, scopes


async def test_a_token_with_an_end_makes_none_that_lasts_longer(rest: Rest, operator: Any, conn: Any) -> None:
    now = clock.now_us()
    sooner, end, later = (clock.to_datetime(now + hours * 3_600_000_000).isoformat() for hours in (1, 2, 3))
    dashboard = str(await make_dashboard(conn, rest.users["operator"], []))
    made = await make(operator, scopes=["tokens:write", "read"], expires_on=end)
    async with rest.client() as client:
        for asked in ({}, {"expires_on": None}, {"expires_on": later}, {"dashboard_public_id": dashboard}):
            refused = await client.post(TOKENS, json={"name": "child"} | asked, headers=bearer(made))
            assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, ["body", "expires_on"]), asked
        for until in (sooner, end):
            answer = await client.post(TOKENS, json={"name": "child", "expires_on": until}, headers=bearer(made))
            assert answer.status_code == 201, answer.text


async def test_another_users_token_is_answered_as_one_that_does_not_exist(rest: Rest, operator: Any) -> None:
    made = await make(operator)
    async with rest.client("viewer") as viewer, rest.client("admin") as admin:
        answers = [await viewer.delete(f"{TOKENS}/{public_id}") for public_id in (made["public_id"], MISSING)]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert len({answer.text.replace(answer.json()["request_id"], "") for answer in answers}) == 1
        assert made["public_id"] not in (await viewer.get(TOKENS)).text
        assert (await viewer.get(f"{TOKENS}?all=true")).status_code == 403
        assert (await viewer.get(f"{TOKENS}?user={rest.users['operator']}")).status_code == 403
        assert made["public_id"] not in (await admin.get(TOKENS)).text
        assert made["public_id"] in (await admin.get(f"{TOKENS}?all=true&page_size=200")).text
        of_operator = (await admin.get(f"{TOKENS}?user={rest.users['operator']}")).json()["data"]
        assert {one["owner"] for one in of_operator} == {"operator"}
        assert (await admin.delete(f"{TOKENS}/{made['public_id']}")).status_code == 204


async def test_a_user_has_a_hundred_tokens_at_most(rest: Rest, conn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "TOKENS_MAX", 2)
    async with rest.client("viewer") as viewer:
        await conn.execute("DELETE FROM api_tokens WHERE user_id = (SELECT id FROM users WHERE username = 'viewer')")
        assert [(await viewer.post(TOKENS, json={"name": "t"})).status_code for _ in range(3)] == [201, 201, 409]


async def test_when_and_where_from_it_was_used_last_is_known_to_the_minute(
    rest: Rest, operator: Any, conn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await make(operator)
    begun = clock.now_us()

    async def used_after(seconds: int, address: str) -> tuple[int, str]:
        monkeypatch.setattr(clock, "now_us", lambda: begun + seconds * 1_000_000)
        rest.app.state.parts.known.forget()
        async with rest.client(address=address) as client:
            await client.get("/api/v1/events", headers=bearer(made))
        row = await conn.fetchrow("SELECT last_used_on, last_address FROM api_tokens WHERE public_id = $1", made["public_id"])
        return round((clock.from_datetime(row["last_used_on"]) - begun) / 1e6), row["last_address"]

    assert await used_after(1, "10.0.0.1") == (1, "10.0.0.1")
    assert await used_after(30, "10.0.0.2") == (1, "10.0.0.1")
    assert await used_after(62, "10.0.0.3") == (62, "10.0.0.3")


async def test_the_sweep_finds_tokens_that_have_ended_and_no_other(rest: Rest, operator: Any, conn: Any) -> None:
    pool, made = rest.app.state.parts.pool, [await make(operator, scopes=["write"]) for _ in range(3)]

    async def identity(token: dict[str, Any]) -> guard.Identity:
        async with rest.client() as client:
            answer = await client.post("/api/v1/auth/socket-ticket", json={"path": STREAM}, headers=bearer(token))
        return await guard.redeem_ticket(pool, answer.json()["ticket"], STREAM)

    lasting, deleted, lower = [await identity(token) for token in made]
    assert {one.kind for one in (lasting, deleted, lower)} == {"token"}
    await operator.delete(f"{TOKENS}/{made[1]['public_id']}")
    await conn.execute("UPDATE api_tokens SET role = 'viewer' WHERE public_id = $1", made[2]["public_id"])
    assert await guard.find_ended(pool, [lasting, deleted, lower]) == {deleted, lower}
    await conn.execute("UPDATE users SET role = 'viewer' WHERE username = 'operator'")
    try:
        assert await guard.find_ended(pool, [lasting]) == {lasting}
    finally:
        await conn.execute("UPDATE users SET role = 'operator' WHERE username = 'operator'")


@pytest.fixture
async def events(operator: Any, conn: Any) -> list[UUID]:
    """Three events, each with a newest reading."""
    made = []
    for _ in range(3):
        body = {"name": f"shown {clock.now_us()}", "type": "sensor", "unit": "bar"}
        made.append(UUID((await operator.post("/api/v1/events", json=body)).json()["public_id"]))
    await conn.execute("INSERT INTO latest SELECT id, now(), 1 FROM events WHERE public_id = ANY($1)", made)
    return made


async def test_a_kiosk_shows_the_events_of_its_dashboard_and_no_other(rest: Rest, operator: Any, conn: Any, events: list[UUID]) -> None:
    dashboard = await make_dashboard(conn, rest.users["operator"], events[:2])
    made = await make(operator, dashboard_public_id=str(dashboard))
    assert (made["role"], made["scopes"], made["dashboard_public_id"]) == ("viewer", [], str(dashboard))
    shown, hidden = {str(event) for event in events[:2]}, str(events[2])
    async with rest.client() as screen:
        screen.headers.update(bearer(made))
        listed = await screen.get("/api/v1/events")
        assert {one["public_id"] for one in listed.json()["data"]} == shown
        assert listed.json()["total"] == 2
        assert {one["event_public_id"] for one in (await screen.get("/api/v1/datapoints/latest")).json()["data"]} == shown
        assert (await screen.get(f"/api/v1/datapoints/latest?event_public_ids={hidden}")).json()["data"] == []
        span = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}
        for event, status in ((str(events[0]), 200), (hidden, 422), (MISSING, 422)):
            answer = await screen.post("/api/v1/datapoints/series", json=span | {"event_public_ids": [event]})
            assert answer.status_code == status
        ticket = (await screen.post("/api/v1/auth/socket-ticket", json={"path": STREAM})).json()["ticket"]
        for path in (f"/api/v1/events/{events[0]}", "/api/v1/experiments", "/api/v1/sources", "/api/v1/auth/me", TOKENS):
            assert (await screen.get(path)).status_code == 403, path
    identity = await guard.redeem_ticket(rest.app.state.parts.pool, ticket, STREAM)
    assert (identity.kind, identity.dashboard) == ("kiosk", dashboard)
    ids = {row["id"] for row in await conn.fetch("SELECT id FROM events WHERE public_id = ANY($1)", events[:2])}
    assert await kiosk.events_of(conn, identity) == ids
    await conn.execute("UPDATE dashboards SET owner_id = NULL WHERE public_id = $1", dashboard)
    assert await kiosk.events_of(conn, identity) == frozenset()
    await conn.execute("UPDATE dashboards SET is_global = true WHERE public_id = $1", dashboard)
    assert await kiosk.events_of(conn, identity) == ids
    await operator.delete(f"{TOKENS}/{made['public_id']}")
    assert await guard.find_ended(rest.app.state.parts.pool, [identity]) == {identity}


async def test_a_kiosk_is_made_only_of_a_dashboard_that_one_sees(rest: Rest, operator: Any, conn: Any) -> None:
    theirs = await make_dashboard(conn, rest.users["admin"], [])
    everybodys = await make_dashboard(conn, rest.users["admin"], [], is_global=True)
    for dashboard, status in ((theirs, 422), (MISSING, 422), (everybodys, 201)):
        assert (await operator.post(TOKENS, json={"name": "wall", "dashboard_public_id": str(dashboard)})).status_code == status


async def test_a_ticket_of_a_token_ends_with_it(rest: Rest, operator: Any) -> None:
    made = await make(operator)
    async with rest.client() as client:
        ticket = (await client.post("/api/v1/auth/socket-ticket", json={"path": STREAM}, headers=bearer(made))).json()["ticket"]
    await operator.delete(f"{TOKENS}/{made['public_id']}")
    with pytest.raises(Unauthorized):
        await guard.redeem_ticket(rest.app.state.parts.pool, ticket, STREAM)


async def test_a_session_that_nobody_confirmed_makes_no_token(rest: Rest, conn: Any) -> None:
    token = await begin_session(conn, rest.session_key, rest.users["viewer"])
    await conn.execute("UPDATE sessions SET confirmed_on = now() - interval '301 s'")
    async with rest.client() as client:
        refused = await client.post(TOKENS, json={"name": "t"}, headers={"Authorization": f"Bearer {token}"})
    await conn.execute("UPDATE sessions SET confirmed_on = now() + interval '1 day'")
    assert (refused.status_code, refused.json()["type"]) == (403, "/problems/password-needed")


async def test_a_token_makes_no_kiosk_that_shows_more_than_it_may(rest: Rest, operator: Any, conn: Any) -> None:
    dashboard = str(await make_dashboard(conn, rest.users["operator"], []))
    for scopes, status in ((["tokens:write", "events:read"], 422), (["tokens:write", "read"], 201)):
        made = await make(operator, scopes=scopes)
        async with rest.client() as client:
            asked = await client.post(TOKENS, json={"name": "wall", "dashboard_public_id": dashboard}, headers=bearer(made))
        assert asked.status_code == status, asked.text
