"""Events over REST: what a channel holds besides its readings, many at once, and as a file that spreadsheets edit."""

import csv
import io
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts.rest import Rest

from webmacs.http.shape import LINE, NAME, WORD

EVENT = {"name": "Boiler", "type": "sensor", "unit": "°C"}
EVENTS = "/api/v1/events"


@pytest.fixture(autouse=True)
async def empty(rest: Rest) -> AsyncIterator[None]:
    yield
    async with rest.connection() as conn:
        await conn.execute("DELETE FROM events")


@pytest.fixture
async def operator(rest: Rest) -> AsyncIterator[httpx.AsyncClient]:
    async with rest.client("operator") as client:
        yield client


async def save(client: httpx.AsyncClient, *events: dict[str, Any], **query: Any) -> Any:
    return await client.post(f"{EVENTS}/bulk", json={"events": events}, params=query)


async def names(client: httpx.AsyncClient, **query: Any) -> list[str]:
    return [event["name"] for event in (await client.get(EVENTS, params=query)).json()["data"]]


async def changes(rest: Rest) -> list[tuple[str, str, Any, Any]]:
    """(action, name, before, after) of the audit log, of events."""
    async with rest.connection() as conn:
        rows = await conn.fetch("SELECT action, object_name, before, after FROM audit_log WHERE kind = 'event' ORDER BY id")
    return [tuple(row) for row in rows]


async def imported(client: httpx.AsyncClient, content: str | bytes, **query: Any) -> httpx.Response:
    return await client.post(f"{EVENTS}/import/csv", content=content, params=query, headers={"Content-Type": "text/csv"})


# what an event holds


async def test_an_event_holds_its_place_limits_looks_and_retention(operator: httpx.AsyncClient) -> None:
    held = {
        "description": "At the outlet.", "path": "plant/line 2/boiler", "tags": ["hot", "audited"], "limit_lolo": -1.5, "limit_lo": 0.0,
        "limit_hi": 90.0, "limit_hihi": 95.5, "dead_band": 0.5, "decimals": 1, "colour": "#1e88E5", "raw_retention_days": 30,
        "statistics_retention_days": 3650, "critical": True,
    }  # fmt: skip
    made = await operator.post(EVENTS, json=EVENT | held)
    assert made.status_code == 201
    event = made.json()
    assert event == event | held
    cleared = {"description": "", "path": "", "tags": [], "limit_lolo": None, "limit_hi": None, "colour": None, "critical": False}
    changed = (await operator.put(made.headers["location"], json=cleared)).json()
    assert changed == event | cleared | {"version": 2, "changed_on": changed["changed_on"]}


async def test_paths_and_tags_have_one_spelling(operator: httpx.AsyncClient) -> None:
    made = (await operator.post(EVENTS, json=EVENT | {"path": "/ plant //line/ ", "tags": [" a", "a", "b ", " "]})).json()
    assert (made["path"], made["tags"]) == ("plant/line", ["a", "b"])


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"limit_lolo": 2.0, "limit_lo": 1.0}, "limit_lolo"),
        ({"limit_lo": 2.0, "limit_hihi": 1.0}, "limit_lo"),
        ({"limit_hi": 2.0, "limit_hihi": 1.999}, "limit_hi"),
        ({"raw_retention_days": 2, "statistics_retention_days": 1}, "statistics_retention_days"),
        ({"path": "/".join("abcdefghijk")}, "path"),
        ({"path": "x" * 101}, "path"),
        ({"path": "x" * 501}, "path"),
        ({"colour": "#12345"}, "colour"),
        ({"colour": "#123456\n"}, "colour"),
        ({"colour": "red"}, "colour"),
        ({"dead_band": -0.1}, "dead_band"),
        ({"raw_retention_days": 0}, "raw_retention_days"),
        ({"tags": ["a,b"]}, "tags"),
        ({"tags": [""]}, "tags"),
        ({"critical": None}, "critical"),
    ],
)
async def test_what_cannot_be_is_refused_with_the_field(operator: httpx.AsyncClient, wrong: dict[str, Any], field: str) -> None:
    refused = await operator.post(EVENTS, json=EVENT | wrong)
    assert (refused.status_code, refused.json()["errors"][0]["loc"][:2]) == (422, ["body", field])
    made = await operator.post(EVENTS, json=EVENT)
    assert (await operator.put(made.headers["location"], json=wrong)).status_code == 422


