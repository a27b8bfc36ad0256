"""Settings of a plugin against the JSON Schema that its source has described: what Python makes of types (msgspec, pydantic) is judged.

The schema comes from a controller, so it is not trusted: one that is none says nothing, nothing is fetched for it, its patterns are run by
an engine that takes linear time, and the judging ends when it has had its steps. What is not judged here the plugin judges when it reads
its settings. This is why no library for all of JSON Schema is used: it would follow references into the network, repeat itself without end
and run any pattern.
"""

import asyncio
import operator
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, Final, TypeAlias, Union

import msgspec
from msgspec import UNSET
from pydantic import StringConstraints, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from webmacs import logs
from webmacs.http.problem import FieldError, Unprocessable

log = logs.get(__name__)

STEPS_MAX: Final = 20_000
"""Values compared with schemas, some 50 ms; 64 KiB of settings have 30,000 at most, and those of real plugins some dozens."""
PATTERN_STEPS: Final = 500
"""What a pattern counts for: up to 50 ms to make one, up to 100 ms to search a text of TEXT_MAX with it."""
TEXT_MAX: Final = 1_000
"""No longer text is searched."""
FAULTS_MAX: Final = 100
"""So many are told; with texts of the schema they could be long."""
SHOWN_MAX: Final = 200
"""Characters of a schema's values and patterns in a fault."""

Part: TypeAlias = Union["Schema", bool]
Number: TypeAlias = int | float


class Schema(msgspec.Struct, frozen=True, rename="camel"):
    """The words of JSON Schema 2020-12 that are understood; others are left to the plugin."""

    ref: str | None = msgspec.field(name="$ref", default=None)
    defs: dict[str, Part] = msgspec.field(name="$defs", default_factory=dict)
    any_of: list[Part] | None = None
    all_of: list[Part] = []
    type: str | list[str] | None = None
    enum: list[Any] | None = None
    const: Any = UNSET
    minimum: Number | None = None
    maximum: Number | None = None
    exclusive_minimum: Number | None = None
    exclusive_maximum: Number | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    items: Part = True
    prefix_items: list[Part] = []
    min_items: int | None = None
    max_items: int | None = None
    properties: dict[str, Part] = {}
    pattern_properties: dict[str, Any] = {}
    additional_properties: Part = True
    required: list[str] = []
    min_properties: int | None = None
    max_properties: int | None = None


TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "null": (type(None),), "number": (int, float),
    "integer": (int,),
}  # fmt: skip
NOUNS: Final[Mapping[str, str]] = {
    "object": "an object", "array": "a list", "string": "a text", "boolean": "true or false", "null": "null", "number": "a number",
    "integer": "an integer",
}  # fmt: skip


class _Unjudged(Exception):
    """The schema says something that is no schema, or too much."""


async def check(settings: Any, schema: Mapping[str, Any], *place: str) -> None:
    """For settings that are at this place of the request. Raises Unprocessable with everything that the schema holds against them."""
    if faults := await asyncio.to_thread(_judge, settings, schema, place):
        raise Unprocessable(faults)


def _judge(settings: Any, schema: Mapping[str, Any], place: tuple[str, ...]) -> list[FieldError]:
    found: list[FieldError] = []
    try:
        whole = msgspec.convert(schema, Schema)
        found.extend(islice(_Judgement(whole).faults(whole, settings, list(place)), FAULTS_MAX))
    except (msgspec.ValidationError, RecursionError, _Unjudged) as error:
        log.warning("settings_not_judged", reason=str(error)[:200])
    return found


