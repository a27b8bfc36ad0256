"""What one sees is what is stored."""

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal

from e2e.browser import Page
from e2e.conftest import Installation
from parts.installation import eventually


def test_the_chart_of_the_real_processor_moves(look: Callable[..., Page], installation: Installation) -> None:
    page = look()
    page.goto(f"/?c={installation.channels()['system.cpu_total']['public_id']}")
    page.wait_for_chart()
    before = page.chart()[0]
    picture = "document.querySelector('.pane__plot canvas').toDataURL()"
    drawn = page.evaluate(picture)
    page.until(f"document.querySelector('.pane__plot').dataset.newestMs >= {before['newestMs'] + 2_000}")
    page.until(f"document.querySelector('.pane__plot').dataset.points >= {before['points'] + 2}")
    assert page.evaluate(picture) != drawn


def shown(value: float, decimals: int | None) -> str:
    """A value as the page writes it."""
    places = Decimal(1).scaleb(-(2 if decimals is None else decimals))
    return f"{Decimal(value).quantize(places, ROUND_HALF_UP):,}".replace("-", "−")


def test_the_values_shown_are_the_ones_stored(look: Callable[..., Page], installation: Installation) -> None:
    """Channels of one reading a second: between two of them page and database stand still long enough to be compared."""
    page = look()
    page.goto("/")
    page.wait_for_chart()
    channels = [one for one in installation.channels().values() if one["expected_interval_ms"] == 1_000]
    assert len(channels) > 8
    rows = """Object.fromEntries([...document.querySelectorAll('tbody tr:has(input)')].map(
        row => [row.querySelector('input').id.slice('pick-'.length), row.querySelector('.row__value').innerText]))"""
    compared: list[tuple[dict[str, str], dict[str, str]]] = []

    def stood_still() -> bool:
        before, texts, after = installation.latest(), page.evaluate(rows), installation.latest()
        seen = {one["name"]: texts[one["public_id"]] for one in channels}
        stored = {one["name"]: shown(before[one["public_id"]][1], one["decimals"]) for one in channels}
        compared.append((seen, stored))
        return all(before[one["public_id"]] == after[one["public_id"]] for one in channels) and seen == stored

    for _ in range(3):
        known = installation.latest()[channels[0]["public_id"]]
        eventually(lambda known=known: installation.latest()[channels[0]["public_id"]] != known, "the next reading is stored")  # type: ignore[misc]
        eventually(stood_still, f"the page shows what is stored; last: {compared[-1:]}")
    assert len({str(seen) for seen, _ in compared}) > 1, "the values have never moved"


def test_a_search_and_a_choice_are_kept_by_the_address(look: Callable[..., Page], installation: Installation) -> None:
    page = look()
    page.goto("/")
    page.wait_for_chart()
    page.press("/")
    page.fill("input[type=search]", "reactor pressure")
    page.wait_for_path("/?q=reactor+pressure")
    page.until("document.querySelectorAll('.desk__channels tbody tr').length === 1")
    page.click(".desk__channels tbody tr")
    page.until("document.querySelectorAll('.pane__plot').length === 3")
    page.reload()
    page.wait_for_chart()
    assert page.count(".desk__channels tbody tr") == 1
    assert page.count(".pane__plot") == 3