async def test_what_is_just_allowed_is_stored(operator: httpx.AsyncClient) -> None:
    most = {
        "name": "n" * 400, "description": "d" * 2_000, "path": "/".join("abcdefghij"), "tags": [f"{n}".zfill(50) for n in range(50)],
        "limit_lolo": 1.0, "limit_lo": 1.0, "limit_hi": 1.0, "limit_hihi": 1.0, "dead_band": 0.0, "raw_retention_days": 1,
        "statistics_retention_days": 1,
    }  # fmt: skip
    assert (await operator.post(EVENTS, json=EVENT | most)).json() | most == (await operator.get(EVENTS)).json()["data"][0]


async def test_a_change_is_judged_with_what_is_stored(operator: httpx.AsyncClient) -> None:
    address = (await operator.post(EVENTS, json=EVENT | {"limit_hi": 90.0})).headers["location"]
    assert (await operator.put(address, json={"limit_lo": 90.5})).status_code == 422
    assert (await operator.put(address, json={"limit_lo": 90.0})).status_code == 200


async def test_a_list_is_filtered_by_place_tags_source_and_words(rest: Rest, operator: httpx.AsyncClient) -> None:
    await save(
        operator,
        EVENT | {"name": "a", "path": "plant", "tags": ["x"], "critical": True},
        EVENT | {"name": "b", "path": "plant/line 1", "tags": ["x", "y"], "description": "Of the BOILER"},
        EVENT | {"name": "c", "path": "plant 2", "type": "range"},
        EVENT | {"name": "boiler"},
    )
    async with rest.connection() as conn:
        writer = await conn.fetchval("SELECT id FROM writers WHERE source_id IS NOT NULL")
        await conn.execute("UPDATE events SET writer_id = $1, channel_key = 'k' WHERE name = 'c'", writer)
    assert await names(operator, path="plant") == ["a", "b"]
    assert await names(operator, path="/plant/") == ["a", "b"]
    assert await names(operator, path="plant/line 1") == ["b"]
    assert await names(operator, path="plan") == []
    assert await names(operator, path="%") == []
    assert await names(operator, tag="x") == ["a", "b"]
    assert await names(operator, tag="x,y") == ["b"]
    assert await names(operator, critical="true") == ["a"]
    assert await names(operator, source="source") == ["c"]
    assert await names(operator, type="range") == ["c"]
    assert await names(operator, search="boiler") == ["b", "boiler"]
    assert await names(operator, sort="-path") == ["b", "c", "a", "boiler"]
    (gone,) = (await operator.get(EVENTS, params={"search": "boiler", "tag": "x"})).json()["data"]
    async with rest.client("admin") as admin:
        await admin.delete(f"{EVENTS}/{gone['public_id']}")
    for query in ({"search": "BOILER"}, {"deleted": "true"}, {"path": "plant", "deleted": "false"}):
        exported = await operator.get(f"{EVENTS}/export/csv", params=query)
        rows = csv.DictReader(io.StringIO(exported.text.removeprefix("\N{BYTE ORDER MARK}")))
        assert [row["name"] for row in rows] == await names(operator, **query) != []


# many at once


