"""Who may: the one table of every method and path, sockets, pages and files included. The application refuses to start with a route
that has no row here, or a row that has no route."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Role: TypeAlias = Literal["viewer", "operator", "admin", "source"]

ROLES: Final = ("viewer", "operator", "admin")
"""Of people, from the least."""


@dataclass(frozen=True, slots=True)
class Access:
    """`minimum` None: nobody has to say who they are. Sources come in only where `source` says so."""

    minimum: Literal["viewer", "operator", "admin"] | None
    source: bool = False
    reads: bool = False
    """It changes nothing, though it is no GET."""
    kiosk: bool = False
    """Open to a kiosk token, which sees its dashboard's events only."""
    session: bool = False
    """Only for a person who is signed in, not for an API token."""
    fresh: bool = False
    """The password must have been given within guard.FRESH_S; an API token needs the scope by its own name."""
    initial: bool = False
    """Also for whoever still has to choose a password of their own."""

    @property
    def public(self) -> bool:
        return self.minimum is None

    def admits(self, role: Role) -> bool:
        if role == "source":
            return self.source
        return self.minimum is None or ROLES.index(role) >= ROLES.index(self.minimum)


PUBLIC: Final = Access(None, source=True)
VIEWER: Final = Access("viewer")
VIEWER_READS: Final = Access("viewer", reads=True)
VIEWER_FRESH: Final = Access("viewer", fresh=True)
KIOSK: Final = Access("viewer", kiosk=True)
KIOSK_READS: Final = Access("viewer", reads=True, kiosk=True)
PERSON: Final = Access("viewer", session=True)
PERSON_FRESH: Final = Access("viewer", session=True, fresh=True)
PERSON_INITIAL: Final = Access("viewer", session=True, initial=True)
OPERATOR: Final = Access("operator")
ADMIN: Final = Access("admin")
ADMIN_FRESH: Final = Access("admin", fresh=True)
SOURCE_OR_ADMIN: Final = Access("admin", source=True)
SOURCE_OR_OPERATOR: Final = Access("operator", source=True)

