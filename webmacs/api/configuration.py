"""The configuration as one text document: exported, compared, and brought in all or nothing, by names instead of ids.

A section holds objects of a kind, found by their key. What an object says of events it says by their names, which are looked for in the
document first and then here. Each change is made by the handler of its own route, with its checks, its version and its audit row; so with
`?dry_run=true` the answer is exactly what would be done.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from webmacs.api import dashboards, rules, webhooks
from webmacs.api.dashboards import DashboardWithWidgets
from webmacs.api.events import bulk, event
from webmacs.api.events.bulk import FromTo, Item
from webmacs.http import guard
from webmacs.http.faults import field_error
from webmacs.http.problem import Conflict, FieldError, Problem, Unprocessable
from webmacs.http.route import Call, etag, route
from webmacs.http.shape import Shape
from webmacs.storage.pool import Connection
from webmacs.telemetry.catalogue import REST_WRITER

BODY_BYTES_MAX: Final = 32 * 1024 * 1024
IMPORTING: Final = 0x5745_4243  # one import after the other, under this advisory lock
FORMAT: Final[Literal["webmacs-configuration-1"]] = "webmacs-configuration-1"
WRITTEN_BY: Final = ("source", "instance", "channel_key")
"""Of an event that a source writes; `source` is null where none does."""
NAMED: Final = {"event_public_id": "event_name", "event_public_ids": "event_names"}
"""What is an id in the API is a name in a document."""
IDS: Final = {after: before for before, after in NAMED.items()}
NOWHERE: Final = str(UUID(int=0))
"""Stands for an event that was not found, so that nothing but that is held against it."""

Content = dict[str, Any]
Events = Annotated[list[Content], Meta(max_length=bulk.EVENTS_MAX)]
Objects = Annotated[list[Content], Meta(max_length=1_000)]
"""So many are done within the time that a request may take; more come in parts."""
Key = Annotated[str, Meta(description="Its name; of a webhook its address.")]


class Configuration(Shape, frozen=True):
    """A section that is not given is left alone, and so is an object that is not in its section."""

    format: Literal["webmacs-configuration-1"]
    events: Annotated[
        Events,
        Meta(
            description="As of POST /api/v1/events; with source and channel_key where a source writes it. Source null: none does; with a "
            "channel_key it is that series of line protocol under another name.",
            examples=[[{"name": "Boiler temperature", "type": "sensor", "unit": "°C", "max_value": 120, "source": None}]],
        ),
    ] = []  # noqa: RUF012
    rules: Annotated[
        Objects,
        Meta(
            description="As of POST /api/v1/rules, with event_name.",
            examples=[[{"name": "Boiler too hot", "event_name": "Boiler temperature", "operator": "gt", "threshold": 95}]],
        ),
    ] = []  # noqa: RUF012
    webhooks: Annotated[
        Objects,
        Meta(
            description="As of POST /api/v1/webhooks, with event_names and without a secret.",
            examples=[[{"url": "https://example.org/hooks/webmacs", "events": ["sensor.reading"], "event_names": ["Boiler temperature"]}]],
        ),
    ] = []  # noqa: RUF012
    dashboards: Annotated[
        Objects,
        Meta(
            description="Those for all, with widgets; these as of their own POST, with event_names.",
            examples=[[{"name": "Hall", "widgets": [{"config": {"widget_type": "gauge"}, "event_names": ["Boiler temperature"]}]}]],
        ),
    ] = []  # noqa: RUF012


class Exported(msgspec.Struct, frozen=True):
    """The sections of an import, whole."""

    format: Literal["webmacs-configuration-1"]
    events: list[msgspec.Raw]
    rules: list[msgspec.Raw]
    webhooks: list[msgspec.Raw]
    dashboards: list[msgspec.Raw]


class Applied(msgspec.Struct, frozen=True):
    section: Literal["events", "rules", "webhooks", "dashboards"]
    key: Key
    action: Literal["create", "update"]
    changes: Annotated[dict[str, FromTo], Meta(description="Of an update: the fields that change.")]


class Comparison(msgspec.Struct, frozen=True):
    created: int
    updated: int
    unchanged: int
    objects: Annotated[list[Applied], Meta(description="What is created or updated.")]
    only_here: Annotated[dict[str, list[Key]], Meta(description="By section: what is here and not in the document. It stays.")]


@dataclass(frozen=True, slots=True)
class Section:
    """A kind of objects. `new` is the body that makes one, `change` that which changes one; where they are the same, one is put whole."""

    kind: str
    key: str
    new: type[Shape]
    change: type[Shape]
    read: Callable[[Connection], Awaitable[Sequence[Any]]]
    create: Callable[[Call[Any, Any]], Awaitable[Any]]
    update: Callable[[Call[Any, Any]], Awaitable[Any]]
    unordered: str | None = None
    """A list whose order says nothing."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields that a document does not hold, and what they are."""

    def content(self, state: Any) -> Content:
        """What a document holds of an object, with ids."""
        content: Content = msgspec.to_builtins(state)
        for widget in content.get("widgets", []):
            widget.pop("public_id", None)
        return {name: content[name] for name in self.new.__struct_fields__ if name in content and name not in self.fixed}

    def shown(self, content: Content, names: Mapping[str, str]) -> Content:
        """The same, with names; `names` by public id."""
        if self.unordered is not None and content[self.unordered] is not None:
            content = content | {self.unordered: sorted(content[self.unordered], key=lambda public_id: names.get(public_id, public_id))}
        shown: Content = _with_names(content, names)
        return shown