async def test_ten_thousand_events_are_made_in_one_call_and_each_leaves_its_account(rest: Rest, operator: httpx.AsyncClient) -> None:
    seen = len(await changes(rest))
    wanted = [EVENT | {"name": f"channel {n}", "tags": ["bulk"]} for n in range(10_000)]
    answer = (await save(operator, *wanted)).json()
    assert {key: value for key, value in answer.items() if key != "data"} == {"created": 10_000, "updated": 0, "unchanged": 0}
    assert [one["name"] for one in answer["data"]] == [one["name"] for one in wanted]
    accounts = (await changes(rest))[seen:]
    assert {(action, name) for action, name, _, _ in accounts} == {("create", one["name"]) for one in wanted}
    async with rest.connection() as conn:
        kept = await conn.fetchval(
            "SELECT count(*) FROM versions v JOIN events e ON e.public_id = v.object_public_id AND v.version = 1 AND v.kind = 'event'"
        )
    assert kept == 10_000
    refused = await save(operator, *wanted, EVENT | {"name": "one too many"})
    assert refused.status_code == 422


async def test_an_item_is_the_event_of_its_id_or_name_and_the_rest_stays(rest: Rest, operator: httpx.AsyncClient) -> None:
    first = (await operator.post(EVENTS, json=EVENT | {"name": "a", "description": "kept", "tags": ["t"]})).json()
    await operator.post(EVENTS, json=EVENT | {"name": "b"})
    seen = len(await changes(rest))
    answer = await save(
        operator, {"public_id": first["public_id"], "name": "A", "unit": "K"}, {"name": "b", "unit": "°C"}, EVENT | {"name": "c"}
    )
    assert answer.status_code == 200
    assert [(one["action"], one["position"], one["changes"]) for one in answer.json()["data"]] == [
        ("update", 0, {"name": {"from": "a", "to": "A"}, "unit": {"from": "°C", "to": "K"}}),
        ("unchanged", 1, {}),
        ("create", 2, {}),
    ]
    changed = (await operator.get(f"{EVENTS}/{first['public_id']}")).json()
    assert changed == first | {"name": "A", "unit": "K", "version": 2, "changed_on": changed["changed_on"]}
    assert [(action, name) for action, name, _, _ in (await changes(rest))[seen:]] == [("update", "A"), ("create", "c")]
    again = (await save(operator, {"public_id": first["public_id"], "name": "A", "unit": "K"}, EVENT | {"name": "c"})).json()
    assert (again["unchanged"], len((await changes(rest))[seen:])) == (2, 2)


async def test_every_wrong_item_is_told_and_none_is_stored(operator: httpx.AsyncClient) -> None:
    taken = (await operator.post(EVENTS, json=EVENT | {"name": "taken"})).json()
    other = (await operator.post(EVENTS, json=EVENT | {"name": "other"})).json()
    refused = await save(
        operator,
        EVENT | {"name": "good"},
        {"name": "new"},
        EVENT | {"name": "crossed", "min_value": 2.0, "max_value": 1.0},
        EVENT | {"name": "good"},
        {"public_id": other["public_id"], "name": "taken"},
        {"public_id": other["public_id"]},
        EVENT | {"name": "taken", "public_id": str(uuid4())},
    )
    assert refused.status_code == 422
    assert [error["loc"][2:] for error in refused.json()["errors"]] == [
        [1, "type"], [1, "unit"], [2, "min_value"], [3, "name"], [5, "public_id"], [6, "name"], [4, "name"], [6, "name"],
    ]  # fmt: skip
    assert taken["public_id"] in refused.json()["errors"][-1]["msg"]
    shapes = await save(operator, EVENT | {"unit": 5}, EVENT, EVENT | {"decimals": 13}, EVENT | {"color": "#000000"})
    assert [error["loc"][2:] for error in shapes.json()["errors"]] == [[0, "unit"], [2, "decimals"], [3, "color"]]
    assert await names(operator) == ["other", "taken"]


