"""The list of problem types: a page for each in webmacs/problems, with its title, status, an example, cause and cure.

`/problems/<slug>`, the `type` of every error answer, shows it; the OpenAPI document takes its examples from here.
"""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import BaseRoute, Route

from webmacs.http.guard import SAFE_METHODS

FOLDER: Final = Path(__file__).parent.parent / "problems"
FORM: Final = re.compile(
    r"# (?P<title>.+)\n\nStatus (?P<status>\d{3})\.\n\n> (?P<detail>.+)\n\n(?P<text>\*\*Cause\.\*\* .+\n\n\*\*Cure\.\*\* .+\n)"
)

ROUTES: Final = (("GET", "/problems"), ("GET", "/problems/{file}"))

STYLE: Final = """
:root { color-scheme: light dark; font: 1rem/1.6 system-ui, sans-serif }
body { max-width: 42rem; margin: 3rem auto; padding: 0 1rem }
blockquote { margin: 1rem 0; padding: .25rem 1rem; border-left: .25rem solid #888 }
code { font-size: .95em; overflow-wrap: anywhere }
"""


@dataclass(frozen=True, slots=True)
class Page:
    """One problem type. `detail` is an example of what an answer says; `text` is cause and cure, in Markdown."""

    title: str
    status: int
    detail: str
    text: str


def read(folder: Path = FOLDER) -> dict[str, Page]:
    """Every page by its slug. Raises ValueError for a file of another form."""
    pages = {}
    for path in sorted(folder.glob("*.md")):
        found = FORM.fullmatch(path.read_text("utf-8"))
        if found is None:
            raise ValueError(f"{path.name} has not the form of the other pages of problems.")
        pages[path.stem] = Page(found["title"], int(found["status"]), found["detail"], found["text"])
    return pages


PAGES: Final[Mapping[str, Page]] = read()


def routes() -> list[BaseRoute]:
    """The pages at /problems, and each at the address that its problems name as their type."""

    async def index(request: Request) -> HTMLResponse:
        listed = sorted((page.status, slug) for slug, page in PAGES.items())
        items = "".join(f'<li>{status} <a href="/problems/{slug}">{slug}</a></li>' for status, slug in listed)
        return _page("Problems", f"<h1>Problems</h1><p>What an answer with a status from 400 can be, by its type.</p><ul>{items}</ul>")

    async def show(request: Request) -> HTMLResponse:
        page = PAGES.get(request.path_params["slug"])
        if page is None:
            raise HTTPException(404)
        paragraphs = "".join(f"<p>{_inline(part)}</p>" for part in page.text.strip().split("\n\n"))
        example = f"<blockquote>{_inline(page.detail)}</blockquote>"
        return _page(page.title, f"<h1>{html.escape(page.title)}</h1><p>Status {page.status}.</p>{example}{paragraphs}")

    methods = sorted(SAFE_METHODS)
    return [Route("/problems", index, methods=methods), Route("/problems/{slug}", show, methods=methods)]


def _inline(markdown: str) -> str:
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(markdown, quote=False))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)


def _page(title: str, body: str) -> HTMLResponse:
    home = '<p><a href="/problems">All problems</a> · <a href="/docs">The API</a></p>'
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)} · WebMACS</title>'
    return HTMLResponse(f'<!doctype html><html lang="en"><head>{head}<style>{STYLE}</style></head><body>{body}{home}</body></html>')