SECTIONS: Final[Mapping[str, Section]] = {
    "rules": Section(
        "rule", "name", rules.RuleIn, rules.RuleChange, rules.read_all, rules.create_rule.handler, rules.change_rule.handler
    ),
    "webhooks": Section(
        "webhook", "url", webhooks.WebhookIn, webhooks.WebhookChange, webhooks.read_all,
        webhooks.create_webhook.handler, webhooks.change_webhook.handler, unordered="event_public_ids", fixed={"secret": None},
    ),
    "dashboards": Section(
        "dashboard", "name", DashboardWithWidgets, DashboardWithWidgets, dashboards.read_global,
        dashboards.put_dashboard, dashboards.put_dashboard, fixed={"is_global": True},
    ),
}  # fmt: skip
"""After the events, which they name."""


@route("GET", "/api/v1/configuration", tagged=True)
async def export_configuration(call: Call) -> Exported:
    """Export the configuration. One JSON document with an object a line, sorted by names, without ids and secrets: the same configuration
    gives the same bytes, so that two of them can be compared line by line and kept under version control, and the same ETag."""
    async with call.pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
        exported = await _export(conn)
    call.headers["ETag"] = etag(_digest(exported))
    call.headers["Content-Disposition"] = 'attachment; filename="webmacs-configuration.json"'
    return exported


@route("POST", "/api/v1/configuration", problems=(409, 412), changes="configuration", body_bytes_max=BODY_BYTES_MAX)
async def import_configuration(call: Call[Configuration]) -> Comparison:
    """Bring in a configuration, all of it or nothing. Objects are found by their names: those that are not here are created, of the others
    the fields that are given are changed. With dry_run=true the answer says what would be done. With the ETag of an export in If-Match it
    is done only while the whole configuration is as it was exported. An API token needs the scope to write each section that changes."""
    await call.conn.execute("SELECT pg_advisory_xact_lock($1)", IMPORTING)
    if call.if_match is not None:
        await call.conn.execute(
            "SELECT FROM events WHERE name = ANY($1) AND deleted_on IS NULL ORDER BY id FOR NO KEY UPDATE",
            [str(one.get("name")) for one in call.body.events],
        )
        call.match(_digest(await _export(call.conn)))
    objects, unchanged = await _save_events(call, call.body.events)
    if objects:
        guard.check_scope(call.identity, "events:write")
    here = await _read_events(call.conn)
    names = {str(one.public_id): one.name for one in here}
    only_here = {"events": sorted(set(names.values()) - {one["name"] for one in call.body.events})} if call.body.events else {}
    for name, section in SECTIONS.items():
        given: list[Content] = getattr(call.body, name)
        if not given:
            continue
        present = {getattr(state, section.key): state for state in await section.read(call.conn)}
        plans = _judge(name, section, given, present, names)
        for plan in plans:
            if plan.changes or plan.before is None:
                guard.check_scope(call.identity, f"{name}:write")
                await _carry_out(call, name, section, plan)
                objects.append(Applied(name, plan.key, "update" if plan.before else "create", plan.changes))  # type: ignore[arg-type]
            else:
                unchanged += 1
        only_here[name] = sorted(present.keys() - {plan.key for plan in plans})
    created = sum(one.action == "create" for one in objects)
    return Comparison(created, len(objects) - created, unchanged, objects, only_here)


