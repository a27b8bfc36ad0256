"""What requests and answers are made of: the base of bodies and queries, the types that several of them share, and the ways from a row and
into one."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from operator import itemgetter
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

import asyncpg
import msgspec
from msgspec import UNSET, Meta

T = TypeVar("T", bound=msgspec.Struct)

LINE: Final = (
    r"^(?![\s\S]*[\u0000-\u001f\u007f-\u009f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff])"  # refused wherever they stand
)
"""Pattern of a text of one line without characters that are not seen: controls, blanks of no width, changes of the writing direction."""
NAME: Final = LINE + r"\S(.*\S)?$"
"""Pattern of what a thing is called and found by: besides, no blanks at its ends. Names may look alike nevertheless: two blanks within are
not one, and é is not e with an accent; each is kept as it was written."""
LABEL: Final = LINE + r"(\S(.*\S)?)?$"
"""The same of what may be empty."""
WORD: Final = LINE + "[^,]+$"
"""Pattern of a tag that can stand in a list with commas."""
TEXT: Final = r"\S"
"""Pattern of what must say something."""
EMAIL: Final = r"^[^@\s]+@[^@\s]+$"
SEMVER: Final = (
    r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$(?!\n)"
)
FILE_NAME: Final = r"^[^/\\\x00-\x1f\x7f]+$"
LANGUAGE: Final = "^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$"
TIME_OF_DAY: Final = "^([01][0-9]|2[0-3]):[0-5][0-9]$"
COLOUR: Final = "^#[0-9a-fA-F]{6}$"
PLUGIN_ID: Final = r"^[a-z0-9][a-z0-9_.-]*$"
IN_WORDS: Final = {
    LINE: "It is one line without control or invisible characters.",
    NAME: "It has no blanks at its ends, and is one line without control or invisible characters.",
    LABEL: "It has no blanks at its ends, and is one line without control or invisible characters.",
    WORD: "It is one line without commas, control or invisible characters.",
    TEXT: "It holds more than blanks.",
    EMAIL: "It is an e-mail address, as operator@example.org, without blanks.",
    SEMVER: "It is a version after semver.org, as 1.4.0 or 1.4.0-rc.1.",
    FILE_NAME: "It is the name of a file, without a path.",
    LANGUAGE: "It is the tag of a language, as en or de-CH.",
    TIME_OF_DAY: "It is a time of the day, as 06:00.",
    COLOUR: "It is a colour, as #1e88e5.",
    PLUGIN_ID: "It has small letters, digits, _, . and -, and begins with a letter or digit.",
}

YEAR_MIN: Final = 1970
YEAR_MAX: Final = 2200

Timestamp: TypeAlias = Annotated[datetime, Meta(tz=True)]
"""RFC 3339 with a zone; a time without one is refused. Use only this: a bare datetime would take any."""

Tag: TypeAlias = Annotated[str, Meta(min_length=1, max_length=50, pattern=LINE)]
Tags: TypeAlias = Annotated[
    list[Tag],
    Meta(max_length=50, description="Words to find it by; one with a comma cannot be asked for in a query.", examples=[["commissioning"]]),
]


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every body and query: what is not named is refused, never ignored."""


class DeleteQuery(Shape, frozen=True):
    """Of what has readings: they are asked about."""

    data: Annotated[Literal["keep", "delete"], Meta(description="What becomes of its readings; delete: a job deletes them.")] = "keep"


def of_row(kind: type[T], row: asyncpg.Record, **made: Any) -> T:
    """The Struct whose fields are columns of the row, but for those that are made of them."""
    if made:
        return kind(**{name: made[name] if name in made else row[name] for name in kind.__struct_fields__})
    return kind(*_columns_of(kind)(row))


@cache
def _columns_of(kind: type[msgspec.Struct]) -> Callable[[asyncpg.Record], tuple[Any, ...]]:
    """Takes them out of a row in the order of the fields, without a step of Python's for each."""
    return itemgetter(*kind.__struct_fields__)


def fields_given(change: Shape) -> dict[str, Any]:
    """The fields that a partial change gives; the others stay as they are."""
    return {name: value for name in change.__struct_fields__ if (value := getattr(change, name)) is not UNSET}


def check_range(start: datetime | None, end: datetime | None) -> None:
    """For `__post_init__` of what has `from` and `to`. Raises ValueError (a 422) when they are reversed or no times of readings."""
    for moment in (start, end):
        if moment is not None and not YEAR_MIN < moment.year < YEAR_MAX:
            raise ValueError(f"Times lie between the years {YEAR_MIN + 1} and {YEAR_MAX - 1}.")
    if start is not None and end is not None and start.astimezone(UTC) > end.astimezone(UTC):
        raise ValueError("`from` lies after `to`; exchange them.")


def tidy_tags(tags: list[str]) -> list[str]:
    """Without spaces around them, and each once."""
    return list(dict.fromkeys(tidy for tag in tags if (tidy := tag.strip())))
