"""Imports go one way, so that the tree can be read as the data's way and no cycle is ever cured inside a function."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ORDER = (
    "settings",
    "clock",
    "logs",
    "keys",
    "guessable",
    "ingest_core",
    "storage",
    "accounts",
    "wheel",
    "oidc",
    "http",
    "fanout",
    "reactions",
    "telemetry",
    "jobs",
    "api",
    "live",
    "app",
    "processes",
    "instance",
    "postgres",
    "commands.database",
    "commands.making",
    "supervisor",
    "commands",
    "__main__",
)
"""Each may import those before it and itself. The backend ends with `app`; what starts, runs and ends processes follows it."""

LATE: dict[tuple[str, str], str] = {
    ("webmacs.commands.serve", "webmacs.app"): "the worker alone needs the application: the process that waits for it starts without",
    ("webmacs.oidc", "httpx"): "single sign-on is off in most installations, and its two libraries take 0.2 s to load",
    ("webmacs.oidc", "joserfc"): "the same",
    ("webmacs.oidc", "joserfc.errors"): "the same",
    ("webmacs.oidc", "joserfc.jwk"): "the same",
    ("webmacs.supervisor", "webmacs.commands.making"): "it adds 6 MB to a process that stays, and only a first start needs it",
    ("webmacs.storage.migrate", "alembic"): "it adds 63 MB to a process, and only `webmacs migrate` needs it",
    ("webmacs.storage.migrate", "alembic.config"): "the same",
}
"""Imports inside functions, each with its reason."""


def modules(folder: Path, package: str) -> dict[str, Path]:
    """{dotted name: file} of a package; a stub stands for a native module."""
    files = [*(folder / package).rglob("*.py"), *(folder / package).rglob("*.pyi")]
    return {".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


WEBMACS = modules(ROOT, "webmacs")
CONTROLLER = modules(ROOT / "controller", "webmacs_controller")
KNOWN = WEBMACS | CONTROLLER


def imported(node: ast.AST) -> Iterator[str]:
    """Modules of ours that an import statement names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module is not None:
        names = [f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in KNOWN else node.module for alias in node.names]
    else:
        return
    yield from (name for name in names if name.partition(".")[0] in ("webmacs", "webmacs_controller"))


def tree(file: Path) -> ast.Module:
    """A native module imports nothing of ours, and its stub is written for newer readers than this interpreter."""
    return ast.parse("" if file.suffix == ".pyi" else file.read_text())


def imports_of(file: Path) -> set[str]:
    return {name for node in ast.walk(tree(file)) for name in imported(node)}


def inside_functions(file: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import that is not made when the module is."""
    for function in ast.walk(tree(file)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    yield node.lineno, next(imported(node), getattr(node, "module", None) or "")


def place(module: str) -> int | None:
    """Where a module of webmacs stands in ORDER; its longest prefix counts."""
    inner = module.removeprefix("webmacs.")
    fitting = [entry for entry in ORDER if inner == entry or inner.startswith(f"{entry}.")]
    return ORDER.index(max(fitting, key=len)) if fitting else None


def test_every_module_has_its_place_in_the_order() -> None:
    assert [module for module in WEBMACS if module != "webmacs" and place(module) is None] == []


@pytest.mark.parametrize("module", sorted(WEBMACS))
def test_a_module_imports_only_what_stands_before_it(module: str) -> None:
    own = place(module)
    used = {name: place(name) for name in imports_of(WEBMACS[module]) if name.startswith("webmacs.")}
    assert [name for name, theirs in used.items() if theirs is None or own is None or theirs > own] == []


@pytest.mark.parametrize("module", sorted(CONTROLLER))
def test_the_controller_imports_nothing_of_the_backend(module: str) -> None:
    assert [name for name in imports_of(CONTROLLER[module]) if name.partition(".")[0] == "webmacs"] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter({module: imports_of(file) - {module} for module, file in KNOWN.items()}).prepare()


def test_no_import_stands_inside_a_function_without_a_reason() -> None:
    found = {(module, name): line for module, file in KNOWN.items() for line, name in inside_functions(file)}
    assert {key: line for key, line in found.items() if key not in LATE} == {}
    assert LATE.keys() - found.keys() == set()
