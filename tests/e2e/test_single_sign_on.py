"""The way over a provider of another site and back, in a browser that keeps its cookies as browsers do."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from e2e.browser import Browser, Page
from e2e.conftest import NO_SESSION, STATIC
from parts import provider as parts
from parts.backend import Backend, make_user
from parts.provider import Provider

OUT: Final = Path(__file__).with_name("out")
BUTTON: Final = "text=Sign in with Plant ID"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with parts.provider("localhost") as running:
        running.secret = None
        yield running


@pytest.fixture(scope="module")
async def plant(module_database: str, tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> AsyncIterator[Backend]:
    assert STATIC.exists(), "The pages are not built: run `npm run build` in frontend/."
    settings = {
        "WEBMACS_SSO_ISSUER": provider.issuer,
        "WEBMACS_SSO_CLIENT_ID": parts.CLIENT_ID,
        "WEBMACS_SSO_PROVIDER_NAME": "Plant ID",
        "WEBMACS_SSO_ALLOW_CREATION": "true",
    }
    process = Backend(module_database, tmp_path_factory.mktemp("plant"), **settings)
    await process.start()
    yield process
    assert await process.stop() == 0, process.log


@pytest.fixture
def look(plant: Backend, browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens the login page of somebody without a session, who wanted to see ten minutes."""
    opened: list[Page] = []

    def open_page(size: str = "1440", theme: str = "dark") -> Page:
        opened.append(Page(browser, plant.url, size, theme))
        opened[0].goto("/?range=10m")
        opened[0].wait_for(BUTTON)
        return opened[0]

    yield open_page
    problems = opened[0].problems()
    opened[0].close()
    assert [one for one in problems if not re.search(NO_SESSION, one)] == []


def test_the_provider_leads_to_where_one_wanted_to_go(look: Callable[..., Page], provider: Provider) -> None:
    page = look()
    page.click(BUTTON)
    page.wait_for_path("/?range=10m")
    page.wait_for("h1:text-is('Dashboard')")
    assert page.evaluate("document.cookie") == ""
    assert page.cookie("webmacs_session")
    page.reload()
    page.wait_for("h1:text-is('Dashboard')")


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("size", ["1440", "390"])
def test_a_refusal_is_said_at_the_login_in_words(look: Callable[..., Page], provider: Provider, size: str, theme: str) -> None:
    page = look(size, theme)
    provider.refuse_with = "access_denied"
    page.click(BUTTON)
    page.wait_for("role=alert")
    provider.refuse_with = None
    assert "The sign-on was not approved." in page.text("role=alert")
    page.wait_for(BUTTON)
    page.wait_for("text=Backend reachable, storing")
    OUT.mkdir(exist_ok=True)
    page.screenshot(OUT / f"login-sso-{size}-{theme}.png")
    assert page.axe() == []


@pytest.mark.parametrize("size", ["1440", "390"])
def test_a_code_that_leads_nowhere_leads_back_to_the_login(look: Callable[..., Page], size: str) -> None:
    page = look(size)
    page.goto("/sso-callback")
    page.wait_for("text=Back to sign in")
    page.screenshot(OUT / f"sso-callback-{size}.png")
    assert page.axe() == []
    page.click("text=Back to sign in")
    page.wait_for(BUTTON)


async def test_an_administrator_links_the_own_account(look: Callable[..., Page], plant: Backend, provider: Provider) -> None:
    password = await make_user(plant.database, plant.data_dir, "head@example.org", "admin")
    provider.person = {"sub": "head", "email": "head@example.org", "email_verified": True}
    page = look()
    page.click(BUTTON)
    page.wait_for("text=Link my account")
    page.click("input[name=link]")
    assert page.axe() == []
    page.sign_in("head@example.org", password)
    page.wait_for("h1:text-is('Account linked')")
    page.click("text=Go on")
    page.wait_for_path("/?range=10m")
    page.click("[aria-label='Your menu']")
    page.click("role=menuitem[name='Sign out']")
    page.click(BUTTON)
    page.wait_for("h1:text-is('Dashboard')")
