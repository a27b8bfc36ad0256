"""Dashboards: pages that people put together from widgets, their own or for all. A change of a widget is a change of its dashboard."""

from typing import Annotated, Any, Final, Literal
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, Meta, UnsetType

from webmacs import clock
from webmacs.api.widgets import Config
from webmacs.http.guard import Identity
from webmacs.http.page import Page, PageQuery, fetch_page
from webmacs.http.problem import Conflict, Forbidden, NotFound, Unprocessable
from webmacs.http.route import Call, etag, route
from webmacs.http.shape import NAME, Shape, Tags, Timestamp, fields_given, of_row, tidy_tags
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Connection, Pool

COLUMNS: Final = 12
WIDGETS_MAX: Final = 100

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=NAME, examples=["Reactor 1"])]
Description = Annotated[str, Meta(max_length=10_000)]
Global = Annotated[bool, Meta(description="Everybody sees it. Its owner and administrators change it.")]
Range = Annotated[int, Meta(ge=1, le=10 * 366 * 86_400, description="How far back its charts show, in s; null: the viewer chooses.")] | None
Title = Annotated[str, Meta(max_length=200)]
Shown = Annotated[list[UUID], Meta(max_length=100, description="The events that it shows, in this order; each once.")]
Column = Annotated[int, Meta(ge=0, le=COLUMNS - 1, description=f"Of {COLUMNS} columns; x + w is at most {COLUMNS}.")]
Row = Annotated[int, Meta(ge=0, le=1_000)]
Size = Annotated[int, Meta(ge=1, le=12)]


class DashboardIn(Shape, frozen=True):
    name: Name
    description: Description = ""
    tags: Tags = []  # noqa: RUF012 - msgspec copies an empty list for each
    is_global: Global = False
    range_seconds: Range = None


class DashboardChange(Shape, frozen=True):
    """What is not given stays as it is."""

    name: Name | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    is_global: Global | UnsetType = UNSET
    range_seconds: Range | UnsetType = UNSET


class WidgetIn(Shape, frozen=True):
    config: Config
    title: Title = ""
    event_public_ids: Shown = []  # noqa: RUF012 - msgspec copies an empty list for each
    x: Column = 0
    y: Row = 0
    w: Size = 4
    h: Size = 3


class WidgetChange(Shape, frozen=True):
    """What is not given stays as it is; a configuration is replaced whole."""

    config: Config | UnsetType = UNSET
    title: Title | UnsetType = UNSET
    event_public_ids: Shown | UnsetType = UNSET
    x: Column | UnsetType = UNSET
    y: Row | UnsetType = UNSET
    w: Size | UnsetType = UNSET
    h: Size | UnsetType = UNSET


class Position(Shape, frozen=True):
    public_id: UUID
    x: Column
    y: Row
    w: Size
    h: Size


class Layout(Shape, frozen=True):
    widgets: Annotated[list[Position], Meta(max_length=WIDGETS_MAX, description="Every widget of the dashboard, each once.")]


class Widget(msgspec.Struct, frozen=True):
    public_id: UUID
    config: Config
    title: str
    event_public_ids: Annotated[list[UUID], Meta(description="An event that is deleted goes from the list.")]
    x: int
    y: int
    w: int
    h: int


class Dashboard(msgspec.Struct, frozen=True):
    public_id: UUID
    name: str
    description: str
    tags: list[str]
    is_global: bool
    range_seconds: int | None
    owner: Annotated[str, Meta(description="Name of who made it.")]
    widgets: list[Widget]
    created_on: Timestamp
    changed_on: Timestamp
    version: Annotated[int, Meta(description="Counts its changes and those of its widgets; also its ETag.")]


class DashboardsQuery(PageQuery, frozen=True):
    sort: Literal["name", "-name", "created_on", "-created_on", "changed_on", "-changed_on"] = "name"
    is_global: Annotated[bool | None, Meta(description="Only those for everybody, or only those of a person.")] = None
    tag: Annotated[list[str], Meta(max_length=50, description="It has every one of these tags.")] = []  # noqa: RUF012


