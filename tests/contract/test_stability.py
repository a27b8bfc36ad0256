"""What was released stays: a client of v1 as it was released works with v1 as it is."""

import copy
import json
from typing import Any

import pytest
from api_release import RELEASED, breaks

from webmacs.app import ROUTES, SOCKETS
from webmacs.http.openapi import document

OLD: Any = {
    "paths": {
        "/things": {
            "get": {
                "security": [],
                "parameters": [
                    {"name": "sort", "in": "query", "schema": {"enum": ["name", "-name"]}},
                    {"name": "page", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100}},
                    {"$ref": "#/components/parameters/key"},
                ],
                "responses": {
                    "200": {
                        "headers": {"X-Request-ID": {}},
                        "content": {"application/json": {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}}}},
                    },
                    "404": {},
                },
            },
            "post": {
                "security": [{"bearer": []}],
                "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ThingIn"}}}},
                "responses": {"201": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}}},
            },
            "delete": {"responses": {"204": {}}},
        }
    },
    "components": {
        "parameters": {"key": {"name": "key", "in": "header", "schema": {"type": "string", "maxLength": 9}}},
        "examples": {"conflict": {}},
        "schemas": {
            "Thing": {
                "type": "object",
                "required": ["id", "state", "value", "parts"],
                "properties": {
                    "id": {"type": "string", "format": "uuid"},
                    "state": {"enum": ["on", "off"]},
                    "value": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                    "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}},
                },
            },
            "ThingIn": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "minLength": 1, "maxLength": 50},
                    "kind": {"enum": ["a", "b"]},
                    "value": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                    "scope": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"const": "all"}]},
                },
            },
        },
    },
    "x-websockets": [{"path": "/ws"}],
}
THINGS, THING, THING_IN = "new['paths']['/things']", "new['components']['schemas']['Thing']", "new['components']['schemas']['ThingIn']"


def test_a_client_of_the_released_document_works_with_the_present_one() -> None:
    """When it fails, add beside what there is. What is only added is released by `make api-release`."""
    assert breaks(json.loads(RELEASED.read_text()), json.loads(json.dumps(document(ROUTES, SOCKETS)))) == []