async def test_an_item_of_another_version_is_a_fault_and_none_is_stored(rest: Rest, operator: httpx.AsyncClient) -> None:
    first = (await operator.post(EVENTS, json=EVENT | {"name": "a"})).json()
    gone = (await operator.post(EVENTS, json=EVENT | {"name": "gone"})).json()
    await operator.put(f"{EVENTS}/{first['public_id']}", json={"unit": "K"})
    async with rest.client("admin") as admin:
        await admin.delete(f"{EVENTS}/{gone['public_id']}")
    late = await save(
        operator,
        {"public_id": first["public_id"], "unit": "F", "version": 1},
        EVENT | {"name": "b", "version": 1},
        EVENT | {"public_id": gone["public_id"], "name": "gone", "version": 1},
        EVENT | {"name": "c"},
    )
    assert late.status_code == 422
    assert [error["loc"][2:] for error in late.json()["errors"]] == [[0, "version"], [1, "version"], [2, "version"]]
    assert "version 2" in late.json()["errors"][0]["msg"]
    assert [(one["name"], one["unit"]) for one in (await operator.get(EVENTS)).json()["data"]] == [("a", "K")]
    fitting = {"name": "a", "unit": "F", "version": 2}
    assert (await save(operator, fitting, EVENT | {"public_id": str(uuid4()), "name": "b", "version": 7})).json()["created"] == 1
    assert (await save(operator, fitting)).json()["unchanged"] == 1  # what is done already may be asked for again
    assert (await save(operator, fitting | {"version": 0})).json()["errors"][0]["loc"][2:] == [0, "version"]


async def test_names_may_go_round_among_the_items(operator: httpx.AsyncClient) -> None:
    a, b, c = [(await operator.post(EVENTS, json=EVENT | {"name": name})).json()["public_id"] for name in "abc"]
    answer = await save(
        operator, {"public_id": a, "name": "b"}, {"public_id": b, "name": "a"}, {"public_id": c, "name": "d"}, EVENT | {"name": "c"}
    )
    assert answer.status_code == 422  # "c" means the event that another item renames
    answer = await save(operator, {"public_id": a, "name": "b"}, {"public_id": b, "name": "a"})
    assert answer.status_code == 200
    assert [(await operator.get(f"{EVENTS}/{one}")).json()["name"] for one in (a, b)] == ["b", "a"]


async def test_an_event_that_was_deleted_comes_back_under_its_id_and_goes_on_with_its_versions(rest: Rest) -> None:
    async with rest.client("admin") as admin:
        made = (await admin.post(EVENTS, json=EVENT)).json()
        await admin.delete(f"{EVENTS}/{made['public_id']}")
        answer = await save(admin, EVENT | {"public_id": made["public_id"]})
        assert answer.json()["data"][0] | {"action": "create", "public_id": made["public_id"]} == answer.json()["data"][0]
        assert (await admin.get(f"{EVENTS}/{made['public_id']}")).json()["version"] == 3


async def test_a_dry_run_of_many_tells_and_stores_nothing(rest: Rest, operator: httpx.AsyncClient) -> None:
    seen = len(await changes(rest))
    answer = await save(operator, EVENT, dry_run="true")
    assert (answer.json()["created"], await names(operator), len(await changes(rest))) == (1, [], seen)


# files


