"""Many events at once: judged together, stored together or not at all. A file of events (sheet.py) ends here too."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, Meta, UnsetType

from webmacs.api.events.event import (
    FIELDS,
    SELECT,
    Event,
    EventChange,
    EventIn,
    Fields,
    event_of,
    faults,
    fields_of,
    insert,
    tidy,
    update,
)
from webmacs.http.problem import Conflict, FieldError, Unprocessable
from webmacs.http.route import Call, route
from webmacs.http.shape import Shape
from webmacs.jobs import deletion
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Connection
from webmacs.telemetry import sources
from webmacs.telemetry.catalogue import REST_WRITER

EVENTS_MAX: Final = 10_000
BODY_BYTES_MAX: Final = 16 * 1024 * 1024
DEFAULTS: Final[Fields] = {
    field.name: [] if field.name == "tags" else field.default for field in msgspec.structs.fields(EventIn) if not field.required
}
REQUIRED: Final = tuple(name for name in FIELDS if name not in DEFAULTS)

Version = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class EventItem(EventChange, frozen=True):
    """An event to create or to change. What is not given stays as it is, or gets its default."""

    public_id: Annotated[
        UUID | None,
        Meta(
            description="The event it is; an unknown one is given to a new event, and one that was deleted comes back with the readings "
            "that were kept, but without its rules and its places on dashboards; while a job deletes its readings, that is a 409. "
            "Without it the name says which event it is."
        ),
    ] = None
    version: Annotated[
        Version | None,
        Meta(
            description="The event is changed only if it still has this version, as with If-Match. One whose public_id is not known here "
            "has none, and is created."
        ),
    ] = None


class EventItems(Shape, frozen=True):
    events: Annotated[list[EventItem], Meta(min_length=1, max_length=EVENTS_MAX)]


class FromTo(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    before: Any
    after: Any


class SavedEvent(msgspec.Struct, frozen=True):
    position: Annotated[int, Meta(description="Index of the item, from 0; of a file the line in which it begins, from 1.")]
    action: Literal["create", "update", "unchanged"]
    public_id: UUID
    name: str
    changes: Annotated[dict[str, FromTo], Meta(description="Of an update: the fields that change.")]


class SavedEvents(msgspec.Struct, frozen=True):
    created: int
    updated: int
    unchanged: int
    data: Annotated[list[SavedEvent], Meta(description="In the order of the items.")]


@dataclass(frozen=True, slots=True)
class Writer:
    """A channel of a source, which writes an event; or of no source, a series of line protocol."""

    id: int
    source: str | None
    instance: str | None
    channel_key: str


@dataclass(frozen=True, slots=True)
class Item:
    """One wanted event, and where it was asked for."""

    position: int
    loc: tuple[str | int, ...]
    public_id: UUID | None
    given: Fields
    writer: Writer | UnsetType | None = UNSET
    """None: no source writes it. Not given: whoever does."""
    takes: bool = True
    """Whether the event may be taken from the source that writes it."""
    version: int | None = None
    """The one that it must still have to be changed."""


@dataclass(slots=True)
class _Plan:
    """What is to become of one item."""

    item: Item
    before: Event | None
    public_id: UUID
    wanted: Fields
    changes: dict[str, FromTo]
    revived: bool
    """It was deleted, and is made anew with the readings that were kept."""
    moves: bool
    """It gets another writer than it has."""


@route("POST", "/api/v1/events/bulk", problems=(409,), changes="event", body_bytes_max=BODY_BYTES_MAX)
async def save_events(call: Call[EventItems]) -> SavedEvents:
    """Create or change up to 10,000 events, all of them or none. An item is the event of its public_id, else of its name; one that
    was deleted comes back under its public_id. `errors` names every item that cannot be used; with dry_run=true the answer says what would
    be done."""
    items = [Item(n, ("body", "events", n), one.public_id, fields_of(one), version=one.version) for n, one in enumerate(call.body.events)]
    return await save(call, items)


async def save(call: Call[Any, Any], items: Sequence[Item]) -> SavedEvents:
    """In the call's transaction, with an audit row for each event that changes. Raises Unprocessable with every fault, Conflict when others
    take a name meanwhile, or where an event is still being deleted with its readings."""
    known = await _known(call.conn, items)
    plans = await asyncio.to_thread(_judge, items, known)  # thousands take a second, in which readings go on coming in
    new = [{"public_id": plan.public_id, **plan.wanted} for plan in plans if plan.before is None and not plan.revived]
    changed = [{"public_id": plan.public_id, **plan.wanted} for plan in plans if plan.changes or plan.revived]
    try:
        await _release_names(call.conn, plans)
        await _revive(call.conn, [plan.public_id for plan in plans if plan.revived])
        if changed:
            await update(call.conn, changed)
        if new:
            await insert(call.conn, new)
    except asyncpg.UniqueViolationError:
        raise Conflict("Somebody else takes one of these names or public ids at this moment; try again.") from None
    if moving := [plan for plan in plans if plan.moves]:
        await _hand_over(call.conn, moving)
        call.announced["mappings"] = None
    rows = await call.conn.fetch(SELECT + " WHERE e.public_id = ANY($1)", [row["public_id"] for row in (*new, *changed)])
    await asyncio.to_thread(_tell, call, plans, rows)
    created = sum(plan.before is None for plan in plans)
    return SavedEvents(created, len(rows) - created, len(plans) - len(rows), [_saved(plan) for plan in plans])


async def _known(conn: Connection, items: Sequence[Item]) -> list[Event]:
    """The events that the items mean, and those whose names they want; nobody else changes these until the transaction ends."""
    rows = await conn.fetch(
        SELECT + " WHERE e.public_id = ANY($1) OR (e.name = ANY($2) AND e.deleted_on IS NULL) ORDER BY e.id FOR NO KEY UPDATE OF e",
        [item.public_id for item in items if item.public_id is not None],
        [item.given["name"] for item in items if "name" in item.given],
    )
    return [event_of(row) for row in rows]


def _judge(items: Sequence[Item], known: Sequence[Event]) -> list[_Plan]:
    """Raises Unprocessable with every fault of every item."""
    by_id = {event.public_id: event for event in known}
    by_name = {event.name: event for event in known if event.deleted_on is None}
    plans: list[_Plan] = []
    errors: list[FieldError] = []
    for item in items:
        here = by_name.get(item.given.get("name", "")) if item.public_id is None else by_id.get(item.public_id)
        revived = here is not None and here.deleted_on is not None
        before = None if revived else here
        missing = [name for name in REQUIRED if before is None and name not in item.given]
        errors += [FieldError([*item.loc, name], "A new event needs it.") for name in missing]
        if not missing:
            wanted = tidy((DEFAULTS if before is None else fields_of(before)) | item.given)
            errors += [FieldError([*item.loc, field], msg) for field, msg in faults(wanted)]
            public_id = item.public_id or (uuid7() if before is None else before.public_id)
            moves = _moves(before, item.writer)
            if moves and not item.takes and before is not None and before.source is not None:
                errors.append(FieldError([*item.loc, "channel_key"], f"The source {before.source} writes it; leave channel_key out."))
            changes = {} if before is None else _changes(before, wanted) | moves
            plans.append(_Plan(item, before, public_id, wanted, changes, revived, moves=bool(moves)))
            if (before is None or changes) and (fault := _outdated(item, here)) is not None:  # done already is as good
                errors.append(FieldError([*item.loc, "version"], fault))
    errors += _clashes(plans, by_name)
    if errors:
        raise Unprocessable(errors)
    return plans


def _outdated(item: Item, here: Event | None) -> str | None:
    """What is wrong with the version of an item that changes something."""
    if item.version is None or (here is None and item.public_id is not None):
        return None
    if here is None:
        return "There is no event of this name now; leave version out to create one."
    if here.version == item.version:
        return None
    if here.deleted_on is not None:
        return "It was deleted meanwhile; leave version out to bring it back."
    return f"It has version {here.version} now; read it again and make the change anew."


def _clashes(plans: Sequence[_Plan], by_name: Mapping[str, Event]) -> list[FieldError]:
    """Two items that are one event, or want one name; and names that other events have."""
    errors = []
    ids: dict[UUID, int] = {}
    names: dict[str, int] = {}
    for plan in plans:
        position, name = plan.item.position, plan.wanted["name"]
        if ids.setdefault(plan.public_id, position) != position:
            errors.append(FieldError([*plan.item.loc, "public_id"], f"It is the same event as at {ids[plan.public_id]}."))
        elif names.setdefault(name, position) != position:
            errors.append(FieldError([*plan.item.loc, "name"], f"The event at {names[name]} has this name, too."))
    for plan in plans:
        holder = by_name.get(plan.wanted["name"])
        if holder is not None and holder.public_id not in ids:
            errors.append(
                FieldError([*plan.item.loc, "name"], f"The event {holder.public_id} has this name; leave public_id out to change that one.")
            )
    return errors


async def _release_names(conn: Connection, plans: Sequence[_Plan]) -> None:
    """Names may go round among the items, which the database would refuse in the middle."""
    leaving = {plan.before.name: plan.public_id for plan in plans if plan.before is not None and plan.before.name != plan.wanted["name"]}
    if any(plan.wanted["name"] in leaving for plan in plans):
        await conn.execute("UPDATE events SET name = public_id::text WHERE public_id = ANY($1)", list(leaving.values()))


async def _revive(conn: Connection, public_ids: list[UUID]) -> None:
    """Written by REST, as any that is made here; their fields, and with them their names, follow. Raises Conflict."""
    if not public_ids:
        return
    if (job := await deletion.find_unfinished(conn, public_ids)) is not None:
        raise Conflict(
            f"The job {job.public_id} deletes the {job.subject}, and the event then; wait for its end, or cancel it, and try again."
        )
    there = await conn.fetch("SELECT id FROM events WHERE public_id = ANY($1) ORDER BY id FOR UPDATE", public_ids)  # as Deletion wants it
    if len(there) < len(public_ids):
        raise Conflict("One of these events has gone with its readings at this moment; try again.")
    await conn.execute(
        """UPDATE events SET deleted_on = NULL, name = public_id::text, writer_id = DEFAULT, instance = NULL
            WHERE public_id = ANY($1)""",
        public_ids,
    )


def _changes(before: Event, wanted: Fields) -> dict[str, FromTo]:
    return {name: FromTo(old, value) for name, value in wanted.items() if value != (old := getattr(before, name))}


def _moves(before: Event | None, writer: Writer | UnsetType | None) -> dict[str, FromTo]:
    """What becomes of the channel whose readings the event takes."""
    if isinstance(writer, UnsetType) or (writer is None and (before is None or before.source is None)):  # a series keeps its key
        return {}
    channel = {name: (getattr(before, name, None), getattr(writer, name, None)) for name in ("source", "instance", "channel_key")}
    return {name: FromTo(old, new) for name, (old, new) in channel.items() if old != new}


async def _hand_over(conn: Connection, plans: Sequence[_Plan]) -> None:
    """Gives events to the sources that are to write them; a flush under way ends before, and what comes after it finds its writer in other
    hands. Raises Conflict."""
    given = {plan.public_id: writer for plan in plans if isinstance(writer := plan.item.writer, Writer)}
    moved = [plan.public_id for plan in plans if plan.before is not None]
    rows = await conn.fetch("SELECT writer_id FROM events WHERE public_id = ANY($1) AND writer_id <> $2", moved, REST_WRITER)
    concerned = {row["writer_id"] for row in rows} | {given[public_id].id for public_id in moved if public_id in given} - {REST_WRITER}
    await sources.lock_writers(conn, sorted(concerned))
    await conn.execute("UPDATE writers SET generation = generation + 1, owner = NULL WHERE id = ANY($1)", list(concerned))
    await conn.execute("UPDATE events SET writer_id = 1, instance = NULL, channel_key = NULL WHERE public_id = ANY($1)", moved)
    try:
        await conn.execute(
            """UPDATE events SET writer_id = g.writer_id, instance = g.instance, channel_key = g.channel_key
                 FROM unnest($1::uuid[], $2::int4[], $3::text[], $4::text[]) AS g (public_id, writer_id, instance, channel_key)
                WHERE events.public_id = g.public_id""",
            list(given),
            [writer.id for writer in given.values()],
            [writer.instance for writer in given.values()],
            [writer.channel_key for writer in given.values()],
        )
    except asyncpg.UniqueViolationError:
        raise Conflict(
            "A channel of a source, or a series, is an event of another name here, or stands there twice; give it that name, or take it "
            "from that event."
        ) from None


def _tell(call: Call[Any, Any], plans: Sequence[_Plan], rows: Sequence[asyncpg.Record]) -> None:
    """`rows`: the events that were made or changed, as they are now."""
    after = {row["public_id"]: event_of(row) for row in rows}
    for plan in plans:
        if plan.public_id in after:
            call.changed(plan.before, after[plan.public_id], "events")


def _saved(plan: _Plan) -> SavedEvent:
    action: Literal["create", "update", "unchanged"] = "create" if plan.before is None else "update" if plan.changes else "unchanged"
    return SavedEvent(plan.item.position, action, plan.public_id, plan.wanted["name"], plan.changes)


routes = [save_events]
