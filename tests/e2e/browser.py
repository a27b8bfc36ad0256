"""A real Chromium for tests in Python: `driver.mjs` drives it, this speaks with the driver."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

DRIVER: Final = Path(__file__).with_name("driver.mjs")
CHROMIUM: Final = ("chromium", "chromium-browser", "google-chrome")
SIZES: Final = {"1440": (1440, 900), "1280": (1280, 800), "390": (390, 844)}
"""What every view is looked at with; 390 is a phone."""


def chromium() -> str | None:
    """The browser of this machine: WEBMACS_CHROMIUM, else the first that is installed."""
    return os.environ.get("WEBMACS_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)


class Browser:
    """One browser process. Raises AssertionError with the driver's words when what a test waits for does not come."""

    def __init__(self, executable: str) -> None:
        self._process = subprocess.Popen(["node", str(DRIVER), executable], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._id = 0
        self._answer()

    def call(self, call: str, *args: object) -> Any:
        assert self._process.stdin is not None
        self._id += 1
        self._process.stdin.write(json.dumps({"id": self._id, "call": call, "args": args}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the browser's driver ended with code {self._process.wait()}; what it said is in the captured stderr"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer.get("result")

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()


class Page:
    """The page of one test, in a browser context of its own. Selectors are Playwright's, expressions are JavaScript."""

    def __init__(self, browser: Browser, origin: str, size: str = "1440", theme: str = "dark", session: str | None = None) -> None:
        """With `session`, the token of a login, one is signed in already."""
        self.origin = origin
        self._call = browser.call
        width, height = SIZES[size]
        cookies = [] if session is None else [{"name": "webmacs_session", "value": session, "url": origin}]
        self._call("open", {"width": width, "height": height, "phone": size == "390", "theme": theme, "cookies": cookies})

    def goto(self, path: str) -> None:
        self._call("goto", self.origin + path)

    def reload(self) -> None:
        self._call("reload")

    @property
    def path(self) -> str:
        return str(self._call("url")).removeprefix(self.origin)

    def fill(self, selector: str, text: str) -> None:
        self._call("fill", selector, text)

    def click(self, selector: str) -> None:
        self._call("click", selector)

    def press(self, key: str) -> None:
        self._call("press", key)

    def text(self, selector: str) -> str:
        return str(self._call("text", selector))

    def count(self, selector: str) -> int:
        return int(self._call("count", selector))

    def wait_for(self, selector: str) -> None:
        """Until it can be seen."""
        self._call("wait_for", selector)

    def wait_for_path(self, path: str) -> None:
        self._call("wait_for_url", self.origin + path)

    def until(self, expression: str) -> Any:
        """Until the expression is true; returns its value."""
        return self._call("until", expression)

    def evaluate(self, expression: str) -> Any:
        return self._call("evaluate", expression)

    def screenshot(self, path: Path) -> None:
        self._call("screenshot", str(path))

    def cookie(self, name: str) -> str:
        return str(next(cookie["value"] for cookie in self._call("cookies") if cookie["name"] == name))

    def axe(self) -> Sequence[dict[str, str]]:
        """What axe holds against the page as it is now: rule, impact, where, why."""
        found: list[dict[str, str]] = self._call("axe")
        return found

    def requests(self) -> list[str]:
        """Every address that the page has asked for, sockets included."""
        return list(self._call("seen")["requests"])

    def problems(self) -> list[str]:
        """Errors and warnings of the console, exceptions, violations of the content security policy."""
        return list(self._call("seen")["problems"])

    def close(self) -> None:
        self._call("close")

    # what the tests have in common

    def sign_in(self, email: str, password: str) -> None:
        self.fill("#email", email)
        self.fill("#password", password)
        self.press("Enter")

    def wait_for_chart(self, points: int = 2) -> None:
        """Until every pane of the trend has drawn at least that many points."""
        self.until(
            f"(all => all.length && all.every(one => one.dataset.points >= {points}))([...document.querySelectorAll('.pane__plot')])"
        )

    def chart(self) -> list[dict[str, float]]:
        """What each pane has drawn last: points, breaks, widestMs, newestMs."""
        panes = self.evaluate("[...document.querySelectorAll('.pane__plot')].map(one => ({...one.dataset}))")
        return [{name: float(pane[name]) for name in ("points", "breaks", "widestMs", "newestMs")} for pane in panes]
