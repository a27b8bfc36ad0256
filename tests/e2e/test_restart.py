"""The backend dies while somebody looks: the page says it, comes back by itself, and no reading is missing."""

import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise

import psutil
from e2e.browser import Page
from e2e.conftest import Installation
from parts.installation import eventually

INTERVALS_MAX = 3
"""A step between two readings that is longer than this many sampling intervals is a hole, if it is also longer than STALL_MS."""
STALL_MS = 1_000
"""For so long a busy machine may keep the sampler from its beat. The backend is away for longer: what its kill had lost would be seen."""
UNREACHABLE = r"ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE|ERR_SOCKET_NOT_CONNECTED|WebSocket"
"""What the browser itself writes to the console while nobody answers."""


def newest_us(installation: Installation, channel: str) -> int:
    return int(datetime.fromisoformat(installation.latest()[channel][0]).timestamp() * 1_000_000)


def reading_times(installation: Installation, channel: str, from_us: int, to_us: int) -> list[int]:
    """The times of the stored readings, each for itself."""

    def rfc3339(us: int) -> str:
        return datetime.fromtimestamp(us / 1_000_000, UTC).isoformat()

    body = {"event_public_ids": [channel], "from": rfc3339(from_us), "to": rfc3339(to_us), "max_points": 5_000}
    series = installation.rest.post("/api/v1/datapoints/series", json=body).raise_for_status().json()["series"][0]
    assert set(series["n"]) == {1}, "the span is too long to see single readings"
    return list(series["t0"])


def test_after_two_kills_of_the_backend_the_chart_goes_on_without_a_hole(
    look: Callable[..., Page], installation: Installation, expected: list[str]
) -> None:
    expected.append(UNREACHABLE)
    channels = [installation.channels()[key] for key in ("system.cpu_total", "simulated.reactor_temperature")]
    page = look()
    page.goto("/?c=" + ",".join(channel["public_id"] for channel in channels))
    page.wait_for_chart()
    page.wait_for("footer b:text-is('Live')")
    begin_us = min(newest_us(installation, channel["public_id"]) for channel in channels)

    for _ in range(2):
        backend = psutil.Process(installation.up.children["backend"])
        assert backend.cmdline()[-1] == "serve"
        os.kill(backend.pid, signal.SIGKILL)
        page.until("/^(Reconnecting|Offline)/.test(document.querySelector('footer b').innerText)")
        eventually(lambda old=backend.pid: installation.up.children["backend"] != old, "the backend has started again")  # type: ignore[misc]
    page.wait_for("footer b:text-is('Live')")

    back_ms = page.evaluate("Date.now()")
    widest = [max(STALL_MS, INTERVALS_MAX * channel["expected_interval_ms"]) for channel in channels]
    panes = "[...document.querySelectorAll('.pane__plot')].map(one => one.dataset)"
    page.until(f"{panes}.length === 2 && {panes}.every((one, i) => one.newestMs > {back_ms + 1_000} && one.widestMs <= {widest}[i])")
    assert [pane["breaks"] for pane in page.chart()] == [0, 0]
    assert page.count("text=no readings") == 0

    for channel, widest_ms in zip(channels, widest, strict=True):
        end_us = newest_us(installation, channel["public_id"])
        assert end_us > back_ms * 1_000
        times = reading_times(installation, channel["public_id"], begin_us, end_us)
        assert max(b - a for a, b in pairwise(times)) <= widest_ms * 1_000, channel["name"]
