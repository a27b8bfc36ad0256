"""Pages of other origins. They may read and write nothing, but for the origins that the setting allowed_origins names."""

from collections.abc import Iterable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from webmacs.settings import Settings

REQUEST_HEADERS: Final = ("Authorization", "Content-Type", "If-Match", "Idempotency-Key", "X-Request-ID", "X-WebMACS")
ANSWER_HEADERS: Final = (
    "ETag", "Idempotent-Replayed", "Location", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-ID", "X-WebMACS-Dry-Run",
)  # fmt: skip
ASKED_AGAIN_S: Final = 600
"""After this long a browser asks again whether it may."""


def answer_headers(settings: Settings) -> Mapping[str, list[tuple[bytes, bytes]]]:
    """By origin, what every answer to a page of it carries; its browser shows the page nothing without."""
    exposed = ", ".join(ANSWER_HEADERS).encode()
    return {
        origin: [
            (b"access-control-allow-origin", origin.encode()),
            (b"access-control-allow-credentials", b"true"),
            (b"access-control-expose-headers", exposed),
        ]
        for origin in settings.allowed_origins
    }


def preflight(request: Request, settings: Settings, methods: Iterable[str]) -> Response | None:
    """The answer to a browser that asks for an allowed page whether it may; None for every other request."""
    asks = request.method == "OPTIONS" and "access-control-request-method" in request.headers
    if not asks or request.headers.get("origin") not in settings.allowed_origins:
        return None
    return Response(
        status_code=204,
        headers={
            "Access-Control-Allow-Methods": ", ".join(methods),
            "Access-Control-Allow-Headers": ", ".join(REQUEST_HEADERS),
            "Access-Control-Max-Age": str(ASKED_AGAIN_S),
        },
    )
