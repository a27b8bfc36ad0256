"""How it is judged who asks, and from which page; who may do what is in test_matrix.py."""

import re
from datetime import timedelta
from typing import Any
from uuid import uuid4

import jwt
import pytest
from parts.rest import ROLES, Rest
from starlette.requests import Request

from webmacs import accounts, app, clock
from webmacs.http import access, guard
from webmacs.http.route import Route

MISSING = "01a20a7a-1b53-79ca-9623-0f2e8d54601f"


def called(method: str, path: str) -> str:
    return re.sub(r"\{\w*_id\}", MISSING, path).replace("{file}", "nothing.txt")


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "iat", "exp", "jti"])
@pytest.mark.parametrize("value", [None, "", "webmac", "x", 0, -1, 1e300, [], {}, "nan"])
async def test_a_token_with_a_wrong_or_missing_claim_is_refused(rest: Rest, claim: str, value: Any) -> None:
    claims = jwt.decode(rest.tokens["admin"], options={"verify_signature": False})
    claims[claim] = value
    if value is None:
        del claims[claim]
    if claim in ("iss", "sub", "jti") and not isinstance(value, str):
        claims[claim] = str(value)
    try:
        token = jwt.encode(claims, rest.session_key, "HS256")
    except TypeError:
        token = rest.tokens["admin"] + "x"
    async with rest.client() as client:
        response = await client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 401


async def test_the_role_is_the_one_in_the_database(rest: Rest) -> None:
    async with rest.connection() as conn, rest.client("operator") as client:
        assert (await client.post("/api/v1/events", json={})).status_code == 422
        await conn.execute("UPDATE users SET role = 'viewer' WHERE username = 'operator'")
        rest.app.state.parts.known.forget()
        try:
            assert (await client.post("/api/v1/events", json={})).status_code == 403
        finally:
            await conn.execute("UPDATE users SET role = 'operator' WHERE username = 'operator'")
            rest.app.state.parts.known.forget()


async def test_a_cookie_writes_only_with_the_header(rest: Rest) -> None:
    async with rest.client() as client:
        client.cookies.set(guard.COOKIE, rest.tokens["admin"])
        assert (await client.get("/api/v1/auth/me")).status_code == 200
        refused = await client.post("/api/v1/sources", json={"name": "by cookie"})
        assert refused.status_code == 403
        assert refused.json()["type"] == "/problems/write-header-missing"
        made = await client.post("/api/v1/sources", json={"name": "by cookie"}, headers={"X-WebMACS": "1"})
        assert made.status_code == 201


@pytest.mark.parametrize(
    "origin", ["http://evil.test", "null", "http://webmacs.test.evil.test", "http://webmacs.test:8080", "file://webmacs.test"]
)
async def test_a_page_of_a_foreign_origin_writes_nowhere(rest: Rest, origin: str) -> None:
    async with rest.client("admin") as client:
        for method, path in access.TABLE:
            if method not in ("GET", "WS"):
                response = await client.request(method, called(method, path), headers={"Origin": origin})
                assert (response.status_code, response.json()["type"]) == (403, "/problems/foreign-origin"), path


async def test_a_page_of_the_own_origin_writes(rest: Rest) -> None:
    async with rest.client("admin") as client:
        for origin in ("http://webmacs.test", "http://WEBMACS.test:80", "https://webmacs.test"):
            assert (await client.post("/api/v1/events", json={}, headers={"Origin": origin})).status_code == 422


async def test_an_allowed_origin_writes_too(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = rest.app.state.parts
    monkeypatch.setattr(parts, "settings", parts.settings.model_copy(update={"allowed_origins": ("https://plant.test",)}))
    async with rest.client("admin") as client:
        assert (await client.post("/api/v1/events", json={}, headers={"Origin": "https://plant.test"})).status_code == 422
        assert (await client.post("/api/v1/events", json={}, headers={"Origin": "http://plant.test"})).status_code == 403


def test_the_application_does_not_start_with_a_route_that_has_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    known = app.ROUTES[0]
    extra = Route("GET", "/api/v1/forgotten", known.handler, None, None, None, 204, ())
    with pytest.raises(access.AccessError, match="routes without a row: GET /api/v1/forgotten"):
        access.check([*access.TABLE, (extra.method, extra.path)])
    with pytest.raises(access.AccessError, match="rows without a route: GET /api/v1/events"):
        access.check([one for one in access.TABLE if one != ("GET", "/api/v1/events")])
    with pytest.raises(access.AccessError, match="routes twice: GET /health"):
        access.check([*access.TABLE, ("GET", "/health")])


async def test_the_sweep_finds_every_session_that_has_ended_and_no_other(rest: Rest) -> None:
    pool = rest.app.state.parts.pool
    request = {"type": "http", "method": "GET", "path": "/"}

    async def identity(token: str) -> guard.Identity:
        header = (b"authorization", f"Bearer {token}".encode())
        known = await guard.identify(pool, rest.app.state.parts.session_keys, Request(request | {"headers": [header]}))
        assert known is not None
        return known

    now = clock.to_datetime(clock.now_us())
    lasting = {await identity(rest.tokens[role]) for role in (*ROLES, "source")}
    async with rest.connection() as conn:
        signed_out = await identity(guard.issue_token(rest.session_key, rest.users["viewer"], now).text)
        await conn.execute("INSERT INTO blacklist_tokens VALUES ($1, $2)", signed_out.jti, signed_out.expires_on)
        _, credential = await accounts.create_source(conn, "to be renewed")
        renewed = await identity(credential)
        await accounts.renew_credential(conn, "to be renewed")
        changed = guard.Identity("user", 1, rest.users["viewer"], "viewer", "admin", uuid4(), now + timedelta(1), now)
        expired = guard.Identity("user", 1, rest.users["viewer"], "viewer", "viewer", uuid4(), now, now - timedelta(1))
        assert await guard.find_ended(pool, lasting | {signed_out, renewed, changed, expired}) == {signed_out, renewed, changed, expired}
    assert await guard.find_ended(pool, set()) == set()
