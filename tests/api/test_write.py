"""Line protocol: what Telegraf and InfluxDB's clients send arrives, under the names that its fields have."""

import base64
import gzip
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from parts import stored
from parts.rest import Rest

from webmacs import clock, ingest_core

WRITE = "/api/v1/write"
RECORDED = Path(__file__).with_name("recorded") / "telegraf-1.37.2.gz"
"""A body as Telegraf 1.37.2 sent it with outputs.influxdb (inputs cpu, mem and system)."""


@pytest.fixture
def prefix() -> str:
    """What the measurements of a test begin with."""
    return f"m{uuid4().hex[:8]}"


async def send(client: httpx.AsyncClient, text: str | bytes, **query: str) -> httpx.Response:
    return await client.post(WRITE, content=text, params=query, headers={"content-type": "text/plain; charset=utf-8"})


async def readings(rest: Rest, prefix: str) -> dict[str, dict[int, float]]:
    """Name of an event that begins like this -> time in µs -> value, as stored."""
    async with rest.connection() as conn:
        events = await conn.fetch("SELECT id, name FROM events WHERE starts_with(name, $1)", prefix)
        return {row["name"]: await stored.readings_of(conn, row["id"]) for row in events}


def recent_us() -> int:
    return clock.now_us() - 60_000_000


async def test_each_field_is_a_series_with_its_tags_in_order(rest: Rest, prefix: str) -> None:
    t_us = recent_us()
    text = (
        f"{prefix},host=b,cpu=0 idle=97.5,user=1i {t_us}000\n"
        f"{prefix},cpu=0,host=b idle=98 {t_us + 1}000\n"  # the same series, however its tags are ordered
        f"{prefix} idle=-1e-3,on=t,off=FALSE,n=18u {t_us}000\n"
        f"# a comment\n\n"
        f"{prefix}\\ x\\,y,a\\=b=c\\ d e\\,f=1 {t_us}000\r\n"
    )
    async with rest.client("operator") as client:
        answer = await send(client, text)
    assert (answer.status_code, answer.text) == (204, "")
    assert await readings(rest, prefix) == {
        f"{prefix}.idle;cpu=0;host=b": {t_us: 97.5, t_us + 1: 98.0},
        f"{prefix}.user;cpu=0;host=b": {t_us: 1.0},
        f"{prefix}.idle": {t_us: -0.001},
        f"{prefix}.on": {t_us: 1.0},
        f"{prefix}.off": {t_us: 0.0},
        f"{prefix}.n": {t_us: 18.0},
        f"{prefix} x,y.e,f;a\\=b=c d": {t_us: 1.0},
    }


async def test_two_series_are_two_events_however_their_parts_are_written(rest: Rest, prefix: str) -> None:
    lines = [
        f"{prefix},a=b;c\\=d f=1",
        f"{prefix},a=b,c=d f=2",
        f"{prefix}.l f=3",
        f"{prefix} l.f=4",
        f"{prefix};a=b f=5",
        f"{prefix},a=b f=6",
    ]
    async with rest.client("operator") as client:
        assert (await send(client, "\n".join(lines))).status_code == 204
    stored = await readings(rest, prefix)
    assert {name: [*of.values()] for name, of in stored.items()} == {
        f"{prefix}.f;a=b\\;c=d": [1.0],
        f"{prefix}.f;a=b;c=d": [2.0],
        f"{prefix}.l.f": [3.0],
        f"{prefix}.l\\.f": [4.0],
        f"{prefix}\\;a=b.f": [5.0],
        f"{prefix}.f;a=b": [6.0],
    }


