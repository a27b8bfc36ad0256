"""Holds webmacs/ingest_core.pyi to the module: the page that is read is what is there."""

import ast
import inspect
from pathlib import Path
from typing import Any

from webmacs import ingest_core

STUB = ast.parse(Path(__file__).parents[2].joinpath("webmacs", "ingest_core.pyi").read_text())
CONSTANTS = {
    node.target.id: ast.unparse(node.annotation)
    for node in STUB.body
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and "TypeAlias" not in ast.unparse(node.annotation)
}


def public(names: Any) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def parameters(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in function.args.args if argument.arg != "self"]


def signature(thing: Any) -> list[str]:
    return [name for name in inspect.signature(thing).parameters if name != "self"]


def test_the_module_has_exactly_the_names_of_its_stub() -> None:
    named = {node.name for node in STUB.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert public(dir(ingest_core)) == named | set(CONSTANTS)


def test_constants_have_the_types_of_their_stub() -> None:
    for name, annotation in CONSTANTS.items():
        kind = annotation.removeprefix("Final[").removesuffix("]").split("[")[0]
        assert type(getattr(ingest_core, name)).__name__ == kind, name


def test_functions_take_what_their_stub_says() -> None:
    for node in STUB.body:
        if isinstance(node, ast.FunctionDef):
            assert signature(getattr(ingest_core, node.name)) == parameters(node), node.name


def test_classes_have_exactly_the_members_of_their_stub() -> None:
    for node in STUB.body:
        if not isinstance(node, ast.ClassDef):
            continue
        made = getattr(ingest_core, node.name)
        if issubclass(made, Exception):
            assert [base.__name__ for base in made.__bases__] == [ast.unparse(base) for base in node.bases]
            continue
        fields = {part.target.id for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)}
        functions = {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
        assert public(vars(made)) == fields | public(functions), node.name
        for name, function in functions.items():
            if name == "__init__":
                assert signature(made) == parameters(function), node.name
            elif function.decorator_list:
                assert not callable(getattr(made, name)), name
            else:
                assert signature(getattr(made, name)) == parameters(function), (node.name, name)
