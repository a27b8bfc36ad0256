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
SOURCE_OR_ADMIN: Final = Access("admin", source=True)
SOURCE_OR_OPERATOR: Final = Access("operator", source=True)

TABLE: Final[Mapping[tuple[str, str], Access]] = {
    ("POST", "/api/v1/auth/login"): PUBLIC,
    ("POST", "/api/v1/auth/logout"): VIEWER,
    ("GET", "/api/v1/auth/me"): VIEWER,
    ("PUT", "/api/v1/auth/me/password"): VIEWER,
    ("POST", "/api/v1/auth/socket-ticket"): VIEWER,
    ("GET", "/api/v1/audit"): ADMIN,
    ("GET", "/api/v1/audit/export"): ADMIN,
    ("GET", "/api/v1/auth/sso/authorize"): PUBLIC,
    ("GET", "/api/v1/auth/sso/callback"): PUBLIC,
    ("GET", "/api/v1/auth/sso/config"): PUBLIC,
    ("POST", "/api/v1/auth/sso/exchange"): PUBLIC,
    ("GET", "/api/v1/events"): VIEWER,
    ("POST", "/api/v1/events"): OPERATOR,
    ("POST", "/api/v1/events/bulk"): OPERATOR,
    ("GET", "/api/v1/events/export/csv"): VIEWER,
    ("POST", "/api/v1/events/import/csv"): OPERATOR,
    ("GET", "/api/v1/events/{public_id}"): VIEWER,
    ("PUT", "/api/v1/events/{public_id}"): OPERATOR,
    ("DELETE", "/api/v1/events/{public_id}"): ADMIN,
    ("GET", "/api/v1/events/{public_id}/recording"): VIEWER,
    ("GET", "/api/v1/experiments"): VIEWER,
    ("POST", "/api/v1/experiments"): OPERATOR,
    ("GET", "/api/v1/experiments/{public_id}"): VIEWER,
    ("PUT", "/api/v1/experiments/{public_id}"): OPERATOR,
    ("PUT", "/api/v1/experiments/{public_id}/stop"): OPERATOR,
    ("DELETE", "/api/v1/experiments/{public_id}"): OPERATOR,
    ("GET", "/api/v1/experiments/{public_id}/summary"): VIEWER,
    ("GET", "/api/v1/annotations"): VIEWER,
    ("POST", "/api/v1/annotations"): OPERATOR,
    ("GET", "/api/v1/annotations/{public_id}"): VIEWER,
    ("PUT", "/api/v1/annotations/{public_id}"): OPERATOR,
    ("DELETE", "/api/v1/annotations/{public_id}"): OPERATOR,
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
    ("GET", "/api/v1/plugins"): VIEWER,
    ("POST", "/api/v1/plugins"): ADMIN,
    ("GET", "/api/v1/plugins/available"): VIEWER,
    ("GET", "/api/v1/plugins/packages"): VIEWER,
    ("POST", "/api/v1/plugins/packages"): ADMIN,
    ("GET", "/api/v1/plugins/packages/{public_id}"): VIEWER,
    ("DELETE", "/api/v1/plugins/packages/{public_id}"): ADMIN,
    ("GET", "/api/v1/plugins/packages/{public_id}/content"): SOURCE_OR_ADMIN,
    ("GET", "/api/v1/plugins/{public_id}"): VIEWER,
    ("PUT", "/api/v1/plugins/{public_id}"): ADMIN,
    ("DELETE", "/api/v1/plugins/{public_id}"): ADMIN,
    ("GET", "/api/v1/plugins/{public_id}/channels"): VIEWER,
    ("POST", "/api/v1/plugins/{public_id}/channels"): ADMIN,
    ("GET", "/api/v1/plugins/{public_id}/channels/{channel_id}"): VIEWER,
    ("PUT", "/api/v1/plugins/{public_id}/channels/{channel_id}"): ADMIN,
    ("DELETE", "/api/v1/plugins/{public_id}/channels/{channel_id}"): ADMIN,
    ("GET", "/api/v1/sources"): VIEWER,
    ("POST", "/api/v1/sources"): ADMIN,
    ("GET", "/api/v1/sources/{public_id}"): VIEWER,
    ("PUT", "/api/v1/sources/{public_id}"): ADMIN,
    ("POST", "/api/v1/sources/{public_id}/credential"): ADMIN,
    ("DELETE", "/api/v1/sources/{public_id}"): ADMIN,
    ("GET", "/api/v1/jobs"): VIEWER,
    ("GET", "/api/v1/jobs/{public_id}"): VIEWER,
    ("POST", "/api/v1/jobs/{public_id}/cancel"): VIEWER,
    ("GET", "/api/v1/settings"): VIEWER,
    ("PUT", "/api/v1/settings"): ADMIN,
    ("GET", "/api/v1/logging"): VIEWER,
    ("POST", "/api/v1/logging"): OPERATOR,
    ("PUT", "/api/v1/logging/read"): OPERATOR,
    ("GET", "/api/v1/logging/{public_id}"): VIEWER,
    ("PUT", "/api/v1/logging/{public_id}"): OPERATOR,
    ("GET", "/api/v1/rules"): VIEWER,
    ("POST", "/api/v1/rules"): OPERATOR,
    ("GET", "/api/v1/rules/{public_id}"): VIEWER,
    ("PUT", "/api/v1/rules/{public_id}"): OPERATOR,
    ("DELETE", "/api/v1/rules/{public_id}"): OPERATOR,
    ("GET", "/api/v1/rules/{public_id}/transitions"): VIEWER,
    ("GET", "/api/v1/webhooks"): ADMIN,
    ("POST", "/api/v1/webhooks"): ADMIN,
    ("GET", "/api/v1/webhooks/deliveries/{delivery_id}"): ADMIN,
    ("POST", "/api/v1/webhooks/deliveries/{delivery_id}/redeliver"): ADMIN,
    ("GET", "/api/v1/webhooks/{public_id}"): ADMIN,
    ("PUT", "/api/v1/webhooks/{public_id}"): ADMIN,
    ("DELETE", "/api/v1/webhooks/{public_id}"): ADMIN,
    ("GET", "/api/v1/webhooks/{public_id}/deliveries"): ADMIN,
    ("GET", "/api/v1/ota"): VIEWER,
    ("POST", "/api/v1/ota"): ADMIN,
    ("POST", "/api/v1/ota/upload"): ADMIN,
    ("GET", "/api/v1/ota/{public_id}"): VIEWER,
    ("DELETE", "/api/v1/ota/{public_id}"): ADMIN,
    ("GET", "/api/v1/dashboards"): VIEWER,
    ("POST", "/api/v1/dashboards"): OPERATOR,
    ("GET", "/api/v1/dashboards/{public_id}"): VIEWER,
    ("PUT", "/api/v1/dashboards/{public_id}"): OPERATOR,
    ("DELETE", "/api/v1/dashboards/{public_id}"): OPERATOR,
    ("POST", "/api/v1/dashboards/{public_id}/copy"): OPERATOR,
    ("PUT", "/api/v1/dashboards/{public_id}/layout"): OPERATOR,
    ("POST", "/api/v1/dashboards/{public_id}/widgets"): OPERATOR,
    ("PUT", "/api/v1/dashboards/{public_id}/widgets/{widget_id}"): OPERATOR,
    ("DELETE", "/api/v1/dashboards/{public_id}/widgets/{widget_id}"): OPERATOR,
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