async def test_what_changes_while_a_series_is_looked_up_costs_no_other_its_name(
    rest: Rest, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = rest.app.state.catalogue
    changes = [{"name": f"{prefix} changed", "type": "sensor", "unit": ""}]
    name_series = catalogue.name_series
    async with rest.client("operator") as client:
        known, new = f"{prefix}known", f"{prefix}new"
        event = (await client.post("/api/v1/events", json={"name": f"{new}.v", "type": "sensor", "unit": ""})).json()["public_id"]
        assert (await client.post("/api/v1/datapoints", json={"event_public_id": event, "value": 1})).status_code == 201
        assert (await send(client, f"{known} v=1")).status_code == 204  # it is known by its name, from now on

        async def interrupted(*asked: Any) -> Any:
            if changes:
                assert (await client.post("/api/v1/events", json=changes.pop())).status_code == 201
            return await name_series(*asked)

        monkeypatch.setattr(catalogue, "name_series", interrupted)
        answer = await send(client, f"{known} v=2\n{new} v=2")
    assert (answer.status_code, answer.text) == (204, "")


async def test_events_are_made_once_as_sensors_of_the_api_and_the_audit_log_tells(rest: Rest, prefix: str) -> None:
    async with rest.client("operator") as client, rest.client("admin") as admin:
        for _ in range(2):
            assert (await send(client, f"{prefix} v=1")).status_code == 204
        (event,) = (await admin.get("/api/v1/events", params={"search": prefix})).json()["data"]
        assert (event["type"], event["unit"], event["source"], event["channel_key"]) == ("sensor", "", None, f"{prefix}.v")
        renamed = await admin.put(f"/api/v1/events/{event['public_id']}", json={"name": f"{prefix} renamed", "unit": "K"})
        assert renamed.status_code == 200
        assert (await send(client, f"{prefix} v=2")).status_code == 204  # still its key
        made = await client.post("/api/v1/events", json={"name": f"{prefix}.made;a=b", "type": "sensor", "unit": "V"})
        assert (await send(client, f"{prefix},a=b made=3")).status_code == 204  # made by hand: found by its name
        assert (await admin.get("/api/v1/events", params={"search": prefix})).json()["total"] == 2
    async with rest.connection() as conn:
        rows = await conn.fetch("SELECT actor_name, detail FROM audit_log WHERE object_name = $1 AND action = 'create'", f"{prefix}.v")
        assert [tuple(row) for row in rows] == [("operator", "for line protocol")]
        event_id = await conn.fetchval("SELECT id FROM events WHERE public_id = $1", made.json()["public_id"])
        assert list((await stored.readings_of(conn, event_id)).values()) == [3.0]
    assert [list(of.values()) for name, of in (await readings(rest, prefix)).items() if "renamed" in name] == [[1.0, 1.0, 2.0]]


@pytest.mark.parametrize(
    ("precision", "unit_us"),
    [("ns", 0.001), ("n", 0.001), ("us", 1), ("u", 1), ("ms", 1e3), ("s", 1e6), ("m", 60e6), ("h", 3600e6)],
)
async def test_times_count_in_the_unit_of_the_precision(rest: Rest, prefix: str, precision: str, unit_us: float) -> None:
    written = int(recent_us() / unit_us)
    async with rest.client("operator") as client:
        assert (
            await send(client, f"{prefix} v=1 {written}", precision=precision, db="telegraf", rp="", consistency="any")
        ).status_code == 204
    (moment,) = (await readings(rest, prefix))[f"{prefix}.v"]
    assert moment == round(written * unit_us)


async def test_without_a_time_it_is_now(rest: Rest, prefix: str) -> None:
    before = clock.now_us()
    async with rest.client("operator") as client:
        assert (await send(client, f"{prefix} v=1\n{prefix} v=2\n", bucket="b", org="o")).status_code == 204
    first, second = sorted((await readings(rest, prefix))[f"{prefix}.v"])
    assert before <= first <= clock.now_us()
    assert second == first + 1


async def test_refused_lines_are_named_and_the_others_stored(rest: Rest, prefix: str) -> None:
    old_us = recent_us() - int(timedelta(days=31).total_seconds() * 1e6)
    text = "\n".join(
        [
            f"{prefix} good=1",
            f'{prefix} text="two, words",beside=2',  # line 2
            f"{prefix} large=9007199254740993i",
            f"{prefix} fits=9007199254740992i",
            f"{prefix} old=1 {old_us}000",  # line 5
            f"{prefix}",
            f"{prefix} v=",
            f"{prefix} v=1 soon",
            f"{prefix} v=NaN",
            f"{prefix},t v=1",  # line 10
            f"{prefix},t=1,t=2 v=1",
            "=1",
            f'{prefix} text="no end',
        ]
    )
    async with rest.client("operator") as client:
        answer = await send(client, text)
    assert answer.status_code == 400
    document = answer.json()
    assert document["type"] == "/problems/partial-write"
    assert document["error"] == document["detail"]
    assert re.match(r"partial write: 11 refused, 3 stored; line 2: field text: ", document["detail"])
    assert [one["loc"] for one in document["errors"]] == [["line", n] for n in (2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13)]
    found = await readings(rest, prefix)
    assert {name: list(of.values()) for name, of in found.items() if of} == {
        f"{prefix}.good": [1.0], f"{prefix}.beside": [2.0], f"{prefix}.fits": [2.0**53],
    }  # fmt: skip


async def test_what_telegraf_sent_arrives(rest: Rest) -> None:
    """Its system plugin sends a text; that field is refused, Telegraf says so and goes on, and the rest is stored."""
    body = RECORDED.read_bytes()
    sent = gzip.decompress(body).decode()
    begin_s = int(sent.split()[-1]) // 10**9
    now_s = clock.now_us() // 10**6
    if not -86_000 < begin_s - now_s < 86_000:  # recorded once; taken as if it were sent now
        body = gzip.compress(sent.replace(f"{begin_s}", f"{now_s}").encode())
    headers = {"content-encoding": "gzip", "content-type": "text/plain; charset=utf-8"}

    async def chunks() -> Any:
        for start in range(0, len(body), 100):  # Telegraf says no length
            yield body[start : start + 100]

    async with rest.client("operator") as client:
        answer = await client.post(f"{WRITE}?db=telegraf", content=chunks(), headers=headers)
    assert answer.status_code == 400, answer.text
    assert {one["msg"].partition(":")[0] for one in answer.json()["errors"]} == {"field uptime_format"}
    lines = [line.split(" ") for line in sent.splitlines() if "uptime_format" not in line]
    fields = {f"{line[0]} {field.partition('=')[0]}" for line in lines for field in line[1].split(",")}
    async with rest.connection() as conn:
        rows = await conn.fetch("SELECT name FROM events WHERE name LIKE '%;%host=hall-3%'")
    assert len(rows) == len(fields)
    assert "mem.used_percent;host=hall-3" in {row["name"] for row in rows}


@pytest.mark.parametrize("scheme", ["Bearer", "Token", "Basic"])
async def test_machines_may_say_who_they_are_as_they_do_to_influxdb(rest: Rest, prefix: str, scheme: str) -> None:
    token = await api_token(rest)
    shown = base64.b64encode(f"anybody:{token}".encode()).decode() if scheme == "Basic" else token
    async with rest.client() as client:
        answer = await client.post(WRITE, content="", headers={"authorization": f"{scheme} {shown}"})
        assert answer.status_code == 204, answer.text
        person = rest.tokens["operator"]
        shown = base64.b64encode(f"anybody:{person}".encode()).decode() if scheme == "Basic" else person
        answer = await client.post(WRITE, content="", headers={"authorization": f"{scheme} {shown}"})
        assert answer.status_code == (204 if scheme == "Bearer" else 401)
        assert (await client.post(WRITE, content="", headers={"authorization": f"{scheme} wms_wrong"})).status_code == 401


async def api_token(rest: Rest) -> str:
    """Of a machine that may write."""
    return rest.tokens["source"]


async def test_a_source_writes_its_own_series_and_makes_none(rest: Rest, prefix: str) -> None:
    async with rest.connection() as conn:
        await conn.execute(
            """INSERT INTO events (public_id, name, type, unit, writer_id, channel_key)
               SELECT gen_random_uuid(), $1, 'sensor', '', id, $2 FROM writers WHERE source_id IS NOT NULL""",
            f"{prefix} of the source", f"{prefix}.v",
        )  # fmt: skip
    await rest.app.state.catalogue.load()
    async with rest.client("operator") as client:
        assert (await send(client, f"{prefix} foreign=1")).status_code == 204
    async with rest.client("source") as client:
        answer = await send(client, f"{prefix} v=5\n{prefix} new=1\n{prefix} foreign=2")
    assert [one["loc"][1] for one in answer.json()["errors"]] == [2, 3]
    found = await readings(rest, prefix)
    assert {name: list(of.values()) for name, of in found.items()} == {f"{prefix} of the source": [5.0], f"{prefix}.foreign": [1.0]}


async def test_a_key_makes_a_write_exactly_once(rest: Rest, prefix: str) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    async with rest.client("operator") as client:
        for text, status in ((f"{prefix} v=1", 204), (f'{prefix} v=1\n{prefix} v="x"', 400)):
            key = {"Idempotency-Key": uuid4().hex}
            answers = [await client.post(WRITE, content=text, headers=key) for _ in range(3)]
            assert [(one.status_code, one.text) for one in answers] == [(status, answers[0].text)] * 3
    assert sum(len(of) for of in (await readings(rest, prefix)).values()) == 2


@pytest.mark.parametrize(
    ("query", "status"),
    [({"precision": "d"}, 422), ({"u": "name", "p": "secret"}, 422), ({"db": "a" * 1_000}, 204), ({"precision": "s"}, 204)],
)
async def test_parameters_that_mean_nothing_here_are_refused(rest: Rest, query: dict[str, str], status: int) -> None:
    async with rest.client("operator") as client:
        assert (await send(client, "", **query)).status_code == status


async def test_too_many_fields_are_refused_whole(rest: Rest, prefix: str) -> None:
    line = f"{prefix} v=1\n"
    async with rest.client("operator") as client:
        answer = await send(client, line * (ingest_core.LINE_READINGS_MAX + 1))
        assert (answer.status_code, f"{ingest_core.LINE_READINGS_MAX}" in answer.json()["detail"]) == (422, True)
        assert (await send(client, line * ingest_core.LINE_READINGS_MAX)).status_code == 204
    (of,) = (await readings(rest, prefix)).values()
    assert len(of) == ingest_core.LINE_READINGS_MAX


def test_the_recorded_body_is_of_a_day() -> None:
    assert datetime.fromtimestamp(int(gzip.decompress(RECORDED.read_bytes()).split()[-1]) / 1e9, UTC).year >= 2026


async def test_an_event_made_for_a_series_is_told_of_as_one_made_by_hand(rest: Rest, prefix: str) -> None:
    async with rest.client("operator") as client:
        assert (await send(client, f"{prefix} v=1")).status_code == 204
        (event,) = (await client.get("/api/v1/events", params={"search": prefix})).json()["data"]
        version = await client.get(f"/api/v1/versions/event/{event['public_id']}/1")
        assert (version.json()["content"], version.json()["actor_name"]) == (event, "operator")
        await client.put(f"/api/v1/events/{event['public_id']}", json={"unit": "V"})
        compared = await client.get(f"/api/v1/versions/event/{event['public_id']}/2", params={"against": 1})
        assert compared.json()["changes"] == {"unit": {"from": "", "to": "V"}}
    async with rest.client("admin") as admin:
        (row,) = (await admin.get("/api/v1/audit", params={"object_public_id": event["public_id"], "action": "create"})).json()["data"]
    assert (row["after"], row["before"], row["actor_name"], row["detail"]) == (event, None, "operator", "for line protocol")


async def test_no_event_is_made_for_a_series_whose_name_none_may_have(rest: Rest, prefix: str) -> None:
    async with rest.client("operator") as client:
        answer = await send(client, f"\\ {prefix} v=1\n{prefix} v=2")
    assert (answer.status_code, [one["loc"] for one in answer.json()["errors"]]) == (400, [["line", 1]])
    assert list(await readings(rest, prefix)) == [f"{prefix}.v"]


async def test_a_token_sends_what_its_scopes_allow(rest: Rest, prefix: str) -> None:
    async def sender(*scopes: str, **fields: Any) -> dict[str, str]:
        async with rest.client("operator") as client:
            made = await client.post("/api/v1/tokens", json={"name": "telegraf", "scopes": scopes, **fields})
        assert made.status_code == 201, made.text
        return {"authorization": f"Token {made.json()['token']}", "content-type": "text/plain; charset=utf-8"}

    async with rest.client("operator") as operator:
        board = (await operator.post("/api/v1/dashboards", json={"name": "Hall"})).json()["public_id"]
    making, writing = await sender("datapoints:write", "events:write"), await sender("datapoints:write")
    reading, kiosk = await sender("read"), await sender(dashboard_public_id=board)
    body = gzip.compress(f"{prefix},host=a v=1\n".encode())
    async with rest.client() as client:

        async def write(shown: dict[str, str]) -> httpx.Response:
            return await client.post(f"{WRITE}?db=telegraf", content=body, headers=shown | {"content-encoding": "gzip"})

        for shown, refusal in ((reading, "scope-missing"), (kiosk, "forbidden")):
            answer = await write(shown)
            assert (answer.status_code, answer.json()["type"]) == (403, f"/problems/{refusal}"), answer.text
        answer = await write(writing)  # it makes no event
        assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (400, ["line", 1])
        assert "this token lacks events:write" in answer.json()["errors"][0]["msg"]
        assert "this token lacks events:write" in answer.json()["detail"]
        assert await readings(rest, prefix) == {}
        assert (await write(making)).status_code == 204
        assert (await write(writing)).status_code == 204
    ((name, stored_of),) = (await readings(rest, prefix)).items()
    assert (name, len(stored_of)) == (f"{prefix}.v;host=a", 2)
