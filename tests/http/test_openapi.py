"""The OpenAPI document says what is served: no more, no less, and nothing of it is left to guess."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import msgspec
import openapi_spec_validator
import pytest
from parts.rest import Rest

from webmacs import app
from webmacs.http import access, openapi
from webmacs.http.example import Examples, Recursive
from webmacs.http.problem import MEDIA_TYPE, ProblemDocument
from webmacs.http.problem_pages import PAGES
from webmacs.http.route import Route, Upload
from webmacs.http.shape import IN_WORDS, NAME

DOCUMENT = json.loads(openapi.encode(app.ROUTES, app.SOCKETS))
CHECKER = jsonschema.FormatChecker(["uuid", "date-time", "date", "time"])

each_route = pytest.mark.parametrize("one", app.ROUTES, ids=lambda one: f"{one.method} {one.path}")


def operation_of(one: Route) -> Any:
    return DOCUMENT["paths"][one.path][one.method.lower()]


def resolved(thing: Any) -> Any:
    while "$ref" in thing:
        at = DOCUMENT
        for part in thing["$ref"].removeprefix("#/").split("/"):
            at = at[part]
        thing = at
    return thing


def faults(example: Any, schema: Any) -> list[str]:
    """What a schema of the document holds against an example."""
    validator = jsonschema.Draft202012Validator(schema | {"components": DOCUMENT["components"]}, format_checker=CHECKER)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(example)]


def test_the_document_is_valid_openapi_3_1() -> None:
    openapi_spec_validator.validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1")


def test_every_route_is_in_the_document_and_nothing_else() -> None:
    described = {(method.upper(), path) for path, operations in DOCUMENT["paths"].items() for method in operations}
    assert described == {(one.method, one.path) for one in app.ROUTES}
    assert described == {row for row in access.TABLE if row[0] != "WS" and row not in app.PAGES}


def test_every_socket_is_in_the_document_with_who_may_open_it() -> None:
    assert {one["path"] for one in DOCUMENT["x-websockets"]} == {path for method, path in access.TABLE if method == "WS"}
    for one in DOCUMENT["x-websockets"]:
        assert one["summary"]
        assert "Role" in one["description"]
        assert ({"source": []} in one["security"]) is access.TABLE["WS", one["path"]].source


@each_route
def test_a_route_is_described_in_words(one: Route) -> None:
    operation = operation_of(one)
    assert operation["summary"], "its handler has no docstring"
    missing = [parameter["name"] for parameter in map(resolved, operation.get("parameters", [])) if not parameter.get("description")]
    assert missing == [], "parameters without Meta(description=...)"


@each_route
def test_a_route_shows_a_body_that_it_takes(one: Route) -> None:
    """It fails for a field whose example cannot be guessed: give it Meta(examples=[...])."""
    if one.body is None:
        assert "requestBody" not in operation_of(one)
        return
    shown = operation_of(one)["requestBody"]["content"]
    if not isinstance(one.accepts, str):  # the handler reads it
        assert shown.keys() == one.accepts.keys()
        for media_type, kind in one.accepts.items():
            assert faults(shown[media_type]["example"], shown[media_type]["schema"]) == []
            msgspec.convert(shown[media_type]["example"], kind)
        return
    ((media_type, content),) = shown.items()
    if one.body in (bytes, Upload):
        assert media_type == one.accepts != "application/json"
        assert ("example" in content) is media_type.startswith("text/")
        return
    assert faults(content["example"], content["schema"]) == []
    msgspec.convert(content["example"], one.body)


@each_route
def test_a_route_shows_each_of_its_answers(one: Route) -> None:
    for status, answer in operation_of(one)["responses"].items():
        answer = resolved(answer)
        assert answer["description"]
        assert "X-Request-ID" in answer["headers"]
        assert (status in ("204", "302", "304")) is ("content" not in answer)
        for media_type, content in answer.get("content", {}).items():
            if media_type == one.produces != "application/json" and not media_type.startswith("text/"):
                assert content["schema"]["format"] == "binary"
                continue
            shown = (
                [resolved(example)["value"] for example in content["examples"].values()] if "examples" in content else [content["example"]]
            )
            assert [fault for example in shown for fault in faults(example, content["schema"])] == []
            assert shown
            if media_type == MEDIA_TYPE:
                assert {str(example["status"]) for example in shown} == {status}
    assert ("Location" in operation_of(one)["responses"][str(one.status)]["headers"]) is (one.status in (201, 302))


@each_route
def test_a_route_names_the_problems_that_follow_from_what_it_is(one: Route) -> None:
    operation = operation_of(one)
    assert bool(operation["security"]) is not one.access.public
    scopes = [way["token"] for way in operation["security"] if "token" in way]
    assert scopes == ([] if one.access.public or one.access.session else [[access.scope_of(one.method, one.path)]])
    if operation["security"]:
        assert {"401", "403", "503"} <= operation["responses"].keys()
    if one.body in (bytes, Upload):
        assert {"408", "413", "422"} <= operation["responses"].keys()
    elif one.body is not None:
        assert {"400", "408", "413", "415", "422"} <= operation["responses"].keys()
    assert {str(PAGES[slug].status) for slug in operation["x-problem-types"]} <= operation["responses"].keys()


def test_a_problem_of_the_document_is_one_of_the_pages() -> None:
    for slug, example in DOCUMENT["components"]["examples"].items():
        problem = msgspec.convert(example["value"], ProblemDocument)
        assert (problem.kind, problem.status, problem.title) == (f"/problems/{slug}", PAGES[slug].status, PAGES[slug].title)


def test_what_has_several_addresses_says_what_it_is_about() -> None:
    assert {tag["name"] for tag in DOCUMENT["tags"] if tag["description"]} == {one.tag for one in app.ROUTES}


def test_operation_names_are_unique() -> None:
    names = [operation["operationId"] for operations in DOCUMENT["paths"].values() for operation in operations.values()]
    assert len(names) == len(set(names))


def test_every_pattern_of_what_is_asked_has_words_for_a_refusal() -> None:
    patterns = set(_patterns(DOCUMENT))
    assert NAME in patterns
    assert patterns - IN_WORDS.keys() == set()


def _patterns(thing: Any) -> Iterator[str]:
    match thing:
        case {"in": "header"}:  # is judged by itself
            return
        case dict():
            if isinstance(thing.get("pattern"), str):
                yield thing["pattern"]
            for part in thing.values():
                yield from _patterns(part)
        case list():
            for part in thing:
                yield from _patterns(part)


def test_every_time_in_the_document_has_its_format() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        for field, kind in schema.get("properties", {}).items():
            if field.endswith("_on") or field == "timestamp":
                assert "date-time" in json.dumps(kind), (name, field)


async def test_the_document_is_served_to_everybody(rest: Rest) -> None:
    async with rest.client() as client:
        response = await client.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == DOCUMENT


@pytest.mark.parametrize(
    ("schema", "example"),
    [
        ({"type": "string", "examples": ["a", "b"]}, "a"),
        ({"const": "line"}, "line"),
        ({"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 5}]}, 5),
        ({"type": "integer", "exclusiveMaximum": 0}, -1),
        ({"type": "number", "maximum": 1}, 1),
        ({"type": "string", "minLength": 12, "maxLength": 12}, "field......."),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"type": "string", "default": "x"}, "x"),
        ({"$ref": "#/components/schemas/Tree"}, {"name": "name", "parts": []}),
        ({"anyOf": [{"$ref": "#/components/schemas/Tower"}, {"type": "boolean"}]}, True),
        ({}, {}),
    ],
)
def test_an_example_is_made_of_what_the_schema_says(schema: Any, example: Any) -> None:
    tree = {"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string"}, "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}},
        "above": {"$ref": "#/components/schemas/Tree"}}}  # fmt: skip
    tower = {"type": "object", "required": ["above"], "properties": {"above": {"$ref": "#/components/schemas/Tower"}}}
    examples = Examples({"Tree": tree, "Tower": tower})
    assert examples.of(schema, "field") == example
    with pytest.raises(Recursive):
        examples.of({"$ref": "#/components/schemas/Tower"})
