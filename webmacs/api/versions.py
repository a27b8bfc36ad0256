"""Versions: every state of what people configure, who made it and when; compared, and brought back."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from webmacs.api import annotations, dashboards, experiments, rules, settings, sources, users, webhooks
from webmacs.api.dashboards import DashboardWithWidgets, WidgetIn
from webmacs.api.events import event
from webmacs.api.events.bulk import FromTo
from webmacs.api.plugins import channels, instances
from webmacs.http import access, audit, guard
from webmacs.http.faults import field_error
from webmacs.http.guard import Identity
from webmacs.http.page import Cursor, CursorPage, CursorQuery, Limit, fetch_after
from webmacs.http.problem import Conflict, NotFound, Unprocessable
from webmacs.http.route import Call, Route, route
from webmacs.http.shape import Shape, Timestamp, check_range, of_row
from webmacs.storage.pool import Connection, Pool


class VersionsQuery(Shape, frozen=True):
    kind: Annotated[str | None, Meta(description="Of what was changed.", examples=["event"])] = None
    object_public_id: Annotated[UUID | None, Meta(description="Of what was changed.")] = None
    actor_name: Annotated[str | None, Meta(description="Name of who changed it.")] = None
    start: Annotated[Timestamp | None, Meta(description="Not before.")] = msgspec.field(name="from", default=None)
    end: Annotated[Timestamp | None, Meta(description="Before.")] = msgspec.field(name="to", default=None)
    content: Annotated[bool, Meta(description="With the whole state that each version holds.")] = False
    limit: Limit = 100
    cursor: Cursor = None

    def __post_init__(self) -> None:
        check_range(self.start, self.end)


class VersionQuery(Shape, frozen=True):
    against: Annotated[int, Meta(ge=1, le=2**31 - 1, description="Compare it with this version of the same object.")] | None = None


class Version(msgspec.Struct, frozen=True):
    kind: Annotated[str, Meta(examples=["event"])]
    object_public_id: UUID
    number: Annotated[int, Meta(description="The `version` that the object had then.")]
    name: Annotated[str | None, Meta(description="Of the object; null where it has none, or was deleted.")]
    at: Timestamp
    actor_name: Annotated[str | None, Meta(description="Of who made it so.")]
    deleted: bool
    content: Annotated[dict[str, Any] | None, Meta(description="The object as the API showed it; null unless asked for, or deleted.")] = (
        None
    )
    changes: Annotated[
        dict[str, FromTo] | None, Meta(description="With `against`: the fields that differ, from that version to this one.")
    ] = None


class Restored(msgspec.Struct, frozen=True):
    public_id: UUID
    version: Annotated[int, Meta(description="The new version, which holds what the old one held.")]
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind is brought back: a body is made of the fields that it shares with the old state, for the handler of its changes."""

    read: Route
    """Whoever may call it sees its versions."""
    change: Route
    """Whoever may call it brings a version back."""
    body: type[Shape]
    restore: Callable[[Call[Any, Any]], Awaitable[Any]]

    def body_of(self, content: Mapping[str, Any]) -> Any:
        """Raises ValidationError where the state is of another form than today's."""
        return msgspec.convert(_part(content, self.body), self.body)


def _part(content: Mapping[str, Any], shape: type[Shape]) -> dict[str, Any]:
    part = {name: content[name] for name in shape.__struct_encode_fields__ if name in content}
    if shape is DashboardWithWidgets:
        part["widgets"] = [_part(widget, WidgetIn) for widget in content["widgets"]]
    return part


def _of(read: Route, change: Route, body: type[Shape], restore: Callable[[Call[Any, Any]], Awaitable[Any]] | None = None) -> Kind:
    return Kind(read, change, body, restore or change.handler)


KINDS: Final[Mapping[str, Kind]] = {
    "annotation": _of(annotations.get_annotation, annotations.change_annotation, annotations.AnnotationChange),
    "dashboard": _of(dashboards.get_dashboard, dashboards.change_dashboard, DashboardWithWidgets, dashboards.put_dashboard),
    "event": _of(event.get_event, event.change_event, event.EventChange),
    "experiment": _of(experiments.get_experiment, experiments.change_experiment, experiments.ExperimentChange),
    "plugin instance": _of(instances.get_plugin_instance, instances.change_plugin_instance, instances.InstanceChange),
    "rule": _of(rules.get_rule, rules.change_rule, rules.RuleChange),
    "settings": _of(settings.get_settings, settings.change_settings, settings.SettingsChange),
    "source": _of(sources.get_source, sources.change_source, sources.SourceChange),
    "webhook": _of(webhooks.get_webhook, webhooks.change_webhook, webhooks.WebhookChange),
}
READS: Final[Mapping[str, Route]] = {
    **{name: kind.read for name, kind in KINDS.items()},
    "channel": channels.get_channel,
    "user": users.get_user,
}
"""By kind what reads it. Of those that are not in KINDS administrators see the versions, and nobody brings one back."""

