"""Signing in and out as a browser and as a machine."""

import asyncio
import itertools
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from parts.rest import PASSWORD, Rest, serve

from webmacs import accounts, clock, keys
from webmacs.http import access, guard, passwords
from webmacs.http.problem import Problem, Unauthorized

STREAM = "/ws/datapoints/stream"


@pytest.fixture(autouse=True)
def fresh_throttle(rest: Rest) -> None:
    rest.app.state.parts.throttle = passwords.LoginThrottle()


@pytest.fixture
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of counting: bcrypt at its lowest cost."""
    monkeypatch.setattr(accounts, "BCRYPT_COST", 4)
    monkeypatch.setattr(accounts, "verify_password", lambda key, password, password_hash: password == PASSWORD)


async def sign_in(client: Any, email: str = "viewer@example.org", password: str = PASSWORD) -> Any:
    return await client.post("/api/v1/auth/login", json={"email": email, "password": password})


async def test_signing_in_gives_a_token_for_machines_and_a_cookie_for_browsers(rest: Rest) -> None:
    async with rest.client() as client, rest.client() as machine:
        session = await sign_in(client, "Viewer@Example.org")
        assert session.status_code == 200
        assert session.json()["user"].keys() >= {"public_id", "email", "username", "role", "registered_on"}
        cookie = session.headers["set-cookie"]
        for part in (f"{guard.COOKIE}=", "HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=86400"):
            assert part in cookie
        assert "Secure" not in cookie
        assert (await client.get("/api/v1/auth/me")).json() == session.json()["user"]
        by_token = await machine.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {session.json()['access_token']}"})
        assert by_token.json() == session.json()["user"]


async def test_signing_out_ends_the_session_everywhere(rest: Rest) -> None:
    async with rest.client() as client, rest.client() as machine:
        token = (await sign_in(client)).json()["access_token"]
        other = (await sign_in(machine)).json()["access_token"]
        machine.cookies.clear()
        left = await client.post("/api/v1/auth/logout", headers={"X-WebMACS": "1"})
        assert left.status_code == 204
        assert "Max-Age=0" in left.headers["set-cookie"]
        assert (await machine.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {token}"})).status_code == 401
        assert (await machine.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {other}"})).status_code == 200


async def test_wrong_passwords_and_unknown_people_get_the_same_answer(rest: Rest) -> None:
    async with rest.client() as client:
        answers = [await sign_in(client, email, "wrong password") for email in ("viewer@example.org", "nobody@example.org")]
    bodies = [answer.json() | {"request_id": None} for answer in answers]
    assert bodies[0] == bodies[1]
    assert [answer.status_code for answer in answers] == [401, 401]


async def test_after_ten_failures_a_correct_password_has_to_wait_too(rest: Rest, quick_hashes: None) -> None:
    async with rest.client() as client, rest.client(address="10.0.0.9") as elsewhere:
        assert [(await sign_in(client, password="x")).status_code for _ in range(10)] == [401] * 10
        refused = await sign_in(client)
        assert refused.status_code == 429
        wait_s = int(refused.headers["retry-after"])
        assert 1 <= wait_s <= 30
        limit = "sign_ins_of_account_and_address"
        assert f"The limit {limit} of 10 " in refused.json()["detail"]
        assert refused.headers["ratelimit-policy"] == f'"{limit}";q=10;w=900'
        assert refused.headers["ratelimit"] == f'"{limit}";r=0;t={wait_s}'
        assert (await sign_in(client, "VIEWER@example.org")).status_code == 429
        assert (await sign_in(client, "admin@example.org")).status_code == 200
        assert (await sign_in(elsewhere)).status_code == 200


async def test_tries_at_once_are_counted_like_tries_one_by_one(rest: Rest, quick_hashes: None) -> None:
    async with rest.client() as client:
        answers = await asyncio.gather(*(sign_in(client, password="x") for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [401] * 10 + [429] * 10


async def test_a_success_forgets_the_failures_before_it(rest: Rest, quick_hashes: None) -> None:
    async with rest.client() as client:
        for _ in range(3):
            assert [(await sign_in(client, password="x")).status_code for _ in range(9)] == [401] * 9
            assert (await sign_in(client)).status_code == 200


async def test_a_forwarded_address_changes_nothing(rest: Rest, quick_hashes: None) -> None:
    async with rest.client() as client:
        for number in range(10):
            client.headers["X-Forwarded-For"] = f"10.0.0.{number}"
            await sign_in(client, password="x")
        assert (await sign_in(client)).status_code == 429


def test_an_address_has_a_hundred_failures_an_hour_and_a_pair_one_try_in_30_s(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    throttle = passwords.LoginThrottle()
    for _ in range(10):
        throttle.begin("a", "here")
    with pytest.raises(Problem):
        throttle.begin("a", "here")
    now += 30
    throttle.begin("a", "here")
    with pytest.raises(Problem):
        throttle.begin("a", "here")
    for number in range(89):
        throttle.begin(f"b{number}", "here")
    with pytest.raises(Problem):
        throttle.begin("c", "here")
    throttle.begin("c", "there")
    now += 3_601
    throttle.begin("a", "here")


def test_a_hundred_failures_close_an_account_to_all_but_those_who_signed_in_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    throttle = passwords.LoginThrottle()
    throttle.begin("a", "home")
    throttle.succeeded("A", "home")
    for number in range(100):
        throttle.begin("a", f"bot {number}")
    with pytest.raises(Problem) as refused:
        throttle.begin("a", "elsewhere")
    assert refused.value.headers["Retry-After"] == "3600"
    throttle.begin("a", "home")
    throttle.begin("b", "elsewhere")
    for _ in range(9):
        throttle.begin("a", "home")
    with pytest.raises(Problem):  # who signed in before has ten tries like anybody else
        throttle.begin("a", "home")
    now += 3_601
    throttle.begin("a", "elsewhere")


def test_a_shared_address_that_was_closed_stays_open_to_those_who_signed_in_there() -> None:
    throttle = passwords.LoginThrottle()
    throttle.begin("a", "plant")
    throttle.succeeded("a", "plant")
    for number in range(100):
        throttle.begin(f"x{number}", "plant")
    with pytest.raises(Problem):
        throttle.begin("b", "plant")
    throttle.begin("a", "plant")


def test_what_the_throttle_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "TRACKED_MAX", 10)
    throttle = passwords.LoginThrottle()
    for number in range(50):
        throttle.begin(f"a{number}", f"b{number}")
        throttle.succeeded(f"a{number}", f"b{number}")
    assert {len(kept) for kept in (throttle._addresses, throttle._accounts, throttle._succeeded)} == {10}


async def test_a_flood_of_logins_is_refused_rather_than_queued(rest: Rest, monkeypatch: pytest.MonkeyPatch, quick_hashes: None) -> None:
    monkeypatch.setattr(passwords, "WAITING_MAX", 0)
    async with rest.client() as client:
        assert (await sign_in(client)).status_code == 429


async def test_an_ipv6_host_is_one_address_to_the_throttle(rest: Rest, quick_hashes: None) -> None:
    for number in range(10):
        async with rest.client(address=f"2001:db8:0:1::{number + 1:x}") as client:
            assert (await sign_in(client, password="x")).status_code == 401
    async with rest.client(address="2001:db8:0:1::ffff") as client, rest.client(address="2001:db8:0:2::1") as elsewhere:
        assert (await sign_in(client)).status_code == 429
        assert (await sign_in(elsewhere)).status_code == 200
        client.headers["Authorization"] = f"Bearer {rest.tokens['viewer']}"
        assert (await client.post("/api/v1/auth/confirm", json={"password": PASSWORD})).status_code == 429


async def test_one_host_does_not_fill_the_queue_of_passwords(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    monkeypatch.setattr(accounts, "verify_password", lambda key, password, password_hash: may_end.wait() and password == PASSWORD)
    async with rest.client(address="2001:db8::1") as flood, rest.client(address="2001:db8::2") as flood_too, rest.client() as client:
        begun = [asyncio.ensure_future(sign_in(one, f"{n}@example.org", "x")) for n in range(15) for one in (flood, flood_too)]
        try:
            refused = [await one for one in itertools.islice(asyncio.as_completed(begun), 20)]
            assert {answer.status_code for answer in refused} == {429}
            assert refused[0].json()["detail"].startswith("The limit of 10 passwords from one address that wait to be judged is reached;")
            other = asyncio.ensure_future(sign_in(client))
            assert (await sign_in(flood)).status_code == 429
            assert not other.done()
        finally:
            may_end.set()
        assert (await other).status_code == 200
        assert sorted([(await one).status_code for one in begun]) == [401] * 10 + [429] * 20


async def test_what_was_not_judged_is_no_failed_attempt(rest: Rest, monkeypatch: pytest.MonkeyPatch, quick_hashes: None) -> None:
    async with rest.client() as client, rest.client("viewer") as signed_in:

        async def again() -> int:
            return (await signed_in.post("/api/v1/auth/confirm", json={"password": PASSWORD})).status_code

        with monkeypatch.context() as full:
            full.setattr(passwords, "WAITING_MAX", 0)
            for _ in range(15):
                assert (await sign_in(client)).status_code == await again() == 429
        with monkeypatch.context() as away:

            async def fail(*_: object) -> None:
                raise ConnectionError("the database is away")

            away.setattr(type(rest.app.state.parts.pool), "fetchrow", fail)
            for _ in range(15):
                assert (await sign_in(client)).status_code == 503
        assert await again() == 200
        assert (await sign_in(client)).status_code == 200


def test_passwords_that_differ_only_after_72_bytes_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "BCRYPT_COST", 4)
    key = accounts.password_key(keys.load_or_make_installation_key(tmp_path))
    password_hash = accounts.hash_password(key, "ä" * 100 + "1")
    assert accounts.verify_password(key, "ä" * 100 + "1", password_hash)
    assert not accounts.verify_password(key, "ä" * 100 + "2", password_hash)


async def test_changing_the_password_ends_the_other_sessions_and_begins_a_new_one(database: str, tmp_path: Path) -> None:
    async with serve(database, tmp_path) as rest, rest.client("viewer") as other, rest.client() as client:
        client.headers["X-WebMACS"] = "1"
        await sign_in(client)
        new = "äöüßéèêëïô" * 10
        wrong = await client.put("/api/v1/auth/me/password", json={"current_password": "not it", "new_password": new})
        assert (wrong.status_code, wrong.json()["errors"][0]["loc"]) == (422, ["body", "current_password"])
        short = await client.put("/api/v1/auth/me/password", json={"current_password": PASSWORD, "new_password": "x" * 11})
        assert short.status_code == 422
        assert (await other.get("/api/v1/auth/me")).status_code == 200
        changed = await client.put("/api/v1/auth/me/password", json={"current_password": PASSWORD, "new_password": new})
        assert changed.status_code == 200
        assert (await other.get("/api/v1/auth/me")).status_code == 401
        assert (await client.get("/api/v1/auth/me")).status_code == 200
        assert (await sign_in(client)).status_code == 401
        assert (await sign_in(client, password=new)).status_code == 200
        async with rest.client("admin") as admin:
            told = (await admin.get("/api/v1/versions", params={"object_public_id": changed.json()["user"]["public_id"]})).json()["data"]
        assert [(one["kind"], one["number"], one["actor_name"]) for one in told] == [("user", changed.json()["user"]["version"], "viewer")]


async def test_behind_tls_the_cookie_is_secure_and_the_browser_is_told_to_stay(database: str, tmp_path: Path) -> None:
    async with serve(database, tmp_path, secure_cookies=True) as rest, rest.client() as client:
        session = await sign_in(client)
        assert "; Secure" in session.headers["set-cookie"]
        assert session.headers["strict-transport-security"]


@pytest.fixture
def a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "TABLE", {**access.TABLE, ("WS", STREAM): access.VIEWER, ("WS", "/ws/other"): access.VIEWER})


async def ticket(rest: Rest, role: str = "viewer") -> str:
    async with rest.client(role) as client:
        made = await client.post("/api/v1/auth/socket-ticket", json={"path": STREAM})
        assert made.status_code == 200
        return str(made.json()["ticket"])


async def test_a_ticket_is_good_once_for_the_session_that_asked(rest: Rest, a_socket: None) -> None:
    pool, text = rest.app.state.parts.pool, await ticket(rest)
    identity = await guard.redeem_ticket(pool, text, STREAM)
    assert (identity.public_id, identity.role) == (rest.users["viewer"], "viewer")
    assert await guard.find_ended(pool, [identity]) == set()
    with pytest.raises(Unauthorized):
        await guard.redeem_ticket(pool, text, STREAM)


async def test_of_two_uses_at_once_one_wins(rest: Rest, a_socket: None) -> None:
    pool, text = rest.app.state.parts.pool, await ticket(rest)
    results = await asyncio.gather(*(guard.redeem_ticket(pool, text, STREAM) for _ in range(2)), return_exceptions=True)
    assert sorted(isinstance(result, Unauthorized) for result in results) == [False, True]


async def test_a_ticket_for_another_path_or_too_late_is_refused_and_used_up(
    rest: Rest, a_socket: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = rest.app.state.parts.pool
    text = await ticket(rest)
    for path in ("/ws/other", STREAM):
        with pytest.raises(Unauthorized):
            await guard.redeem_ticket(pool, text, path)
    late = await ticket(rest)
    with monkeypatch.context() as later:
        now = clock.now_us()
        later.setattr(clock, "now_us", lambda: now + guard.TICKET_S * 1_000_000)
        with pytest.raises(Unauthorized):
            await guard.redeem_ticket(pool, late, STREAM)


async def test_a_ticket_dies_with_its_session(rest: Rest, a_socket: None) -> None:
    pool = rest.app.state.parts.pool
    async with rest.client() as client:
        token = guard.issue_token(rest.session_key, rest.users["admin"], clock.to_datetime(clock.now_us()))
        client.headers["Authorization"] = f"Bearer {token.text}"
        text = (await client.post("/api/v1/auth/socket-ticket", json={"path": STREAM})).json()["ticket"]
        assert (await client.post("/api/v1/auth/logout")).status_code == 204
    with pytest.raises(Unauthorized):
        await guard.redeem_ticket(pool, text, STREAM)


async def test_there_are_no_tickets_for_what_is_no_socket(rest: Rest) -> None:
    async with rest.client("viewer") as client:
        for path in ("/api/v1/events", "", f"/ws/{uuid4()}"):
            assert (await client.post("/api/v1/auth/socket-ticket", json={"path": path})).status_code == 422