SELECT: Final = """
    SELECT d.id, d.public_id, d.name, d.description, d.tags, d.is_global, d.range_seconds, d.owner_name AS owner, d.created_on,
           d.changed_on, d.version
      FROM dashboards d
"""
SEEN_BY: Final = "(d.is_global OR d.owner_id = $1 OR $2)"
"""With the caller's id, and whether he is an administrator: to anybody else, somebody's own dashboard does not exist."""
WIDGETS: Final = """
    (SELECT coalesce(jsonb_agg(jsonb_build_object(
                'public_id', w.public_id, 'config', w.config, 'title', w.title, 'x', w.x, 'y', w.y, 'w', w.w, 'h', w.h,
                'event_public_ids', (SELECT coalesce(jsonb_agg(e.public_id ORDER BY m.position), '[]')
                                       FROM dashboard_widget_events m JOIN events e ON e.id = m.event_id WHERE m.widget_id = w.id)
            ) ORDER BY w.id), '[]')
       FROM dashboard_widgets w WHERE w.dashboard_id = {dashboard}.id) AS widgets
"""
WHOLE: Final = SELECT.replace("d.id,", f"d.id, d.owner_id, {WIDGETS.format(dashboard='d')},")
"""With its widgets."""


@route("GET", "/api/v1/dashboards")
async def list_dashboards(call: Call[None, DashboardsQuery]) -> Page[Dashboard]:
    """List the own dashboards and those for all, with their widgets. `search` looks into names, ignoring the case of a to z."""
    query = call.query
    matching = f"""{SELECT} WHERE {SEEN_BY} AND strpos(lower(d.name), lower($3)) > 0 AND ($4::bool IS NULL OR d.is_global = $4)
                      AND d.tags @> $5::text[]"""
    arguments = [*_viewer(call.identity), query.search, query.is_global, query.tag]
    total, rows = await fetch_page(call.pool, matching, arguments, query, query.sort, WIDGETS.format(dashboard="paged"))
    return Page(query.page, query.page_size, total, [_dashboard(row) for row in rows])


@route("POST", "/api/v1/dashboards", status=201, problems=(409,), changes="dashboard")
async def create_dashboard(call: Call[DashboardIn]) -> Dashboard:
    """Create a dashboard. It belongs to who makes it; one for all has its name to itself."""
    public_id = uuid7()
    await _insert(call, public_id, call.body)
    return await _tell(call, None, public_id)


@route("GET", "/api/v1/dashboards/{public_id}")
async def get_dashboard(call: Call) -> Dashboard:
    """Read a dashboard with its widgets."""
    return await _read(call)


async def _read(call: Call[Any, Any]) -> Dashboard:
    """Raises NotFound."""
    if call.identity.dashboard not in (None, call.public_id):  # a kiosk token opens one
        raise NotFound("dashboard")
    return _dashboard(await _find(call.pool, call.identity, call.public_id))


@route("PUT", "/api/v1/dashboards/{public_id}", problems=(409,), changes="dashboard")
async def change_dashboard(call: Call[DashboardChange]) -> Dashboard:
    """Change a dashboard. Fields that are not given stay, and so do its widgets."""
    dashboard_id, before = await _open(call)
    asked = fields_given(call.body)
    wanted = DashboardIn(**{name: asked.get(name, getattr(before, name)) for name in DashboardIn.__struct_fields__})
    await _update(call.conn, dashboard_id, wanted)
    return await _tell(call, before, before.public_id)


@route("DELETE", "/api/v1/dashboards/{public_id}", changes="dashboard")
async def delete_dashboard(call: Call) -> None:
    """Delete a dashboard and its widgets."""
    dashboard_id, before = await _open(call)
    await call.conn.execute("DELETE FROM dashboards WHERE id = $1", dashboard_id)
    call.changed(before, None)


@route("POST", "/api/v1/dashboards/{public_id}/copy", status=201, changes="dashboard")
async def copy_dashboard(call: Call) -> Dashboard:
    """Copy a dashboard with its widgets. The copy is the caller's own and not for all."""
    original = _dashboard(await _find(call.conn, call.identity, call.public_id))
    name = f"{original.name[:193]} (copy)"
    public_id = uuid7()
    asked = DashboardIn(name=name, description=original.description, tags=original.tags, range_seconds=original.range_seconds)
    dashboard_id = await _insert(call, public_id, asked)
    for widget in original.widgets:
        await _add(call.conn, dashboard_id, widget)
    copy = await _tell(call, None, public_id)
    call.headers["Location"] = f"/api/v1/dashboards/{public_id}"
    return copy


