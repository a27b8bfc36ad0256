"""Broken and hostile requests get a clear refusal: a 4xx with its reason, never a 500, and nothing is stored."""

import json
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from parts.rest import Rest

from webmacs.http import route

EVENT = {"name": "one", "type": "sensor", "unit": "°C"}


def with_(**fields: Any) -> bytes:
    return json.dumps(EVENT | fields).encode()


MALFORMED = {
    "nothing": b"",
    "cut": b'{"name": "a"',
    "trailing bytes": with_() + b" {}",
    "NaN": b'{"name": "a", "type": "sensor", "unit": "", "min_value": NaN}',
    "Infinity": b'{"name": "a", "type": "sensor", "unit": "", "min_value": -Infinity}',
    "BOM": b"\xef\xbb\xbf" + with_(),
    "invalid UTF-8": b'{"name": "\xff\xfe"}',
    "UTF-16": with_().decode().encode("utf-16"),
    "a bare NUL": b'{"name": "a\0b"}',
    "binary": bytes(range(256)),
}
UNPROCESSABLE = {
    "no object": b"[]",
    "null": b"null",
    "unknown field": with_(colour="red"),
    "missing field": b'{"name": "a"}',
    "wrong type": with_(min_value="1"),
    "a bool for a number": with_(min_value=True),
    "10^400": with_(min_value=0).replace(b": 0", b": 1" + b"0" * 400),
    "1e400": with_(min_value=0).replace(b": 0", b": 1e400"),
    "empty name": with_(name=""),
    "long name": with_(name="x" * 401),
    "1 MB name": with_(name="x" * 1_000_000),
    "NUL": with_(name="a\0b"),
    "NUL in a tag": with_(unit="\0"),
    "lone surrogate": b'{"name": "a\\ud800b", "type": "sensor", "unit": ""}',
    "lone surrogate at the end": b'{"name": "a\\udfff", "type": "sensor", "unit": ""}',
    "type outside the list": with_(type="SENSOR"),
    "decimals below": with_(decimals=-1),
    "decimals above": with_(decimals=13),
    "interval 0": with_(expected_interval_ms=0),
    "interval 10^-9": with_(expected_interval_ms=1e-9),
    "interval 2^31": with_(expected_interval_ms=2**31),
    "interval 2^63": with_(expected_interval_ms=2**63),
    "interval 2^64": with_(expected_interval_ms=2**64),
    "interval of 30 digits": with_(expected_interval_ms=10**30),
    "bounds crossed": with_(min_value=2, max_value=1),
    "10^6 keys": b"{" + b",".join(b'"%d":0' % i for i in range(100_000)) + b"}",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_no_json_is_a_400(rest: Rest, body: bytes) -> None:
    async with rest.client("admin") as client:
        response = await client.post("/api/v1/events", content=body)
    assert (response.status_code, response.json()["type"]) == (400, "/problems/malformed")


@pytest.mark.parametrize("body", UNPROCESSABLE.values(), ids=UNPROCESSABLE)
async def test_json_of_another_shape_is_a_422_that_names_the_place(rest: Rest, body: bytes) -> None:
    async with rest.client("admin") as client:
        response = await client.post("/api/v1/events", content=body)
        assert (await client.get("/api/v1/events")).json()["total"] == 0
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["loc"][0] == "body"
    assert error["msg"]


@pytest.mark.parametrize("shape", ["[", '{"a":', '{"name":[', "[[],["])
async def test_json_nested_too_deeply_is_refused(rest: Rest, shape: str) -> None:
    body = (shape * (1_000_000 // len(shape))).encode()
    async with rest.client("admin") as client:
        for path in ("/api/v1/events", "/api/v1/experiments", "/api/v1/auth/login"):
            assert (await client.post(path, content=body)).status_code in (400, 422)


async def test_a_body_is_counted_to_its_last_byte(rest: Rest) -> None:
    async def chunks(size: int) -> Any:
        for at in range(0, size, 65_536):
            yield b" " * min(65_536, size - at)

    async with rest.client("admin") as client:
        for content in (b" " * route.BODY_BYTES_MAX, chunks(route.BODY_BYTES_MAX)):
            assert (await client.post("/api/v1/events", content=content)).status_code == 400
        for content in (b" " * (route.BODY_BYTES_MAX + 1), chunks(route.BODY_BYTES_MAX + 1)):
            response = await client.post("/api/v1/events", content=content)
            assert response.status_code == 413
            assert "1,048,576" in response.json()["detail"]


@pytest.mark.parametrize(
    "query",
    [
        "page=0", "page=-1", "page=", "page=x", "page=1000001", "page=" + "9" * 5_000, "page=1000000000000000000",
        "page_size=0", "page_size=201", "page=1&page=2", "colour=red", "sort=password", "sort=name;DROP TABLE events", "sort=",
        "search=%00", "search=" + "x" * 201, "type=SENSOR", "search=%ED%A0%80x&sort=x",
    ],
)  # fmt: skip
async def test_a_query_that_cannot_be_used_is_a_422(rest: Rest, query: str) -> None:
    async with rest.client("viewer") as client:
        response = await client.get(f"/api/v1/events?{query}")
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"][0] == "query"


@pytest.mark.parametrize(
    ("method", "address", "body", "loc", "words"),
    [
        ("GET", "/api/v1/events?sort=x", None, ["query", "sort"], "; it is one of: "),
        ("GET", "/api/v1/events?name=x", None, ["query", "name"], "There is no such parameter; there are: page, page_size, search,"),
        ("POST", "/api/v1/events?colour=x", with_(), ["query", "colour"], "dry_run."),
        ("GET", "/api/v1/auth/me?name=x", None, ["query", "name"], "There is no such parameter; there is none here."),
        ("POST", "/api/v1/events", with_(type="pump"), ["body", "type"], "it is one of: actuator, cmd_button,"),
        ("POST", "/api/v1/events", with_(colour="red"), ["body", "colour"], "It is a colour, as #1e88e5."),
        ("POST", "/api/v1/events", with_(color="red"), ["body", "color"], "There is no such field; there are: name, type,"),
        ("POST", "/api/v1/events/bulk", b'{"events": [{"name": "a", "type": "pump"}]}', ["body", "events", 0, "type"], "it is one of"),
        (
            "POST", "/api/v1/dashboards/{missing}/widgets", b'{"config": {"widget_type": "pie"}}', ["body", "config", "widget_type"],
            "it is one of: ",
        ),
        ("POST", "/api/v1/users", b'{"email": "xyz", "username": "x", "password": "y"}', ["body", "email"], "It is an e-mail address,"),
        ("POST", "/api/v1/ota", b'{"version": "1"}', ["body", "version"], "It is a version after semver.org,"),
        ("POST", "/api/v1/events", with_(min_value="1"), ["body", "min_value"], "It is a number or null, not text."),
        ("GET", "/api/v1/events?page=x", None, ["query", "page"], "It is a whole number."),
        ("GET", "/api/v1/audit?from=2026-01-01T00:00:00+00:00", None, ["query", "from"], "%2B"),
    ],
)  # fmt: skip
async def test_a_refusal_says_what_may_stand_there(
    rest: Rest, method: str, address: str, body: bytes | None, loc: list[str | int], words: str
) -> None:
    async with rest.client("admin") as client:
        response = await client.request(method, address.format(missing=UUID(int=1)), content=body)
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["loc"] == loc
    assert words in error["msg"]
    assert "^" not in error["msg"]


@pytest.mark.parametrize(
    ("address", "parameter", "place"),
    [
        ("datapoints", "event_public_ids", [0]),
        ("datapoints/latest", "event_public_ids", [0]),
        ("annotations", "event_public_id", [0]),
        ("annotations", "experiment_public_id", []),
        ("gaps", "event_public_id", []),
        ("rules", "event_public_id", []),
    ],
)
async def test_a_filter_that_names_what_there_is_not_is_a_422_everywhere(
    rest: Rest, address: str, parameter: str, place: list[int]
) -> None:
    nobody = UUID(int=1)
    async with rest.client("viewer") as client:
        refused = await client.get(f"/api/v1/{address}", params={parameter: nobody})
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert error["loc"] == ["query", parameter, *place]
    assert str(nobody) in error["msg"]


@pytest.mark.parametrize("name", ["from", "to"])
@pytest.mark.parametrize(
    "time",
    [
        "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "10000-01-01T00:00:00Z", "infinity",
        "2026-01-01T00:00:00", "2026-02-30T00:00:00Z", "2026-01-01", "", "now", "1e9",
    ],
)  # fmt: skip
async def test_a_time_that_is_none_is_a_422(rest: Rest, name: str, time: str) -> None:
    async with rest.client("viewer") as client:
        assert (await client.get("/api/v1/gaps", params={name: time})).status_code == 422


async def test_a_range_that_runs_backwards_is_a_422(rest: Rest) -> None:
    async with rest.client("viewer") as client:
        response = await client.get("/api/v1/gaps", params={"from": "2026-01-02T00:00:00Z", "to": "2026-01-02T01:00:00+02:00"})
        assert response.status_code == 422
        equal = {"from": "2026-01-02T00:00:00Z", "to": "2026-01-02T02:00:00+02:00"}
        assert (await client.get("/api/v1/gaps", params=equal)).status_code == 200


@pytest.mark.parametrize("path", ["x", "%00", "..%2f..%2fetc%2fpasswd", "' OR 1=1", "00000000-0000-0000-0000-00000000000g", "1" * 5000])
async def test_an_id_that_is_none_is_a_404(rest: Rest, path: str) -> None:
    async with rest.client("admin") as client:
        for method in ("GET", "PUT", "DELETE"):
            response = await client.request(method, f"/api/v1/events/{path if '%' in path else quote(path, safe='')}")
            assert (response.status_code, response.json()["type"]) == (404, "/problems/not-found")


TEXTS = [
    "' OR 1=1 --", "%", "_", "\\", "{{7*7}}", "<script>alert(1)</script>", "../../etc/passwd",
    "%00", "a\r\nSet-Cookie: x=1", "e\u0301\u0323",
    "\u202e\u0645\u0631\u062d\u0628\u0627", "\U0001f4a9", "\ufeff", "\uffff", "\x7f\x1b[31m", "=1+1", " ", "null", "x" * 200,
]  # fmt: skip
NO_LINES = {"a\r\nSet-Cookie: x=1", "\x7f\x1b[31m", "\u202e\u0645\u0631\u062d\u0628\u0627", "\ufeff"}


@pytest.mark.parametrize("text", TEXTS)
async def test_any_text_is_given_back_exactly_and_found_again(rest: Rest, text: str) -> None:
    name = "plain" if text in {*NO_LINES, " "} else text
    unit = "plain" if text in NO_LINES else text[:50]
    async with rest.client("admin") as client:
        made = await client.post("/api/v1/events", json=EVENT | {"name": name, "unit": unit, "description": text})
        assert made.status_code == 201
        address = made.headers["location"]
        read = (await client.get(address)).json()
        assert (read["name"], read["unit"], read["description"]) == (name, unit, text)
        assert (await client.get("/api/v1/events", params={"search": text})).json()["data"] == [read]
        assert (await client.delete(address)).status_code == 204
