"""Where one is signed in: listed, ended one by one and together, and bounded."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from parts.rest import PASSWORD, Rest, begin_session

from webmacs import accounts, clock
from webmacs.api import auth
from webmacs.http import guard, passwords

MISSING = "01a20a7a-1b53-79ca-9623-0f2e8d54601f"


@pytest.fixture(autouse=True)
def quick_hashes(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    rest.app.state.parts.throttle = passwords.LoginThrottle()
    monkeypatch.setattr(accounts, "BCRYPT_COST", 4)
    monkeypatch.setattr(accounts, "verify_password", lambda key, password, password_hash: password == PASSWORD)


@pytest.fixture
async def conn(rest: Rest) -> AsyncIterator[Any]:
    async with rest.connection() as connection:
        yield connection


async def sign_in(rest: Rest, role: str, **more: Any) -> dict[str, str]:
    async with rest.client(**more) as client:
        answer = await client.post("/api/v1/auth/login", json={"email": f"{role}@example.org", "password": PASSWORD})
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


async def sessions(client: Any, headers: dict[str, str]) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = (await client.get("/api/v1/auth/sessions", headers=headers)).json()["data"]
    return listed


async def test_ones_own_sessions_are_listed_and_ended_one_by_one(rest: Rest) -> None:
    here, there = await sign_in(rest, "operator"), await sign_in(rest, "operator", address="10.1.2.3")
    async with rest.client() as client:
        listed = await sessions(client, here)
        (mine,), (other,) = [one for one in listed if one["current"]], [one for one in listed if one["address"] == "10.1.2.3"]
        assert mine["address"] == "127.0.0.1"
        assert mine["user_agent"].startswith("python-httpx")
        assert (await client.delete(f"/api/v1/auth/sessions/{other['public_id']}", headers=here)).status_code == 204
        assert (await client.get("/api/v1/auth/me", headers=there)).status_code == 401
        assert (await client.get("/api/v1/auth/me", headers=here)).status_code == 200


async def test_all_others_are_ended_at_once_and_the_own_goes_on(rest: Rest) -> None:
    here, *others = [await sign_in(rest, "operator") for _ in range(3)]
    async with rest.client() as client:
        assert (await client.delete("/api/v1/auth/sessions", headers=here)).status_code == 204
        assert [(await client.get("/api/v1/auth/me", headers=one)).status_code for one in others] == [401, 401]
        assert [one["current"] for one in await sessions(client, here)] == [True]


async def test_another_users_session_is_answered_as_one_that_does_not_exist(rest: Rest) -> None:
    async with rest.client() as client:
        (theirs, *_) = await sessions(client, await sign_in(rest, "operator"))
        mine = await sign_in(rest, "viewer")
        paths = [f"/api/v1/auth/sessions/{public_id}" for public_id in (theirs["public_id"], MISSING)]
        answers = [await client.delete(path, headers=mine) for path in paths]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert len({answer.text.replace(answer.json()["request_id"], "") for answer in answers}) == 1


async def test_an_administrator_sees_and_ends_anybodys_sessions(rest: Rest) -> None:
    theirs = await sign_in(rest, "viewer")
    path = f"/api/v1/users/{rest.users['viewer']}/sessions"
    async with rest.client("admin") as admin, rest.client() as client:
        listed = (await admin.get(path)).json()["data"]
        assert listed
        assert not any(one["current"] for one in listed)
        assert (await admin.delete(path)).status_code == 204
        assert (await client.get("/api/v1/auth/me", headers=theirs)).status_code == 401
        assert (await admin.get(path)).json()["data"] == []
        assert (await admin.get(f"/api/v1/users/{MISSING}/sessions")).status_code == 404


async def test_of_more_than_fifty_sessions_the_one_used_longest_ago_ends(rest: Rest, conn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "SESSIONS_MAX", 3)
    async with rest.client() as client:
        first = await sign_in(rest, "admin")
        await client.delete("/api/v1/auth/sessions", headers=first)
        second, third = [await sign_in(rest, "admin") for _ in range(2)]
        assert (await client.get("/api/v1/auth/me", headers=first)).status_code == 200
        fourth = await sign_in(rest, "admin")
        answers = [(await client.get("/api/v1/auth/me", headers=one)).status_code for one in (first, second, third, fourth)]
        assert answers == [401, 200, 200, 200]
        assert len(await sessions(client, fourth)) == 3
    assert await conn.fetchval("SELECT count(*) FROM audit_log WHERE action = 'session_ended' AND detail = 'the 4th began'") >= 1


async def test_a_session_is_written_to_once_a_minute_at_most(rest: Rest, conn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    token = await begin_session(conn, rest.session_key, rest.users["viewer"])
    begun = clock.now_us()

    async def written_after(seconds: int) -> int:
        monkeypatch.setattr(clock, "now_us", lambda: begun + seconds * 1_000_000)
        rest.app.state.parts.known.forget()
        async with rest.client() as client:
            await client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {token}"})
        newest = await conn.fetchval("SELECT max(last_used_on) FROM sessions WHERE user_agent = 'test'")
        return round((clock.from_datetime(newest) - begun) / 1e6)

    assert [await written_after(seconds) for seconds in (30, 61, 90, 122)] == [0, 61, 61, 122]


async def test_a_session_that_is_locked_by_another_answers_nevertheless(rest: Rest, conn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    token = await begin_session(conn, rest.session_key, rest.users["viewer"])
    later = clock.now_us() + 120_000_000
    monkeypatch.setattr(clock, "now_us", lambda: later)
    async with conn.transaction(), rest.client() as client:
        await conn.execute("SELECT FROM sessions FOR UPDATE")
        assert (await client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {token}"})).status_code == 200


async def test_the_password_again_opens_what_asks_for_it_for_five_minutes(rest: Rest, conn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = await sign_in(rest, "admin")
    begun = clock.now_us()
    async with rest.client() as client:

        async def make(seconds: int) -> tuple[int, str | None]:
            monkeypatch.setattr(clock, "now_us", lambda: begun + seconds * 1_000_000)
            answer = await client.post("/api/v1/users", json={}, headers=headers)
            return answer.status_code, answer.json()["type"]

        assert await make(guard.FRESH_S - 5) == (422, "/problems/unprocessable")
        assert await make(guard.FRESH_S + 5) == (403, "/problems/password-needed")
        wrong = await client.post("/api/v1/auth/confirm", json={"password": "something else"}, headers=headers)
        assert (wrong.status_code, wrong.json()["errors"][0]["loc"]) == (422, ["body", "password"])
        assert (await make(guard.FRESH_S + 6))[0] == 403
        given = await client.post("/api/v1/auth/confirm", json={"password": PASSWORD}, headers=headers)
        assert given.status_code == 200
        assert await make(2 * guard.FRESH_S) == (422, "/problems/unprocessable")
        assert await make(2 * guard.FRESH_S + 10) == (403, "/problems/password-needed")


async def test_signing_in_and_out_and_being_refused_are_in_the_audit_log(rest: Rest, conn: Any) -> None:
    async with rest.client(address="10.9.9.9") as client:
        for email in ("viewer@example.org", "nobody@example.org"):
            await client.post("/api/v1/auth/login", json={"email": email, "password": "wrong"})
        headers = await sign_in(rest, "viewer", address="10.9.9.9")
        await client.post("/api/v1/auth/logout", headers=headers)
    await rest.app.state.parts.refusals.write(rest.app.state.parts.pool)
    rows = await conn.fetch("SELECT action, actor_kind, actor_name, detail FROM audit_log WHERE address = '10.9.9.9'")
    assert sorted(tuple(row) for row in rows) == [
        ("login", "user", "viewer", None),
        ("login_refused", "nobody", None, "no such user"),
        ("login_refused", "nobody", None, "user viewer"),
        ("logout", "user", "viewer", None),
    ]


async def test_a_password_given_again_is_in_the_audit_log_and_so_is_a_wrong_one(rest: Rest, conn: Any) -> None:
    headers = await sign_in(rest, "viewer", address="10.9.9.10")
    async with rest.client(address="10.9.9.10") as client:
        for password, status in (("wrong", 422), ("wrong", 422), (PASSWORD, 200)):
            assert (await client.post("/api/v1/auth/confirm", json={"password": password}, headers=headers)).status_code == status
    await rest.app.state.parts.refusals.write(rest.app.state.parts.pool)
    rows = await conn.fetch(
        """SELECT a.action, a.kind, a.actor_name, a.object_name, a.n, s.jti IS NOT NULL AS of_session
             FROM audit_log a LEFT JOIN sessions s ON s.jti = a.object_public_id WHERE a.address = '10.9.9.10'"""
    )
    assert sorted(tuple(row) for row in rows) == [
        ("confirm", "session", "viewer", "viewer", 1, True),
        ("login", "session", "viewer", "viewer", 1, True),
        ("password_refused", "user", "viewer", None, 2, False),
    ]


async def test_a_sign_in_that_was_overtaken_by_a_new_password_begins_no_session(
    rest: Rest, conn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def verify(password: str, password_hash: str | None, address: str) -> bool:
        await conn.execute("UPDATE users SET password_hash = password_hash || ' ' WHERE username = 'viewer'")
        return True

    monkeypatch.setattr(rest.app.state.parts.passwords, "verify", verify)
    async with rest.client() as client:
        answer = await client.post("/api/v1/auth/login", json={"email": "viewer@example.org", "password": PASSWORD})
    assert answer.status_code == 401
    await conn.execute("UPDATE users SET password_hash = rtrim(password_hash) WHERE username = 'viewer'")


async def test_what_has_expired_is_forgotten(rest: Rest, conn: Any) -> None:
    await begin_session(conn, rest.session_key, rest.users["viewer"])
    now = clock.now_us()
    await accounts.forget_ended(conn, clock.to_datetime(now))
    assert await conn.fetchval("SELECT count(*) FROM sessions WHERE user_agent = 'test'") >= 1
    async with conn.transaction():
        await accounts.forget_ended(conn, clock.to_datetime(now + 25 * 3_600_000_000))
        assert await conn.fetchval("SELECT (SELECT count(*) FROM sessions) + (SELECT count(*) FROM blacklist_tokens)") == 0
