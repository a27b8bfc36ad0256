"""PostgreSQL is away while somebody looks: live values go on, marked as not stored; afterwards every beat is stored and in the chart."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
import pytest
from e2e.browser import Browser, Page
from parts import stored
from parts.backend import Backend, make_user, sign_in
from parts.controlled import BEAT_US, Beats, Controller, beats, stored_since
from parts.system import System, run_system
from parts.torture import Row

OUT: Final = Path(__file__).with_name("out")
PREVIEWS_PER_S: Final = 2
"""Points that a chart keeps of what was only shown."""
KEYS: Final = ("simulated.reactor_temperature", "simulated.tank_level")
"""Ten readings a second each; their units differ, so each has a pane."""
APART_US_MAX: Final = 1_000_000
"""Two points of the chart. For so long a busy machine may keep the sampler from its beat."""
AROUND_US: Final = 1_000_000
"""Before an outage and after it, where every beat must be stored as well."""
EDGES: Final = 2
"""The first and the last point may each stand for a reading beyond the time at which it is drawn."""
UNAVAILABLE: Final = r"status of 503"
"""What the browser writes when the list of sources is not to be had."""

PANES: Final = "[...document.querySelectorAll('.pane__plot')].map(one => one.dataset)"
BANNER: Final = "document.querySelector('.banner').innerText"
MARKED: Final = "document.querySelectorAll('[data-stored=false]').length"


@dataclass
class Plant:
    """A controller called `name` whose readings come in at `backend`, and the session of somebody who looks."""

    system: System
    backend: Backend
    name: str
    session: str

    async def events(self) -> list[str]:
        """The public ids of the watched channels, once all of them have readings."""
        conn = await asyncpg.connect(self.system.database)
        try:
            while True:
                rows = await conn.fetch(
                    """SELECT e.channel_key, e.public_id::text FROM events e JOIN latest ON latest.event_id = e.id
                         JOIN writers w ON w.id = e.writer_id JOIN sources s ON s.id = w.source_id WHERE s.name = $1""",
                    self.name,
                )
                found = dict(tuple(row) for row in rows)
                if all(key in found for key in KEYS):
                    return [found[key] for key in KEYS]
                await asyncio.sleep(0.05)
        finally:
            await conn.close()

    async def times_us(self, key: str) -> list[int]:
        conn = await asyncpg.connect(self.system.database)
        try:
            return [t_us for t_us, _ in await stored.readings(conn, self.name, key)]
        finally:
            await conn.close()

    async def beats(self, key: str, from_us: int, to_us: int) -> Beats:
        await stored_since(self.system.database, self.name, to_us)
        conn = await asyncpg.connect(self.system.database)
        try:
            return await beats(conn, self.name, key, from_us, to_us)
        finally:
            await conn.close()


@asynccontextmanager
async def running_plant(system: System, backend: Backend, place: Path, name: str) -> AsyncIterator[Plant]:
    email = f"{name}@example.org"
    session = await sign_in(backend, email, await make_user(system.database, backend.data_dir, email, "viewer"))
    async with Controller(place / name, name, system.database, backend.port, devices=("simulated", "system")):
        yield Plant(system, backend, name, session)


@asynccontextmanager
async def sabotaged_plant(place: Path, sabotage: str) -> AsyncIterator[Plant]:
    """With a database of its own: channels of a plant that is gone would come first on the page."""
    async with run_system(compacting=False) as system:
        backend = Backend(system.database, place, sabotage, compacting=False)
        await backend.start()
        async with running_plant(system, backend, place, sabotage) as plant:
            yield plant
        assert await backend.stop() == 0


@pytest.fixture(scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plant]:
    async with (
        run_system(compacting=False) as system,
        running_plant(system, system.backend, tmp_path_factory.mktemp("plant"), "plant") as plant,
    ):
        yield plant


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """At full count, where the outage is long, one theme is enough."""
    if "theme" not in metafunc.fixturenames:
        return
    themes = ["dark"] if metafunc.config.getoption("--torture") else ["dark", "light"]
    metafunc.parametrize(("size", "theme"), [(size, theme) for size in ("1440", "390") for theme in themes])


@dataclass
class Outage:
    begun_us: int
    ended_us: int
    previews: int
    """Shown and not stored, of both panes."""
    compared: int
    """Readings that the chart and the database have."""
    beats: list[Beats]


async def look_on(plant: Plant, page: Page, outage_s: int, shots: str) -> Outage:
    """PostgreSQL goes away and comes back. Raises AssertionError where the page does not say what is stored and what is not, and where the
    chart is not what is stored; whether that is everything, the beats tell."""
    page.goto("/?c=" + ",".join(await plant.events()))
    page.wait_for_chart()
    page.until(f"{PANES}.every(one => one.previews === '0')")
    page.until(f"{BANNER} === '' && {MARKED} === 0")
    until_six_values_follow(page, marked=False)  # they come live: without PostgreSQL no socket opens that was not open before

    await asyncio.to_thread(plant.system.server.stop)
    try:
        begun_us = page.evaluate("Date.now()") * 1_000
        page.until(f"{BANNER}.startsWith('Not storing since ')")
        page.until(f"{MARKED} > 0")
        held = [pane["newestMs"] for pane in page.evaluate(PANES)]
        for shown in range(1, outage_s * PREVIEWS_PER_S):
            page.until(f"{PANES}.every(one => one.previews > {shown})")
        assert [pane["newestMs"] for pane in page.evaluate(PANES)] == held, "the curve of what is stored has not moved"
        until_six_values_follow(page, marked=True)
        assert "NOT STORED" in page.text("[data-stored=false]")
        assert re.search(r"Last stored \d+ .*values are marked NOT STORED", page.evaluate("document.querySelector('.banner').textContent"))
        page.wait_for(".honest >> text=not stored")
        assert page.count("text=no readings") == 0
        OUT.mkdir(exist_ok=True)
        page.screenshot(OUT / f"not-stored-{shots}.png")
        assert page.axe() == []
        previews = sum(int(pane["previews"]) for pane in page.evaluate(PANES))
        ended_us = page.evaluate("Date.now()") * 1_000
    finally:
        await asyncio.to_thread(plant.system.server.start)
    page.until(f"{MARKED} === 0 && {BANNER} === ''")
    page.until(f"{PANES}.every(one => one.previews === '0')")
    compared = sum([await until_complete(plant, page, pane, key, begun_us, ended_us) for pane, key in enumerate(KEYS)])
    assert page.count("text=NOT STORED") == 0
    page.screenshot(OUT / f"stored-again-{shots}.png")
    assert [one for one in page.problems() if not re.search(UNAVAILABLE, one)] == []
    return Outage(
        begun_us, ended_us, previews, compared,
        [await plant.beats(key, begun_us - AROUND_US, ended_us + AROUND_US) for key in KEYS],
    )  # fmt: skip


@pytest.mark.row(33)
async def test_values_go_on_marked_as_not_stored_and_then_the_chart_is_complete(
    plant: Plant, browser: Browser, size: str, theme: str, row: Row
) -> None:
    outage_s = row.count(quick=3, full=60)
    page = Page(browser, plant.backend.url, size, theme, plant.session)
    try:
        outage = await look_on(plant, page, outage_s, f"{size}-{theme}")
    finally:
        page.close()
    row.record(
        done=sum(one.stored for one in outage.beats), unit="beats", refused=None, unknown=None,
        lost=sum(one.lost for one in outage.beats), twice=sum(one.twice for one in outage.beats),
        not_sampled=sum(one.not_sampled for one in outage.beats), readings_of_the_chart=outage.compared,
        previews_seen=outage.previews, outage_s=outage_s, width=size,
    )  # fmt: skip
    for one in outage.beats:
        assert (one.lost, one.twice) == (0, 0), outage
        assert one.expected >= (outage.ended_us - outage.begun_us + 2 * AROUND_US) // BEAT_US - EDGES, outage


@pytest.mark.row(33)
async def test_an_outage_finds_a_backend_that_does_not_mark_what_is_not_stored(browser: Browser, tmp_path: Path, row: Row) -> None:
    sabotage = "show_previews_as_stored"
    async with sabotaged_plant(tmp_path, sabotage) as plant:
        page = Page(browser, plant.backend.url, session=plant.session)
        try:
            with pytest.raises(AssertionError, match="data-stored=false") as found:
                await look_on(plant, page, 3, sabotage)
        finally:
            page.close()
    row.caught(
        sabotage,
        of=test_values_go_on_marked_as_not_stored_and_then_the_chart_is_complete,
        case="1440-dark",
        found=str(found.value).partition("\n")[0][:120],
    )


@pytest.mark.row(33)
async def test_an_outage_finds_a_backend_that_gives_up_what_waited(browser: Browser, tmp_path: Path, row: Row) -> None:
    """A tenth of a second, of which the chart itself shows nothing. Whether a frame of the watched device waits is chance: one of five
    outages shows it."""
    sabotage = "give_up_what_waited"
    lost = 0
    async with sabotaged_plant(tmp_path, sabotage) as plant:
        for _ in range(5):
            page = Page(browser, plant.backend.url, session=plant.session)
            try:
                outage = await look_on(plant, page, 3, sabotage)
            finally:
                page.close()
            lost = sum(one.lost for one in outage.beats)
            if lost:
                break
    row.caught(sabotage, of=test_values_go_on_marked_as_not_stored_and_then_the_chart_is_complete, case="1440-dark", lost=lost)
    assert lost


def until_six_values_follow(page: Page, *, marked: bool) -> None:
    """Until the page has shown six values of the first chosen channel, each another than the one before and all marked as not stored, or
    none."""
    where = "document.querySelector('.rows li')"
    value = f"{where}.querySelector('.rows__value').innerText"
    shown = ""
    for _ in range(6):
        shown = page.until(f"{where}.innerText.includes('NOT STORED') === {str(marked).lower()} && {value} !== {shown!r} && {value}")


async def until_complete(plant: Plant, page: Page, pane: int, key: str, begun_us: int, ended_us: int) -> int:
    """How many readings were compared, once the points of the chart stand for as many readings as are stored over the stretch they
    fill, the outage within it, and none is far from the next. Nothing is said of what is not stored."""
    seen: object = None
    try:
        async with asyncio.timeout(30):
            while True:
                shown = page.evaluate(f"({{...{PANES}[{pane}]}})")
                from_us, to_us = (round(float(shown[name]) * 1e3) for name in ("fromMs", "toMs"))
                readings = int(shown["readings"])
                is_stored = sum(from_us <= t_us <= to_us for t_us in await plant.times_us(key))
                whole = float(shown["widestMs"]) * 1_000 < APART_US_MAX and shown["breaks"] == "0"
                seen = {**shown, "stored": is_stored, "begun_us": begun_us, "ended_us": ended_us}
                if from_us < begun_us and to_us > ended_us and whole and abs(readings - is_stored) <= EDGES:
                    return readings
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(f"the chart of {key} never was complete: {seen}") from None
