"""Passwords that are guessed first: the commonest ones, the product's and the user's own words, and what only looks longer than it is."""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final

REPEATED_MAX: Final = 8
"""A part of up to this length that is only repeated counts as itself."""
OWN_WORDS: Final = frozenset(
    {"webmacs", "sensor", "sensors", "controller", "dashboard", "experiment", "operator", "viewer", "admin", "administrator", "automation"}
)
EDGES: Final = "0123456789 !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
"""What people put around a word to make it longer."""


def reason(password: str, *own: str) -> str | None:
    """Why it is guessed soon, as a sentence; None when it is not. `own`: words of the user's, as e-mail and name."""
    text = password.casefold()
    unit = _unit(text)
    known = _common() | OWN_WORDS | {part for word in own for part in _parts(word)}
    words = {word.strip(EDGES) for word in text.replace("-", " ").replace("_", " ").replace(".", " ").split()} - {""}
    if not known.isdisjoint({text, unit, unit.strip(EDGES)}) or (words and words <= known):
        return "It is made of common passwords, the user's own words or those of this product; choose another."
    if (unit != text and len(unit) <= REPEATED_MAX) or _counts(text):
        return "It repeats a short part, or counts; choose another."
    return None


def _unit(text: str) -> str:
    """The shortest part whose repetition the text is."""
    return text[: (text + text).index(text, 1)]


def _counts(text: str) -> bool:
    """Whether each digit follows the one before it in equal steps, as 1234567890123."""
    return text.isdecimal() and len({(int(b) - int(a)) % 10 for a, b in pairwise(text)}) == 1


def _parts(word: str) -> set[str]:
    """A name or an e-mail, whole and in its parts of three characters and more."""
    whole = word.casefold()
    parts = {whole, whole.partition("@")[0], *whole.replace("@", " ").replace(".", " ").replace("-", " ").replace("_", " ").split()}
    return {part for part in parts if len(part) >= 3}


@cache
def _common() -> frozenset[str]:
    lines = Path(__file__).with_name("common_passwords.txt").read_text("utf-8").splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))
