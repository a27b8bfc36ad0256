"""Users: made, changed and deleted by administrators, of whom one always stays; and what people set for themselves."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from parts.rest import PASSWORD, Rest, begin_session, serve

from webmacs import accounts, clock
from webmacs.http import passwords

USERS = "/api/v1/users"
LONG = "a quite uncommon phrase"


@pytest.fixture(autouse=True)
def quick_hashes(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    rest.app.state.parts.throttle = passwords.LoginThrottle()
    monkeypatch.setattr(accounts, "BCRYPT_COST", 4)


@pytest.fixture
async def admin(rest: Rest) -> AsyncIterator[Any]:
    async with rest.client("admin") as client:
        yield client


async def sign_in(client: Any, email: str, password: str) -> Any:
    return await client.post("/api/v1/auth/login", json={"email": email, "password": password})


async def make(admin: Any, name: str, role: str = "viewer", **more: Any) -> dict[str, Any]:
    answer = await admin.post(USERS, json={"email": f"{name}@plant.org", "username": name, "role": role} | more)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_a_user_whose_password_was_made_chooses_one_before_anything_else(rest: Rest, admin: Any) -> None:
    made = await make(admin, "newcomer")
    assert made["must_change_password"]
    assert len(made["initial_password"]) >= 22
    async with rest.client() as client:
        client.headers["X-WebMACS"] = "1"
        session = await sign_in(client, "newcomer@plant.org", made["initial_password"])
        assert session.json()["user"]["must_change_password"]
        refused = await client.get("/api/v1/events")
        assert (refused.status_code, refused.json()["type"]) == (403, "/problems/password-change-needed")
        own = {"current_password": made["initial_password"], "new_password": made["initial_password"]}
        same = await client.put("/api/v1/auth/me/password", json=own)
        assert (same.status_code, same.json()["errors"][0]["loc"]) == (422, ["body", "new_password"])
        assert (await client.get("/api/v1/events")).status_code == 403
        chosen = await client.put("/api/v1/auth/me/password", json=own | {"new_password": LONG})
        assert chosen.status_code == 200
        assert (await client.get("/api/v1/events")).status_code == 200
    assert "initial_password" not in (await admin.get(f"{USERS}/{made['public_id']}")).json()


async def test_a_password_that_was_made_is_good_for_a_day(rest: Rest, admin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await make(admin, "latecomer")
    now = clock.now_us()
    async with rest.client() as client:
        for hours, status in ((23, 200), (24, 401)):
            monkeypatch.setattr(clock, "now_us", lambda hours=hours: now + hours * 3_600_000_000 + 1_000_000)
            assert (await sign_in(client, "latecomer@plant.org", made["initial_password"])).status_code == status


async def test_a_password_that_was_made_opens_nothing_after_its_day_in_a_session_that_began_before(
    rest: Rest, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await make(admin, "dawdler")
    now = clock.now_us()
    async with rest.client() as client:
        client.headers["X-WebMACS"] = "1"
        monkeypatch.setattr(clock, "now_us", lambda: now + 23 * 3_600_000_000)
        await sign_in(client, "dawdler@plant.org", made["initial_password"])
        monkeypatch.setattr(clock, "now_us", lambda: now + 24 * 3_600_000_000 + 1_000_000)
        own = {"current_password": made["initial_password"], "new_password": LONG}
        late = await client.put("/api/v1/auth/me/password", json=own)
        wrong = await client.put("/api/v1/auth/me/password", json=own | {"current_password": "another one"})
        monkeypatch.setattr(clock, "now_us", lambda: now + 23 * 3_600_000_000)
        in_time = await client.put("/api/v1/auth/me/password", json=own)
    over = "The 24 h of this made password are over; an administrator makes a new one, or `webmacs admin reset-password` does."
    assert (late.status_code, late.json()["errors"]) == (422, [{"loc": ["body", "current_password"], "msg": over}])
    assert (wrong.status_code, wrong.json()["errors"][0]["msg"]) == (422, "This is not the current password.")
    assert in_time.status_code == 200


async def test_users_are_listed_searched_sorted_and_filtered(admin: Any) -> None:
    await make(admin, "zelda", "operator", password=LONG)
    await make(admin, "zacharias", enabled=False, password=LONG)
    for query, names in (
        ("search=Z%41", ["zacharias"]),
        ("search=plant.org&role=operator", ["zelda"]),
        ("search=z&enabled=false", ["zacharias"]),
        ("search=z&sort=-username", ["zelda", "zacharias"]),
    ):
        listed = (await admin.get(f"{USERS}?{query}")).json()["data"]
        assert [user["username"] for user in listed if user["username"].startswith("z")] == names, query
    assert (await admin.get(f"{USERS}?sort=password_hash")).status_code == 422


async def test_a_taken_name_or_e_mail_is_refused_whatever_its_case(admin: Any) -> None:
    await make(admin, "taken", password=LONG)
    for body in ({"email": "TAKEN@plant.org", "username": "other"}, {"email": "other@plant.org", "username": "taken"}):
        assert (await admin.post(USERS, json=body | {"role": "viewer", "password": LONG})).status_code == 409
    other = await make(admin, "untaken", password=LONG)
    changed = await admin.put(f"{USERS}/{other['public_id']}", json={"email": "Taken@plant.org"})
    assert (changed.status_code, changed.json()["type"]) == (409, "/problems/conflict")


@pytest.mark.parametrize("change", [{"role": "operator"}, {"enabled": False}, {"password": LONG + "!"}, {"password": None}])
async def test_another_role_or_password_and_disabling_end_the_sessions(rest: Rest, admin: Any, change: dict[str, Any]) -> None:
    made = await make(admin, f"changed {clock.now_us()}".replace(" ", "-"), password=LONG)
    async with rest.connection() as conn, rest.client() as client:
        token = await begin_session(conn, rest.session_key, made["public_id"])
        headers = {"Authorization": f"Bearer {token}"}
        await admin.put(f"{USERS}/{made['public_id']}", json={"username": f"{made['username']}-2"})
        assert (await client.get("/api/v1/auth/me", headers=headers)).status_code == 200
        changed = await admin.put(f"{USERS}/{made['public_id']}", json=change)
        assert changed.status_code == 200
        assert (changed.json()["initial_password"] is not None) is (change == {"password": None})
        assert (await client.get("/api/v1/auth/me", headers=headers)).status_code == 401


async def test_the_last_administrator_stays_and_nobody_deletes_themself(database: str, tmp_path: Path) -> None:
    async with serve(database, tmp_path) as rest, rest.client("admin") as admin:
        me = f"{USERS}/{rest.users['admin']}"
        for change in ({"role": "operator"}, {"enabled": False}):
            assert (await admin.put(me, json=change)).status_code == 409
        assert (await admin.delete(me)).status_code == 409
        made = await make(admin, "deputy", "admin", password=LONG)
        assert (await admin.delete(me)).status_code == 409
        assert (await admin.put(f"{USERS}/{made['public_id']}", json={"enabled": False})).status_code == 200
        assert (await admin.put(me, json={"role": "operator"})).status_code == 409
        assert (await admin.delete(f"{USERS}/{made['public_id']}")).status_code == 204


async def test_of_two_administrators_who_demote_each_other_at_once_one_stays(database: str, tmp_path: Path) -> None:
    async with serve(database, tmp_path) as rest, rest.client("admin") as admin, rest.client() as client, rest.connection() as conn:
        for round_ in range(5):
            await conn.execute("UPDATE users SET role = 'admin', sessions_valid_from = registered_on WHERE username = 'admin'")
            other = await make(admin if round_ == 0 else await _client(rest, conn), f"other{round_}", "admin", password=LONG)
            pairs = [(rest.users["admin"], other["public_id"]), (other["public_id"], rest.users["admin"])]
            headers = [{"Authorization": f"Bearer {await begin_session(conn, rest.session_key, one)}"} for one, _ in pairs]
            answers = await asyncio.gather(
                *(
                    client.put(f"{USERS}/{target}", json={"role": "viewer"}, headers=shown)
                    for shown, (_, target) in zip(headers, pairs, strict=True)
                )
            )
            assert 200 in [answer.status_code for answer in answers]
            assert await conn.fetchval("SELECT count(*) FROM users WHERE role = 'admin' AND enabled") == 1
            await conn.execute("DELETE FROM users WHERE username LIKE 'other%'")


async def _client(rest: Rest, conn: Any) -> Any:
    client = rest.client()
    client.headers["Authorization"] = f"Bearer {await begin_session(conn, rest.session_key, rest.users['admin'])}"
    return client


async def test_what_a_user_made_stays_when_they_are_deleted(rest: Rest, admin: Any) -> None:
    made = await make(admin, "leaver", "operator", password=LONG)
    async with rest.connection() as conn, rest.client() as client:
        headers = {"Authorization": f"Bearer {await begin_session(conn, rest.session_key, made['public_id'])}"}
        run = await client.post("/api/v1/experiments", json={"name": "of a leaver"}, headers=headers)
        assert run.status_code == 201
        token = await client.post("/api/v1/tokens", json={"name": "t"}, headers=headers)
        assert (await admin.delete(f"{USERS}/{made['public_id']}")).status_code == 204
        kept = await admin.get(f"/api/v1/experiments/{run.json()['public_id']}")
        assert kept.json()["started_by"] == "leaver"
        for credential in (headers, {"Authorization": f"Bearer {token.json()['token']}"}):
            assert (await client.get("/api/v1/events", headers=credential)).status_code == 401
        await client.put(f"/api/v1/experiments/{run.json()['public_id']}/stop")


@pytest.mark.parametrize(
    "weak", ["password1234", "webmacs-webmacs", "1234567890123", "abcabcabcabc", "Qwerty-123456", "guesser@plant.org", "guesser2026!"]
)
async def test_a_password_that_is_guessed_first_is_refused(admin: Any, weak: str) -> None:
    body = {"email": "guesser@plant.org", "username": "guesser", "role": "viewer", "password": weak}
    refused = await admin.post(USERS, json=body)
    assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, ["body", "password"])


async def test_a_change_of_an_older_version_is_refused(admin: Any) -> None:
    made = await make(admin, "versioned", password=LONG)
    path = f"{USERS}/{made['public_id']}"
    assert (await admin.put(path, json={"role": "operator"}, headers={"If-Match": '"1"'})).status_code == 200
    assert (await admin.put(path, json={"role": "viewer"}, headers={"If-Match": '"1"'})).status_code == 412


async def test_neither_log_nor_versions_know_a_password(rest: Rest, admin: Any) -> None:
    made = await make(admin, "secretive")
    await admin.put(f"{USERS}/{made['public_id']}", json={"password": LONG})
    async with rest.connection() as conn:
        kept = await conn.fetchval("SELECT (SELECT json_agg(a) FROM audit_log a)::text || (SELECT json_agg(v) FROM versions v)::text")
    assert "secretive" in kept
    assert made["initial_password"] not in kept
    assert LONG not in kept
    assert "$2b$" not in kept


async def test_people_set_their_own_name_language_zone_and_theme(rest: Rest) -> None:
    async with rest.client("operator") as client:
        wanted = {"username": "Olga Operator", "language": "de-CH", "time_zone": "Europe/Zurich", "theme": "dark"}
        changed = await client.put("/api/v1/auth/me", json=wanted)
        assert changed.status_code == 200
        assert changed.json().items() >= wanted.items()
        assert (await client.get("/api/v1/auth/me")).json() == changed.json()
        assert (await client.put("/api/v1/auth/me", json={"time_zone": None})).json()["time_zone"] is None
        for wrong in (
            {"time_zone": "Europe/Atlantis"},
            {"theme": "pink"},
            {"language": "Deutsch!"},
            {"role": "admin"},
            {"username": " x "},
        ):
            assert (await client.put("/api/v1/auth/me", json=wrong)).status_code == 422, wrong
        assert (await client.put("/api/v1/auth/me", json={"username": "viewer"})).status_code == 409


async def test_another_e_mail_needs_the_password(rest: Rest) -> None:
    async with rest.client("viewer") as client:
        for password, status in (({}, 422), ({"password": "wrong"}, 422), ({"password": PASSWORD}, 200)):
            assert (await client.put("/api/v1/auth/me", json={"email": "new@example.org"} | password)).status_code == status
        assert (await sign_in(client, "new@example.org", PASSWORD)).status_code == 200