TABLE: Final[Mapping[tuple[str, str], Access]] = {
    ("POST", "/api/v1/auth/login"): PUBLIC,
    ("POST", "/api/v1/auth/logout"): PERSON_INITIAL,
    ("POST", "/api/v1/auth/confirm"): PERSON,
    ("GET", "/api/v1/auth/me"): Access("viewer", initial=True),
    ("PUT", "/api/v1/auth/me"): PERSON,
    ("PUT", "/api/v1/auth/me/password"): PERSON_INITIAL,
    ("GET", "/api/v1/auth/sessions"): PERSON,
    ("DELETE", "/api/v1/auth/sessions"): PERSON,
    ("DELETE", "/api/v1/auth/sessions/{session_id}"): PERSON,
    ("POST", "/api/v1/auth/socket-ticket"): KIOSK_READS,
    ("GET", "/api/v1/tokens"): VIEWER,
    ("POST", "/api/v1/tokens"): VIEWER_FRESH,
    ("DELETE", "/api/v1/tokens/{public_id}"): VIEWER_FRESH,
    ("GET", "/api/v1/users"): ADMIN,
    ("POST", "/api/v1/users"): ADMIN_FRESH,
    ("GET", "/api/v1/users/{public_id}"): ADMIN,
    ("PUT", "/api/v1/users/{public_id}"): ADMIN_FRESH,
    ("DELETE", "/api/v1/users/{public_id}"): ADMIN_FRESH,
    ("GET", "/api/v1/users/{public_id}/sessions"): ADMIN,
    ("DELETE", "/api/v1/users/{public_id}/sessions"): ADMIN_FRESH,
    ("GET", "/api/v1/audit"): ADMIN,
    ("GET", "/api/v1/audit/export"): ADMIN,
    ("GET", "/api/v1/auth/sso/authorize"): PUBLIC,
    ("GET", "/api/v1/auth/sso/callback"): PUBLIC,
    ("GET", "/api/v1/auth/sso/config"): PUBLIC,
    ("POST", "/api/v1/auth/sso/exchange"): PUBLIC,
    ("POST", "/api/v1/auth/sso/link"): PERSON_FRESH,
    ("DELETE", "/api/v1/auth/sso/link"): PERSON_FRESH,
    ("GET", "/api/v1/events"): KIOSK,
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
    ("POST", "/api/v1/datapoints/series"): KIOSK_READS,
    ("GET", "/api/v1/datapoints/latest"): KIOSK,
    ("POST", "/api/v1/write"): SOURCE_OR_OPERATOR,
    ("GET", "/api/v1/gaps"): VIEWER,
    ("GET", "/api/v1/plugins"): VIEWER,
    ("POST", "/api/v1/plugins"): ADMIN,
    ("GET", "/api/v1/plugins/available"): VIEWER,
    ("GET", "/api/v1/plugins/packages"): VIEWER,
    ("POST", "/api/v1/plugins/packages"): ADMIN_FRESH,
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
    ("GET", "/api/v1/configuration"): ADMIN,
    ("POST", "/api/v1/configuration"): ADMIN,
    ("GET", "/api/v1/versions"): VIEWER,
    ("GET", "/api/v1/versions/{kind}/{object_id}/{version}"): VIEWER,
    ("POST", "/api/v1/versions/{kind}/{object_id}/{version}/restore"): OPERATOR,
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
    ("POST", "/api/v1/ota/upload"): ADMIN_FRESH,
    ("GET", "/api/v1/ota/{public_id}"): VIEWER,
    ("DELETE", "/api/v1/ota/{public_id}"): ADMIN,
    ("GET", "/api/v1/dashboards"): VIEWER,
    ("POST", "/api/v1/dashboards"): OPERATOR,
    ("GET", "/api/v1/dashboards/{public_id}"): KIOSK,
    ("PUT", "/api/v1/dashboards/{public_id}"): OPERATOR,
    ("DELETE", "/api/v1/dashboards/{public_id}"): OPERATOR,
    ("POST", "/api/v1/dashboards/{public_id}/copy"): OPERATOR,
    ("PUT", "/api/v1/dashboards/{public_id}/layout"): OPERATOR,
    ("POST", "/api/v1/dashboards/{public_id}/widgets"): OPERATOR,
    ("GET", "/api/v1/dashboards/{public_id}/widgets/{widget_id}"): KIOSK,
    ("PUT", "/api/v1/dashboards/{public_id}/widgets/{widget_id}"): OPERATOR,
    ("DELETE", "/api/v1/dashboards/{public_id}/widgets/{widget_id}"): OPERATOR,
    ("WS", "/ws/controller/telemetry"): SOURCE_OR_OPERATOR,
    ("WS", "/ws/datapoints/stream"): KIOSK_READS,
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


_SCOPE: Final[Mapping[str, str]] = {"controller": "datapoints", "write": "datapoints"}
"""What lies elsewhere and is of another resource."""


def scope_of(method: str, path: str) -> str:
    """The scope by which an API token reaches a route: its resource, and whether it reads or writes."""
    first = path.removeprefix("/api/v1").removeprefix("/ws").strip("/").partition("/")[0]
    reads = method == "GET" or TABLE[method, path].reads
    return f"{_SCOPE.get(first, first)}:{'read' if reads else 'write'}"


def scopes() -> list[str]:
    """Every scope that a token may have: read and write are those of all resources, and who may write may read."""
    routes = {scope_of(*one) for one, row in TABLE.items() if not row.public and not row.session}
    return sorted({"read", "write", *routes})


def covers(held: Collection[str], scope: str, *, by_name: bool) -> bool:
    """Whether a token with the scopes `held` may do what needs `scope`. With `by_name`, `write` alone does not do."""
    resource, _, verb = scope.partition(":")
    if scope in held or (verb == "read" and f"{resource}:write" in held):
        return True
    return not by_name and ("write" in held or (verb == "read" and "read" in held))


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