@dataclass(frozen=True, slots=True)
class _Plan:
    key: str
    before: Any
    """The object as it is here; None: it is to be made."""
    body: Any
    changes: dict[str, FromTo]


def _judge(name: str, section: Section, given: Sequence[Content], present: Mapping[str, Any], names: Mapping[str, str]) -> list[_Plan]:
    """What is to become of each object of a section. Raises Unprocessable with every fault."""
    errors = _key_errors(name, section.key, given)
    ids = {event_name: public_id for public_id, event_name in names.items()}
    plans = []
    for entry in [] if errors else given:
        key = entry[section.key]
        place = ["body", name, key]
        errors += [FieldError([*place, one], "A document does not hold it.") for one in section.fixed if one in entry]
        wanted = _with_ids(entry, ids, place, errors)
        state = present.get(key)
        before = {} if state is None else section.content(state)
        try:
            body = msgspec.convert(before | wanted | dict(section.fixed), section.new)
            after = section.content(body)
            old, new = ({} if state is None else section.shown(before, names)), section.shown(after, names)
            changes = {} if state is None else {one: FromTo(old[one], new[one]) for one in new if old[one] != new[one]}
            if state is not None and section.change is not section.new:
                shared = [one for one in after if after[one] != before[one]]
                body = msgspec.convert({one: after[one] for one in shared}, section.change)
        except msgspec.ValidationError as error:
            errors += [FieldError([*place, *one.loc], one.msg) for one in _in_names([field_error([], error, section.new)])]
        else:
            plans.append(_Plan(key, state, body, changes))
    if errors:
        raise Unprocessable(errors)
    return plans


async def _carry_out(call: Call[Configuration], name: str, section: Section, plan: _Plan) -> None:
    """Raises what the handler raises, with the place."""
    before = plan.before
    try:
        if before is None:
            await section.create(call.inner(section.kind, plan.body))
        else:
            await section.update(call.inner(section.kind, plan.body, before.public_id, before.version))
    except Unprocessable as problem:
        raise Unprocessable(_in_names(problem.errors)).within(name, plan.key) from None
    except Problem as problem:
        if problem.status == 412:
            raise Conflict(f"{name}, {plan.key}: somebody else has changed it at this moment; try again.") from None
        if problem.status == 409:
            raise Conflict(f"{name}, {plan.key}: {problem.detail}") from None
        raise


async def _save_events(call: Call[Configuration], given: Sequence[Content]) -> tuple[list[Applied], int]:
    """(events that were created or changed, how many stay as they are). Raises Unprocessable with every fault."""
    errors = _key_errors("events", "name", given)
    rows = await call.conn.fetch("SELECT s.name, w.id FROM writers w JOIN sources s ON s.id = w.source_id")
    writers = {row["name"]: row["id"] for row in rows}
    items = []
    for position, entry in enumerate([] if errors else given):
        place = ("body", "events", entry["name"])
        try:
            change = msgspec.convert({one: value for one, value in entry.items() if one not in WRITTEN_BY}, event.EventChange)
            items.append(Item(position, place, None, event.fields_of(change), _writer_of(place, entry, writers)))
        except msgspec.ValidationError as error:
            errors.append(field_error(place, error, event.EventChange))
        except Unprocessable as problem:
            errors += problem.errors
    if errors:
        raise Unprocessable(errors)
    if not items:
        return [], 0
    saved = await bulk.save(call.inner("event", None), items)
    objects = [Applied("events", one.name, one.action, one.changes) for one in saved.data if one.action != "unchanged"]
    return objects, saved.unchanged


def _writer_of(place: Sequence[str], entry: Content, writers: Mapping[str, int]) -> bulk.Writer | UnsetType | None:
    """The channel whose readings the event is to take. Raises Unprocessable."""
    source, instance, key = (entry.get(name) for name in WRITTEN_BY)
    if source is None and instance is None and (key is None or "source" in entry):
        if key is None:
            return None if "source" in entry else UNSET
        try:
            return bulk.Writer(REST_WRITER, None, None, msgspec.convert(key, event.Name))
        except msgspec.ValidationError as error:
            raise Unprocessable([field_error([*place, "channel_key"], error, event.Name)]) from None
    if not isinstance(source, str) or source not in writers:
        msg = "There is no such source here; create it first, or leave out who writes the event."
        raise Unprocessable.at(*place, "source", msg=msg)
    if not isinstance(key, str) or not 1 <= len(key) <= 100 or not isinstance(instance, str | None):
        raise Unprocessable.at(*place, "channel_key", msg="A source's event has a channel_key, and instance is a text or null.")
    return bulk.Writer(writers[source], source, instance, key)


