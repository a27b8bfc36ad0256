"""Rows of proof: a fault, thrown often enough, and what must hold. `make test` runs each at a small count, `make torture` at the full one.

    @pytest.mark.row(1)
    async def test_kills_of_the_backend_lose_nothing(row: Row) -> None:
        for _ in range(row.count(quick=5, full=200)):
            await asyncio.sleep(row.chance.uniform(0.2, 3))
            ...
        row.record(done=..., refused=..., unknown=..., lost=verdict.lost, twice=verdict.twice, kills=...)
        assert (verdict.lost, verdict.twice) == (0, 0)
        if row.torture:
            assert worst_s <= 5  # times are judged here only

    @pytest.mark.row(1)
    async def test_an_acknowledgement_before_the_commit_is_found(row: Row) -> None:
        ...  # the same, in a process that is started with the sabotage (parts/sabotage.py)
        row.caught("acknowledge_before_commit", of=test_kills_of_the_backend_lose_nothing, lost=verdict.lost)
        assert verdict.lost > 0

A line of JSON for each call at full counts goes to bench/results/torture.jsonl; tools/proof.py makes docs/proof.md of it.
"""

import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parents[2]
RESULTS: Final = ROOT / "bench/results/torture.jsonl"
ROWS: Final = {
    1: "the backend is killed",
    2: "the controller is killed",
    3: "PostgreSQL is killed or stopped",
    4: "PostgreSQL is away",
    5: "the answer to COMMIT is lost",
    6: "two hold the same source",
    7: "a half-open socket",
    8: "a slow reader",
    9: "a slow sender",
    10: "a part is frozen and thawed",
    11: "the network is cut between two parts",
    13: "the controller's disk is full or fails",
    14: "the spool is full",
    15: "the spool is damaged",
    17: "the controller's disk is put back to an older image",
    18: "the backend is restored from an older backup",
    19: "the clock is set",
    20: "readings come in any order",
    21: "compaction is killed",
    29: "the simulator, every fault together",
    30: "hostile messages in the core",
    31: "hostile sockets",
    32: "a panic inside the core",
    33: "nothing can be stored while somebody looks",
    34: "loss that is declared",
    35: "a long load",
}
"""The faults, by their number: what `make torture ROW=n` runs."""


class Row:
    """One test of a row: how often it throws its fault, its chance, and where its result goes."""

    def __init__(self, number: int, test: str, torture: bool) -> None:
        self.number = number
        self.test = test
        self.torture = torture
        """Full counts, alone on the machine: only now may a time be judged."""
        self.seed = int(os.environ.get("WEBMACS_TEST_SEED", time.time_ns() % 1_000_000_000))
        print(f"WEBMACS_TEST_SEED={self.seed}")
        self.chance = random.Random(self.seed)
        self._began = time.monotonic()

    def count(self, quick: int, full: int) -> int:
        return full if self.torture else quick

    def record(
        self, *, done: int | None, unit: str = "frames", refused: int | None, unknown: int | None, lost: int | None, twice: int | None,
        **figures: float | str,
    ) -> None:  # fmt: skip
        """One result: how many of `unit` were done, refused, and under way with a fate unknown; readings lost and readings stored twice;
        and figures of the row's own. None is what this test did not count. Call it before the assertions, so that a failure is on record
        too."""
        self._write({"done": done, "unit": unit, "refused": refused, "unknown": unknown, "lost": lost, "twice": twice, "figures": figures})

    def caught(self, sabotage: str, *, of: Callable[..., object], case: str | None = None, **figures: float | str) -> None:
        """The check of the test `of`, and of no other, turned red under this sabotage; `figures` say by what. `case`: the id of the one
        that stands for the sabotaged, when the test has parameters."""
        name = _shown(of.__name__)
        self._write({"sabotage": sabotage, "of": name if case is None else f"{name}[{case}]", "figures": figures})

    def _write(self, result: dict[str, object]) -> None:
        line = {
            "row": self.number,
            "title": ROWS[self.number],
            "test": self.test,
            "seed": self.seed,
            "commit": _git("rev-parse", "--short=10", "HEAD"),
            "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._began, 1),
            **result,
        }
        print(json.dumps(line))
        if self.torture:
            RESULTS.parent.mkdir(exist_ok=True)
            with RESULTS.open("a") as file:
                file.write(json.dumps(line) + "\n")


def _shown(test: str) -> str:
    return test.removesuffix("[uvloop]").removeprefix("test_")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


# what tests/conftest.py takes over


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="only tests of rows, at full counts, and judge their times")
    parser.addoption("--row", type=int, action="append", help="only tests of this row (repeatable)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(number): a row of proof; its test takes the fixture `row` (tests/parts/torture.py)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a torture run: only rows, in their order. Raises for a number that is no row."""
    numbers = {item: number_of(item) for item in items}
    asked = config.getoption("--row")
    if unknown := set(asked or ()) - ROWS.keys():
        raise pytest.UsageError(f"there is no row {unknown}; there are {', '.join(map(str, ROWS))}")
    if not asked and not config.getoption("--torture"):
        return
    kept = [item for item in items if (number := numbers[item]) is not None and (not asked or number in asked)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = sorted(kept, key=lambda item: numbers[item] or 0)


def number_of(item: pytest.Item) -> int | None:
    marker = item.get_closest_marker("row")
    if marker is None:
        return None
    (number,) = marker.args
    if number not in ROWS:
        raise pytest.UsageError(f"{item.nodeid}: there is no row {number} in tests/parts/torture.py")
    return int(number)


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Row:
    number = number_of(request.node)
    assert number is not None, "a test that takes the fixture `row` is marked @pytest.mark.row(NUMBER)"
    return Row(number, _shown(request.node.name), request.config.getoption("--torture"))
