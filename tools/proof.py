"""Writes docs/proof.md from bench/results/torture.jsonl: of each row's each test the newest result at full counts."""

import json
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
what is stored (`tests/parts/journal.py` and `tests/parts/ledger.py`; the simulator and the tests of the spool have models of their own).

*Done* and *refused* are counted in the unit that stands with them, frames where none does; *unknown* are those whose fate was not known
when the fault struck. *Lost* are readings that had to be stored and are not, *twice* are readings that are stored again.
"–" is what a test does not count: it says nothing about it. A check counts only once it has been seen to fail: the column "found when
broken" names the promise that was broken on purpose (`tests/parts/sabotage.py`) and how the check of that row found it; where it is empty,
nothing was broken.

| # | fault | what was tried | done / refused / unknown | lost / twice | figures | found when broken | run |
|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    if not RESULTS.exists():
        sys.exit(f"{RESULTS} does not exist: `make torture` writes it.")
    newest: dict[tuple[int, str], dict[str, Any]] = {}
    caught: dict[int, dict[str, str]] = {}
    for line in RESULTS.read_text("utf-8").splitlines():
        result = json.loads(line)
        if "sabotage" in result:
            caught.setdefault(result["row"], {})[result["sabotage"]] = figures(result)
        else:
            newest[result["row"], result["test"]] = result
    PAGE.write_text(HEAD + "".join(table_row(newest[key], caught.get(key[0], {})) for key in sorted(newest)), "utf-8")
    print(f"docs/proof.md: {len(newest)} results")


def table_row(result: dict[str, Any], caught: dict[str, str]) -> str:
    cells = [
        str(result["row"]),
        result["title"],
        result["test"].replace("_", " "),
        f"{' / '.join(counted(result[name]) for name in ('done', 'refused', 'unknown'))}{unit(result)}",
        f"{counted(result['lost'])} / {counted(result['twice'])}",
        figures(result),
        "; ".join(f"`{name}`: {by}" for name, by in caught.items()),
        f"{result['commit']}{'+' if result['changed'] else ''}, {result['date'][:10]}, {result['seconds']:,.0f} s, seed {result['seed']}",
    ]
    return f"| {' | '.join(cells)} |\n"


def counted(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def unit(result: dict[str, Any]) -> str:
    return "" if result.get("unit", "frames") == "frames" else f" {result['unit']}"


def figures(result: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in result["figures"].items())


if __name__ == "__main__":
    main()
