"""Pages of other origins: closed by default, and open for those that are named."""

import re
from pathlib import Path

import httpx
from parts.rest import Rest, serve

from webmacs.http import access

ALLOWED = "https://plant.example.org"
FOREIGN = ["https://evil.example.org", "http://plant.example.org", f"{ALLOWED}:8443", f"{ALLOWED}.evil.test", "null", ""]
ID = "01a20a7a-1b53-79ca-9623-0f2e8d54601f"
ROUTES = sorted((method, re.sub(r"\{[^}]*\}", ID, path)) for method, path in access.TABLE if method != "WS")
API = sorted({path for _, path in ROUTES if path.startswith(("/api/", "/health"))})


async def preflight(client: httpx.AsyncClient, path: str, origin: str, method: str) -> httpx.Response:
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization,content-type"}
    return await client.request("OPTIONS", path, headers=asked | ({"Origin": origin} if origin else {}))


def told(answer: httpx.Response) -> list[str]:
    return [name for name in answer.headers if name.startswith("access-control-")]


async def test_by_default_no_route_tells_a_page_of_another_origin_anything(rest: Rest) -> None:
    async with rest.client("admin") as admin:
        for method, path in ROUTES:
            for origin in (ALLOWED, "null"):
                asked = await preflight(admin, path, origin, method)
                assert (asked.status_code, told(asked)) == (405, []), path
                assert told(await admin.request(method, path, headers={"Origin": origin})) == [], path


async def test_a_page_of_an_allowed_origin_reads_and_writes_on_every_route(database: str, tmp_path: Path) -> None:
    async with serve(database, tmp_path, allowed_origins=(ALLOWED,)) as rest, rest.client("admin") as admin, rest.client() as stranger:
        for path in API:
            methods = {method for method, other in ROUTES if other == path}
            for method in methods:
                asked = await preflight(stranger, path, ALLOWED, method)
                assert (asked.status_code, asked.content) == (204, b""), path
                assert asked.headers["access-control-allow-origin"] == ALLOWED
                assert set(asked.headers["access-control-allow-methods"].split(", ")) == methods
                assert {"Authorization", "Content-Type", "If-Match", "Idempotency-Key"} <= set(
                    asked.headers["access-control-allow-headers"].split(", ")
                )
                assert "origin" in asked.headers["vary"]
                assert asked.headers["x-request-id"]
            answer = await stranger.get(path, headers={"Origin": ALLOWED})  # a refusal can be read, too
            assert answer.headers["access-control-allow-origin"] == ALLOWED, path
            assert "Retry-After" in answer.headers["access-control-expose-headers"]
        made = await admin.post("/api/v1/events", json={"name": "by a page", "type": "sensor", "unit": ""}, headers={"Origin": ALLOWED})
        assert (made.status_code, made.headers["access-control-allow-origin"]) == (201, ALLOWED)


async def test_a_named_origin_opens_nothing_for_others(database: str, tmp_path: Path) -> None:
    async with serve(database, tmp_path, allowed_origins=(ALLOWED,)) as rest, rest.client("admin") as admin:
        for method, path in ROUTES:
            for origin in FOREIGN:
                asked = await preflight(admin, path, origin, method)
                assert (asked.status_code, told(asked)) == (405, []), path
        for origin in FOREIGN[:-1]:
            read = await admin.get("/api/v1/events", headers={"Origin": origin})
            assert (read.status_code, told(read)) == (200, [])
            assert read.headers["vary"] == "accept-encoding, origin"
            written = await admin.post("/api/v1/events", json={}, headers={"Origin": origin})
            assert (written.status_code, written.json()["type"], told(written)) == (403, "/problems/foreign-origin", [])
        plain = await admin.request("OPTIONS", "/api/v1/events", headers={"Origin": ALLOWED})  # asks nothing: no preflight
        assert plain.status_code == 405
