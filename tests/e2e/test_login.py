"""Coming in and leaving."""

from collections.abc import Callable

import httpx
import pytest
from e2e.browser import Page
from e2e.conftest import NO_SESSION, Installation


@pytest.fixture
def page(look: Callable[..., Page], expected: list[str]) -> Page:
    """The login, of somebody who has no session yet."""
    expected.append(NO_SESSION)
    page = look(signed_in=False)
    page.goto("/")
    page.wait_for_path("/login")
    page.wait_for("text=Backend reachable, storing")
    return page


def test_the_password_leads_to_the_dashboard(page: Page, installation: Installation) -> None:
    page.sign_in(installation.email, installation.password)
    page.wait_for_path("/")
    page.wait_for("h1:text-is('Dashboard')")
    page.wait_for_chart()
    assert page.evaluate("document.cookie") == ""


def test_a_password_that_was_made_for_one_is_changed_before_anything_else(
    page: Page, installation: Installation, expected: list[str]
) -> None:
    expected.append(r"status of 422 .*/api/v1/auth/me/password")
    new = {"email": "new@plant.example", "username": "M. Weber", "role": "viewer"}
    given = installation.rest.post("/api/v1/users", json=new).raise_for_status().json()["initial_password"]
    page.sign_in("new@plant.example", given)
    page.wait_for("h1:text-is('Choose your password')")
    page.goto("/")  # the way around leads back
    page.wait_for_path("/login")
    page.fill("#given", given)
    page.fill("#chosen", "short")
    page.click("button[type=submit]")
    page.wait_for("role=alert")
    page.fill("#chosen", "a phrase of my own")
    page.click("button[type=submit]")
    page.wait_for_path("/")
    page.wait_for("h1:text-is('Dashboard')")


def test_a_wrong_password_says_so_and_keeps_the_email(page: Page, installation: Installation, expected: list[str]) -> None:
    expected.append(r"status of 401 .*/api/v1/auth/login")
    page.sign_in(installation.email, "not the password")
    page.wait_for("role=alert")
    assert page.text("role=alert").strip() == "Email or password is not right."
    assert page.evaluate("document.querySelector('#email').value") == installation.email
    assert page.path == "/login"


def test_the_login_leads_to_the_address_that_was_asked_for(page: Page, installation: Installation) -> None:
    page.goto("/?range=10m")
    page.wait_for("#email")
    page.sign_in(installation.email, installation.password)
    page.wait_for_path("/?range=10m")
    page.wait_for_chart()


def test_who_signs_out_stays_at_the_login(page: Page, installation: Installation) -> None:
    page.sign_in(installation.email, installation.password)
    page.click("[aria-label='Your menu']")
    page.click("role=menuitem[name='Sign out']")
    page.wait_for_path("/login")
    page.reload()
    page.wait_for("#password")
    assert page.path == "/login"
    page.goto("/")
    page.wait_for_path("/login")


def test_a_session_ended_elsewhere_leads_to_the_login_with_the_reason(page: Page, installation: Installation, expected: list[str]) -> None:
    page.sign_in(installation.email, installation.password)
    page.wait_for_chart()
    expected.append("status of 401")
    ended = httpx.post(
        installation.url + "/api/v1/auth/logout", headers={"X-WebMACS": "1", "Cookie": f"webmacs_session={page.cookie('webmacs_session')}"}
    )
    assert ended.status_code == 204
    page.wait_for_path("/login")
    assert "Your session ended at " in page.text(".login__reason")
