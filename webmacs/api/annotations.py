"""Annotations: what people note about a moment or a stretch of time, of some channels or of all, to be shown in every chart of it."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, Meta, UnsetType

from webmacs import clock
from webmacs.api.events.asked import asked_for
from webmacs.http.page import Page, PageQuery, fetch_page
from webmacs.http.problem import Forbidden, NotFound, Unprocessable
from webmacs.http.route import Call, route
from webmacs.http.shape import Shape, Tags, Timestamp, check_range, fields_given, tidy_tags
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Connection, Pool

Text = Annotated[str, Meta(min_length=1, max_length=10_000, examples=["Valve exchanged"])]
Scope = Annotated[
    list[UUID],
    Meta(
        min_length=1,
        max_length=1_000,
        description="The channels that it concerns, also deleted ones whose readings are kept; null: every channel.",
    ),
]
To = Annotated[Timestamp, Meta(description="null: it is about one moment.")]
Experiment = Annotated[UUID, Meta(description="The experiment that it belongs to, if any.")]


class AnnotationIn(Shape, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    start: Timestamp
    end: To | None = None
    text: Text
    tags: Tags = []  # noqa: RUF012 - msgspec copies an empty list for each
    event_public_ids: Scope | None = None
    experiment_public_id: Experiment | None = None


class AnnotationChange(Shape, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    """What is not given stays as it is."""

    start: Timestamp | UnsetType = UNSET
    end: To | UnsetType | None = UNSET
    text: Text | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    event_public_ids: Scope | UnsetType | None = UNSET
    experiment_public_id: Experiment | UnsetType | None = UNSET


class Annotation(msgspec.Struct, frozen=True, rename={"start": "from", "end": "to"}):
    public_id: UUID
    start: Timestamp
    end: Annotated[Timestamp | None, Meta(description="null: it is about one moment.")]
    text: str
    tags: list[str]
    event_public_ids: Annotated[
        list[UUID] | None, Meta(description="null: every channel; one that was deleted stays as long as its readings are kept.")
    ]
    experiment_public_id: UUID | None
    author: str
    author_public_id: UUID
    created_on: Timestamp
    changed_on: Timestamp
    version: Annotated[int, Meta(description="Counts its changes; also its ETag.")]


class AnnotationsQuery(PageQuery, frozen=True):
    sort: Literal["from", "-from", "changed_on", "-changed_on"] = "-from"
    start: Annotated[Timestamp | None, Meta(description="Only what ended at this time or later.")] = msgspec.field(
        default=None, name="from"
    )
    end: Annotated[Timestamp | None, Meta(description="Only what began before this time.")] = msgspec.field(default=None, name="to")
    event_public_id: Annotated[list[UUID], Meta(max_length=200, description="It concerns one of these channels, or every channel.")] = []  # noqa: RUF012
    experiment_public_id: Annotated[UUID | None, Meta(description="Only those that belong to this experiment.")] = None
    tag: Annotated[list[str], Meta(max_length=50, description="It has every one of these tags.")] = []  # noqa: RUF012

    def __post_init__(self) -> None:
        check_range(self.start, self.end)


SELECT: Final = """
    SELECT a.id, a.public_id, a.from_on, a.to_on, a.text, a.tags, x.public_id AS experiment_public_id,
           CASE WHEN a.scoped THEN ARRAY(
               SELECT e.public_id FROM annotation_events m JOIN events e ON e.id = m.event_id WHERE m.annotation_id = a.id ORDER BY e.id
           ) END AS event_public_ids,
           a.author_name AS author, a.author_public_id, a.created_on, a.changed_on, a.version
      FROM annotations a LEFT JOIN experiments x ON x.id = a.experiment_id
"""
MATCHING: Final = """
     WHERE strpos(lower(a.text), lower($1)) > 0 AND ($2::text[] = '{}' OR a.tags @> $2)
       AND tstzrange(a.from_on, coalesce(a.to_on, a.from_on), '[]') && tstzrange($3, $4, '[]')
       AND ($4::timestamptz IS NULL OR a.from_on < $4)
       AND ($5::uuid IS NULL OR x.public_id = $5)
       AND ($6::uuid[] = '{}' OR NOT a.scoped OR EXISTS (
            SELECT FROM annotation_events m JOIN events e ON e.id = m.event_id WHERE m.annotation_id = a.id AND e.public_id = ANY($6)))
