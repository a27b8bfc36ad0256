"""The configuration as one document: what is exported comes in elsewhere as the same bytes; an import is compared, whole, repeatable."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from parts.rest import Rest, serve

FORMAT = {"format": "webmacs-configuration-1"}
EVENTS = [
    {"name": "Boiler", "type": "sensor", "unit": "°C", "max_value": 120, "tags": ["hall"], "limit_hi": 90.5},
    {"name": "Valve", "type": "actuator", "unit": "%", "min_value": 0, "max_value": 100},
]
COMMAND = {"type": "command", "event_name": "Valve", "value": 100}
RULES = [{"name": "Too hot", "event_name": "Boiler", "operator": "gt", "threshold": 95, "actions": [{"type": "alarm"}, COMMAND]}]
WEBHOOKS = [{"url": "https://example.org/hook", "events": ["sensor.reading"], "event_names": ["Valve", "Boiler"]}]
GAUGE = {"config": {"widget_type": "gauge", "max": 120}, "title": "Now", "event_names": ["Boiler"]}
CHART = {"config": {"widget_type": "line_chart"}, "event_names": ["Valve", "Boiler"], "y": 3}
DASHBOARDS = [{"name": "Hall", "tags": ["hall"], "widgets": [GAUGE, CHART]}]
WHOLE: dict[str, Any] = FORMAT | {"events": EVENTS, "rules": RULES, "webhooks": WEBHOOKS, "dashboards": DASHBOARDS}


@pytest.fixture(autouse=True)
async def empty(rest: Rest) -> AsyncIterator[None]:
    yield
    async with rest.connection() as conn:
        await conn.execute("DELETE FROM dashboards; DELETE FROM webhooks; DELETE FROM rules; DELETE FROM events; DELETE FROM versions")


async def bring_in(rest: Rest, document: Any, status: int = 200, query: str = "", role: str = "admin") -> Any:
    async with rest.client(role) as client:
        answer = await client.post(f"/api/v1/configuration{query}", json=document)
    assert answer.status_code == status, answer.text
    return answer.json()


async def export(rest: Rest) -> bytes:
    async with rest.client("admin") as client:
        answer = await client.get("/api/v1/configuration")
    assert answer.status_code == 200, answer.text
    return answer.content


def counts(answer: Any) -> tuple[int, int, int]:
    return answer["created"], answer["updated"], answer["unchanged"]


async def test_what_is_exported_comes_in_elsewhere_as_the_same_bytes(rest: Rest, database: str, tmp_path: Path) -> None:
    assert counts(await bring_in(rest, WHOLE)) == (5, 0, 0)
    exported = await export(rest)
    async with serve(database, tmp_path) as other:
        await bring_in(other, FORMAT | {"events": [{"name": "Other", "type": "sensor", "unit": ""}]})  # other ids for the same names
        async with other.connection() as conn:
            await conn.execute("DELETE FROM events")
        assert counts(await bring_in(other, json.loads(exported))) == (5, 0, 0)
        assert await export(other) == exported
        assert counts(await bring_in(other, json.loads(exported))) == (0, 0, 5)


async def test_an_export_has_an_object_a_line_and_neither_ids_nor_secrets(rest: Rest) -> None:
    await bring_in(rest, WHOLE)
    async with rest.client("admin") as client:
        (webhook,) = (await client.get("/api/v1/webhooks")).json()["data"]
        await client.put(f"/api/v1/webhooks/{webhook['public_id']}", json={"secret": "s3cret-of-hook"})
    exported = (await export(rest)).decode()
    assert "public_id" not in exported
    assert "s3cret" not in exported
    names = [line for line in exported.splitlines() if '"name":' in line]
    assert len(names) == 5
    assert counts(await bring_in(rest, json.loads(exported))) == (0, 0, 5)


async def test_only_what_is_given_is_touched_and_each_change_is_a_version(rest: Rest) -> None:
    await bring_in(rest, WHOLE)
    before = json.loads(await export(rest))
    answer = await bring_in(rest, FORMAT | {"events": [{"name": "Boiler", "unit": "K"}], "rules": [{"name": "Too hot", "threshold": 400}]})
    assert answer["objects"] == [
        {"section": "events", "key": "Boiler", "action": "update", "changes": {"unit": {"from": "°C", "to": "K"}}},
        {"section": "rules", "key": "Too hot", "action": "update", "changes": {"threshold": {"from": 95.0, "to": 400.0}}},
    ]
    assert answer["only_here"] == {"events": ["Valve"], "rules": []}
    after = json.loads(await export(rest))
    before["events"][0]["unit"], before["rules"][0]["threshold"] = "K", 400.0
    assert after == before
    async with rest.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM versions WHERE version = 2 AND actor_name = 'admin'") == 2
        assert await conn.fetchval("SELECT count(*) FROM audit_log WHERE action = 'update' AND kind IN ('event', 'rule')") == 2


async def test_a_dry_run_says_what_would_be_done_and_does_nothing(rest: Rest) -> None:
    await bring_in(rest, FORMAT | {"events": EVENTS[:1]})
    before = await export(rest)
    answer = await bring_in(rest, WHOLE, query="?dry_run=true")
    assert counts(answer) == (4, 0, 1)
    assert await export(rest) == before
    real = await bring_in(rest, WHOLE)
    assert real == answer


async def test_widgets_that_stay_keep_their_ids_and_others_are_replaced(rest: Rest) -> None:
    await bring_in(rest, WHOLE)
    changed = DASHBOARDS[0] | {"widgets": [GAUGE, CHART | {"title": "Both"}]}
    async with rest.connection() as conn:
        before = await conn.fetch("SELECT public_id FROM dashboard_widgets ORDER BY id")
        assert counts(await bring_in(rest, FORMAT | {"dashboards": [changed]})) == (0, 1, 0)
        after = await conn.fetch("SELECT public_id FROM dashboard_widgets ORDER BY id")
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)


@pytest.mark.parametrize(
    ("document", "loc"),
    [
        ({"events": [{"name": "A", "type": "sensor"}]}, ["events", "A", "unit"]),
        ({"events": [{"name": "A", "type": "sensor", "unit": "", "colour": "red"}]}, ["events", "A", "colour"]),
        ({"events": [EVENTS[0], EVENTS[0]]}, ["events", "Boiler"]),
        ({"events": [{"type": "sensor"}]}, ["events", 0, "name"]),
        ({"events": [EVENTS[0] | {"source": "nobody", "channel_key": "k"}]}, ["events", "Boiler", "source"]),
        ({"rules": RULES}, ["rules", "Too hot", "event_name"]),
        ({"events": EVENTS, "rules": [RULES[0] | {"event_name": 5}]}, ["rules", "Too hot", "event_name"]),
        ({"events": EVENTS, "rules": [{"name": "event_public_id"}]}, ["rules", "event_public_id", "event_name"]),
        ({"webhooks": [WEBHOOKS[0] | {"event_names": ["Valve", "Nobody"]}]}, ["webhooks", WEBHOOKS[0]["url"], "event_names", 1]),
        ({"webhooks": [WEBHOOKS[0] | {"event_names": "Valve"}]}, ["webhooks", WEBHOOKS[0]["url"], "event_names"]),
        (
            {"dashboards": [{"name": "D", "widgets": [GAUGE | {"event_names": ["Valve", "Valve"]}]}]},
            ["dashboards", "D", "widgets", 0, "event_names"],
        ),
        ({"events": EVENTS, "rules": [RULES[0] | {"treshold": 1}]}, ["rules", "Too hot", "treshold"]),
        ({"events": EVENTS, "rules": [RULES[0] | {"operator": "between"}]}, ["rules", "Too hot", "threshold_high"]),
        ({"events": EVENTS, "rules": [RULES[0] | {"threshold": "hot"}]}, ["rules", "Too hot", "threshold"]),
        ({"webhooks": [{"url": "http://127.0.0.1/", "events": ["sensor.reading"]}]}, ["webhooks", "http://127.0.0.1/", "url"]),
        (
            {"webhooks": [{"url": "https://a.example/", "events": ["sensor.reading"], "secret": "s"}]},
            ["webhooks", "https://a.example/", "secret"],
        ),
        (
            {"dashboards": [{"name": "D", "widgets": [{"config": {"widget_type": "gauge"}, "x": 11}]}]},
            ["dashboards", "D", "widgets", 0, "x"],
        ),
        ({"dashboards": [{"name": "D", "is_global": False}]}, ["dashboards", "D", "is_global"]),
        ({"alarms": []}, ["alarms"]),
        ({"rules": RULES * 1_001}, ["rules"]),
    ],
)
async def test_a_fault_names_section_key_and_field_and_nothing_is_done(rest: Rest, document: Any, loc: list[Any]) -> None:
    refused = await bring_in(rest, FORMAT | {"events": EVENTS[1:]} | document, 422)
    assert refused["errors"][0]["loc"] == ["body", *loc]
    async with rest.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM events") == 0


async def test_faults_speak_of_the_names_that_a_document_knows(rest: Rest) -> None:
    await bring_in(rest, FORMAT | {"events": EVENTS})

    async def faults(section: str, entry: Any) -> list[tuple[str, list[Any]]]:
        refused = await bring_in(rest, FORMAT | {section: [entry]}, 422)
        assert "event_public_id" not in "".join(error["msg"] for error in refused["errors"])
        return [(error["msg"], error["loc"][3:]) for error in refused["errors"]]

    (missing,) = await faults("rules", {"name": "Too cold", "operator": "lt", "threshold": 5})
    assert missing == ("Object missing required field `event_name`", ["event_name"])
    nobody = "There is no event called Nobody, neither in this document nor here."
    command = COMMAND | {"event_name": "Nobody"}
    assert await faults("rules", RULES[0] | {"event_name": "Nobody"}) == [(nobody, ["event_name"])]
    assert await faults("rules", RULES[0] | {"actions": [command]}) == [(nobody, ["actions", 0, "event_name"])]
    async with rest.client("admin") as client:
        public_id = (await client.get("/api/v1/events")).json()["data"][0]["public_id"]
    rule = {"name": "By id", "operator": "gt", "threshold": 1, "event_public_id": public_id}
    assert await faults("rules", rule) == [("A document knows no ids; say event_name.", ["event_public_id"])]
    webhook = {"url": "https://a.example/", "events": ["sensor.reading"], "event_public_ids": [public_id]}
    assert await faults("webhooks", webhook) == [("A document knows no ids; say event_names.", ["event_public_ids"])]


async def test_every_fault_of_a_section_is_named(rest: Rest) -> None:
    rules = [{"name": name, "event_name": "Nobody", "operator": "gt", "threshold": 1} for name in ("A", "B")]
    refused = await bring_in(rest, FORMAT | {"rules": rules}, 422)
    assert [error["loc"][2] for error in refused["errors"] if "Nobody" in error["msg"]] == ["A", "B"]


async def test_an_event_of_a_source_comes_in_as_the_sources(rest: Rest) -> None:
    written = EVENTS[0] | {"source": "source", "instance": "PLC", "channel_key": "plc/t1"}
    assert counts(await bring_in(rest, FORMAT | {"events": [written]})) == (1, 0, 0)
    async with rest.client("viewer") as client:
        (event,) = (await client.get("/api/v1/events")).json()["data"]
    assert (event["source"], event["instance"], event["channel_key"]) == ("source", "PLC", "plc/t1")
    exported = json.loads(await export(rest))
    assert exported["events"][0]["channel_key"] == "plc/t1"
    assert counts(await bring_in(rest, exported)) == (0, 0, 1)
    await bring_in(rest, FORMAT | {"events": [written | {"name": "Again"}]}, 409)


async def test_an_import_brings_mappings_to_what_the_document_says(rest: Rest) -> None:
    first, second = ({"source": "source", "instance": "PLC", "channel_key": key} for key in ("t1", "t2"))
    await bring_in(rest, FORMAT | {"events": [EVENTS[0] | first, EVENTS[1]]})
    mapped = await export(rest)
    swapped = FORMAT | {"events": [{"name": "Boiler", "source": None}, {"name": "Valve"} | first]}
    shown = await bring_in(rest, swapped, query="?dry_run=true")
    assert [one["changes"] for one in shown["objects"]] == [
        {"source": {"from": "source", "to": None}, "instance": {"from": "PLC", "to": None}, "channel_key": {"from": "t1", "to": None}},
        {"source": {"from": None, "to": "source"}, "instance": {"from": None, "to": "PLC"}, "channel_key": {"from": None, "to": "t1"}},
    ]
    assert await export(rest) == mapped
    assert await bring_in(rest, swapped) == shown
    assert [one["source"] for one in json.loads(await export(rest))["events"]] == [None, "source"]
    async with rest.connection() as conn:
        rows = await conn.fetch("SELECT content->>'source' FROM versions WHERE version = 2 ORDER BY content->>'name'")
        assert [row[0] for row in rows] == [None, "source"]
        assert await conn.fetchval("SELECT count(*) FROM audit_log WHERE action = 'update' AND after ? 'channel_key'") == 2
        generation = await conn.fetchval("SELECT max(generation) FROM writers WHERE source_id IS NOT NULL")
    assert counts(await bring_in(rest, swapped)) == (0, 0, 2)
    assert counts(await bring_in(rest, FORMAT | {"events": [{"name": "Valve"} | second]})) == (0, 1, 0)
    assert counts(await bring_in(rest, json.loads(mapped))) == (0, 2, 0)
    assert await export(rest) == mapped
    assert counts(await bring_in(rest, FORMAT | {"events": EVENTS})) == (0, 0, 2)  # who does not say whose it is leaves it
    async with rest.connection() as conn:  # whoever wrote them until then is fenced, once for each import that moved one
        assert await conn.fetchval("SELECT max(generation) FROM writers WHERE source_id IS NOT NULL") == generation + 2


async def test_an_import_may_name_the_configuration_that_it_was_made_for(rest: Rest) -> None:
    await bring_in(rest, WHOLE)
    async with rest.client("admin") as client:

        async def bring(tag: str, **changes: Any) -> httpx.Response:
            return await client.post("/api/v1/configuration", json=FORMAT | changes, headers={"If-Match": tag})

        tag = (await client.get("/api/v1/configuration")).headers["etag"]
        assert (await client.get("/api/v1/configuration")).headers["etag"] == tag
        changed = await bring(tag, rules=[{"name": "Too hot", "threshold": 96}], events=[{"name": "Boiler", "unit": "K"}])
        assert changed.status_code == 200, changed.text
        late = await bring(tag, rules=[{"name": "Too hot", "threshold": 97}])
        assert (late.status_code, late.json()["type"]) == (412, "/problems/changed-meanwhile")
        now = (await client.get("/api/v1/configuration")).headers["etag"]
        for fitting in ("*", f'"x", {now}'):
            assert (await bring(fitting, rules=[{"name": "Too hot", "threshold": 96}])).status_code == 200
        (rule,) = (await client.get("/api/v1/rules")).json()["data"]
        await client.put(f"/api/v1/rules/{rule['public_id']}", json={"severity": "low"})
        assert (await bring(now)).status_code == 412


async def test_a_dashboard_for_all_has_its_name_to_itself(rest: Rest) -> None:
    await bring_in(rest, WHOLE)
    exported = await export(rest)
    async with rest.client("operator") as client:
        taken = await client.post("/api/v1/dashboards", json={"name": "Hall", "is_global": True})
        assert (taken.status_code, "Hall" in taken.json()["detail"]) == (409, True)
        own = (await client.post("/api/v1/dashboards", json={"name": "Hall"})).json()
        address = f"/api/v1/dashboards/{own['public_id']}"
        assert (await client.put(address, json={"is_global": True})).status_code == 409
        assert (await client.put(address, json={"is_global": True, "name": "Yard"})).status_code == 200
        assert (await client.put(address, json={"name": "Hall"})).status_code == 409
        await client.put(address, json={"is_global": False, "name": "Hall"})
        restored = await client.post(f"/api/v1/versions/dashboard/{own['public_id']}/2/restore")
        assert restored.json()["content"]["name"] == "Yard", restored.text
        await client.put(address, json={"is_global": False})
    assert await export(rest) == exported
    assert counts(await bring_in(rest, FORMAT | {"dashboards": [{"name": "Yard"}]})) == (1, 0, 0)
    async with rest.client("operator") as client:
        assert (await client.post(f"/api/v1/versions/dashboard/{own['public_id']}/2/restore")).status_code == 409


async def test_what_is_somebodys_own_is_not_exported(rest: Rest) -> None:
    async with rest.client("operator") as client:
        await client.post("/api/v1/dashboards", json={"name": "Mine"})
    assert json.loads(await export(rest))["dashboards"] == []


async def test_only_an_admin_exports_and_imports(rest: Rest) -> None:
    await bring_in(rest, WHOLE, 403, role="operator")
    async with rest.client("operator") as client:
        assert (await client.get("/api/v1/configuration")).status_code == 403


async def test_a_token_brings_in_what_its_scopes_change(rest: Rest) -> None:
    async def by_token(scopes: list[str], document: Any, query: str = "") -> tuple[int, Any]:
        async with rest.client("admin") as admin, rest.client() as client:
            made = (await admin.post("/api/v1/tokens", json={"name": "program", "scopes": ["configuration:write", *scopes]})).json()
            answer = await client.post(f"/api/v1/configuration{query}", json=document, headers={"Authorization": f"Bearer {made['token']}"})
        return answer.status_code, answer.json()

    sections = ("events", "rules", "webhooks", "dashboards")
    for lacking in sections:
        scopes = [f"{name}:write" for name in sections if name != lacking]
        for query in ("", "?dry_run=true"):
            status, problem = await by_token(scopes, WHOLE, query)
            assert (status, problem.get("type")) == (403, "/problems/scope-missing"), lacking
            assert f"{lacking}:write" in problem["detail"]
    assert json.loads(await export(rest))["events"] == []
    assert (await by_token(["events:write"], FORMAT | {"events": EVENTS}))[0] == 200
    assert (await by_token(["write"], WHOLE))[0] == 200
    status, answer = await by_token([], WHOLE)  # what changes nothing needs nothing
    assert (status, counts(answer)) == (200, (0, 0, 5))


async def test_thousands_of_events_come_in_at_once(rest: Rest) -> None:
    events = [EVENTS[0] | {"name": f"Channel {number}"} for number in range(3_000)]
    assert counts(await bring_in(rest, FORMAT | {"events": events})) == (3_000, 0, 0)
    assert counts(await bring_in(rest, json.loads(await export(rest)))) == (0, 0, 3_000)


@pytest.mark.parametrize("threshold", ["1" + "0" * 400, "1e999", '"\\u0000"', '{"a":' * 500 + "1" + "}" * 500, "true", "null"])
async def test_a_number_that_is_none_is_refused(rest: Rest, threshold: str) -> None:
    await bring_in(rest, FORMAT | {"events": EVENTS})
    rule = f'{{"name": "Too hot", "event_name": "Boiler", "operator": "gt", "threshold": {threshold}}}'
    async with rest.client("admin") as client:
        content = f'{{"format": "webmacs-configuration-1", "rules": [{rule}]}}'
        answer = await client.post("/api/v1/configuration", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text


async def test_an_event_of_line_protocol_goes_out_and_in_again(rest: Rest) -> None:
    async with rest.client("admin") as client:
        assert (await client.post("/api/v1/write", content="mill,site=a speed=1")).status_code == 204
        exported = (await client.get("/api/v1/configuration")).json()
        assert "mill.speed;site=a" in [one["name"] for one in exported["events"]]
        again = await client.post("/api/v1/configuration", json=exported)
    assert (again.status_code, again.json()["created"], again.json()["updated"]) == (200, 0, 0), again.text


async def test_a_series_that_was_renamed_is_the_same_series_elsewhere(rest: Rest, database: str, tmp_path: Path) -> None:
    """By a document and by a file: what is written next belongs to the event that came in."""
    lines = "weather,location=us t=82\nweather,location=uk t=18"
    async with rest.client("admin") as client:
        assert (await client.post("/api/v1/write", content=lines)).status_code == 204
        for event in (await client.get("/api/v1/events")).json()["data"]:
            if event["name"] == "weather.t;location=us":
                await client.put(f"/api/v1/events/{event['public_id']}", json={"name": "Outside"})
        file = (await client.get("/api/v1/events/export/csv")).content
    exported = await export(rest)
    keys = {one["name"]: one.get("channel_key") for one in json.loads(exported)["events"]}
    assert keys == {"Outside": "weather.t;location=us", "weather.t;location=uk": None}
    async with serve(database, tmp_path) as other, other.client("admin") as client:

        async def written() -> set[str]:
            assert (await client.post("/api/v1/write", content=lines)).status_code == 204
            return {event["name"] for event in (await client.get("/api/v1/events")).json()["data"]}

        assert counts(await bring_in(other, json.loads(exported))) == (2, 0, 0)
        assert counts(await bring_in(other, json.loads(exported))) == (0, 0, 2)
        assert await export(other) == exported
        assert await written() == keys.keys()
        taken = await bring_in(other, FORMAT | {"events": [EVENTS[0] | {"source": None, "channel_key": "weather.t;location=us"}]}, 409)
        assert "series" in taken["detail"]
        async with other.connection() as conn:
            await conn.execute("DELETE FROM events")
        headers = {"Content-Type": "text/csv"}
        assert (await client.post("/api/v1/events/import/csv", content=file, headers=headers)).json()["created"] == 2
        assert (await client.post("/api/v1/events/import/csv", content=file, headers=headers)).json()["unchanged"] == 2
        assert await written() == keys.keys()
        assert await export(other) == exported


async def test_a_series_takes_no_event_from_its_source_unless_that_is_said(rest: Rest) -> None:
    mapped = FORMAT | {"events": [EVENTS[0] | {"source": "source", "channel_key": "t1"}]}
    await bring_in(rest, mapped)
    async with rest.client("admin") as client:
        file = "name,channel_key\nBoiler,hall.t\n"
        refused = await client.post("/api/v1/events/import/csv", content=file, headers={"Content-Type": "text/csv"})
        assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, ["body", 2, "channel_key"])
        said = await bring_in(rest, FORMAT | {"events": [{"name": "Boiler", "source": None, "channel_key": "hall.t"}]})
        assert said["objects"][0]["changes"] == {
            "source": {"from": "source", "to": None},
            "channel_key": {"from": "t1", "to": "hall.t"},
        }
        (event,) = (await client.get("/api/v1/events")).json()["data"]
        assert (event["source"], event["channel_key"]) == (None, "hall.t")
        assert (await client.post("/api/v1/write", content="hall t=20")).status_code == 204
        assert len((await client.get("/api/v1/events")).json()["data"]) == 1
        for wrong in (5, "", " x", "x" * 401):
            answer = await bring_in(rest, FORMAT | {"events": [{"name": "Boiler", "source": None, "channel_key": wrong}]}, 422)
            assert answer["errors"][0]["loc"] == ["body", "events", "Boiler", "channel_key"]
