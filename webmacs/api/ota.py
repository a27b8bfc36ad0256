"""Updates of WebMACS as records: which there are, their files, and how far each has come. Nothing here applies one."""

import asyncio
import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Meta

from webmacs import clock, logs
from webmacs.http.page import Page, PageQuery, fetch_page
from webmacs.http.problem import Conflict, NotFound, Unprocessable
from webmacs.http.route import Call, Upload, route
from webmacs.http.shape import FILE_NAME, SEMVER, Shape, Timestamp, of_row
from webmacs.settings import Settings
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Connection, Pool

log = logs.get(__name__)

UpdateStatus: TypeAlias = Literal["pending", "downloading", "verifying", "applying", "completed", "failed", "rolled_back"]
Version = Annotated[str, Meta(max_length=50, pattern=SEMVER, description="After semver.org.", examples=["1.4.0"])]

UNDER_WAY: Final = ("downloading", "verifying", "applying")


class UpdateIn(Shape, frozen=True):
    version: Version
    changelog: Annotated[str, Meta(max_length=100_000)] = ""


class Update(msgspec.Struct, frozen=True):
    public_id: UUID
    version: str
    changelog: str
    status: UpdateStatus
    error: Annotated[str | None, Meta(description="Why it failed.")]
    file_name: Annotated[str | None, Meta(description="null: it has no file yet.")]
    file_size: Annotated[int | None, Meta(description="In bytes.")]
    file_sha256: str | None
    created_by: str | None
    created_on: Timestamp
    started_on: Timestamp | None
    completed_on: Timestamp | None


class UpdatesQuery(PageQuery, frozen=True):
    sort: Literal["created_on", "-created_on", "completed_on", "-completed_on"] = "-created_on"
    status: Annotated[UpdateStatus | None, Meta(description="Only updates with this status.")] = None


class UploadQuery(Shape, frozen=True):
    version: Version
    file_name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=255,
            pattern=FILE_NAME,
            examples=["webmacs-1.4.0.tar.gz"],
            description="Its name, without a path.",
        ),
    ]


SELECT: Final = """
    SELECT id, public_id, version, changelog, status, error, file_name, file_size, file_sha256, created_by, created_on, started_on,
           completed_on
      FROM firmware_updates
"""


@route("GET", "/api/v1/ota")
async def list_updates(call: Call[None, UpdatesQuery]) -> Page[Update]:
    """List updates, the newest first. `search` looks into versions and change logs, ignoring the case of a to z."""
    query = call.query
    matching = SELECT + " WHERE strpos(lower(version || ' ' || changelog), lower($1)) > 0 AND ($2::text IS NULL OR status = $2)"
    total, rows = await fetch_page(call.pool, matching, [query.search, query.status], query, query.sort)
    return Page(query.page, query.page_size, total, [_update(row) for row in rows])


@route("POST", "/api/v1/ota", status=201, problems=(409,), changes="update")
async def create_update(call: Call[UpdateIn]) -> Update:
    """Record an update. Its file is uploaded to `/api/v1/ota/upload`; one whose file came first is given its change log, once."""
    new = call.body
    row = await call.conn.fetchrow(SELECT + " WHERE version = $1 FOR UPDATE", new.version)
    before = None if row is None else _update(row)
    if before is not None and (before.file_sha256 is None or before.changelog or not new.changelog):
        raise _taken(new.version)
    public_id = uuid7() if before is None else before.public_id
    try:
        if before is None:
            await _insert(call, public_id, new.version, new.changelog)
        else:
            await call.conn.execute("UPDATE firmware_updates SET changelog = $2 WHERE public_id = $1", public_id, new.changelog)
    except asyncpg.UniqueViolationError:
        raise _taken(new.version) from None
    update = await _read(call.conn, public_id)
    return call.changed(before, update, name=update.version)


@route("POST", "/api/v1/ota/upload", status=201, problems=(409,), changes="update", accepts="application/octet-stream")
async def upload_update(call: Call[Upload, UploadQuery]) -> Update:
    """Upload the file of an update, as it is. It is stored with its SHA-256, and never applied by itself.

    The update may be recorded already and have no file; else this records it.
    """
    upload, query = call.body, call.query
    if upload.size == 0:
        raise Unprocessable.at("body", msg="The file is empty.")
    row = await call.conn.fetchrow(SELECT + " WHERE version = $1 FOR UPDATE", query.version)
    before = None if row is None else _update(row)
    if before is not None and (before.file_sha256 is not None or before.status != "pending"):
        raise _taken(query.version)
    public_id = uuid7() if before is None else before.public_id
    try:
        if before is None:
            await _insert(call, public_id, query.version, "")
    except asyncpg.UniqueViolationError:
        raise _taken(query.version) from None
    await call.conn.execute(
        "UPDATE firmware_updates SET file_name = $2, file_size = $3, file_sha256 = $4 WHERE public_id = $1",
        public_id, query.file_name, upload.size, upload.sha256,
    )  # fmt: skip
    if not call.dry_run:  # before the commit: an update that says it has a file has it
        await asyncio.to_thread(_keep, upload.file, file_of(call.settings, public_id))
    update = await _read(call.conn, public_id)
    call.changed(before, update, action="upload", name=update.version)
    call.headers["Location"] = f"/api/v1/ota/{public_id}"
    return update


@route("GET", "/api/v1/ota/{public_id}")
async def get_update(call: Call) -> Update:
    """Read an update."""
    return await _read(call.pool, call.public_id)


@route("DELETE", "/api/v1/ota/{public_id}", problems=(409,), changes="update")
async def delete_update(call: Call) -> None:
    """Delete an update's record and its file. One that is under way cannot be deleted."""
    before = await _read(call.conn, call.public_id, lock=True)
    if before.status in UNDER_WAY:
        raise Conflict(f"This update is {before.status}; wait until it is completed or has failed.")
    await call.conn.execute("DELETE FROM firmware_updates WHERE public_id = $1", call.public_id)
    call.changed(before, None, name=before.version)
    call.afterwards.append(lambda: _remove(file_of(call.settings, before.public_id)))


def file_of(settings: Settings, public_id: UUID) -> Path:
    """Where an update's file lies, if it has one: under a name of ours, never under its own."""
    return settings.data_dir / "updates" / str(public_id)


def _keep(upload: Path, file: Path) -> None:
    file.parent.mkdir(mode=0o700, exist_ok=True)
    with upload.open("rb") as content:
        os.fsync(content.fileno())
    upload.replace(file)


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        log.warning("update_file_stays", file=str(file), reason=str(error))


async def _insert(call: Call[Any, Any], public_id: UUID, version: str, changelog: str) -> None:
    await call.conn.execute(
        "INSERT INTO firmware_updates (public_id, version, changelog, created_by, created_on) VALUES ($1, $2, $3, $4, $5)",
        public_id, version, changelog, call.identity.name, clock.now(),
    )  # fmt: skip


async def _read(database: Pool | Connection, public_id: UUID, *, lock: bool = False) -> Update:
    """Raises NotFound. With `lock` nobody else changes it until the transaction ends."""
    row = await database.fetchrow(SELECT + " WHERE public_id = $1" + (" FOR UPDATE" if lock else ""), public_id)
    if row is None:
        raise NotFound("update")
    return _update(row)


def _update(row: asyncpg.Record) -> Update:
    return of_row(Update, row)


def _taken(version: str) -> Conflict:
    return Conflict(f"There is an update {version} already; delete it first, or give another version.")


routes = [list_updates, create_update, upload_update, get_update, delete_update]