"""


@route("GET", "/api/v1/annotations")
async def list_annotations(call: Call[None, AnnotationsQuery]) -> Page[Annotation]:
    """List annotations, the newest first. `from` and `to` find those that touch this time, as a chart of it shows them; `search` looks into
    texts, ignoring the case of a to z."""
    query = call.query
    if query.event_public_id:
        await asked_for(call.pool, "event_public_id", query.event_public_id)
    experiment = query.experiment_public_id
    if experiment is not None and await call.pool.fetchval("SELECT id FROM experiments WHERE public_id = $1", experiment) is None:
        raise Unprocessable.at("query", "experiment_public_id", msg=f"There is no experiment {experiment}.")
    wanted = [query.search, query.tag, query.start, query.end, query.experiment_public_id, query.event_public_id]
    total, rows = await fetch_page(call.pool, SELECT + MATCHING, wanted, query, query.sort.replace("from", "from_on"))
    return Page(query.page, query.page_size, total, [_annotation(row) for row in rows])


@route("POST", "/api/v1/annotations", status=201, changes="annotation")
async def create_annotation(call: Call[AnnotationIn]) -> Annotation:
    """Annotate a moment, or with `to` a stretch of time. The author is whoever asks."""
    wanted = _settle({name: getattr(call.body, name) for name in AnnotationIn.__struct_fields__})
    public_id, now = uuid7(), clock.now()
    annotation_id = await call.conn.fetchval(
        """INSERT INTO annotations (public_id, from_on, to_on, text, tags, scoped, experiment_id, author_name, author_public_id,
                                    created_on, changed_on)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10) RETURNING id""",
        public_id, wanted["start"], wanted["end"], wanted["text"], wanted["tags"], wanted["event_public_ids"] is not None,
        await _experiment(call.conn, wanted["experiment_public_id"]), call.identity.name, call.identity.public_id, now,
    )  # fmt: skip
    await _scope(call.conn, annotation_id, wanted["event_public_ids"])
    annotation = _annotation(await _read(call.conn, public_id))
    return call.changed(None, annotation, "annotations", name=_name(annotation))


@route("GET", "/api/v1/annotations/{public_id}")
async def get_annotation(call: Call) -> Annotation:
    """Read an annotation."""
    return _annotation(await _read(call.pool, call.public_id))


@route("PUT", "/api/v1/annotations/{public_id}", changes="annotation")
async def change_annotation(call: Call[AnnotationChange]) -> Annotation:
    """Change an annotation: one's own, or an admin any. Fields that are not given stay, and so does the author."""
    row = await _read(call.conn, call.public_id, lock=True)
    before = _annotation(row)
    _admit(call, before)
    call.match(before.version)
    given = fields_given(call.body)
    wanted = _settle({name: given.get(name, getattr(before, name)) for name in AnnotationChange.__struct_fields__})
    await call.conn.execute(
        """UPDATE annotations SET from_on = $2, to_on = $3, text = $4, tags = $5, scoped = $6, experiment_id = $7, changed_on = $8,
                                  version = version + 1 WHERE id = $1""",
        row["id"], wanted["start"], wanted["end"], wanted["text"], wanted["tags"], wanted["event_public_ids"] is not None,
        await _experiment(call.conn, wanted["experiment_public_id"]), clock.now(),
    )  # fmt: skip
    if "event_public_ids" in given:
        await call.conn.execute("DELETE FROM annotation_events WHERE annotation_id = $1", row["id"])
        await _scope(call.conn, row["id"], wanted["event_public_ids"])
    annotation = _annotation(await _read(call.conn, call.public_id))
    return call.changed(before, annotation, "annotations", name=_name(annotation))


@route("DELETE", "/api/v1/annotations/{public_id}", changes="annotation")
async def delete_annotation(call: Call) -> None:
    """Delete an annotation: one's own, or an admin any."""
    before = _annotation(await _read(call.conn, call.public_id, lock=True))
    _admit(call, before)
    call.match(before.version)
    await call.conn.execute("DELETE FROM annotations WHERE public_id = $1", call.public_id)
    call.changed(before, None, "annotations", name=_name(before))


def _admit(call: Call[Any, Any], annotation: Annotation) -> None:
    """Raises Forbidden."""
    if call.identity.role != "admin" and call.identity.public_id != annotation.author_public_id:
        raise Forbidden(f"This annotation is {annotation.author}'s; its author or an admin may change it.")


def _settle(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """As it is stored. Raises Unprocessable."""
    start, end = wanted["start"], wanted["end"]
    try:
        check_range(start, end)
    except ValueError as error:
        raise Unprocessable.at("body", "to", msg=str(error)) from None
    return {**wanted, "end": None if end == start else end, "tags": tidy_tags(wanted["tags"])}


async def _experiment(conn: Connection, public_id: UUID | None) -> int | None:
    """Raises Unprocessable."""
    if public_id is None:
        return None
    experiment_id: int | None = await conn.fetchval("SELECT id FROM experiments WHERE public_id = $1 FOR KEY SHARE", public_id)
    if experiment_id is None:
        raise Unprocessable.at("body", "experiment_public_id", msg=f"There is no experiment {public_id}.")
    return experiment_id


async def _scope(conn: Connection, annotation_id: int, public_ids: list[UUID] | None) -> None:
    """Raises Unprocessable naming the first event that does not exist."""
    if public_ids is None:
        return
    rows = await conn.fetch(
        """WITH known AS (SELECT id, public_id FROM events WHERE public_id = ANY($2) FOR KEY SHARE),
                kept AS (INSERT INTO annotation_events SELECT $1, id FROM known)
           SELECT public_id FROM known""",
        annotation_id, public_ids,
    )  # fmt: skip
    known = {row["public_id"] for row in rows}
    for index, public_id in enumerate(public_ids):
        if public_id not in known:
            raise Unprocessable.at("body", "event_public_ids", index, msg=f"There is no event {public_id}.")


async def _read(database: Pool | Connection, public_id: UUID, *, lock: bool = False) -> asyncpg.Record:
    """Raises NotFound. With `lock` nobody else changes it until the transaction ends."""
    row = await database.fetchrow(SELECT + " WHERE a.public_id = $1" + (" FOR UPDATE OF a" if lock else ""), public_id)
    if row is None:
        raise NotFound("annotation")
    return row


def _annotation(row: asyncpg.Record) -> Annotation:
    values: dict[str, Any] = {name: row[{"start": "from_on", "end": "to_on"}.get(name, name)] for name in Annotation.__struct_fields__}
    return Annotation(**values)


def _name(annotation: Annotation) -> str:
    """What the audit log calls it."""
    return annotation.text[:100]


routes = [list_annotations, create_annotation, get_annotation, change_annotation, delete_annotation]
