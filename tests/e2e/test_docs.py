"""The viewer of the REST interface at /docs: offline, in both themes, on a phone, and good for trying things out."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from e2e.browser import Page
from e2e.conftest import Installation

OUT: Final = Path(__file__).with_name("out")


NO_SIDEWAYS: Final = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
CREATE: Final = "#operations-events-create_event"
TAG: Final = "#operations-tag-events"


def open_operation(page: Page, operation: str) -> None:
    page.click(TAG)
    page.click(f"{operation} button.opblock-summary-control")
    page.wait_for(f"{operation} .opblock-body textarea")
    page.evaluate(f"document.querySelector('{operation}').scrollIntoView()")


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("size", ["1440", "390"])
def test_the_viewer_fits_its_screen(look: Callable[..., Page], size: str, theme: str) -> None:
    page = look(size, theme)
    page.goto("/docs")
    page.wait_for(TAG)
    assert page.evaluate(NO_SIDEWAYS)
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor === 'rgb(28, 32, 34)'") == (theme == "dark")
    OUT.mkdir(exist_ok=True)
    page.screenshot(OUT / f"docs-{size}-{theme}.png")
    open_operation(page, CREATE)
    assert page.evaluate(NO_SIDEWAYS)
    page.screenshot(OUT / f"docs-{size}-{theme}-operation.png")


def test_the_viewer_lists_every_operation(look: Callable[..., Page], installation: Installation) -> None:
    page = look()
    page.goto("/docs")
    document = installation.rest.get("/openapi.json").json()
    page.wait_for("#operations-tag-write")
    for tag in (one["name"] for one in document["tags"]):  # one after the other: what is not on the screen is not drawn
        operations = [one for methods in document["paths"].values() for one in methods.values() if one["tags"] == [tag]]
        page.click(f"#operations-tag-{tag}")
        page.until(f"document.querySelectorAll('.opblock').length === {len(operations)}")
        page.click(f"#operations-tag-{tag}")
        page.until("document.querySelectorAll('.opblock').length === 0")


def test_an_operation_is_tried_with_a_token(look: Callable[..., Page], installation: Installation) -> None:
    page = look(signed_in=False)
    page.goto("/docs")
    page.click("button.authorize")
    page.fill("[aria-label='auth-bearer-value']", installation.token)
    page.click(".auth-container:has([aria-label='auth-bearer-value']) button[type=submit]")
    page.click("button.btn-done")
    open_operation(page, CREATE)
    page.fill(f"{CREATE} textarea", '{"name": "Made in the viewer", "type": "sensor", "unit": "°C"}')
    page.click(f"{CREATE} button.execute")
    page.wait_for(f"{CREATE} .live-responses-table >> text=201")
    made = installation.rest.get("/api/v1/events", params={"search": "Made in the viewer"}).json()
    assert made["total"] == 1
    installation.rest.delete(f"/api/v1/events/{made['data'][0]['public_id']}").raise_for_status()
