"""Callers that were identified a moment ago are not asked about again; what is withdrawn stops all the same."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from parts.rest import PASSWORD, Rest

from webmacs import accounts, clock
from webmacs.http import guard, known
from webmacs.http.known import Known


@pytest.fixture(autouse=True)
async def everybody_is_new(rest: Rest) -> AsyncIterator[None]:
    rest.app.state.parts.known.forget()
    yield
    rest.app.state.parts.known.forget()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The names of those whom the database was asked about."""
    names: list[str | None] = []
    identify = guard.identify

    async def noting(*arguments: Any) -> guard.Identity | None:
        identity = await identify(*arguments)
        names.append(None if identity is None else identity.name)
        return identity

    monkeypatch.setattr(guard, "identify", noting)
    return names


def let_pass(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    real = clock.monotonic
    monkeypatch.setattr(clock, "monotonic", lambda: real() + seconds)


async def new_session(rest: Rest, role: str) -> str:
    return guard.issue_token(rest.session_key, rest.users[role], clock.to_datetime(clock.now_us())).text


async def test_a_caller_is_identified_once_for_many_requests(rest: Rest, asked: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    async with rest.client("viewer") as viewer, rest.client() as page:
        page.cookies.set(guard.COOKIE, rest.tokens["operator"])
        for _ in range(3):
            assert (await viewer.get("/api/v1/auth/me")).json()["username"] == "viewer"
            assert (await page.get("/api/v1/auth/me")).json()["username"] == "operator"
        assert asked == ["viewer", "operator"]
        let_pass(monkeypatch, known.KEPT_S)
        await viewer.get("/api/v1/auth/me")
        assert asked == ["viewer", "operator", "viewer"]


async def test_a_change_by_cookie_needs_its_header_however_known_the_session(rest: Rest) -> None:
    async with rest.client() as page:
        page.cookies.set(guard.COOKIE, rest.tokens["admin"])
        assert (await page.get("/api/v1/auth/me")).status_code == 200
        refused = await page.post("/api/v1/sources", json={"name": "by cookie"})
        assert (refused.status_code, refused.json()["type"]) == (403, "/problems/write-header-missing")


async def test_signing_out_counts_at_once(rest: Rest) -> None:
    async with rest.client() as client:
        for _ in range(20):
            client.headers["Authorization"] = f"Bearer {await new_session(rest, 'viewer')}"
            assert (await client.get("/api/v1/auth/me")).status_code == 200
            assert (await client.post("/api/v1/auth/logout")).status_code == 204
            assert (await client.get("/api/v1/auth/me")).status_code == 401


async def test_a_changed_password_ends_the_known_sessions_at_once(rest: Rest) -> None:
    async with rest.client() as one, rest.client() as other:
        one.headers["Authorization"] = f"Bearer {await new_session(rest, 'operator')}"
        other.headers["Authorization"] = f"Bearer {await new_session(rest, 'operator')}"
        assert [(await client.get("/api/v1/auth/me")).status_code for client in (one, other)] == [200, 200]
        change = {"current_password": PASSWORD, "new_password": "a phrase of my own"}
        assert (await one.put("/api/v1/auth/me/password", json=change)).status_code == 200
        assert [(await client.get("/api/v1/auth/me")).status_code for client in (one, other)] == [401, 401]


async def test_a_deleted_source_is_not_known_any_more(rest: Rest) -> None:
    async with rest.client("admin") as admin, rest.client() as source:
        made = (await admin.post("/api/v1/sources", json={"name": "press"})).json()
        source.headers["Authorization"] = f"Bearer {made['credential']}"
        assert (await source.get("/api/v1/events")).status_code == 403
        assert (await admin.delete(f"/api/v1/sources/{made['public_id']}")).status_code == 204
        assert (await source.get("/api/v1/events")).status_code == 401


async def test_what_another_process_withdraws_counts_within_5_s(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert known.KEPT_S < 5
    async with rest.connection() as conn, rest.client() as client, rest.client() as source:
        client.headers["Authorization"] = f"Bearer {await new_session(rest, 'admin')}"
        _, credential = await accounts.create_source(conn, "by hand")
        source.headers["Authorization"] = f"Bearer {credential}"
        assert (await client.get("/api/v1/sources")).status_code == 200
        assert (await source.get("/api/v1/sources")).status_code == 403
        await conn.execute("UPDATE users SET role = 'viewer' WHERE username = 'admin'")
        await accounts.renew_credential(conn, "by hand")
        let_pass(monkeypatch, known.KEPT_S)
        assert (await client.get("/api/v1/sources")).status_code == 200  # a viewer reads them
        assert (await client.post("/api/v1/sources", json={"name": "x"})).status_code == 403
        assert (await source.get("/api/v1/sources")).status_code == 401
        await conn.execute("UPDATE users SET role = 'admin' WHERE username = 'admin'")


async def test_a_session_is_not_known_beyond_its_end(rest: Rest, asked: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    now_us = clock.now_us()
    monkeypatch.setattr(guard, "SESSION_S", 1)
    async with rest.client() as client:
        client.headers["Authorization"] = f"Bearer {await new_session(rest, 'viewer')}"
        assert (await client.get("/api/v1/auth/me")).status_code == 200
        monkeypatch.setattr(clock, "now_us", lambda: now_us + 1_500_000)
        let_pass(monkeypatch, 1.5)
        assert (await client.get("/api/v1/auth/me")).status_code == 401


async def test_who_was_read_before_a_withdrawal_is_not_kept_after_it(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, withdrawn = asyncio.Event(), asyncio.Event()
    identify = guard.identify

    async def slow(*arguments: Any) -> guard.Identity | None:
        identity = await identify(*arguments)
        reading.set()
        await withdrawn.wait()
        return identity

    monkeypatch.setattr(guard, "identify", slow)
    async with rest.client("viewer") as viewer:
        asking = asyncio.create_task(viewer.get("/api/v1/auth/me"))
        await reading.wait()
        rest.app.state.parts.known.forget()
        withdrawn.set()
        assert (await asking).status_code == 200
        assert not rest.app.state.parts.known._kept


async def test_at_the_bound_the_one_identified_longest_ago_is_forgotten(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "KEPT_MAX", 2)
    async with rest.client() as client:
        for role in ("viewer", "operator", "admin"):
            await client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {await new_session(rest, role)}"})
    callers: Known = rest.app.state.parts.known
    assert [identity.name for identity, _ in callers._kept.values()] == ["operator", "admin"]
