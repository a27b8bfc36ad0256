"""Delivery through everything at once: each seed is the life of a world (world.py), judged by a journal that trusts nobody.

A failure prints its seed and the end of its life; `WEBMACS_TEST_SEED=<seed> make test SUITE=simulation` lives it again.
"""

import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts.torture import Row

from simulation import sabotage
from simulation.world import World

STEPS = 1_000
TRACE = 60
TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def live(seed: int, seen: Counter[str]) -> None:
    """One life; what its witness saw goes to `seen`. Raises AssertionError for a broken promise, with what is needed to see it again."""
    world = World(seed)
    try:
        world.run(STEPS)
    except BaseException as error:
        for at_us, *what in world.trace[-TRACE:]:
            print(f"{at_us / 1e6:12.6f} s ", *what)
        error.add_note(f"This was WEBMACS_TEST_SEED={seed}, after {len(world.trace)} steps.")
        raise
    finally:
        seen.update(world.journal.seen)


@pytest.mark.row(29)
def test_whatever_happens_nothing_is_lost_nothing_is_stored_twice_and_everything_arrives_in_the_end(row: Row) -> None:
    seeds = row.count(quick=1_000, full=20_000)
    seen: Counter[str] = Counter()
    broken = 0
    try:
        for seed in range(row.seed, row.seed + seeds):
            broken = 1
            live(seed, seen)
            broken = 0
    finally:
        row.record(
            done=seen["frames stored"],
            refused=None,
            unknown=None,
            lost=seen.pop("readings lost", 0),
            twice=seen.pop("readings twice", 0),
            broken_lives=broken,
            seeds=seeds,
            **{name.replace(" ", "_"): count for name, count in sorted(seen.items())},
        )
    never = [name for name in EXPECTED if not seen[name]]
    assert not never, "these never happened, so nothing was shown about them"


EXPECTED = [
    "commits in doubt",
    "deaths in the middle of a call",
    "drops",
    "duplicate frames",
    "frames delayed under way",
    "frames lost under way",
    "frames repeated under way",
    "gaps spool_damaged",
    "gaps spool_overflow",
    "holes answered",
    "holes filled",
    "holes refused",
    "receipts delayed under way",
    "receipts lost under way",
    "receipts repeated under way",
    "segments fenced",
    *(fault.__name__ for fault in World.FAULTS),
]


@pytest.mark.row(29)
@pytest.mark.parametrize("switch", sabotage.ALL)
def test_a_broken_promise_is_found(row: Row, switch: str) -> None:
    with sabotage.ALL[switch]():
        for seed in range(1_000):
            world = World(seed)
            try:
                world.run(STEPS)
            except AssertionError as found:
                seen = world.journal.seen
                row.caught(
                    switch,
                    of=test_whatever_happens_nothing_is_lost_nothing_is_stored_twice_and_everything_arrives_in_the_end,
                    seeds=seed + 1, lost=seen["readings lost"], twice=seen["readings twice"], found=str(found),
                )  # fmt: skip
                return
    pytest.fail(f"{switch} was not found in 1,000 seeds")


def test_a_seed_is_lived_again_exactly_also_by_another_process() -> None:
    seeds = (1, 2, 3)
    here = [World(seed).run(STEPS) for seed in seeds]
    program = f"from simulation.world import World\nfor seed in {seeds}: print(World(seed).run({STEPS}))"
    for hashes in ("1", "2"):
        environment = os.environ | {"PYTHONPATH": str(TESTS), "PYTHONHASHSEED": hashes}
        there = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        assert there.stdout.split() == here
    assert len(set(here)) == len(seeds)
