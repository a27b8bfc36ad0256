"""Packages that bring plugins: wheels, judged when they are uploaded and fetched by the controllers that install them."""

import asyncio
from pathlib import Path
from typing import Annotated, Final, Literal
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Meta
from starlette.responses import FileResponse, Response

from webmacs import clock, wheel
from webmacs.http.page import Page, PageQuery, fetch_page
from webmacs.http.problem import Conflict, NotFound, Problem
from webmacs.http.route import Call, Upload, route
from webmacs.http.shape import Shape, Timestamp, of_row
from webmacs.settings import Settings
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Connection, Pool

PACKAGE_BYTES_MAX: Final = 64 * 1024 * 1024
WHEEL: Final = "application/zip"


class UploadQuery(Shape, frozen=True):
    file_name: Annotated[
        str, Meta(max_length=255, description="As the build tool called it.", examples=["webmacs_plugin_chiller-1.2.0-py3-none-any.whl"])
    ]


class PackagesQuery(PageQuery, frozen=True):
    sort: Literal["name", "-name", "created_on", "-created_on", "size", "-size"] = "name"


class PluginPackage(msgspec.Struct, frozen=True):
    public_id: UUID
    name: Annotated[str, Meta(examples=["webmacs-plugin-chiller"])]
    package_version: Annotated[str, Meta(examples=["1.2.0"])]
    summary: str
    requires_python: Annotated[str | None, Meta(examples=[">=3.11"])]
    plugin_ids: Annotated[list[str], Meta(description="The plugins that it brings.", examples=[["chiller"]])]
    file_name: str
    size: Annotated[int, Meta(description="Bytes.")]
    sha256: str
    uploaded_by: str | None
    created_on: Timestamp


SELECT: Final = """
    SELECT id, public_id, name, version AS package_version, summary, requires_python, plugin_ids, file_name, size, sha256, uploaded_by,
           created_on
      FROM plugin_packages
"""


@route("GET", "/api/v1/plugins/packages")
async def list_plugin_packages(call: Call[None, PackagesQuery]) -> Page[PluginPackage]:
    """List uploaded packages. `search` looks into names, ignoring the case of a to z."""
    query = call.query
    matching = SELECT + " WHERE strpos(lower(name), lower($1)) > 0"
    total, rows = await fetch_page(call.pool, matching, [query.search], query, query.sort)
    return Page(query.page, query.page_size, total, [_package(row) for row in rows])


@route(
    "POST",
    "/api/v1/plugins/packages",
    status=201,
    problems=(409, "wheel-refused"),
    changes="plugin package",
    accepts=WHEEL,
    body_bytes_max=PACKAGE_BYTES_MAX,
)
async def upload_plugin_package(call: Call[Upload, UploadQuery]) -> PluginPackage:
    """Upload a wheel. It is judged and kept; nothing of it is imported, and no controller installs it by itself."""
    upload, file_name = call.body, call.query.file_name
    try:
        found = await asyncio.to_thread(wheel.inspect, upload.file, file_name)
    except wheel.WheelError as error:
        raise Problem(422, "wheel-refused", "Wheel refused", f"This wheel is not taken: {error}.") from None
    public_id = uuid7()
    try:
        await call.conn.execute(
            """INSERT INTO plugin_packages (public_id, name, version, summary, requires_python, plugin_ids, file_name, size, sha256,
                                            uploaded_by, created_on)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)""",
            public_id, found.name, found.version, found.summary, found.requires_python, found.plugin_ids, file_name, upload.size,
            upload.sha256, call.identity.name, clock.now(),
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise Conflict(f"There is a package {found.name} {found.version}, or this very file, already; delete it first.") from None
    package = await _read(call.conn, public_id)
    call.changed(None, package, "plugins")
    if not call.dry_run:
        place = _place(call.settings, upload.sha256)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        upload.file.replace(place)  # before the commit: a row never leads to a file that is not there
    return package


@route("GET", "/api/v1/plugins/packages/{public_id}")
async def get_plugin_package(call: Call) -> PluginPackage:
    """Read what is known of a package."""
    return await _read(call.pool, call.public_id)


@route("GET", "/api/v1/plugins/packages/{public_id}/content", produces=WHEEL)
async def get_plugin_package_content(call: Call) -> Response:
    """Download the wheel itself."""
    package = await _read(call.pool, call.public_id)
    return FileResponse(_place(call.settings, package.sha256), media_type=WHEEL, filename=package.file_name)


@route("DELETE", "/api/v1/plugins/packages/{public_id}", changes="plugin package")
async def delete_plugin_package(call: Call) -> None:
    """Delete a package. Controllers that have installed it keep it."""
    package = await _read(call.conn, call.public_id)
    await call.conn.execute("DELETE FROM plugin_packages WHERE public_id = $1", call.public_id)
    call.changed(package, None, "plugins")
    call.afterwards.append(lambda: _place(call.settings, package.sha256).unlink(missing_ok=True))


def _place(settings: Settings, sha256: str) -> Path:
    return settings.data_dir / "packages" / f"{sha256}.whl"


async def _read(database: Pool | Connection, public_id: UUID) -> PluginPackage:
    """Raises NotFound."""
    row = await database.fetchrow(SELECT + " WHERE public_id = $1", public_id)
    if row is None:
        raise NotFound("plugin package")
    return _package(row)


def _package(row: asyncpg.Record) -> PluginPackage:
    return of_row(PluginPackage, row)


routes = [list_plugin_packages, upload_plugin_package, get_plugin_package, get_plugin_package_content, delete_plugin_package]
