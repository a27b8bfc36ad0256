"""What msgspec says of a value that it does not take, in words: where it stands, what is wrong, and what may stand there."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import msgspec
from msgspec.inspect import DictType, EnumType, ListType, LiteralType, Metadata, StructType, Type, UnionType

from webmacs.http.problem import FieldError
from webmacs.http.shape import IN_WORDS

STEP: Final = re.compile(r"\[(\d+|\.\.\.)\]|\.([^.\[\]]+)")
"""Of `$.path[0].field`; `[...]` is some value of an object whose keys are not known."""
OTHER_KIND: Final = re.compile(r"Expected `([a-z0-9 |]+)`, got `([a-z]+)`")
WANTED: Final[Mapping[str, str]] = {
    "array": "a list", "bool": "true or false", "datetime": "a time", "float": "a number", "int": "a whole number", "object": "an object",
    "str": "text", "uuid": "a UUID",
}  # fmt: skip
FOUND: Final[Mapping[str, str]] = {**WANTED, "float": "a fraction"}
TIME: Final = "A time is written as 2026-11-23T12:00:00Z, or with an offset in place of Z"


def field_error(
    place: Sequence[str | int],
    error: msgspec.ValidationError,
    kind: Any,
    within: Sequence[str | int] = (),
    *,
    text: bool = False,
    also: Sequence[str] = (),
) -> FieldError:
    """Of a value at `place`, which was to be a `kind`; the error is of the part `within` it. `text`: it came as text, as in a query, of
    which `also` names parameters that are not in the `kind`.

    msgspec says `<message> - at `$.path[0]``; an unknown or missing field is reported at its parent.
    """
    message, _, path = str(error).partition(" - at `$")
    steps = [int(index) if index.isdecimal() else name or index for index, name in STEP.findall(path.rstrip("`"))]
    found = _found([_described(kind)], [*within, *steps])
    msg = in_words(message, text=text)
    if message.startswith("Invalid enum value "):
        msg += _choice("it is one of", (value for one in found for value in _values(one)))
    elif message.startswith("Invalid value "):  # of the field that says which of several objects it is
        parents = _structs(_found([_described(kind)], [*within, *steps[:-1]]))
        msg += _choice("it is one of", (one.tag for one in parents if one.tag_field == steps[-1]))
    elif message.startswith(("Object contains unknown field `", "Object missing required field `")):
        steps.append(message.split("`")[1])
        if message.startswith("Object contains") and len(known := _structs(found)) == 1:
            names = [*(field.encode_name for field in known[0].fields), *also]
            msg = f"There is no such {'parameter' if text else 'field'}" + (_choice("there are", names) or "; there is none here.")
    return FieldError([*place, *within, *(step for step in steps if step != "...")], msg)


def in_words(message: str, *, text: bool = False) -> str:
    """Without a pattern that nobody wants to read, and without the names that Python has for things. `text`: the value came as text."""
    if message == "Invalid RFC3339 encoded datetime":
        return TIME + (", whose + is %2B in an address." if text else ".")
    if other := OTHER_KIND.fullmatch(message):
        wanted = [WANTED.get(name, name) for name in other[1].split(" | ") if not text or name != "null"]
        return f"It is {' or '.join(wanted)}." if text else f"It is {' or '.join(wanted)}, not {FOUND.get(other[2], other[2])}."
    return next((words for pattern, words in IN_WORDS.items() if f"regex {pattern!r}" in message), message)


@cache
def _described(kind: Any) -> Type:
    return msgspec.inspect.type_info(kind)


def _found(types: Iterable[Type], steps: Sequence[str | int]) -> list[Type]:
    """What may stand there: the members of a union, each by itself."""
    here = [member for one in types for member in _members(one)]
    if not steps:
        return here
    step, *further = steps
    below: list[Type] = []
    for one in here:
        match one:
            case ListType():
                below.append(one.item_type)
            case DictType():
                below.append(one.value_type)
            case StructType():
                below += [field.type for field in one.fields if field.encode_name == step]
    return _found(below, further)


def _members(one: Type) -> list[Type]:
    match one:
        case Metadata():
            return _members(one.type)
        case UnionType():
            return [member for part in one.types for member in _members(part)]
    return [one]


def _structs(types: Iterable[Type]) -> list[StructType]:
    return [one for one in types if isinstance(one, StructType)]


def _values(one: Type) -> Iterable[Any]:
    match one:
        case LiteralType():
            return sorted(one.values, key=lambda value: (str(value).lstrip("-"), str(value)[:1] == "-"))  # name, -name, type, -type
        case EnumType():
            return [member.value for member in one.cls]
    return ()


def _choice(words: str, values: Iterable[Any]) -> str:
    said = ", ".join(map(str, values))
    return f"; {words}: {said}." if said else ""
