"""Writes docs/proof.md: of each row's each test the newest result at full counts, and under which sabotages its own check turned red.

The page is the memory. bench/results/torture.jsonl holds what was run on this machine and is committed nowhere, so what it has no newer
result for stays as it is on the page. A row whose test was renamed or removed must be deleted there by hand. A sabotage of a test that
was never measured waits for it.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench/results/torture.jsonl"
PAGE = ROOT / "docs/proof.md"
HEAD = """# What was proven

Each row is a fault of the list in `tests/parts/torture.py`, thrown at the real parts as often as it says. `make torture` runs them all and
writes this page, `make torture ROW=1` one of them; `make test` runs the same checks at small counts. A reading carries its identity in its
value, its sender keeps a journal of what was acknowledged, and a checker that trusts no counter of the system compares the journal with
what is stored (`tests/parts/journal.py` and `tests/parts/ledger.py`; the simulator, the tests of the spool and those of compaction have
models of their own). The exception: row 33 runs bundled devices, whose readings carry no identity, and counts beats of 0.1 s.
What was found on the way, and how it was mended: [faults found](faults-found.md).

*Done* and *refused* are counted in the unit that stands with them, frames where none does; *unknown* are those whose fate was not known
when the fault struck. *Lost* are readings that had to be stored and are not, *twice* are readings that are stored again.
In runs of 2026-11-29 or later every tenth frame of the senders declares a gap instead; the figure *gaps* says how many stand as they were
declared, and *gaps lost* and *gaps twice* are judged as readings are.
"–" is what a test does not count: it says nothing about it. A check counts only once it has been seen to fail: the column "found when
broken" names the promise that was broken on purpose (most in `tests/parts/sabotage.py`, some in the test's own file) while that very test's
fault was thrown, or a short form of it, and what its check found then. Where it is empty nobody has seen this test's check fail: another
test of the row may have been, which is a check of its own.

Of the memory that a hostile message may take (30): four times the frame, plus the 16 bytes of each reading that is stored, because a small
whole number is one byte in an array on the wire and 16 with its time in the buffer, which the credit bounds; a refused frame is judged
without any memory but its refusal's words, at most 320 bytes however long it is (a text: four times itself and 1 KiB).

Of the sixty freezes of row 10 nine last 30 s, the others 0.5 to 5 s.

This page remembers: `tools/proof.py` puts in what was run anew, and what was run earlier or elsewhere stays.

| # | fault | what was tried | done / refused / unknown | lost / twice | figures | found when broken | run |
|---|---|---|---|---|---|---|---|
"""


ROW, TRIED, CAUGHT = 0, 2, 6
"""Columns of the table."""


def main() -> None:
    if not RESULTS.exists():
        sys.exit(f"{RESULTS} does not exist: `make torture` writes it.")
    results = [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()]
    PAGE.write_text(page(PAGE.read_text("utf-8"), results), "utf-8")
    print(f"docs/proof.md: {len(results)} results put in")


def page(before: str, results: list[dict[str, Any]]) -> str:
    """The page as it was with the results put in, the last of each kind."""
    rows: dict[tuple[int, str], list[str]] = {}
    caught: dict[tuple[int, str], dict[str, str]] = {}
    for line in before.splitlines():
        cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
        if cells[ROW].isdecimal():
            number = int(cells[ROW])
            rows[number, cells[TRIED]] = cells
            caught.setdefault((number, cells[TRIED]), {}).update(_CAUGHT.findall(cells[CAUGHT]))
    for result in results:
        if "sabotage" in result:
            if "of" in result:  # earlier ones do not say whose check it was
                caught.setdefault((result["row"], shown(result["of"])), {})[result["sabotage"]] = figures(result)
        else:
            cells = table_row(result)
            rows[result["row"], cells[TRIED]] = cells
    for key, cells in rows.items():
        cells[CAUGHT] = "; ".join(f"`{name}`: {by}" for name, by in caught.get(key, {}).items())
    return HEAD + "".join(f"| {' | '.join(rows[key])} |\n" for key in sorted(rows))


_CAUGHT = re.compile(r"`(\w+)`: (.*?)(?=; `\w+`: |$)")


def table_row(result: dict[str, Any]) -> list[str]:
    return [
        str(result["row"]),
        result["title"],
        shown(result["test"]),
        f"{' / '.join(counted(result[name]) for name in ('done', 'refused', 'unknown'))}{unit(result)}",
        f"{counted(result['lost'])} / {counted(result['twice'])}",
        figures(result),
        "",
        f"{result['commit']}{'+' if result['changed'] else ''}, {result['date'][:10]}, {result['seconds']:,.0f} s, seed {result['seed']}",
    ]


def shown(test: str) -> str:
    return test.replace("_", " ")


def counted(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def unit(result: dict[str, Any]) -> str:
    return "" if result.get("unit", "frames") == "frames" else f" {result['unit']}"


def figures(result: dict[str, Any]) -> str:
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in result["figures"].items())
    return " ".join(said.replace("|", "/").split())  # a cell is one line, and ends at a bar


if __name__ == "__main__":
    main()
