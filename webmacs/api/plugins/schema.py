"""Settings of a plugin against the JSON Schema that its source has described.

The schema comes from a controller, so it is not trusted: nothing is fetched for it, its patterns are run by an engine that takes linear
time, and one that is no schema says nothing. What is not judged here the plugin judges when it reads its settings.
"""

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import jsonschema_rs
import orjson

from webmacs import logs
from webmacs.http.problem import FieldError, Unprocessable

log = logs.get(__name__)

REFERENCES_MAX: Final = 40
"""Beyond it nobody can say what a schema costs: parts that name two others each double the work with every step."""
FAULTS_MAX: Final = 100
MESSAGE_MAX: Final = 300
"""Characters; a schema's own texts and values can be long."""


async def check(settings: Any, schema: dict[str, Any], *place: str) -> None:
    """For settings that are at this place of the request. Raises Unprocessable with what the schema holds against them."""
    if faults := await asyncio.to_thread(_judge, settings, schema, place):
        raise Unprocessable(faults)


def _judge(settings: Any, schema: dict[str, Any], place: tuple[str, ...]) -> list[FieldError]:
    try:
        if orjson.dumps(schema).count(b'"$ref"') > REFERENCES_MAX:
            raise ValueError(f"it has more than {REFERENCES_MAX} references")
        judge = jsonschema_rs.Draft202012Validator(schema, offline=True, mask="it", pattern_options=jsonschema_rs.RegexOptions())
        return [fault for error in islice(judge.iter_errors(settings), FAULTS_MAX) for fault in _faults(error, place)]
    except (ValueError, jsonschema_rs.ReferencingError) as error:  # it is no schema
        log.warning("settings_not_judged", reason=str(error)[:MESSAGE_MAX])
        return []


def _faults(error: jsonschema_rs.ValidationError, place: tuple[str, ...]) -> Iterator[FieldError]:
    """What is missing or too much is said where it would stand."""
    loc = [*place, *error.instance_path]
    match error.kind:
        case jsonschema_rs.ValidationErrorKind.Required(property=name):
            yield FieldError([*loc, name], "It is missing.")
        case jsonschema_rs.ValidationErrorKind.AdditionalProperties(unexpected=names):
            yield from (FieldError([*loc, name], "There is no such setting.") for name in names)
        case jsonschema_rs.ValidationErrorKind.FalseSchema():
            yield FieldError(loc, "There is no such setting.")
        case _:
            yield FieldError(loc, f"{error.message[0].upper()}{error.message[1:MESSAGE_MAX]}.")
