"""How much one caller and one address may ask for, and what they are told when it is used up."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from parts.backend import Backend, make_source, make_user, sign_in
from parts.rest import Rest, serve
from starlette.requests import Request
from websockets.exceptions import InvalidStatus

from webmacs import app, clock
from webmacs.http import access, guard, limits
from webmacs.http.limits import Budget, Limits
from webmacs.http.problem import Problem
from webmacs.settings import Settings

STREAM = "/ws/datapoints/stream"


class Time:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    stands = Time()
    monkeypatch.setattr(clock, "monotonic", stands)
    return stands


def refused(budget: Budget, key: str) -> Problem | None:
    try:
        budget.spend(key)
    except Problem as problem:
        return problem
    return None


def test_a_budget_gives_its_number_at_once_and_then_the_same_number_a_minute(time: Time) -> None:
    budget = Budget("few", "requests", 60)
    assert [refused(budget, "a") for _ in range(60)] == [None] * 60
    assert refused(budget, "a") is not None
    assert refused(budget, "b") is None
    time.now_s += 1
    assert refused(budget, "a") is None
    assert refused(budget, "a") is not None
    time.now_s += 3_600
    assert [refused(budget, "a") for _ in range(60)] == [None] * 60
    assert refused(budget, "a") is not None


READINGS = {(one.method, one.path) for one in app.ROUTES if one.readings}
"""They have a budget of their own."""


def test_who_waits_as_long_as_the_answer_says_is_let_in(time: Time) -> None:
    budget = Budget("few", "requests of one caller", 7)
    for _ in range(50):
        while (problem := refused(budget, "a")) is None:
            pass
        assert (problem.status, problem.type) == (429, "too-many-requests")
        wait_s = int(problem.headers["Retry-After"])
        assert problem.detail == f"The limit few of 7 requests of one caller a minute is used up; try again in {wait_s} s."
        assert problem.headers["RateLimit-Policy"] == '"few";q=7;w=60'
        assert problem.headers["RateLimit"] == f'"few";r=0;t={wait_s}'
        time.now_s += wait_s
        assert refused(budget, "a") is None


def test_what_came_beyond_a_budget_is_paid_for_before_the_next(time: Time) -> None:
    budget = Budget("bytes", "bytes", 60)
    budget.check("a")
    budget.charge("a", 59)
    budget.check("a")
    budget.charge("a", 61)
    with pytest.raises(Problem, match="try again in 60 s"):
        budget.check("a")
    time.now_s += 60
    with pytest.raises(Problem, match="try again in 1 s"):
        budget.check("a")
    time.now_s += 0.01
    budget.check("a")


def test_at_the_bound_the_key_that_asked_longest_ago_is_forgotten(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TRACKED_MAX", 2)
    budget = Budget("one", "requests", 1)
    for key in ("a", "b"):
        budget.spend(key)
        time.now_s += 1
    assert refused(budget, "a") is not None
    budget.spend("c")
    assert refused(budget, "a") is None
    assert refused(budget, "c") is not None


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("", ""),
        ("unix:/run/webmacs", "unix:/run/webmacs"),
    ],
)
def test_an_ipv6_host_is_its_whole_network(address: str, network: str) -> None:
    assert limits.network_of(address) == network


async def test_a_session_that_asks_too_often_is_told_so_and_others_are_not(database: str, tmp_path: Path) -> None:
    async with serve(database, tmp_path, requests_per_minute=3) as rest:
        async with rest.client("viewer") as viewer, rest.client("operator") as operator:
            answers = [await viewer.get("/api/v1/events") for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
            assert answers[3].json()["type"] == "/problems/too-many-requests"
            assert "requests_per_minute" in answers[3].json()["detail"]
            assert answers[3].headers["retry-after"] == "20"
            assert (await operator.get("/api/v1/events")).status_code == 200
        await rest.app.state.parts.refusals.write(rest.app.state.parts.pool)
        async with rest.connection() as conn:
            (row,) = await conn.fetch("SELECT actor_name, action, detail FROM audit_log")
            assert (row["actor_name"], row["action"]) == ("viewer", "refused")
            assert row["detail"].startswith("GET /api/v1/events: The limit requests_per_minute of 3 ")


async def test_who_has_asked_too_often_can_still_sign_out(database: str, tmp_path: Path) -> None:
    async with serve(database, tmp_path, requests_per_minute=1, address_requests_per_minute=4) as rest, rest.client("viewer") as viewer:
        assert [(await viewer.get("/api/v1/events")).status_code for _ in range(2)] == [200, 429]
        assert (await viewer.post("/api/v1/auth/logout")).status_code == 204
        assert (await viewer.post("/api/v1/auth/logout")).status_code == 401
        assert (await viewer.post("/api/v1/auth/logout")).status_code == 429  # the address's counts


async def test_an_address_is_limited_whoever_asks_and_whatever_it_claims(database: str, tmp_path: Path) -> None:
    async with serve(database, tmp_path, address_requests_per_minute=5) as rest:
        async with rest.client() as stranger, rest.client("admin") as admin, rest.client("admin", "10.0.0.9") as elsewhere:
            for path in ("/nothing", "/api/v1/events", "/openapi.json", "/health"):
                await stranger.get(path)
            assert (await admin.get("/api/v1/events")).status_code == 200
            forged = {"X-Forwarded-For": "203.0.113.7", "X-Real-IP": "203.0.113.7", "Forwarded": "for=203.0.113.7"}
            for method, path in access.TABLE:
                if method != "WS":
                    asked = re.sub(r"\{[^}]*\}", "01a20a7a-1b53-79ca-9623-0f2e8d54601f", path)
                    answer = await admin.request(method, asked, headers=forged)
                    free = path == "/health/live" or (method, path) in READINGS
                    assert (answer.status_code == 429) is not free, path
            assert (await elsewhere.get("/api/v1/events")).status_code == 200
        await rest.app.state.parts.refusals.write(rest.app.state.parts.pool)
        async with rest.connection() as conn:
            rows = await conn.fetch("SELECT actor_kind, address, detail FROM audit_log")
        assert {(row["actor_kind"], row["address"]) for row in rows} == {("nobody", "127.0.0.1")}


async def test_behind_a_configured_proxy_each_client_has_its_own_limit(database: str, tmp_path: Path) -> None:
    limited = {"address_requests_per_minute": 1, "trusted_proxies": ("10.0.0.2",)}
    async with serve(database, tmp_path, **limited) as rest, rest.client(address="10.0.0.2") as proxy:
        for client in ("203.0.113.5", "203.0.113.6"):
            asked = [await proxy.get("/health", headers={"X-Forwarded-For": client}) for _ in range(2)]
            assert [answer.status_code for answer in asked] == [200, 429]


async def test_readings_have_budgets_of_their_own(rest: Rest) -> None:
    settings = Settings(requests_per_minute=1, address_requests_per_minute=1, readings_requests_per_minute=3, readings_mb_per_minute=1)
    budgets = Limits(settings)
    caller = await _identity(rest)
    for readings in (False, True):
        budgets.admit_address("192.0.2.1", readings=readings)
        budgets.admit_caller(caller, readings=readings)
    with pytest.raises(Problem, match=r"limit requests_per_minute of 1 "):
        budgets.admit_caller(caller, readings=False)
    budgets.charge_readings(caller, 999_999)
    budgets.admit_caller(caller, readings=True)
    budgets.charge_readings(caller, 2_000_000)
    with pytest.raises(Problem, match=r"limit readings_mb_per_minute of 1,000,000 bytes .* try again in 12. s"):
        budgets.admit_caller(caller, readings=True)


async def _identity(rest: Rest) -> Any:
    header = (b"authorization", f"Bearer {rest.tokens['viewer']}".encode())
    return await guard.identify(
        rest.app.state.parts.pool,
        rest.app.state.parts.session_keys,
        Request({"type": "http", "method": "GET", "path": "/", "headers": [header]}),
    )


async def test_sockets_beyond_a_limit_are_refused_before_the_upgrade(module_database: str, tmp_path: Path) -> None:
    limited = {"WEBMACS_USER_SOCKETS_MAX": "2", "WEBMACS_ADDRESS_SOCKETS_MAX": "3"}
    backend = Backend(module_database, tmp_path, **limited)
    await backend.start()
    try:
        people = []
        for name in ("ann", "bob"):
            password = await make_user(module_database, tmp_path, f"{name}@example.org", "viewer")
            people.append(await sign_in(backend, f"{name}@example.org", password))
        ann, bob = people
        source = await make_source(module_database, "press")

        def opening(token: str, path: str = STREAM) -> Any:
            return websockets.connect(backend.sockets + path, additional_headers={"Authorization": f"Bearer {token}"}, compression=None)

        async def refusal(token: str, path: str = STREAM) -> dict[str, Any]:
            with pytest.raises(InvalidStatus) as caught:
                await opening(token, path)
            response = caught.value.response
            problem: dict[str, Any] = json.loads(response.body or b"{}")
            assert (response.status_code, problem["type"]) == (429, "/problems/too-many-sockets")
            assert response.headers["retry-after"]
            assert problem["request_id"] == response.headers["x-request-id"]
            return problem

        first, _second = [await opening(ann) for _ in range(2)]
        assert "has 2 open sockets" in (await refusal(ann))["detail"]
        third = await opening(bob)
        assert "address_sockets_max" in (await refusal(bob))["detail"]
        assert "address_sockets_max" in (await refusal(source, "/ws/controller/telemetry"))["detail"]
        await first.close()
        async with asyncio.timeout(10):
            while True:
                try:
                    again = await opening(ann)
                except InvalidStatus:
                    continue
                break
        for socket in (_second, third, again):
            await socket.close()
        async with httpx.AsyncClient(base_url=backend.url) as client:
            assert (await client.get("/health/live")).status_code == 200
    finally:
        await backend.stop()
