"""The audit log as administrators read it: who did what, when, from where, and what was before and after."""

import csv
import io
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta
from starlette.responses import Response, StreamingResponse

from webmacs.http.audit import ActorKind
from webmacs.http.page import Cursor, CursorPage, CursorQuery, Limit, fetch_after
from webmacs.http.route import Call, route
from webmacs.http.shape import Shape, Timestamp, check_range
from webmacs.storage import pool as database

ROWS_AT_ONCE: Final = 500
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""What begins a formula in a spreadsheet: such a text is exported behind an apostrophe."""


Word = Annotated[str, Meta(max_length=50)]


class AuditQuery(Shape, frozen=True):
    actor_public_id: Annotated[UUID | None, Meta(description="Of who did it.")] = None
    object_public_id: Annotated[UUID | None, Meta(description="Of what it was done to.")] = None
    kind: Annotated[Word | None, Meta(description="Of what it was done to.", examples=["event"])] = None
    action: Annotated[Word | None, Meta(description="What was done.", examples=["update"])] = None
    start: Annotated[Timestamp | None, Meta(description="Not before.")] = msgspec.field(name="from", default=None)
    end: Annotated[Timestamp | None, Meta(description="Before.")] = msgspec.field(name="to", default=None)

    def __post_init__(self) -> None:
        check_range(self.start, self.end)


class AuditListQuery(AuditQuery, frozen=True):
    limit: Limit = 100
    cursor: Cursor = None


class AuditEntry(msgspec.Struct, frozen=True):
    id: int
    at: Timestamp
    action: Annotated[str, Meta(examples=["update"])]
    kind: Annotated[str, Meta(description="Of what it was done to.", examples=["event"])]
    object_public_id: UUID | None
    object_name: str | None
    actor_kind: ActorKind
    actor_public_id: UUID | None
    actor_name: str | None
    address: Annotated[str | None, Meta(description="Where the request came from.")]
    request_id: str | None
    before: Annotated[dict[str, Any] | None, Meta(description="Of a change: the fields that differ. Never a secret.")]
    after: dict[str, Any] | None
    detail: str | None
    n: Annotated[int, Meta(description="The same refusals within a second are one entry.")]


COLUMNS: Final = AuditEntry.__struct_fields__
SAMPLE: Final = (
    f"{','.join(COLUMNS)}\r\n1,2026-11-23T12:00:00Z,update,event,019a0d5e-7c00-7a41-9d3c-5b8e2f6a1c04,Boiler temperature,user,"
    '019a0d5e-7c00-7a41-9d3c-5b8e2f6a1c05,maria,10.0.0.7,5f0c6f6e8a3d4b21,"{""unit"":""K""}","{""unit"":""°C""}",,1\r\n'
)


@route("GET", "/api/v1/audit")
async def list_audit(call: Call[None, AuditListQuery]) -> CursorPage[AuditEntry]:
    """List what was done and what was refused, the newest first."""
    page = CursorQuery(limit=call.query.limit, cursor=call.query.cursor)
    following, rows = await fetch_after(call.pool, *_matching(call.query), page)
    return CursorPage(following, [AuditEntry(*row) for row in rows])


@route("GET", "/api/v1/audit/export", produces="text/csv", answers=Annotated[str, Meta(examples=[SAMPLE])])
async def export_audit(call: Call[None, AuditQuery]) -> Response:
    """Export the audit log as CSV, the newest first. `before` and `after` are JSON."""
    matching, arguments = _matching(call.query)
    conn = await database.connect(call.settings.database_url or "")  # its own: a slow reader would hold one of the pool's

    async def lines() -> AsyncIterator[str]:
        try:
            async with conn.transaction(readonly=True):
                cursor = await conn.cursor(matching + " ORDER BY id DESC", *arguments)
                yield _csv([COLUMNS])
                while rows := await cursor.fetch(ROWS_AT_ONCE):
                    yield _csv([[_cell(value) for value in row] for row in rows])
        finally:
            conn.terminate()

    return StreamingResponse(lines(), media_type="text/csv", headers={"Content-Disposition": 'attachment; filename="audit.csv"'})


def _matching(query: AuditQuery) -> tuple[str, list[Any]]:
    """Only what is asked for, so that its index is used."""
    asked = {
        "actor_public_id =": query.actor_public_id,
        "object_public_id =": query.object_public_id,
        "kind =": query.kind,
        "action =": query.action,
        "at >=": query.start,
        "at <": query.end,
    }
    given = [(condition, value) for condition, value in asked.items() if value is not None]
    where = " AND ".join(f"{condition} ${number}" for number, (condition, _) in enumerate(given, 1)) or "true"
    return f"SELECT {', '.join(COLUMNS)} FROM audit_log WHERE {where}", [value for _, value in given]  # noqa: S608 - ours


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    if value is None or isinstance(value, int):
        return "" if value is None else str(value)
    text = value if isinstance(value, str) else str(msgspec.to_builtins(value))
    return f"'{text}" if text.startswith(FORMULA) else text


def _csv(rows: Any) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


routes = [list_audit, export_audit]