@route("PUT", "/api/v1/dashboards/{public_id}/layout", problems=(412,), changes="dashboard")
async def change_layout(call: Call[Layout]) -> Dashboard:
    """Place all widgets of a dashboard at once: all of them, or none."""
    dashboard_id, before = await _open(call)
    known, places = {widget.public_id for widget in before.widgets}, call.body.widgets
    for index, place in enumerate(places):
        _check_place(place.x, place.w, "widgets", index)
        if place.public_id not in known:
            raise Unprocessable.at("body", "widgets", index, "public_id", msg="There is no such widget here, or it stands there twice.")
        known.remove(place.public_id)
    if known:
        raise Unprocessable.at("body", "widgets", msg=f"{len(known)} widgets are missing, as {min(known)}; read the dashboard again.")
    await call.conn.execute(
        """UPDATE dashboard_widgets w SET x = p.x, y = p.y, w = p.w, h = p.h
             FROM unnest($2::uuid[], $3::int2[], $4::int2[], $5::int2[], $6::int2[]) p(public_id, x, y, w, h)
            WHERE w.public_id = p.public_id AND w.dashboard_id = $1""",
        dashboard_id, *([getattr(place, name) for place in places] for name in Position.__struct_fields__),
    )  # fmt: skip
    return await _tell(call, before, before.public_id)


@route("POST", "/api/v1/dashboards/{public_id}/widgets", status=201, problems=(409, 412), changes="dashboard", tagged=True)
async def create_widget(call: Call[WidgetIn]) -> Widget:
    """Put a widget onto a dashboard. The answer's ETag is the dashboard's."""
    dashboard_id, before = await _open(call)
    if len(before.widgets) >= WIDGETS_MAX:
        raise Conflict(f"A dashboard holds {WIDGETS_MAX} widgets; make another one.")
    public_id = await _add(call.conn, dashboard_id, call.body)
    return await _tell_widget(call, before, public_id)


@route("GET", "/api/v1/dashboards/{public_id}/widgets/{widget_id}", tagged=True)
async def get_widget(call: Call) -> Widget:
    """Read a widget. The answer's ETag is the dashboard's."""
    dashboard = await _read(call)
    call.headers["ETag"] = etag(dashboard.version)
    return _widget_of(dashboard, call.path["widget_id"])


@route("PUT", "/api/v1/dashboards/{public_id}/widgets/{widget_id}", problems=(412,), changes="dashboard", tagged=True)
async def change_widget(call: Call[WidgetChange]) -> Widget:
    """Change a widget. Fields that are not given stay; If-Match and ETag are the dashboard's."""
    _, before = await _open(call)
    widget = _widget_of(before, call.path["widget_id"])
    asked = fields_given(call.body)
    wanted = WidgetIn(**{name: asked.get(name, getattr(widget, name)) for name in WidgetIn.__struct_fields__})
    events = await _judge(call.conn, wanted)
    widget_id = await call.conn.fetchval(
        "UPDATE dashboard_widgets SET config = $2, title = $3, x = $4, y = $5, w = $6, h = $7 WHERE public_id = $1 RETURNING id",
        widget.public_id, msgspec.to_builtins(wanted.config), wanted.title, wanted.x, wanted.y, wanted.w, wanted.h,
    )  # fmt: skip
    if "event_public_ids" in asked:
        await call.conn.execute("DELETE FROM dashboard_widget_events WHERE widget_id = $1", widget_id)
        await _show(call.conn, widget_id, events)
    return await _tell_widget(call, before, widget.public_id)


@route("DELETE", "/api/v1/dashboards/{public_id}/widgets/{widget_id}", problems=(412,), changes="dashboard")
async def delete_widget(call: Call) -> None:
    """Take a widget from a dashboard."""
    _, before = await _open(call)
    widget = _widget_of(before, call.path["widget_id"])
    await call.conn.execute("DELETE FROM dashboard_widgets WHERE public_id = $1", widget.public_id)
    call.headers["ETag"] = etag((await _tell(call, before, before.public_id)).version)


class DashboardWithWidgets(DashboardIn, frozen=True):
    """As a whole: what a document of the configuration holds, and what a version is restored from."""

    widgets: Annotated[list[WidgetIn], Meta(max_length=WIDGETS_MAX)] = []  # noqa: RUF012 - msgspec copies an empty list for each


