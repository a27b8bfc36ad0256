"""What every answer carries, whatever it says."""

import asyncio
import gzip
import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from parts.rest import Rest, serve
from starlette.applications import Starlette

from webmacs import logs
from webmacs.http import access, static
from webmacs.http.envelope import SECURITY_HEADERS
from webmacs.http.problem import Problem

REQUEST_IDS = [("abc-1.2_3", True), ("x" * 64, True), ("x" * 65, False), ('a"b', False), ("", False), ("a b", False)]
MISSING = "01a20a7a-1b53-79ca-9623-0f2e8d54601f"


async def test_every_answer_has_the_security_headers_errors_and_pages_too(rest: Rest) -> None:
    async with rest.client("viewer") as client:
        asked = [
            (method, re.sub(r"{\w+}", MISSING, path.replace("{file}", "assets/none.js"))) for method, path in access.TABLE if method != "WS"
        ]
        for method, path in [*asked, ("GET", "/nothing"), ("PATCH", "/api/v1/events"), ("GET", "/api/v1/nothing"), ("TRACE", "/")]:
            if path.endswith("logout"):
                continue
            response = await client.request(method, path)
            for name, value in SECURITY_HEADERS.items():
                assert response.headers[name] == value, (method, path)
            assert response.headers["x-request-id"]
            assert "server" not in response.headers
            if path.startswith("/api"):
                assert response.headers["cache-control"] == "no-store"
            if response.status_code >= 400:
                assert response.headers["content-type"] == "application/problem+json"
                assert response.json()["status"] == response.status_code
                assert response.json()["request_id"] == response.headers["x-request-id"]


async def test_a_wrong_method_is_told_the_right_ones(rest: Rest) -> None:
    async with rest.client("viewer") as client:
        response = await client.request("PATCH", f"/api/v1/events/{MISSING}")
    assert (response.status_code, response.headers["allow"]) == (405, "DELETE, GET, PUT")


@pytest.mark.parametrize(("given", "kept"), REQUEST_IDS)
async def test_a_request_id_is_kept_when_it_is_harmless(rest: Rest, given: str, kept: bool) -> None:
    async with rest.client() as client:
        answered = (await client.get("/health/live", headers={"X-Request-ID": given})).headers["x-request-id"]
    assert (answered == given) is kept


UNLUCKY = [
    ("GET", "/nothing.txt", None, 404),
    ("GET", "/api/v1/nothing", None, 404),
    ("PATCH", "/api/v1/events", None, 405),
    ("GET", "/api/v1/events?colour=red", None, 422),
    ("POST", "/api/v1/events", b"{", 400),
    ("POST", "/api/v1/events", b" " * (1024 * 1024 + 1), 413),
    ("POST", "/api/v1/events", b'{"name": "a bug", "type": "sensor", "unit": ""}', 500),
    ("GET", "/api/v1/events", None, 200),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), UNLUCKY)
async def test_every_line_of_a_request_has_its_id(
    rest: Rest, monkeypatch: pytest.MonkeyPatch, method: str, path: str, body: bytes | None, status: int
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    if status == 500:
        monkeypatch.setattr("webmacs.http.audit.account", fail)
    written, root = io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logs.JsonLines())
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        async with rest.client("admin") as admin:
            headers = {"X-Request-ID": "press-4.77", "Content-Type": "application/json"}
            answer = await admin.request(method, path, content=body, headers=headers)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert (answer.status_code, answer.headers["x-request-id"]) == (status, "press-4.77")
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    ours = [line for line in lines if line["logger"].startswith("webmacs.http")]
    assert {line.get("request_id") for line in ours} == {"press-4.77"}
    (served,) = (line for line in ours if line["event"] == "request_served")
    assert (served["path"], served["status"]) == (path.partition("?")[0], status)
    assert [line["event"] for line in ours if "exception" in line] == (["request_failed"] if status == 500 else [])


async def test_a_bug_is_a_500_without_its_traceback_and_the_log_has_it(
    rest: Rest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any) -> None:
        raise ZeroDivisionError("a secret of the inside")

    monkeypatch.setattr("webmacs.api.events.event._read", fail)
    async with rest.client("viewer") as client:
        with caplog.at_level(logging.ERROR):
            response = await client.get(f"/api/v1/events/{MISSING}")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "a secret of the inside" in caplog.text


async def test_a_long_answer_is_compressed_for_who_can_read_it(rest: Rest) -> None:
    async with rest.client() as client:
        assert (await client.get("/openapi.json", headers={"Accept-Encoding": "gzip"})).headers["content-encoding"] == "gzip"
        assert "content-encoding" not in (await client.get("/openapi.json", headers={"Accept-Encoding": "identity"})).headers
        assert "content-encoding" not in (await client.get("/health/live", headers={"Accept-Encoding": "gzip"})).headers