class _Judgement:
    def __init__(self, whole: Schema) -> None:
        self._whole = whole
        self._left = STEPS_MAX

    def faults(self, part: Part, value: Any, loc: list[str | int]) -> Iterator[FieldError]:
        """Raises _Unjudged, or RecursionError for a schema that is about itself."""
        if isinstance(part, bool):
            self._spend(1)
            if not part:
                yield FieldError(loc, "There is no such setting.")
            return
        types = [part.type] if isinstance(part.type, str) else part.type or []
        self._spend(1 + len(types) + len(part.enum or ()) + len(part.required))
        if part.ref is not None:
            yield from self.faults(self._referred(part.ref), value, loc)
        for one in part.all_of:
            yield from self.faults(one, value, loc)
        if part.any_of is not None:
            yield from self._faults_of_all(part.any_of, value, loc)
        if types and not _is_of(value, types):
            yield FieldError(loc, f"It has to be {' or '.join(dict.fromkeys(NOUNS[one] for one in types))}.")
            return
        if part.const is not UNSET and not _same(value, part.const):
            yield FieldError(loc, f"It has to be {_shown([part.const])}.")
        if part.enum is not None and not any(_same(value, one) for one in part.enum):
            yield FieldError(loc, f"It has to be one of {_shown(part.enum)}.")
        match value:
            case str():
                yield from self._of_text(part, value, loc)
            case int() | float() if not isinstance(value, bool):
                yield from _of_number(part, value, loc)
            case list():
                yield from self._of_list(part, value, loc)
            case dict():
                yield from self._of_object(part, value, loc)

    def _spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise _Unjudged("it takes too many steps")

    def _referred(self, ref: str) -> Part:
        if ref == "#":
            return self._whole
        try:
            return self._whole.defs[ref.removeprefix("#/$defs/")]
        except KeyError:
            raise _Unjudged(f"there is no {ref} in it") from None

    def _faults_of_all(self, parts: list[Part], value: Any, loc: list[str | int]) -> Iterator[FieldError]:
        """Nothing, if it is one of these; where only one is no null, what is wrong as that one."""
        found = [list(self.faults(one, value, loc)) for one in parts]
        if all(found):
            meant = [faults for one, faults in zip(parts, found, strict=True) if not (isinstance(one, Schema) and one.type == "null")]
            yield from meant[0] if len(meant) == 1 else [FieldError(loc, "It has none of the forms that the plugin knows.")]

    def _of_text(self, part: Schema, value: str, loc: list[str | int]) -> Iterator[FieldError]:
        yield from _of_size(part.min_length, part.max_length, len(value), "characters", loc)
        if part.pattern is not None and len(value) <= TEXT_MAX:
            self._spend(PATTERN_STEPS)
            if not _matches(part.pattern, value):
                yield FieldError(loc, f"It has to match {_cut(part.pattern)}")

    def _of_list(self, part: Schema, value: list[Any], loc: list[str | int]) -> Iterator[FieldError]:
        yield from _of_size(part.min_items, part.max_items, len(value), "items", loc)
        for index, item in enumerate(value):
            yield from self.faults(part.prefix_items[index] if index < len(part.prefix_items) else part.items, item, [*loc, index])

    def _of_object(self, part: Schema, value: dict[str, Any], loc: list[str | int]) -> Iterator[FieldError]:
        yield from _of_size(part.min_properties, part.max_properties, len(value), "entries", loc)
        for name in part.required:
            if name not in value:
                yield FieldError([*loc, name], "It is missing.")
        others = True if part.pattern_properties else part.additional_properties
        for name, one in value.items():
            yield from self.faults(part.properties.get(name, others), one, [*loc, name])


def _is_of(value: Any, types: list[str]) -> bool:
    """Raises _Unjudged."""
    for one in types:
        if one not in TYPES:
            raise _Unjudged(f"there is no type {one}")
        whole = one == "integer" and isinstance(value, float) and value.is_integer()
        if whole or (isinstance(value, TYPES[one]) and (one == "boolean" or not isinstance(value, bool))):
            return True
    return False


def _of_number(part: Schema, value: Number, loc: list[str | int]) -> Iterator[FieldError]:
    for bound, fits, words in (
        (part.minimum, operator.ge, "at least"),
        (part.maximum, operator.le, "at most"),
        (part.exclusive_minimum, operator.gt, "more than"),
        (part.exclusive_maximum, operator.lt, "less than"),
    ):
        if bound is not None and not fits(value, bound):
            yield FieldError(loc, f"It has to be {words} {bound}.")


def _of_size(least: int | None, most: int | None, size: int, what: str, loc: list[str | int]) -> Iterator[FieldError]:
    if least is not None and size < least:
        yield FieldError(loc, f"It has at least {least} {what}.")
    if most is not None and size > most:
        yield FieldError(loc, f"It has at most {most} {what}.")


def _matches(pattern: str, text: str) -> bool:
    """A pattern that the engine does not know, as one that looks ahead, matches anything."""
    try:
        TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)]).validate_python(text)  # in Rust, in linear time
    except SchemaError:
        return True
    except ValidationError:
        return False
    return True


def _same(value: Any, other: Any) -> bool:
    """As JSON has it: true is not 1, but 1.0 is."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _shown(values: list[Any]) -> str:
    return _cut(", ".join(msgspec.json.encode(one).decode() for one in values))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."