async def test_a_file_is_exported_edited_and_imported(operator: httpx.AsyncClient) -> None:
    await save(
        operator,
        EVENT | {"name": "a", "description": 'say "x",\r\nplease', "tags": ["p", "q"], "limit_hi": 90.0, "path": "plant/1"},
        EVENT | {"name": "=1+1", "unit": "-", "description": "'=quoted", "critical": True, "path": "plant/2"},
    )
    exported = await operator.get(f"{EVENTS}/export/csv")
    assert exported.headers["content-type"].startswith("text/csv")
    assert exported.content.startswith(b"\xef\xbb\xbfpublic_id,name,")
    rows = list(csv.DictReader(io.StringIO(exported.content.decode("utf-8-sig"), newline="")))
    assert [(row["name"], row["unit"], row["description"], row["tags"], row["limit_hi"], row["critical"]) for row in rows] == [
        ("'=1+1", "'-", "''=quoted", "", "", "true"),
        ("a", "°C", 'say "x",\r\nplease', "p, q", "90", "false"),
    ]
    unchanged = (await imported(operator, exported.content)).json()
    assert (unchanged["unchanged"], unchanged["created"], unchanged["updated"]) == (2, 0, 0)
    part = await operator.get(f"{EVENTS}/export/csv", params={"path": "plant/1"})
    assert part.text.count("sensor") == 1
    edited = exported.content.decode().replace("'-", "m³").replace(",90,", ",91.5,")
    dry = (await imported(operator, edited, dry_run="true")).json()
    assert [(one["position"], one["name"], one["changes"]) for one in dry["data"]] == [
        (2, "=1+1", {"unit": {"from": "-", "to": "m³"}}),
        (3, "a", {"limit_hi": {"from": 90.0, "to": 91.5}}),
    ]
    assert (await imported(operator, exported.content, dry_run="true")).json()["unchanged"] == 2
    assert (await imported(operator, edited)).json() == dry
    assert (await imported(operator, edited)).json()["unchanged"] == 2


async def test_a_file_does_not_undo_what_somebody_else_has_changed_since_its_export(operator: httpx.AsyncClient) -> None:
    await save(operator, EVENT | {"name": "a"}, EVENT | {"name": "b"})
    edited = (await operator.get(f"{EVENTS}/export/csv")).text.replace("°C", "K")
    await save(operator, {"name": "b", "description": "mine"})
    late = await imported(operator, edited)
    assert (late.status_code, [error["loc"] for error in late.json()["errors"]]) == (422, [["body", 3, "version"]])
    assert {one["unit"] for one in (await operator.get(EVENTS)).json()["data"]} == {"°C"}
    again = (await operator.get(f"{EVENTS}/export/csv")).text.replace("°C", "K")
    assert (await imported(operator, again)).json()["updated"] == 2


async def test_a_file_of_a_german_spreadsheet_is_read(operator: httpx.AsyncClient) -> None:
    file = "\ufeffName;Type;Unit;limit_hi;critical;tags\r\nKessel;sensor;°C;1,5;TRUE;a, b\r\n;;;;;\r\n"
    assert (await imported(operator, file)).json()["created"] == 1
    (event,) = (await operator.get(EVENTS)).json()["data"]
    assert (event["limit_hi"], event["critical"], event["tags"]) == (1.5, True, ["a", "b"])


async def test_a_column_that_is_not_there_leaves_its_field_and_an_empty_cell_empties_it(operator: httpx.AsyncClient) -> None:
    await save(operator, EVENT | {"description": "d", "limit_hi": 1.0, "tags": ["a"], "critical": True})
    assert (await imported(operator, "name,limit_hi,tags,critical\nBoiler,,,\n")).json()["updated"] == 1
    (event,) = (await operator.get(EVENTS)).json()["data"]
    assert (event["description"], event["limit_hi"], event["tags"], event["critical"]) == ("d", None, [], False)


async def test_every_wrong_line_and_column_is_told_and_no_row_is_stored(operator: httpx.AsyncClient) -> None:
    file = (
        'name,type,unit,min_value,decimals,critical,description\ntwo,sensor,V,nan,1,true,"two\nlines"\n'
        "b,SENSOR,V,1.5.2,13,maybe,\nc,sensor\n,sensor,V,inf,,,\nd,sensor,V,1,,,\n"
    )
    refused = await imported(operator, file)
    assert refused.status_code == 422
    assert [error["loc"][1:] for error in refused.json()["errors"]] == [
        [2, "min_value"], [4, "type"], [4, "min_value"], [4, "decimals"], [4, "critical"], [5], [6, "name"], [6, "min_value"],
    ]  # fmt: skip
    words = {error["loc"][2]: error["msg"] for error in refused.json()["errors"][:5]}
    assert "it is one of: actuator," in words["type"]
    assert (words["min_value"], words["critical"]) == ("It is a number.", "It is true or false.")
    assert await names(operator) == []
    crossed = await imported(operator, "name,type,unit,limit_lo,limit_hi\na,sensor,V,1,2\nb,sensor,V,2,1\n")
    assert [error["loc"] for error in crossed.json()["errors"]] == [["body", 3, "limit_lo"]]