async def put_dashboard(call: Call[DashboardWithWidgets]) -> Dashboard:
    """Makes a dashboard with its widgets, or with a public id in the path makes that one so. Widgets that stay the same in their place keep
    their ids. Raises what the routes above raise."""
    wanted = call.body
    if "public_id" not in call.path:
        public_id = uuid7()
        dashboard_id, before = await _insert(call, public_id, wanted), None
    else:
        dashboard_id, before = await _open(call)
        public_id = before.public_id
        await _update(call.conn, dashboard_id, wanted)
    kept = 0
    present = [] if before is None else before.widgets
    while kept < min(len(present), len(wanted.widgets)) and widget_of(present[kept]) == wanted.widgets[kept]:
        kept += 1
    gone = [widget.public_id for widget in present[kept:]]
    await call.conn.execute("DELETE FROM dashboard_widgets WHERE public_id = ANY($1)", gone)
    for index, widget in enumerate(wanted.widgets[kept:], kept):
        try:
            await _add(call.conn, dashboard_id, widget)
        except Unprocessable as problem:
            raise problem.within("widgets", index) from None
    return await _tell(call, before, public_id)


async def read_global(conn: Connection) -> list[Dashboard]:
    """Those for all."""
    return [_dashboard(row) for row in await conn.fetch(WHOLE + " WHERE d.is_global")]


async def leave_out(call: Call[Any, Any], event_id: int) -> None:
    """An event is deleted: widgets that show it, whosever they are, show it no more."""
    showing = """ WHERE d.id IN (SELECT w.dashboard_id FROM dashboard_widget_events m JOIN dashboard_widgets w ON w.id = m.widget_id
                                  WHERE m.event_id = $1) ORDER BY d.id FOR UPDATE OF d"""
    before = await call.conn.fetch(WHOLE + showing, event_id)
    if not before:
        return
    ids = [row["id"] for row in before]
    await call.conn.execute(
        """WITH shown AS (DELETE FROM dashboard_widget_events WHERE event_id = $2)
           UPDATE dashboards SET changed_on = $3, version = version + 1 WHERE id = ANY($1)""",
        ids, event_id, clock.now(),
    )  # fmt: skip
    after = await call.conn.fetch(WHOLE + " WHERE d.id = ANY($1) ORDER BY d.id", ids)
    for old, new in zip(before, after, strict=True):
        call.changed(_dashboard(old), _dashboard(new), kind="dashboard")


def widget_of(widget: Widget) -> WidgetIn:
    """What it is, without its id."""
    return WidgetIn(**{name: getattr(widget, name) for name in WidgetIn.__struct_fields__})


def _viewer(identity: Identity) -> tuple[int, bool]:
    """The arguments of SEEN_BY."""
    return identity.id, identity.role == "admin"


async def _find(database: Pool | Connection, identity: Identity, public_id: UUID, *, lock: bool = False) -> asyncpg.Record:
    """Raises NotFound, for another's own dashboard too. With `lock` nobody else changes it until the transaction ends."""
    locked = " FOR UPDATE OF d" if lock else ""
    row = await database.fetchrow(f"{WHOLE} WHERE {SEEN_BY} AND d.public_id = $3{locked}", *_viewer(identity), public_id)
    if row is None:
        raise NotFound("dashboard")
    return row


async def _open(call: Call[Any, Any]) -> tuple[int, Dashboard]:
    """(id, the dashboard as it is), locked, for a change by one who may. Raises NotFound, Forbidden or a 412."""
    row = await _find(call.conn, call.identity, call.public_id, lock=True)
    if row["owner_id"] != call.identity.id and call.identity.role != "admin":
        raise Forbidden(f"This dashboard is {row['owner']}'s; make a copy and change that.")
    call.match(row["version"])
    return row["id"], _dashboard(row)


