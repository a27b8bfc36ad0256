"""What is broken is refused with its reason, at every address there is: made of the routes, so a new one is in it by itself."""

import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from parts.rest import Rest

from webmacs import app
from webmacs.http import openapi, route
from webmacs.http.problem import MEDIA_TYPE
from webmacs.http.route import Route, Upload

DOCUMENT: Any = json.loads(openapi.encode(app.ROUTES, app.SOCKETS))
MISSING = "01a20a7a-1b53-79ca-9623-0f2e8d54601f"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")

READING_JSON = [one for one in app.ROUTES if one.body not in (None, bytes, Upload)]

MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda good: b"",
    "cut": lambda good: good[:-1],
    "more than one value": lambda good: good + b" {}",
    "NaN": lambda good: b"NaN",
    "a byte order mark": lambda good: b"\xef\xbb\xbf" + good,
    "UTF-16": lambda good: good.decode().encode("utf-16"),
    "a NUL at its end": lambda good: good + b"\0",
    "no UTF-8": lambda good: good[:-1] + b"\xff}",
    "a form": lambda good: b"name=a&type=sensor",
}
"""Made of a body that is right."""
OTHERWISE = {
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "a text": b'"x"',
    "an unknown field": b'{"colour of the sky": 1}',
    "a million digits": b'{"page": ' + b"1" * 1_000_000 + b"}",
}
DEEP = [shape * (1_000_000 // len(shape)) for shape in (b"[", b'{"a":', b'{"name":[', b"[[],[")]
OTHER_TYPES = [
    "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml", "application/json, text/plain",
    "application/json; charset=utf-16", "application/json; charset=latin-1", "application/jsonx", "json", "*/*", "\x80",
]  # fmt: skip
HOSTILE: dict[str, Any] = {
    "NUL": "a\0b",
    "half a character": "a\ud800",
    "1 MB": "x" * 1_000_000,
    "SQL": "'; DROP TABLE events; --",
    "10^400": 10**400,
    "2^63": 2**63,
    "-1": -1,
    "a fraction": 0.5,
    "the year 10000": "10000-01-01T00:00:00Z",
    "the year 0": "0000-01-01T00:00:00+14:00",
    "an object": {"a": {}},
    "a list": [[]],
    "null": None,
}
ALWAYS_REFUSED = ("NUL", "half a character", "1 MB")
NO_VALUES: dict[str, list[str]] = {
    "integer": ["", "x", "1.5", "9" * 5_000, "1e400", "null", "NaN", "0x1", "1_0", "1;"],
    "number": ["", "x", "1e400", "null", "NaN", "Infinity", "-inf", "1,5"],
    "boolean": ["", "x", "yes", "null", "2"],
    "uuid": ["", "x", "null", MISSING + "0", "%00"],
    "date-time": ["", "now", "2026-01-01", "2026-01-01T00:00:00", "10000-01-01T00:00:00Z", "2026-02-30T00:00:00Z", "1e9", "null"],
    "enum": ["", "x", "null", "' OR 1=1"],
    "array": ["", ",", "null", "x,", "\0"],
    "string": ["\0", "x" * 10_000],
}

each = pytest.mark.parametrize("one", app.ROUTES, ids=lambda one: f"{one.method} {one.path}")
each_with_json = pytest.mark.parametrize("one", READING_JSON, ids=lambda one: f"{one.method} {one.path}")


def address(path: str) -> str:
    return "/".join(MISSING if part.endswith("_id}") else "x" if part.startswith("{") else part for part in path.split("/"))


def operation_of(one: Route) -> Any:
    return DOCUMENT["paths"][one.path][one.method.lower()]


def good(one: Route) -> bytes:
    """A body that the route takes."""
    return json.dumps(operation_of(one)["requestBody"]["content"]["application/json"]["example"]).encode()


def judge(response: httpx.Response, *statuses: int) -> None:
    """It is a problem with one of the statuses, or, when none is given, no failure of ours."""
    told = (
        f"{response.request.method} {response.request.url} {response.request.content[:200]!r}: {response.status_code} {response.text[:500]}"
    )
    assert response.status_code in statuses if statuses else response.status_code < 500, told
    if response.status_code >= 400:
        assert response.headers["content-type"] == MEDIA_TYPE, told
        assert response.json()["status"] == response.status_code, told
        assert response.json()["detail"], told


@each_with_json
async def test_a_body_that_is_no_json_is_a_400(rest: Rest, one: Route) -> None:
    async with rest.client("admin") as client:
        for spoil in MALFORMED.values():
            judge(await client.request(one.method, address(one.path), content=spoil(good(one))), 400)


@each_with_json
async def test_json_of_another_shape_is_a_422(rest: Rest, one: Route) -> None:
    async with rest.client("admin") as client:
        for body in OTHERWISE.values():
            response = await client.request(one.method, address(one.path), content=body)
            judge(response, 422)
            assert response.json()["errors"][0]["loc"][0] == "body"


@each_with_json
async def test_json_nested_too_deeply_is_refused(rest: Rest, one: Route) -> None:
    async with rest.client("admin") as client:
        for body in DEEP:
            judge(await client.request(one.method, address(one.path), content=body), 400, 422)


@each_with_json
async def test_a_key_that_is_repeated_is_a_422_that_names_it(rest: Rest, one: Route) -> None:
    example = json.dumps(operation_of(one)["requestBody"]["content"]["application/json"]["example"])
    assert example != "{}", "its example has no field: give some of them Meta(examples=[...])"
    key, *_ = json.loads(example)
    body = example[:-1] + f', "{key}": {json.dumps(json.loads(example)[key])}' + "}"
    async with rest.client("admin") as client:
        response = await client.request(one.method, address(one.path), content=body)
    judge(response, 422)
    assert response.json()["errors"][0]["loc"] == ["body", key]


@each_with_json
async def test_a_body_of_another_type_or_character_set_is_a_415(rest: Rest, one: Route) -> None:
    async with rest.client("admin") as client:
        for media_type in OTHER_TYPES:
            headers = {"Content-Type": media_type.encode("latin-1")}
            judge(await client.request(one.method, address(one.path), content=b"{}", headers=headers), 415)  # type: ignore[arg-type]
        for media_type in ("application/json;charset=UTF-8", 'Application/JSON; charset="utf-8"', "application/json ; charset=utf8"):
            judge(await client.request(one.method, address(one.path), content=b"[]", headers={"Content-Type": media_type}), 422)


@each_with_json
async def test_no_value_in_any_field_is_our_failure(rest: Rest, one: Route) -> None:
    example = operation_of(one)["requestBody"]["content"]["application/json"]["example"]
    query = {route.DRY_RUN: "true"} if one.changes is not None else {}
    async with rest.client("admin") as client:
        for place in places(example):
            for name, value in HOSTILE.items():
                body = json.dumps(replaced(example, place, value))
                if len(body) > one.body_bytes_max:
                    continue
                response = await client.request(one.method, address(one.path), content=body, params=query)
                judge(response, *((422, 429) if name in ALWAYS_REFUSED and in_text(example, place) else ()))


def in_text(example: Any, place: tuple[Any, ...]) -> bool:
    for part in place:
        example = example[part]
    return isinstance(example, str)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the leaves of an example are."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from places(part, (*at, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*at, 0))
    else:
        yield at


def replaced(example: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    key, *rest = place
    if isinstance(example, dict):
        return example | {key: replaced(example[key], tuple(rest), value)}
    return [replaced(example[0], tuple(rest), value)]


@each
async def test_a_parameter_that_has_no_such_value_is_a_422(rest: Rest, one: Route) -> None:
    async with rest.client("admin") as client:
        for query in ("colour+of+the+sky=red", "%00=x", "x=%00", "%ED%A0%80=x", "dry_run=perhaps"):
            response = await client.request(one.method, f"{address(one.path)}?{query}")
            if one.path == "/api/v1/auth/sso/callback":  # a provider sends with it what it likes
                judge(response)
                continue
            judge(response, 422)
            assert response.json()["errors"][0]["loc"][0] == "query"
        for parameter in operation_of(one).get("parameters", []):
            if parameter.get("in") != "query":
                continue
            schema = parameter["schema"]
            kind = "enum" if "enum" in schema else schema.get("format") or schema.get("type", "string")
            if kind == "array" and schema["items"].get("type") == "string" and "format" not in schema["items"]:
                continue  # any text is one
            for value in NO_VALUES[kind]:
                if kind == "string" and "maxLength" not in schema and value != "\0":
                    continue
                judge(await client.request(one.method, address(one.path), params={parameter["name"]: value}), 422)
            if kind != "array":
                twice = [(parameter["name"], "1"), (parameter["name"], "1")]
                judge(await client.request(one.method, address(one.path), params=twice), 422)


@pytest.mark.parametrize("path", sorted({one.path for one in app.ROUTES}))
async def test_a_method_that_there_is_not_is_a_405_that_names_those_there_are(rest: Rest, path: str) -> None:
    there_are = {one.method for one in app.ROUTES if one.path == path}
    async with rest.client("admin") as client:
        for method in METHODS:
            if method in there_are or (method == "HEAD" and "GET" in there_are):
                continue
            response = await client.request(method, address(path))
            assert (response.status_code, response.headers["allow"]) == (405, ", ".join(sorted(there_are)))
            if method != "HEAD":
                judge(response, 405)


@pytest.mark.parametrize("path", sorted({one.path for one in app.ROUTES if "_id}" in one.path}))
async def test_an_id_that_is_none_is_a_404_by_every_method(rest: Rest, path: str) -> None:
    async with rest.client("admin") as client:
        for bad in ("x", "%00", "..%2f..%2fetc", MISSING + "0", "null%2Cnull", "1" * 5_000):
            for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
                judge(await client.request(method, path.replace("{public_id}", bad)), 404)


@pytest.mark.parametrize(
    "path", ["/api", "/api/", "/api/v1", "/api/v2/events", "/api/v1/events/", "/health/x", "/metricsx.txt", "/docs/none.js"]
)
async def test_what_is_not_there_is_a_404(rest: Rest, path: str) -> None:
    async with rest.client("admin") as client:
        response = await client.get(path)
        judge(response, 404)
        assert response.json()["type"] == "/problems/not-found"


async def test_head_answers_as_get_without_its_body(rest: Rest) -> None:
    async with rest.client("viewer") as client:
        for path in ("/api/v1/events", "/health", "/openapi.json", "/problems"):
            asked, told = await client.get(path), await client.head(path)
            assert (told.status_code, told.headers["content-type"]) == (asked.status_code, asked.headers["content-type"])


NAMED = {
    "events": {"type": "sensor", "unit": ""},
    "sources": {},
    "dashboards": {},
    "experiments": {},
    "tokens": {},
    "webhooks": {"url": "https://example.org/", "events": ["sensor.reading"]},
    "rules": {"event_public_id": "019a0d5e-7c00-7a41-9d3c-5b8e2f6a1c04", "operator": "gt", "threshold": 1},
    "plugins": {"source_public_id": "019a0d5e-7c00-7a41-9d3c-5b8e2f6a1c04", "plugin_id": "simulated"},
    "users": {"email": "new@example.org", "role": "viewer"},
}


@pytest.mark.parametrize("path", NAMED)
@pytest.mark.parametrize(
    "name",
    [
        "  ",
        " hall",
        "hall ",
        "hall\n",
        "a\tb",
        "\u00a0hall",
        "a\u0085b",
        "a\u2028b",
        "\u001b[0m",
        "a\u200bb",
        "\ufeffa",
        "a\u202eb",
        "a\u2060",
        "a\u00adb",
    ],
)
async def test_a_name_has_no_blanks_at_its_ends_and_no_character_that_is_not_seen(rest: Rest, path: str, name: str) -> None:
    field = "username" if path == "users" else "name"
    async with rest.client("admin") as client:
        answer = await client.post(f"/api/v1/{path}", json=NAMED[path] | {field: name})
    said = "It has no blanks at its ends, and is one line without control or invisible characters."
    assert (answer.status_code, answer.json()["errors"]) == (422, [{"loc": ["body", field], "msg": said}]), answer.text


@pytest.mark.parametrize("text", ["a\nb", "a\n", "\u001b[0m", "\t", "a\u2028b", "a\u200bb", "a\u202eb", "\u0085"])
async def test_units_groups_and_tags_are_one_line_of_what_is_seen(rest: Rest, text: str) -> None:
    said = "It is one line without control or invisible characters."
    of_tag = "It is one line without commas, control or invisible characters."
    async with rest.client("admin") as client:
        for path, field, value, told in (
            ("events", "unit", text, said), ("events", "path", f"plant/{text}", said), ("events", "tags", [text], of_tag),
            ("dashboards", "tags", [text], said), ("experiments", "tags", [text], said), ("annotations", "tags", [text], said),
        ):  # fmt: skip
            body = {"from": "2026-01-01T00:00:00Z", "text": "x"} if path == "annotations" else NAMED[path] | {"name": "one line"}
            answer = await client.post(f"/api/v1/{path}", json=body | {field: value})
            assert (answer.status_code, answer.json()["errors"][0]["msg"]) == (422, told), (path, field, answer.text)
            assert answer.json()["errors"][0]["loc"][:2] == ["body", field]


async def test_a_description_may_have_several_lines(rest: Rest) -> None:
    async with rest.client("admin") as client:
        body = {"name": "several lines", "type": "sensor", "unit": " m³/h ", "description": "two\nlines"}
        kept = await client.post("/api/v1/events", json=body)
    assert (kept.status_code, kept.json()["description"], kept.json()["unit"]) == (201, "two\nlines", " m³/h ")


async def test_a_name_of_any_script_is_kept_as_it_is(rest: Rest) -> None:
    async with rest.client("admin") as client:
        for name in ("x", "Kessel 2 – Vorlauf", "温度 1", "غلاية", "e\u0301"):
            made = await client.post("/api/v1/events", json={"name": name, "type": "sensor", "unit": ""})
            assert (made.status_code, made.json()["name"]) == (201, name)


async def test_a_name_in_a_file_or_a_list_is_judged_the_same(rest: Rest) -> None:
    async with rest.client("admin") as client:
        text = "name,type,unit\nhall ,sensor,\n"
        of_file = await client.post("/api/v1/events/import/csv", content=text, headers={"content-type": "text/csv"})
        of_list = await client.post("/api/v1/events/bulk", json={"events": [{"name": " hall", "type": "sensor", "unit": ""}]})
    assert [one.json()["errors"][0]["loc"] for one in (of_file, of_list)] == [["body", 2, "name"], ["body", "events", 0, "name"]]
    assert of_file.json()["errors"][0]["msg"] == of_list.json()["errors"][0]["msg"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [("text/csv", 200), ("text/csv; charset=UTF-8", 200), ("application/json", 415), ("text/csv; charset=latin1", 415), (None, 200)],
)
async def test_a_file_of_events_says_that_it_is_csv(rest: Rest, kind: str | None, status: int) -> None:
    headers = {} if kind is None else {"content-type": kind}
    async with rest.client("admin") as client:
        answer = await client.post(
            "/api/v1/events/import/csv", params={"dry_run": "true"}, content="name,type,unit\nHall,sensor,\n", headers=headers
        )
    assert answer.status_code == status, answer.text
    if status == 415:
        assert (answer.json()["type"], "text/csv" in answer.json()["detail"]) == ("/problems/unsupported-media-type", True)


async def test_any_body_but_an_upload_may_come_as_gzip(rest: Rest) -> None:
    def sent(body: bytes, coding: str = "gzip") -> dict[str, Any]:
        return {"content": body, "headers": {"content-encoding": coding, "content-type": "application/json"}}

    event = gzip.compress(b'{"name": "Packed", "type": "sensor", "unit": ""}')
    csv = {"content": gzip.compress(b"name,unit\nPacked,K\n"), "headers": {"content-encoding": "gzip", "content-type": "text/csv"}}
    async with rest.client("admin") as client:
        assert (await client.post("/api/v1/events", **sent(event))).json()["name"] == "Packed"
        assert (await client.post("/api/v1/events/import/csv", **csv)).json()["updated"] == 1
        bomb = gzip.compress(b'{"name": "' + b"x" * 2_000_000)
        for body, coding, status in ((b"{}", "gzip", 400), (event, "br", 415), (event, "gzip, gzip", 415), (bomb, "gzip", 413)):
            assert (await client.post("/api/v1/events", **sent(body, coding))).status_code == status
        query = {"version": "1.0.0", "file_name": "webmacs.tar.gz"}
        upload = await client.post("/api/v1/ota/upload", params=query, content=event, headers={"content-encoding": "gzip"})
        assert (upload.status_code, "without Content-Encoding" in upload.json()["detail"]) == (415, True)
