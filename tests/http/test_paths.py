"""A path is found by its parts: what it names, and nothing else."""

from typing import Any
from uuid import UUID

import pytest
from starlette.routing import Match

from webmacs.http.paths import Paths

ID = "01a20a7a-1b53-79ca-9623-0f2e8d54601f"


def app(name: str) -> Any:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        raise NotImplementedError(name)

    answer.__name__ = name
    return answer


KNOWN = {
    path: app(path)
    for path in (
        "/health", "/health/live", "/api/v1/events", "/api/v1/events/{public_id}", "/api/v1/events/bulk", "/api/v1/events/{public_id}/log",
        "/api/v1/config/{kind}/{public_id}", "/api/v1/config/{kind}", "/api/v1/config/export", "/api/v1/config/export/{format}/now",
    )
}  # fmt: skip
PATHS = Paths(KNOWN)


def found(path: str, kind: str = "http") -> tuple[str | None, dict[str, Any]]:
    match, scope = PATHS.matches({"type": kind, "path": path, "method": "GET"})
    return (scope["endpoint"].__name__, scope["path_params"]) if match is Match.FULL else (None, {})


@pytest.mark.parametrize(
    ("path", "name", "parameters"),
    [
        ("/health", "/health", {}),
        ("/health/live", "/health/live", {}),
        ("/api/v1/events", "/api/v1/events", {}),
        (f"/api/v1/events/{ID}", "/api/v1/events/{public_id}", {"public_id": UUID(ID)}),
        (f"/api/v1/events/{ID.upper()}", "/api/v1/events/{public_id}", {"public_id": UUID(ID)}),
        (f"/api/v1/events/{ID.replace('-', '')}", "/api/v1/events/{public_id}", {"public_id": UUID(ID)}),
        ("/api/v1/events/bulk", "/api/v1/events/bulk", {}),
        (f"/api/v1/events/{ID}/log", "/api/v1/events/{public_id}/log", {"public_id": UUID(ID)}),
        (f"/api/v1/config/event/{ID}", "/api/v1/config/{kind}/{public_id}", {"kind": "event", "public_id": UUID(ID)}),
        ("/api/v1/config/export", "/api/v1/config/export", {}),
        ("/api/v1/config/import", "/api/v1/config/{kind}", {"kind": "import"}),
        ("/api/v1/config/export/csv/now", "/api/v1/config/export/{format}/now", {"format": "csv"}),
        (f"/api/v1/config/export/{ID}", "/api/v1/config/{kind}/{public_id}", {"kind": "export", "public_id": UUID(ID)}),
    ],
)
def test_a_path_is_found_with_its_parameters(path: str, name: str, parameters: dict[str, Any]) -> None:
    assert found(path) == (name, parameters)


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "//", "/healt", "/health/", "/health/live/", "/Health", "/api/v1", "/api/v1/events/", "/api/v1/events/x",
        f"/api/v1/events/{ID}/", f"/api/v1/events/{ID}0", f"/api/v1/events/{{{ID}}}", f"/api/v1/events/urn:uuid:{ID}",
        f"/api/v1/events/{ID}\n", f"//api/v1/events/{ID}", "/api/v1/config/", "/api/v1/config//", f"/api/v1/config//{ID}",
        "/api/v1/events/{public_id}", "/api/v1/events/１" + ID[1:],
    ],
)  # fmt: skip
def test_what_is_no_path_is_not_found(path: str) -> None:
    assert found(path) == (None, {})


def test_a_socket_is_no_path_of_the_api() -> None:
    assert found("/health", "websocket") == (None, {})