@pytest.mark.parametrize(
    ("file", "status"),
    [
        (b"", 422),
        (b"name,type,unit\n", 422),
        (b"name,name\na,b\n", 422),
        (b"name,colour of it\na,b\n", 422),
        (b"type,unit\nsensor,V\n", 422),
        (b'name,type,unit\n"a,sensor,V\n', 422),
        (b'name,type,unit\n"a"b,sensor,V\n', 422),
        (b"name,type,unit\na\0,sensor,V\n", 422),
        (b"name,type,unit\na,sensor,\xb0C\n", 400),
        (b"public_id,name,type,unit\nx,a,sensor,V\n", 422),
        (b"name,type,unit\n" + b"a,sensor,V\n" * 10_001, 422),
        (b"name,type,unit\na,sensor," + b"x" * 200_000, 422),
        (b"x" * (16 * 1024 * 1024 + 1), 413),
    ],
)
async def test_what_is_no_file_of_events_is_refused(operator: httpx.AsyncClient, file: bytes, status: int) -> None:
    refused = await imported(operator, file)
    assert refused.status_code == status
    assert await names(operator) == []


text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    [
        "=1+1",
        "'=1",
        "''",
        "'",
        "-5",
        "\t",
        "\r",
        "\n",
        "\ufeff",
        "a\r\nb",
        '"',
        ",",
        ";",
        " x ",
        "\uff1d1",
        "null",
        "'''@a",
        "\x1c",
        "\u2028",
    ]
)
line = text.filter(lambda line: re.match(LINE, line))
number = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    low, lo, hi, high = sorted(draw(st.lists(st.floats(-1e300, 1e300), min_size=4, max_size=4)))
    limits = {"limit_lolo": low, "limit_lo": lo, "limit_hi": hi, "limit_hihi": high}
    return {
        "name": draw(text.filter(lambda name: re.match(NAME, name))), "unit": draw(line),
        "type": draw(st.sampled_from(["sensor", "actuator", "cmd_button"])),
        "description": draw(text), "path": draw(st.lists(line, max_size=4).map("/".join)),
        "tags": draw(st.lists(text.filter(lambda tag: re.match(WORD, tag)), max_size=4)),
        "min_value": draw(number), **{name: value for name, value in limits.items() if draw(st.booleans())},
        "dead_band": draw(st.none() | st.floats(0, 1e300)), "decimals": draw(st.none() | st.integers(0, 12)),
        "colour": draw(st.none() | st.from_regex("#[0-9a-fA-F]{6}", fullmatch=True)),
        "expected_interval_ms": draw(st.none() | st.integers(1, 2**31 - 1)), "critical": draw(st.booleans()),
    }  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stored=st.lists(events(), min_size=1, max_size=5, unique_by=lambda event: event["name"]))
async def test_what_was_exported_changes_nothing_when_it_is_imported(
    rest: Rest, operator: httpx.AsyncClient, stored: list[dict[str, Any]]
) -> None:
    async with rest.connection() as conn:
        await conn.execute("DELETE FROM events")
    made = await save(operator, *stored)
    assert made.status_code == 200, made.text
    exported = (await operator.get(f"{EVENTS}/export/csv")).content
    answer = (await imported(operator, exported, dry_run="true")).json()
    assert (answer.get("unchanged"), answer.get("errors")) == (len(stored), None), exported
    assert {UUID(one["public_id"]) for one in answer["data"]} == {UUID(one["public_id"]) for one in made.json()["data"]}
