"""docs/proof.md is the memory of what was proven: results of one row leave what it says of all others."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def proof() -> ModuleType:
    spec = importlib.util.spec_from_file_location("proof", ROOT / "tools/proof.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(test: str, **more: Any) -> dict[str, Any]:
    run = {"row": 5, "title": "the answer to COMMIT is lost", "commit": "0123456789", "changed": False, "seed": 7, "seconds": 12.3}
    return {**run, "test": test, "date": "2027-01-15T08:00:00+00:00", **more}


def measured(test: str, **more: Any) -> dict[str, Any]:
    counts = {"done": 1234, "unit": "frames", "refused": 0, "unknown": None, "lost": 0, "twice": 0, "figures": {"in_doubt": 9}}
    return result(test, **counts | more)


def rows(page: str) -> dict[str, str]:
    return {line.split(" | ")[2]: line for line in page.splitlines() if line.startswith("| ") and line[2].isdecimal()}


def test_results_of_one_row_leave_all_others_as_they_are(proof: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (ROOT / "docs/proof.md").read_text("utf-8")
    page, results = tmp_path / "proof.md", tmp_path / "torture.jsonl"
    page.write_text(before, "utf-8")
    test = "lost_commits_and_lost_answers_store_everything_once"
    results.write_text(json.dumps(measured(test)) + "\n", "utf-8")
    monkeypatch.setattr(proof, "PAGE", page)
    monkeypatch.setattr(proof, "RESULTS", results)
    proof.main()
    old, new = rows(before), rows(page.read_text("utf-8"))
    tried = test.replace("_", " ")
    assert old.keys() == new.keys()
    assert {name for name in old if old[name] != new[name]} == {tried}
    assert "| 1,234 / 0 / – | 0 / 0 | in doubt 9 |" in new[tried]
    assert new[tried].split(" | ")[6] == old[tried].split(" | ")[6]  # what was found when it was broken


def test_the_newest_counts_and_a_test_remembers_each_sabotage_of_its_own(proof: ModuleType) -> None:
    once = proof.page(
        "",
        [
            measured("a_test", done=1),
            result("b", sabotage="first", of="a_test", figures={"lost": 1, "found": "x|y"}),
            measured("a_test"),
        ],
    )
    again = proof.page(once, [result("b", sabotage="second", of="a_test", figures={"twice": 2}), measured("another_test")])
    assert [line.split(" | ")[2] for line in again.splitlines() if line.startswith("| 5 ")] == ["a test", "another test"]
    assert "| `first`: lost 1, found x/y; `second`: twice 2 |" in rows(again)["a test"]
    assert "`" not in rows(again)["another test"]
    assert "1,234" in rows(again)["a test"]


def test_without_new_results_the_page_is_as_it_was(proof: ModuleType) -> None:
    before = (ROOT / "docs/proof.md").read_text("utf-8")
    assert proof.page(before, []) == before
