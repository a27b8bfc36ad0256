"""PostgreSQL is away while somebody looks: live values go on, marked as not stored; afterwards the chart has every reading."""

import asyncio
import re
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Final

import asyncpg
import pytest
from e2e.browser import Browser, Page
from parts import stored
from parts.backend import make_user, sign_in
from parts.controlled import Controller
from parts.system import System, run_system
from parts.torture import Row

OUT: Final = Path(__file__).with_name("out")
PREVIEWS_PER_S: Final = 2
"""Points that a chart keeps of what was only shown."""
EMAIL: Final = "watching@example.org"
KEYS: Final = ("simulated.reactor_temperature", "simulated.tank_level")
"""Ten readings a second each; their units differ, so each has a pane."""
LOST_US_MAX: Final = 1_000_000
"""For so long a busy machine may keep the sampler from its beat."""
EDGES: Final = 2
"""The first and the last point may each stand for a reading beyond the time at which it is drawn."""
UNAVAILABLE: Final = r"status of 503"
"""What the browser writes when the list of sources is not to be had."""

PANES: Final = "[...document.querySelectorAll('.pane__plot')].map(one => one.dataset)"
BANNER: Final = "document.querySelector('.banner').innerText"
MARKED: Final = "document.querySelectorAll('[data-stored=false]').length"


@pytest.fixture(scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    async with run_system() as system:
        devices = ("simulated", "system")
        async with Controller(tmp_path_factory.mktemp("plant"), "plant", system.database, system.backend.port, devices=devices):
            yield system


@pytest.fixture(scope="module")
async def session(plant: System) -> str:
    return await sign_in(plant.backend, EMAIL, await make_user(plant.database, plant.backend.data_dir, EMAIL, "viewer"))


async def events(system: System) -> list[str]:
    """The public ids of the watched channels, once all of them have readings."""
    conn = await asyncpg.connect(system.database)
    try:
        while True:
            rows = await conn.fetch("SELECT channel_key, public_id::text FROM events JOIN latest ON latest.event_id = events.id")
            found = dict(tuple(row) for row in rows)
            if all(key in found for key in KEYS):
                return [found[key] for key in KEYS]
            await asyncio.sleep(0.05)
    finally:
        await conn.close()


async def times_us(system: System, key: str) -> list[int]:
    conn = await asyncpg.connect(system.database)
    try:
        return [t_us for t_us, _ in await stored.readings(conn, "plant", key)]
    finally:
        await conn.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """At full count, where the outage is long, one theme is enough."""
    themes = ["dark"] if metafunc.config.getoption("--torture") else ["dark", "light"]
    metafunc.parametrize(("size", "theme"), [(size, theme) for size in ("1440", "390") for theme in themes])


@pytest.mark.row(33)
async def test_values_go_on_marked_as_not_stored_and_then_the_chart_is_complete(
    plant: System, session: str, browser: Browser, size: str, theme: str, row: Row
) -> None:
    outage_s = row.count(quick=3, full=60)
    ids = await events(plant)
    page = Page(browser, plant.backend.url, size, theme, session)
    try:
        page.goto("/?c=" + ",".join(ids))
        page.wait_for_chart()
        page.until(f"{PANES}.every(one => one.previews === '0')")
        page.until(f"{BANNER} === '' && {MARKED} === 0")

        await asyncio.to_thread(plant.server.stop)
        begun_us = page.evaluate("Date.now()") * 1_000
        page.until(f"{BANNER}.startsWith('Not storing since ')")
        page.until(f"{MARKED} > 0")
        held = [pane["newestMs"] for pane in page.evaluate(PANES)]
        for shown in range(1, outage_s * PREVIEWS_PER_S):
            page.until(f"{PANES}.every(one => one.previews > {shown})")
        assert [pane["newestMs"] for pane in page.evaluate(PANES)] == held, "the curve of what is stored has not moved"
        until_six_values_follow(page)
        assert "NOT STORED" in page.text("[data-stored=false]")
        assert re.search(r"Last stored \d+ .*values are marked NOT STORED", page.evaluate("document.querySelector('.banner').textContent"))
        page.wait_for(".honest >> text=not stored")
        assert page.count("text=no readings") == 0
        OUT.mkdir(exist_ok=True)
        page.screenshot(OUT / f"not-stored-{size}-{theme}.png")
        assert page.axe() == []

        previews = sum(int(pane["previews"]) for pane in page.evaluate(PANES))
        ended_us = page.evaluate("Date.now()") * 1_000
        await asyncio.to_thread(plant.server.start)
        page.until(f"{MARKED} === 0 && {BANNER} === ''")
        page.until(f"{PANES}.every(one => one.previews === '0')")
        compared = sum([await until_complete(plant, page, pane, key, begun_us, ended_us) for pane, key in enumerate(KEYS)])
        row.record(
            done=compared, unit="readings", refused=None, unknown=None, lost=None, twice=None,
            previews_seen=previews, outage_s=outage_s, width=size,
        )  # fmt: skip
        assert page.count("text=NOT STORED") == 0
        page.screenshot(OUT / f"stored-again-{size}-{theme}.png")
        assert [one for one in page.problems() if not re.search(UNAVAILABLE, one)] == []
    finally:
        page.close()
    for key in KEYS:
        times = await times_us(plant, key)
        assert all(0 < after - before < LOST_US_MAX for before, after in pairwise(t for t in times if t > begun_us - LOST_US_MAX))


def until_six_values_follow(page: Page) -> None:
    """Until the page has shown six values of the first chosen channel, each another than the one before and marked."""
    where = "document.querySelector('.rows li')"
    value = f"{where}.querySelector('.rows__value').innerText"
    shown = ""
    for _ in range(6):
        shown = page.until(f"{where}.innerText.includes('NOT STORED') && {value} !== {shown!r} && {value}")


async def until_complete(system: System, page: Page, pane: int, key: str, begun_us: int, ended_us: int) -> int:
    """How many readings were compared, once the points of the chart stand for as many readings as are stored over the stretch they
    fill, the outage within it, and none is far from the next."""
    seen: object = None
    try:
        async with asyncio.timeout(30):
            while True:
                shown = page.evaluate(f"({{...{PANES}[{pane}]}})")
                from_us, to_us = (round(float(shown[name]) * 1e3) for name in ("fromMs", "toMs"))
                readings = int(shown["readings"])
                is_stored = sum(from_us <= t_us <= to_us for t_us in await times_us(system, key))
                whole = float(shown["widestMs"]) * 1_000 < LOST_US_MAX and shown["breaks"] == "0"
                seen = {**shown, "stored": is_stored, "begun_us": begun_us, "ended_us": ended_us}
                if from_us < begun_us and to_us > ended_us and whole and abs(readings - is_stored) <= EDGES:
                    return readings
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(f"the chart of {key} never was complete: {seen}") from None
