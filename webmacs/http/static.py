"""The pages: the SPA's files and the API's viewer, as the build left them in webmacs/static.

Every file is known from the start, so a path is looked up and never joined: nothing outside the folder can be named.
"""

import asyncio
import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from webmacs.http.compression import preferred
from webmacs.http.guard import SAFE_METHODS
from webmacs.http.problem import Problem

FOLDER: Final = Path(__file__).parent.parent / "static"
ENCODINGS: Final = {".br": "br", ".gz": "gzip"}
HASHED: Final = "assets/"
"""The build names these by their content: they never change."""
NO_PAGES: Final = ("api", "ws", "health", "metrics", "docs", "openapi.json")

ROUTES: Final = (("GET", "/docs"), ("GET", "/docs/{file}"), ("GET", "/{file}"))


@dataclass(frozen=True, slots=True)
class File:
    path: Path
    media_type: str
    etag: str
    sidecars: Mapping[str, Path]
    """By content coding."""
    immutable: bool


def find_files(folder: Path) -> dict[str, File]:
    """Every file below the folder by its path in a URL, without the leading slash; none when the pages are not built."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    found = {}
    for name, path in paths.items():
        if path.suffix in ENCODINGS and name.removesuffix(path.suffix) in paths:
            continue
        found[name] = File(
            path,
            mimetypes.guess_type(name)[0] or "application/octet-stream",
            f'"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}"',
            {coding: paths[name + suffix] for suffix, coding in ENCODINGS.items() if name + suffix in paths},
            name.startswith(HASHED),
        )
    return found


def routes(folder: Path = FOLDER) -> list[BaseRoute]:
    """The viewer at /docs, and the SPA everywhere that nothing else answers. They come last."""
    files = find_files(folder)

    async def page(request: Request) -> Response:
        """A file; otherwise the SPA, which knows its own addresses, unless the path can only be meant for something else."""
        path = request.path_params.get("file", "")
        if (file := files.get(path)) is not None:
            return await _serve(request, file)
        first, _, _ = path.partition("/")
        if first in NO_PAGES or path.startswith(HASHED) or "." in path.rpartition("/")[2]:
            raise HTTPException(404)
        return await _serve_page(request, files.get("index.html"))

    async def docs(request: Request) -> Response:
        return await _serve_page(request, files.get("docs/index.html"))

    async def docs_file(request: Request) -> Response:
        file = files.get(f"docs/{request.path_params['file']}")
        if file is None:
            raise HTTPException(404)
        return await _serve(request, file)

    methods = sorted(SAFE_METHODS)
    return [
        Route("/docs", docs, methods=methods),
        Route("/docs/{file:path}", docs_file, methods=methods),
        Route("/{file:path}", page, methods=methods),
    ]


async def _serve_page(request: Request, file: File | None) -> Response:
    if file is None:
        raise Problem(
            404, "not-built", "Not built", "The pages of this installation are not built; run `make run`, or `npm run build` in frontend/."
        )
    return await _serve(request, file)


async def _serve(request: Request, file: File) -> Response:
    headers = {
        "ETag": file.etag,
        "Cache-Control": "public, max-age=31536000, immutable" if file.immutable else "no-cache",
        "Vary": "Accept-Encoding",
    }
    if file.etag in request.headers.get("if-none-match", ""):  # also in a list, or weakened by a proxy that compresses
        return Response(status_code=304, headers=headers)
    path = file.path
    for coding in preferred(request.headers.get("accept-encoding", "")):
        if coding in file.sidecars:
            headers["Content-Encoding"], path = coding, file.sidecars[coding]
            break
    content = await asyncio.to_thread(path.read_bytes)
    return Response(content, headers=headers, media_type=file.media_type)
