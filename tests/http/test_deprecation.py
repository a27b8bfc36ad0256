"""The day a route has to go, it can say so. No route does today: this one is made here."""

from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime

import httpx
import pytest
from parts.rest import Rest
from starlette.applications import Starlette

from webmacs.http import access, openapi
from webmacs.http.deprecation import Deprecation
from webmacs.http.route import Call, compose, route

PATH = "/api/v1/old"


@route("GET", PATH, deprecated=Deprecation(date(2027, 1, 1), date(2028, 7, 1), "/api/v1/new"))
async def get_old(call: Call) -> list[int]:
    """Read what is old."""
    return [1]


async def test_a_deprecated_route_says_since_when_until_when_and_what_comes_instead(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(access.TABLE, ("GET", PATH), access.PUBLIC)  # type: ignore[arg-type]
    app = Starlette(routes=compose([get_old], []))
    app.state.parts = rest.app.state.parts
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://webmacs.test") as client:
        response = await client.get(PATH)
    assert response.json() == [1]
    assert datetime.fromtimestamp(int(response.headers["deprecation"].removeprefix("@")), UTC) == datetime(2027, 1, 1, tzinfo=UTC)
    assert parsedate_to_datetime(response.headers["sunset"]) == datetime(2028, 7, 1, tzinfo=UTC)
    assert response.headers["link"] == '</api/v1/new>; rel="successor-version"'


def test_a_deprecated_route_is_marked_in_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(access.TABLE, ("GET", PATH), access.PUBLIC)  # type: ignore[arg-type]
    operation = openapi.document([get_old], [])["paths"][PATH]["get"]
    assert operation["deprecated"] is True
    assert "gone after 2028-07-01. Use /api/v1/new instead." in operation["description"]
    assert {"Deprecation", "Sunset"} <= operation["responses"]["200"]["headers"].keys()


def test_what_has_no_successor_names_none() -> None:
    assert "Link" not in Deprecation(date(2027, 1, 1), date(2028, 7, 1)).headers()
