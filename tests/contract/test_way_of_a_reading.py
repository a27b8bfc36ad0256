"""docs/architecture.md leads through the code by name: every function of the way of one reading exists where the page says."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
STEPS = re.findall(r"^\| (\d+) \| `([^`]+)` \| `([^`]+)` \| .+ \|$", PAGE, re.MULTILINE)


def qualified_names(body: list[ast.stmt], prefix: str = "") -> set[str]:
    """Functions of a module and methods of its classes, as `Class.method`."""
    names = {prefix + node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return names.union(*(qualified_names(node.body, f"{prefix}{node.name}.") for node in body if isinstance(node, ast.ClassDef)))


def functions(file: Path) -> set[str]:
    text = file.read_text()
    if file.suffix == ".py":
        return qualified_names(ast.parse(text).body)
    keyword = "fn" if file.suffix == ".rs" else "function"
    return set(re.findall(rf"\b{keyword} (\w+)", text))


def test_the_way_has_every_step_in_order() -> None:
    assert [int(number) for number, _, _ in STEPS] == list(range(1, len(STEPS) + 1))
    assert len(STEPS) == 29


@pytest.mark.parametrize(("where", "function"), [(where, function) for _, where, function in STEPS])
def test_a_step_is_a_function_that_exists(where: str, function: str) -> None:
    assert function in functions(ROOT / where)
