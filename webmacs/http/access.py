"""Who may: the one table of every method and path, sockets, pages and files included. The application refuses to start with a route
that has no row here, or a row that has no route."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Role: TypeAlias = Literal["viewer", "operator", "admin", "source"]

_RANK: Final[Mapping[Role, int]] = {"viewer": 1, "operator": 2, "admin": 3}


@dataclass(frozen=True, slots=True)
class Access:
    """`minimum` None: nobody has to say who they are. Sources come in only where `source` says so."""

    minimum: Literal["viewer", "operator", "admin"] | None
    source: bool = False

    @property
    def public(self) -> bool:
        return self.minimum is None

    def admits(self, role: Role) -> bool:
        if role == "source":
            return self.source
        return self.minimum is None or _RANK[role] >= _RANK[self.minimum]


PUBLIC: Final = Access(None, source=True)
VIEWER: Final = Access("viewer")
OPERATOR: Final = Access("operator")
ADMIN: Final = Access("admin")
SOURCE_OR_OPERATOR: Final = Access("operator", source=True)

TABLE: Final[Mapping[tuple[str, str], Access]] = {
    ("POST", "/api/v1/auth/login"): PUBLIC,
    ("POST", "/api/v1/auth/logout"): VIEWER,
    ("GET", "/api/v1/auth/me"): VIEWER,
    ("PUT", "/api/v1/auth/me/password"): VIEWER,
    ("POST", "/api/v1/auth/socket-ticket"): VIEWER,
    ("GET", "/api/v1/audit"): ADMIN,
    ("GET", "/api/v1/audit/export"): ADMIN,
    ("GET", "/api/v1/events"): VIEWER,
    ("POST", "/api/v1/events"): OPERATOR,
    ("GET", "/api/v1/events/{public_id}"): VIEWER,
    ("PUT", "/api/v1/events/{public_id}"): OPERATOR,
    ("DELETE", "/api/v1/events/{public_id}"): ADMIN,
    ("GET", "/api/v1/experiments"): VIEWER,
    ("POST", "/api/v1/experiments"): OPERATOR,
    ("GET", "/api/v1/experiments/{public_id}"): VIEWER,
    ("PUT", "/api/v1/experiments/{public_id}"): OPERATOR,
    ("PUT", "/api/v1/experiments/{public_id}/stop"): OPERATOR,
    ("DELETE", "/api/v1/experiments/{public_id}"): OPERATOR,
    ("GET", "/api/v1/datapoints"): VIEWER,
    ("POST", "/api/v1/datapoints"): SOURCE_OR_OPERATOR,
    ("DELETE", "/api/v1/datapoints"): ADMIN,
    ("GET", "/api/v1/datapoints/{public_id}"): VIEWER,
    ("DELETE", "/api/v1/datapoints/{public_id}"): ADMIN,
    ("POST", "/api/v1/datapoints/batch"): SOURCE_OR_OPERATOR,
    ("POST", "/api/v1/datapoints/series"): VIEWER,
    ("GET", "/api/v1/datapoints/latest"): VIEWER,
    ("POST", "/api/v1/write"): SOURCE_OR_OPERATOR,
    ("GET", "/api/v1/gaps"): VIEWER,
    ("GET", "/api/v1/sources"): VIEWER,
    ("POST", "/api/v1/sources"): ADMIN,
    ("GET", "/api/v1/sources/{public_id}"): VIEWER,
    ("PUT", "/api/v1/sources/{public_id}"): ADMIN,
    ("POST", "/api/v1/sources/{public_id}/credential"): ADMIN,
    ("DELETE", "/api/v1/sources/{public_id}"): ADMIN,
    ("WS", "/ws/controller/telemetry"): SOURCE_OR_OPERATOR,
    ("WS", "/ws/datapoints/stream"): VIEWER,
    ("GET", "/health"): PUBLIC,
    ("GET", "/health/live"): PUBLIC,
    ("GET", "/metrics"): VIEWER,
    ("GET", "/openapi.json"): PUBLIC,
    ("GET", "/problems"): PUBLIC,
    ("GET", "/problems/{file}"): PUBLIC,
    ("GET", "/docs"): PUBLIC,
    ("GET", "/docs/{file}"): PUBLIC,
    ("GET", "/{file}"): PUBLIC,
}


class AccessError(Exception):
    """The table and the routes differ; the application does not start."""


def check(routes: Collection[tuple[str, str]]) -> None:
    """Raises AccessError unless every route has a row, every row a route, and no route is there twice."""
    counted = Counter(routes)
    faults = [
        f"{what}: {', '.join(sorted(' '.join(one) for one in which))}"
        for what, which in (
            ("routes without a row", counted.keys() - TABLE.keys()),
            ("rows without a route", TABLE.keys() - counted.keys()),
            ("routes twice", {one for one, times in counted.items() if times > 1}),
        )
        if which
    ]
    if faults:
        raise AccessError("webmacs/http/access.py and the routes differ; " + "; ".join(faults))