async def _insert(call: Call[Any, Any], public_id: UUID, new: DashboardIn) -> int:
    """Raises Conflict."""
    try:
        dashboard_id: int = await call.conn.fetchval(
            """INSERT INTO dashboards (public_id, name, description, tags, is_global, range_seconds, owner_id, owner_name,
                                       created_on, changed_on)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9) RETURNING id""",
            public_id, new.name, new.description, tidy_tags(new.tags), new.is_global, new.range_seconds,
            call.identity.id, call.identity.name, clock.now(),
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise _taken(new.name) from None
    return dashboard_id


async def _update(conn: Connection, dashboard_id: int, wanted: DashboardIn) -> None:
    """Raises Conflict."""
    try:
        await conn.execute(
            "UPDATE dashboards SET name = $2, description = $3, tags = $4, is_global = $5, range_seconds = $6 WHERE id = $1",
            dashboard_id, wanted.name, wanted.description, tidy_tags(wanted.tags), wanted.is_global, wanted.range_seconds,
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise _taken(wanted.name) from None


def _taken(name: str) -> Conflict:
    return Conflict(f"There is a dashboard for all called {name} already; choose another name.")


async def _add(conn: Connection, dashboard_id: int, new: WidgetIn | Widget) -> UUID:
    """Raises Unprocessable."""
    public_id = uuid7()
    events = await _judge(conn, new)
    widget_id = await conn.fetchval(
        """INSERT INTO dashboard_widgets (public_id, dashboard_id, config, title, x, y, w, h)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id""",
        public_id, dashboard_id, msgspec.to_builtins(new.config), new.title, new.x, new.y, new.w, new.h,
    )  # fmt: skip
    await _show(conn, widget_id, events)
    return public_id


async def _judge(conn: Connection, widget: WidgetIn | Widget) -> list[int]:
    """The ids of its events. Raises Unprocessable."""
    _check_place(widget.x, widget.w)
    if len(widget.event_public_ids) > widget.config.events_max:
        raise Unprocessable.at("body", "event_public_ids", msg=f"Such a widget shows {widget.config.events_max} events at most.")
    if not widget.event_public_ids:
        return []
    rows = await conn.fetch(
        "SELECT id, public_id FROM events WHERE public_id = ANY($1::uuid[]) AND deleted_on IS NULL FOR KEY SHARE", widget.event_public_ids
    )
    known = {row["public_id"]: row["id"] for row in rows}
    for index, public_id in enumerate(widget.event_public_ids):
        if public_id not in known:
            raise Unprocessable.at("body", "event_public_ids", index, msg=f"There is no event {public_id}, or it stands there twice.")
    if len(known) < len(widget.event_public_ids):
        raise Unprocessable.at("body", "event_public_ids", msg="An event stands there twice; name each once.")
    return [known[public_id] for public_id in widget.event_public_ids]


async def _show(conn: Connection, widget_id: int, events: list[int]) -> None:
    if events:
        await conn.execute(
            """INSERT INTO dashboard_widget_events (widget_id, position, event_id)
               SELECT $1, e.position, e.id FROM unnest($2::int4[]) WITH ORDINALITY e(id, position)""",
            widget_id, events,
        )  # fmt: skip


async def _tell(call: Call[Any, Any], before: Dashboard | None, public_id: UUID) -> Dashboard:
    """The dashboard as it is now, told as changed; one that was there before has a new version."""
    if before is not None:
        await call.conn.execute(
            "UPDATE dashboards SET changed_on = $2, version = version + 1 WHERE public_id = $1",
            public_id, clock.now(),
        )  # fmt: skip
    after = _dashboard(await _find(call.conn, call.identity, public_id))
    return call.changed(before, after)


async def _tell_widget(call: Call[Any, Any], before: Dashboard, public_id: UUID) -> Widget:
    after = await _tell(call, before, before.public_id)
    call.headers["ETag"] = etag(after.version)
    return _widget_of(after, public_id)


def _check_place(x: int, w: int, *where: str | int) -> None:
    if x + w > COLUMNS:
        raise Unprocessable.at("body", *where, "x", msg=f"x + w is {x + w}; a dashboard has {COLUMNS} columns.")


def _widget_of(dashboard: Dashboard, public_id: UUID) -> Widget:
    """Raises NotFound."""
    for widget in dashboard.widgets:
        if widget.public_id == public_id:
            return widget
    raise NotFound("widget")


def _dashboard(row: asyncpg.Record) -> Dashboard:
    return of_row(Dashboard, row, widgets=msgspec.convert(row["widgets"], list[Widget]))


routes = [
    list_dashboards, create_dashboard, get_dashboard, change_dashboard, delete_dashboard, copy_dashboard,
    change_layout, create_widget, get_widget, change_widget, delete_widget,
]  # fmt: skip