async def _export(conn: Connection) -> Exported:
    events = await _read_events(conn)
    names = {str(one.public_id): one.name for one in events}
    document = {"events": _lines([_event_content(one) for one in events], "name")}
    for name, section in SECTIONS.items():
        objects = [section.shown(section.content(state), names) for state in await section.read(conn)]
        document[name] = _lines(objects, section.key)
    return Exported(FORMAT, **document)


def _digest(exported: Exported) -> str:
    """Of the whole configuration, as an ETag says it."""
    digest = hashlib.sha256()
    for lines in (exported.events, exported.rules, exported.webhooks, exported.dashboards):
        digest.update(b"\n".join(map(bytes, lines)) + b"\0")
    return digest.hexdigest()[:32]


async def _read_events(conn: Connection) -> list[event.Event]:
    return [event.event_of(row) for row in await conn.fetch(event.SELECT + " WHERE e.deleted_on IS NULL")]


def _event_content(one: event.Event) -> Content:
    content: Content = msgspec.to_builtins(event.fields_of(one))
    if one.source is None:
        key = event.series_key(one.name, one.source, one.channel_key)
        return content | {"source": None} | ({} if key is None else {"channel_key": key})
    return content | {name: value for name in WRITTEN_BY if (value := getattr(one, name)) is not None}


def _key_errors(name: str, key: str, given: Sequence[Content]) -> list[FieldError]:
    """Objects without a key, and keys that stand there twice."""
    errors, seen = [], set()
    for index, entry in enumerate(given):
        value = entry.get(key)
        if not isinstance(value, str):
            errors.append(FieldError(["body", name, index, key], "Each object is found by it: give a text."))
        elif value in seen:
            errors.append(FieldError(["body", name, value], "It stands there twice."))
        else:
            seen.add(value)
    return errors


def _with_names(value: Any, names: Mapping[str, str]) -> Any:
    """What the API says, as a document does: events by name, at any depth."""
    if isinstance(value, list):
        return [_with_names(part, names) for part in value]
    if not isinstance(value, dict):
        return value
    said: Content = {}
    for key, part in value.items():
        if key not in NAMED:
            said[key] = _with_names(part, names)
        elif isinstance(part, list):
            said[NAMED[key]] = [names.get(one, one) for one in part]
        else:
            said[NAMED[key]] = names.get(part, part)
    return said


def _with_ids(value: Any, ids: Mapping[str, str], loc: list[str | int], errors: list[FieldError]) -> Any:
    """The other way round. An event that is not found, and an id, is an error at its place."""

    def found(name: Any, where: list[str | int]) -> Any:
        if isinstance(name, str) and name not in ids:
            errors.append(FieldError(where, f"There is no event called {name}, neither in this document nor here."))
        return ids.get(name, NOWHERE) if isinstance(name, str) else name

    if isinstance(value, list):
        return [_with_ids(part, ids, [*loc, index], errors) for index, part in enumerate(value)]
    if not isinstance(value, dict):
        return value
    said: Content = {}
    for key, part in value.items():
        here = [*loc, key]
        if key in NAMED:
            errors.append(FieldError(here, f"A document knows no ids; say {NAMED[key]}."))
            said[key] = [] if key == "event_public_ids" else NOWHERE
        elif key not in IDS:
            said[key] = _with_ids(part, ids, here, errors)
        elif isinstance(part, list):
            said[IDS[key]] = [found(one, [*here, index]) for index, one in enumerate(part)]
        else:
            said[IDS[key]] = found(part, here)
    return said


def _in_names(errors: Sequence[FieldError]) -> list[FieldError]:
    """Errors of what the API says, as of what a document says; within an object."""

    def said(msg: str) -> str:
        for before, after in NAMED.items():
            msg = re.sub(rf"\b{before}\b", after, msg)
        return msg

    return [FieldError([NAMED.get(str(part), part) for part in one.loc], said(one.msg)) for one in errors]


def _lines(objects: Sequence[Content], key: str) -> list[msgspec.Raw]:
    """A line each, by their keys."""
    return [msgspec.Raw(b"\n" + msgspec.json.encode(one, order="sorted")) for one in sorted(objects, key=lambda one: str(one[key]))]


routes = [export_configuration, import_configuration]