async def test_the_access_log_has_no_query(rest: Rest, caplog: pytest.LogCaptureFixture) -> None:
    async with rest.client() as client:
        with caplog.at_level(logging.DEBUG, "webmacs.http.envelope"):
            await client.get("/health/live?ticket=canary")
    assert "canary" not in str([vars(record) for record in caplog.records if record.name.startswith("webmacs")])


async def test_health_says_little_to_strangers_and_more_to_the_known(rest: Rest) -> None:
    vitals = rest.app.state.parts.vitals
    async with rest.client() as stranger, rest.client("viewer") as viewer:
        assert (await stranger.get("/health")).json() == {"status": "ok"}
        known = (await viewer.get("/health")).json()
        assert known.keys() >= {"status", "version", "storing", "stored_per_s", "lag_ms", "database"}
        vitals.storing = False
        try:
            response = await stranger.get("/health")
            assert (response.status_code, response.json()) == (503, {"status": "unavailable"})
            assert (await stranger.get("/health/live")).status_code == 200
        finally:
            vitals.storing = True


async def test_a_database_that_is_away_is_a_503_and_liveness_stays(database: str, tmp_path: Path) -> None:
    async with serve(database, tmp_path) as rest:
        await rest.app.state.parts.pool.close()
        async with rest.client("viewer") as client:
            for path in ("/api/v1/events", "/health"):
                response = await client.get(path)
                assert response.status_code == 503
            assert (await client.get("/api/v1/events")).headers["retry-after"]
            assert (await client.get("/health/live")).status_code == 200


@pytest.fixture
def pages(tmp_path: Path) -> httpx.AsyncClient:
    folder = tmp_path / "static"
    for name, content in {
        "index.html": b"<html>spa</html>", "favicon.svg": b"<svg/>", "assets/app-1a2b.js": b"let a", "docs/index.html": b"docs",
        "docs/viewer.js": b"view", "assets/app-1a2b.js.br": b"brotli", "assets/app-1a2b.js.gz": gzip.compress(b"let a"),
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (tmp_path / "secret.txt").write_text("secret")
    return httpx.AsyncClient(transport=httpx.ASGITransport(Starlette(routes=static.routes(folder))), base_url="http://t")


async def test_pages_are_cached_by_what_they_are(pages: httpx.AsyncClient) -> None:
    script = await pages.get("/assets/app-1a2b.js", headers={"Accept-Encoding": "gzip"})
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert (script.text, script.headers["content-encoding"], script.headers["content-type"][:15]) == ("let a", "gzip", "text/javascript")
    page = await pages.get("/")
    assert (page.text, page.headers["cache-control"]) == ("<html>spa</html>", "no-cache")
    again = await pages.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.text) == (304, "")
    plain = await pages.get("/assets/app-1a2b.js", headers={"Accept-Encoding": "gzip;q=0"})
    assert "content-encoding" not in plain.headers


@pytest.mark.parametrize("path", ["/", "/events", "/experiments/12/chart", "/login?next=/x"])
async def test_the_spa_answers_its_own_addresses(pages: httpx.AsyncClient, path: str) -> None:
    assert (await pages.get(path)).text == "<html>spa</html>"


@pytest.mark.parametrize(
    "path",
    ["/api", "/api/v1/x", "/ws/x", "/health/x", "/metrics", "/openapi.json", "/assets/old-9z.js", "/x.js", "/docs/x",
     "/assets/app-1a2b.js.br",
     "/../secret.txt", "/..%2fsecret.txt", "/%2e%2e/secret.txt", "/docs/..%2f..%2fsecret.txt", "//etc/passwd.txt", "/assets/%00.js"],
)  # fmt: skip
async def test_what_is_no_page_is_a_404(pages: httpx.AsyncClient, path: str) -> None:
    response = await pages.get(path)
    assert response.status_code == 404
    assert "secret" not in response.text


async def test_the_viewer_of_the_api_stands_at_docs(pages: httpx.AsyncClient) -> None:
    assert (await pages.get("/docs")).text == "docs"
    assert (await pages.get("/docs/viewer.js")).text == "view"


async def test_pages_that_are_not_built_say_so(tmp_path: Path) -> None:
    app = Starlette(routes=static.routes(tmp_path / "nothing"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
        with pytest.raises(Problem, match="make run"):
            await client.get("/")


async def test_a_body_that_never_comes_is_a_408(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webmacs.http.route.BODY_GRACE_S", 0.05)

    async def never() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    async with rest.client("admin") as client:
        assert (await client.post("/api/v1/events", content=never())).status_code == 408
