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
value, its sender keeps a journal of what was acknowledged, and the checker (`tests/parts/journal.py`) reads every stored run: *lost* are
acknowledged readings that are not stored, *twice* are copies beyond the first. *Unknown* are frames that were under way when the fault
struck. A check counts only once it has been seen to fail: the last column names the promise that was broken on purpose
(`tests/parts/sabotage.py`) and how the same check found it.

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
        f"{result['done']:,} / {result['refused']:,} / {result['unknown']:,}",
        f"{result['lost']} / {result['twice']}",
        figures(result),
        "; ".join(f"`{name}`: {by}" for name, by in caught.items()),
        f"{result['commit']}{'+' if result['changed'] else ''}, {result['date'][:10]}, {result['seconds']:,.0f} s, seed {result['seed']}",
    ]
    return f"| {' | '.join(cells)} |\n"


def figures(result: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in result["figures"].items())


if __name__ == "__main__":
    main()
