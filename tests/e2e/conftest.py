"""A whole installation, started as a person starts it, and a Chromium that looks at it."""

import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from e2e.browser import Browser, Page, chromium
from parts.installation import Up, empty_directory, eventually, running

STATIC: Final = Path(__file__).parents[2] / "webmacs" / "static" / "index.html"
KEYS: Final = {"system.cpu_total", "simulated.reactor_temperature"}
"""One channel of each device, both in the trend that one sees first."""

NO_SESSION: Final = r"status of 401 .*/api/v1/auth/me"
"""The page asks who it is; nobody is an answer, and the browser notes it."""


@dataclass
class Installation:
    """`webmacs up`, the administrator it has printed, and the REST interface as that one sees it."""

    up: Up
    url: str
    email: str
    password: str
    token: str = ""
    rest: httpx.Client = field(default_factory=httpx.Client)

    def sign_in(self) -> None:
        answer = self.rest.post("/api/v1/auth/login", json={"email": self.email, "password": self.password})
        self.token = answer.raise_for_status().json()["access_token"]
        self.rest.headers["Authorization"] = f"Bearer {self.token}"
        self.rest.cookies.clear()

    def choose_password(self) -> None:
        """In place of the printed one, with which nothing else can be done."""
        self.sign_in()
        chosen = secrets.token_urlsafe(16)
        body = {"current_password": self.password, "new_password": chosen}
        self.rest.put("/api/v1/auth/me/password", json=body).raise_for_status()
        self.password = chosen
        self.sign_in()

    def channels(self) -> dict[str, dict[str, Any]]:
        """Every channel by its key."""
        answer = self.rest.get("/api/v1/events", params={"page_size": 200}).raise_for_status()
        return {channel["channel_key"]: channel for channel in answer.json()["data"]}

    def latest(self) -> dict[str, tuple[str, float]]:
        """Time and value of each channel's newest stored reading, by public id."""
        answer = self.rest.get("/api/v1/datapoints/latest").raise_for_status()
        return {point["event_public_id"]: (point["timestamp"], point["value"]) for point in answer.json()["data"]}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = chromium()
    if executable is None:
        missing = "There is no Chromium for the browser tests: install it (apt install chromium), or name one in WEBMACS_CHROMIUM."
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    started = Browser(executable)
    yield started
    started.close()


@pytest.fixture(scope="session")
def installation(browser: Browser) -> Iterator[Installation]:
    """Ends with Ctrl-C: exit code 0, and not one process is left."""
    assert STATIC.exists(), "The pages are not built: run `npm run build` in frontend/."
    with empty_directory() as data, running(data) as up:
        url = up.ready()
        said = "".join(up.said)
        email, password = re.search(r"e-mail +(\S+)\s+password +(\S+)", said).groups()  # type: ignore[union-attr]
        with httpx.Client(base_url=url) as rest:
            started = Installation(up, url, email, password, rest=rest)
            started.choose_password()
            eventually(lambda: started.channels().keys() >= KEYS, "both devices have declared their channels")
            yield started
        family = up.family()
        assert up.interrupt() == 0, "".join(up.said)
        assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def expected() -> list[str]:
    """Regular expressions of what a test's page may complain of; everything else is a failure."""
    return []


@pytest.fixture
def look(installation: Installation, browser: Browser, expected: list[str]) -> Iterator[Callable[..., Page]]:
    """Opens the page of this test. At its end nothing was asked of another host, and nothing unexpected was complained of."""
    opened: list[Page] = []

    def open_page(size: str = "1440", theme: str = "dark", signed_in: bool = True) -> Page:
        assert not opened, "a test looks at one page"
        opened.append(Page(browser, installation.url, size, theme, installation.token if signed_in else None))
        return opened[0]

    yield open_page
    for page in opened:
        requests, problems = page.requests(), page.problems()
        page.close()
        own = urlsplit(installation.url).netloc
        assert {urlsplit(url).netloc for url in requests if not url.startswith(("data:", "blob:"))} == {own}
        assert [one for one in problems if not any(re.search(pattern, one) for pattern in expected)] == []