def changed(statement: str) -> Any:
    new = copy.deepcopy(OLD)
    exec(statement, {"new": new})
    return new


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("del new['paths']['/things']", "GET /things: it is gone"),
        (f"del {THINGS}['post']", "POST /things: it is gone"),
        ("del new['x-websockets'][0]", "WS /ws: it is gone"),
        ("del new['components']['examples']['conflict']", "/problems/conflict: it is gone"),
        (f"{THINGS}['get']['security'] = [{{'bearer': []}}]", "GET /things: it needs a credential now"),
        (f"del {THINGS}['get']['parameters'][0]", "GET /things: query sort: it is gone"),
        (f"{THINGS}['get']['parameters'][0]['schema']['enum'] = ['name']", "GET /things: query sort: it takes fewer values: ['-name']"),
        (f"{THINGS}['get']['parameters'][1]['schema']['maximum'] = 99", "GET /things: query page: maximum is 99 now"),
        (f"{THINGS}['get']['parameters'][1]['required'] = True", "GET /things: query page: it must be sent now"),
        ("new['components']['parameters']['key']['schema']['maxLength'] = 8", "GET /things: header key: maxLength is 8 now"),
        ("new['components']['parameters']['key']['schema']['pattern'] = 'x'", "GET /things: header key: pattern is x now"),
        (
            f"{THINGS}['get']['responses']['202'] = {THINGS}['get']['responses'].pop('200')",
            "GET /things: it answered 200 and answers 202 now",
        ),
        (f"del {THINGS}['get']['responses']['200']['headers']['X-Request-ID']", "GET /things 200: header X-Request-ID: it is gone"),
        (f"{THINGS}['get']['responses']['200']['content'] = {{'text/csv': {{}}}}", "GET /things 200: application/json: it is gone"),
        (f"{THINGS}['delete']['responses']['204']['content'] = {{'text/csv': {{}}}}", "DELETE /things 204: it has a body now"),
        (f"{THINGS}['delete']['requestBody'] = {{'required': True}}", "DELETE /things: a body must be sent now"),
        (f"del {THINGS}['post']['requestBody']", "POST /things: it takes no body now"),
        (f"{THINGS}['post']['requestBody']['content'] = {{}}", "POST /things: body application/json: it is gone"),
        (f"{THING_IN}['required'].append('kind')", "POST /things: body.kind: it must be sent now"),
        (f"del {THING_IN}['properties']['kind']", "POST /things: body.kind: it is gone"),
        (f"{THING_IN}['properties']['kind']['enum'] = ['a', 'c']", "POST /things: body.kind: it takes fewer values: ['b']"),
        (f"{THING_IN}['properties']['name']['minLength'] = 2", "POST /things: body.name: minLength is 2 now"),
        (f"{THING_IN}['properties']['name'] = {{'type': 'integer'}}", "POST /things: body.name: it took string and takes integer now"),
        (f"{THING_IN}['properties']['value'] = {{'type': 'number'}}", "POST /things: body.value: it took null and takes number now"),
        (f"del {THING_IN}['properties']['scope']['anyOf'][1]", "POST /things: body.scope: it took string and takes array now"),
        (f"del {THING}['properties']['value']", "POST /things 201.value: it is gone"),
        (f"{THING}['required'].remove('value')", "POST /things 201.value: it may be missing now"),
        (f"{THING}['properties']['value'] = {{'type': 'string'}}", "POST /things 201.value: it was null or number and is string now"),
        (
            f"{THING}['properties']['value']['anyOf'].append({{'type': 'string'}})",
            "POST /things 201.value: it was null or number and is string now",
        ),
        (f"{THING}['properties']['state']['enum'] = ['on']", "POST /things 201.state: values are gone: ['off']"),
        (f"del {THING}['properties']['id']['format']", "POST /things 201.id: format was uuid and is None now"),
    ],
)
def test_what_would_break_a_client_is_found(statement: str, fault: str) -> None:
    assert fault in breaks(OLD, changed(statement))


@pytest.mark.parametrize(
    "statement",
    [
        "pass",
        f"new['paths']['/others'] = {THINGS}",
        f"{THINGS}['put'] = {THINGS}['post']",
        f"{THINGS}['get']['parameters'].append({{'name': 'search', 'in': 'query', 'schema': {{'type': 'string'}}}})",
        f"{THINGS}['get']['parameters'][0]['schema']['enum'].append('age')",
        f"{THINGS}['get']['parameters'][1]['schema']['maximum'] = 1000",
        f"{THINGS}['get']['responses']['429'] = {{}}",
        f"{THINGS}['get']['responses']['304'] = {{}}",
        f"{THINGS}['get']['responses']['200']['headers']['ETag'] = {{}}",
        f"{THINGS}['delete']['requestBody'] = {{'required': False}}",
        f"{THING_IN}['properties']['colour'] = {{'type': 'string'}}",
        f"{THING_IN}['required'] = []",
        f"{THING_IN}['properties']['name']['maxLength'] = 60",
        f"{THING_IN}['properties']['kind']['enum'].append('c')",
        f"{THING_IN}['properties']['scope']['anyOf'].append({{'type': 'null'}})",
        f"{THING}['properties']['colour'] = {{'type': 'string'}}",
        f"{THING}['required'].append('colour')",
        f"{THING}['properties']['state']['enum'].append('broken')",
        f"{THING}['properties']['value'] = {{'type': 'integer'}}",
        "new['components']['examples']['gone'] = {}",
    ],
)
def test_what_is_added_breaks_nobody(statement: str) -> None:
    assert breaks(OLD, changed(statement)) == []