SELECT: Final = """
    SELECT v.id, v.kind, v.object_public_id, v.version AS number, v.content->>'name' AS name, v.at, v.actor_name,
           v.content IS NULL AS deleted, CASE WHEN $1 THEN v.content END AS content
      FROM versions v
     WHERE ($2::text[] IS NULL OR v.kind = ANY($2) AND (v.kind <> 'dashboard' OR EXISTS (
               SELECT FROM dashboards d WHERE d.public_id = v.object_public_id AND (d.is_global OR d.owner_id = $3))))
"""
"""With: whether contents are wanted, the kinds that the caller sees (NULL: all), and the caller's id."""


@route("GET", "/api/v1/versions")
async def list_versions(call: Call[None, VersionsQuery]) -> CursorPage[Version]:
    """List what was changed, the newest first: of what you may read. An admin sees every kind, an API token those that its scopes read."""
    query = call.query
    _check_scope(call.identity, query.kind)
    conditions = [SELECT]
    arguments: list[Any] = [query.content, *_seen_by(call.identity)]
    for condition, value in (
        ("v.kind = ", query.kind),
        ("v.object_public_id = ", query.object_public_id),
        ("v.actor_name = ", query.actor_name),
        ("v.at >= ", query.start),
        ("v.at < ", query.end),
    ):
        if value is not None:
            arguments.append(value)
            conditions.append(f"{condition}${len(arguments)}")
    page = CursorQuery(limit=query.limit, cursor=query.cursor)
    following, rows = await fetch_after(call.pool, " AND ".join(conditions), arguments, page)
    return CursorPage(following, [_version(row) for row in rows])


@route("GET", "/api/v1/versions/{kind}/{object_id}/{version}")
async def get_version(call: Call[None, VersionQuery]) -> Version:
    """Read a version; with `against`, what changed between another one and this one."""
    version = await _read(call, call.pool, call.path["version"])
    if call.query.against is None:
        return version
    other = await _read(call, call.pool, str(call.query.against))
    return msgspec.structs.replace(version, changes=changes(other.content or {}, version.content or {}))


@route("POST", "/api/v1/versions/{kind}/{object_id}/{version}/restore", problems=(409, 412), changes="version")
async def restore_version(call: Call) -> Restored:
    """Bring a version back. The object gets a new version that holds what the old one held, judged as any change is; what was deleted is
    not brought back, and secrets stay as they are now."""
    version = await _read(call, call.conn, call.path["version"])
    kind = KINDS.get(version.kind)
    if kind is None:
        raise Conflict(f"Of the kind {version.kind} versions can be read, but not brought back.")
    guard.admit(call.identity, kind.change.access, kind.change.scope)
    if version.content is None:
        raise Conflict("This version is the deletion of the object; bring back one before it.")
    try:
        body = kind.body_of(version.content)
    except msgspec.ValidationError as error:
        raise Unprocessable([field_error(["body"], error, kind.body)]) from None
    state = await kind.restore(call.inner(version.kind, body, version.object_public_id))
    if not call.idle:
        call.entries[-1] = replace(call.entries[-1], action="restore", detail=f"version {version.number}")
    return Restored(version.object_public_id, state.version, msgspec.to_builtins(state, str_keys=True))


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, FromTo]:
    """The fields that differ, but those that differ always."""
    names = [name for name in {**before, **after} if name not in audit.UNREMARKABLE and before.get(name) != after.get(name)]
    return {name: FromTo(before.get(name), after.get(name)) for name in names}


def _seen_by(identity: Identity) -> tuple[list[str] | None, int]:
    """The last arguments of SELECT."""
    admin, scopes = identity.role == "admin", identity.scopes
    if admin and scopes is None:
        return None, identity.id
    reads = {name: read for name, read in READS.items() if admin or (name in KINDS and read.access.admits(identity.role))}
    seen = [name for name, read in reads.items() if scopes is None or access.covers(scopes, read.scope, by_name=False)]
    return seen, identity.id


def _check_scope(identity: Identity, kind: str | None) -> None:
    """Whoever asks for a kind by its name is told which scope is lacking. Raises Forbidden."""
    if kind is not None and (read := READS.get(kind)) is not None:
        guard.check_scope(identity, read.scope)


async def _read(call: Call[Any, Any], database: Pool | Connection, number: str) -> Version:
    """With its content. Raises NotFound or Forbidden."""
    _check_scope(call.identity, call.path["kind"])
    row = None
    if number.isascii() and number.isdecimal() and len(number) < 10:
        row = await database.fetchrow(
            SELECT + " AND v.kind = $4 AND v.object_public_id = $5 AND v.version = $6",
            True, *_seen_by(call.identity), call.path["kind"], call.path["object_id"], int(number),
        )  # fmt: skip
    if row is None:
        raise NotFound("version")
    return _version(row)


def _version(row: Any) -> Version:
    return of_row(Version, row, changes=None)


routes = [list_versions, get_version, restore_version]
