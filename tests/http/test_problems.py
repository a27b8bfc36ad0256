"""Every problem that can be answered has a page, which says its cause and cure; there is no page of another."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from parts.rest import Rest

from webmacs.http import problem_pages
from webmacs.http.openapi import USUAL
from webmacs.http.problem_pages import PAGES

PACKAGE = Path(problem_pages.__file__).parents[1]
SHORT = {"Forbidden": (403, "forbidden", "Forbidden", 1)}
"""Those whose type is an argument with a default: status, type, title, and which argument it is."""


def constructed() -> Iterator[tuple[str, int, str, str]]:
    """(where, status, type, title) of every Problem(...) and of every short form of it in the sources."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            where = f"{file.relative_to(PACKAGE)}:{node.lineno}"
            name = ast.unparse(node.func)
            if name == "PartialWrite":  # a problem with a field more
                said = {one.arg: one.value.value for one in node.keywords if isinstance(one.value, ast.Constant)}
                yield where, said["status"], said["kind"].removeprefix("/problems/"), said["title"]
            elif name == "Problem" or (name == "super().__init__" and len(node.args) >= 4):
                yield where, *(_literal(argument, where) for argument in node.args[:3])  # type: ignore[misc]
            elif name in SHORT:
                status, slug, title, place = SHORT[name]
                given = [*node.args[place : place + 1], *(one.value for one in node.keywords if one.arg == "type")]
                yield where, status, _literal(given[0], where) if given else slug, title


def _literal(node: ast.expr, where: str) -> object:
    """A problem is written out where it is raised, so that this test can read it."""
    if isinstance(node, ast.Name) and node.id == "type":  # of Forbidden, whose callers are read themselves
        return "forbidden"
    assert isinstance(node, ast.Constant), f"{where}: status, type and title of a problem are literals"
    return node.value


def test_a_problem_has_the_status_and_title_of_its_page() -> None:
    wrong = {
        where: (status, slug, title)
        for where, status, slug, title in constructed()
        if slug not in PAGES or (PAGES[slug].status, PAGES[slug].title) != (status, title)
    }
    assert wrong == {}, "webmacs/problems has no such page, or it says otherwise"


def test_a_page_is_of_a_problem_that_there_is() -> None:
    assert PAGES.keys() == {slug for _, _, slug, _ in constructed()}


def test_the_usual_type_of_a_status_has_that_status() -> None:
    assert {status: PAGES[slug].status for status, slug in USUAL.items()} == {status: status for status in USUAL}


@pytest.mark.parametrize("text", ["", "# Title\n\nStatus 400.\n", "# Title\n\nStatus 40.\n\n> x\n\n**Cause.** x\n\n**Cure.** x\n"])
def test_a_page_of_another_form_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.md").write_text(text)
    with pytest.raises(ValueError, match=r"odd\.md"):
        problem_pages.read(tmp_path)


async def test_the_type_of_a_problem_is_the_address_of_its_page(rest: Rest) -> None:
    async with rest.client() as client:
        problem = (await client.get("/api/v1/events")).json()
        page = await client.get(problem["type"])
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert problem["title"] in page.text
        for slug, text in PAGES.items():
            page = await client.get(f"/problems/{slug}")
            assert page.status_code == 200
            assert "<strong>Cause.</strong>" in page.text
            assert "<strong>Cure.</strong>" in page.text
            assert f"Status {text.status}." in page.text
            assert not any(mark in page.text for mark in ("**", "`"))


async def test_the_list_of_problems_leads_to_each_page(rest: Rest) -> None:
    async with rest.client() as client:
        listed = (await client.get("/problems")).text
        for slug in PAGES:
            assert f'href="/problems/{slug}"' in listed
        missing = await client.get("/problems/nothing")
        assert (missing.status_code, missing.json()["type"]) == (404, "/problems/not-found")
