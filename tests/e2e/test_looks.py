"""Every width, both themes, by keyboard and for assistive techniques."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from e2e.browser import SIZES, Page
from e2e.conftest import NO_SESSION, Installation

OUT: Final = Path(__file__).with_name("out")
THEMES: Final = ("dark", "light")
PICTURES: Final = {("1440", "dark"): "dashboard.png", ("390", "dark"): "phone.png"}
"""The pictures of the README, written to the folder that WEBMACS_TEST_SCREENSHOTS names when there are enough readings to show."""
HISTORY: Final = timedelta(minutes=3)

NO_SIDEWAYS: Final = "[document.documentElement, document.querySelector('main')].every(one => one.scrollWidth <= one.clientWidth)"
FOCUS_RING: Final = """(element => [element, element.parentElement, ...element.parentElement.children].some(one => {
    const { outlineStyle, outlineWidth } = getComputedStyle(one)
    return outlineStyle !== 'none' && parseFloat(outlineWidth) >= 1
}))(document.activeElement)"""


def wait_for_history(installation: Installation) -> None:
    """Until the charts are full. The README's pictures alone need it."""
    channel = installation.channels()["system.cpu_total"]["public_id"]

    def oldest() -> list[int]:
        now = datetime.now(UTC)
        body = {"event_public_ids": [channel], "from": (now - 2 * HISTORY).isoformat(), "to": (now - HISTORY).isoformat()}
        return list(installation.rest.post("/api/v1/datapoints/series", json=body).raise_for_status().json()["series"][0]["t0"])

    while not oldest():
        time.sleep(1)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("size", SIZES)
def test_the_dashboard_fits_its_screen(look: Callable[..., Page], installation: Installation, size: str, theme: str) -> None:
    page = look(size, theme)
    page.goto("/")
    page.wait_for_chart(points=5)
    folder = os.environ.get("WEBMACS_TEST_SCREENSHOTS")
    if folder:
        wait_for_history(installation)
    assert page.evaluate("document.documentElement.className") == theme
    assert page.evaluate(NO_SIDEWAYS)
    phone = size == "390"
    assert page.evaluate("getComputedStyle(document.querySelector('nav.tabs')).display !== 'none'") == phone
    assert (page.count(".tile") > 0) == phone
    if not phone:
        page.wait_for("footer >> text=Drawn")
    OUT.mkdir(exist_ok=True)
    page.screenshot(OUT / f"dashboard-{size}-{theme}.png")
    if folder and (size, theme) in PICTURES:
        page.screenshot(Path(folder) / PICTURES[size, theme])
    assert page.axe() == []


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("size", ["1440", "390"])
def test_the_login_fits_its_screen(look: Callable[..., Page], expected: list[str], size: str, theme: str) -> None:
    expected.append(NO_SESSION)
    page = look(size, theme, signed_in=False)
    page.goto("/login")
    page.wait_for("text=Backend reachable, storing")
    assert page.evaluate(NO_SIDEWAYS)
    OUT.mkdir(exist_ok=True)
    page.screenshot(OUT / f"login-{size}-{theme}.png")
    assert page.axe() == []


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("size", ["1440", "390"])
def test_the_choice_of_a_password_fits_its_screen(
    look: Callable[..., Page], installation: Installation, expected: list[str], size: str, theme: str
) -> None:
    expected.append(NO_SESSION)
    new = {"email": f"{size}-{theme}@plant.example", "username": f"{size} {theme}", "role": "viewer"}
    given = installation.rest.post("/api/v1/users", json=new).raise_for_status().json()["initial_password"]
    page = look(size, theme, signed_in=False)
    page.goto("/login")
    page.wait_for("text=Backend reachable, storing")
    page.sign_in(new["email"], given)
    page.wait_for("h1:text-is('Choose your password')")
    assert page.evaluate(NO_SIDEWAYS)
    OUT.mkdir(exist_ok=True)
    page.screenshot(OUT / f"choice-{size}-{theme}.png")
    assert page.axe() == []


def test_the_keyboard_reaches_the_search_and_shows_where_it_is(look: Callable[..., Page]) -> None:
    page = look("1280")
    page.goto("/")
    page.wait_for_chart()
    page.press("/")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Find a channel"
    assert page.evaluate(FOCUS_RING)
    for _ in range(12):
        page.press("Tab")
        assert page.evaluate(FOCUS_RING), page.evaluate("document.activeElement.outerHTML")


def test_the_theme_is_changed_in_the_menu_of_the_person(look: Callable[..., Page]) -> None:
    page = look()
    page.goto("/")
    page.click("[aria-label='Your menu']")
    page.click("role=menuitem[name='Light theme']")
    page.until("document.documentElement.className === 'light'")


def test_the_documentation_of_the_interface_opens_from_the_own_host(look: Callable[..., Page]) -> None:
    page = look()
    page.goto("/docs")
    page.click("#operations-tag-datapoints")
    page.wait_for("[data-path='/api/v1/datapoints/series']")
