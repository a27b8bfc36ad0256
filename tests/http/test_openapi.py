"""The OpenAPI document says what is served: no more, no less."""

import json

import openapi_spec_validator
import pytest
from parts.rest import Rest

from webmacs import app
from webmacs.http import access, openapi

DOCUMENT = json.loads(openapi.encode(app.ROUTES))


def test_the_document_is_valid_openapi_3_1() -> None:
    openapi_spec_validator.validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1")


def test_every_route_is_in_the_document_and_nothing_else() -> None:
    described = {(method.upper(), path) for path, operations in DOCUMENT["paths"].items() for method in operations}
    assert described == {(one.method, one.path) for one in app.ROUTES}
    assert described == {row for row in access.TABLE if row[0] != "WS" and row not in app.PAGES}


@pytest.mark.parametrize("one", app.ROUTES, ids=lambda one: f"{one.method} {one.path}")
def test_every_route_is_described_in_words_with_its_problems(one: object) -> None:
    operation = DOCUMENT["paths"][one.path][one.method.lower()]  # type: ignore[attr-defined]
    assert operation["summary"]
    assert operation["description"]
    assert bool(operation["security"]) is not one.access.public  # type: ignore[attr-defined]
    if operation["security"]:
        assert {"401", "403", "503"} <= operation["responses"].keys()
    if "requestBody" in operation:
        assert {"400", "413", "422"} <= operation["responses"].keys()


def test_operation_names_are_unique() -> None:
    names = [operation["operationId"] for operations in DOCUMENT["paths"].values() for operation in operations.values()]
    assert len(names) == len(set(names))


def test_every_time_in_the_document_has_its_format() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        for field, kind in schema.get("properties", {}).items():
            if field.endswith("_on"):
                assert "date-time" in json.dumps(kind), (name, field)


async def test_the_document_is_served_to_everybody(rest: Rest) -> None:
    async with rest.client() as client:
        response = await client.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == DOCUMENT
