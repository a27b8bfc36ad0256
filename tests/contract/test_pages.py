"""The pages name what there is: links lead to files, paths exist, and the README's commands are those of the command line."""

import argparse
import re
from pathlib import Path

import pytest

from webmacs.__main__ import parser
from webmacs.http import problem_pages

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLACES = "webmacs|controller|ingest_core|frontend|migrations|tests|deploy|docs|bench"
PROBLEMS = ROOT / "docs/api/problems.md"
BUILT = ("webmacs/static",)
"""What a build leaves; the repository does not hold it."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"(?<!!)\[[^\]]*\]\(([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@each_page
def test_every_path_of_the_repository_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(rf"`((?:{PLACES})/[\w./-]*)`", page.read_text())
    assert [path for path in named if not path.startswith(BUILT) and not (ROOT / path).exists()] == []


def test_the_page_of_problems_leads_to_each_of_them() -> None:
    listed = re.findall(r"^\| (\d+) \| \[(.+)\]\(\.\./\.\./webmacs/problems/(.+)\.md\) \| (.+) \|$", PROBLEMS.read_text(), re.MULTILINE)
    assert listed == sorted((str(page.status), slug, slug, page.title) for slug, page in problem_pages.PAGES.items())


def commands(of: argparse.ArgumentParser, prefix: str) -> set[str]:
    """Every command in full, as `webmacs admin create`."""
    below = [action for action in of._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        return {prefix}
    return set().union(*(commands(child, f"{prefix} {name}") for name, child in below[0].choices.items()))


def test_the_readme_lists_every_command_and_no_other() -> None:
    listed: set[str] = set()
    for row in re.findall(r"^\| (`webmacs .+?) \|", (ROOT / "README.md").read_text(), re.MULTILINE):
        listed |= {f"webmacs {words.removeprefix('webmacs ').removesuffix(' NAME')}" for words in re.findall(r"`([^`]+)`", row)}
    assert listed == commands(parser(), "webmacs")
