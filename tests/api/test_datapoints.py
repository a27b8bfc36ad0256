"""Readings by REST: each is taken or refused by itself, and what was answered is stored."""

import asyncio
import gzip
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from parts import stored
from parts.rest import Rest

from webmacs import clock, ingest_core
from webmacs.storage.ids import read_reading_id

POST = "/api/v1/datapoints"
BATCH = "/api/v1/datapoints/batch"
LINES = {"content-type": "application/x-ndjson"}
NOT_ITS_OWN = "this event is not yours to write: no channel of this source is mapped to it"
NOBODY = "01a20a7a-1b53-79ca-9623-0f2e8d54601f"


class Event:
    """An event of the test's own."""

    def __init__(self, rest: Rest, public_id: str, event_id: int) -> None:
        self.rest = rest
        self.public_id = public_id
        self.id = event_id

    def item(self, value: float, at: datetime | None = None) -> dict[str, Any]:
        return {"event_public_id": self.public_id, "value": value} | ({} if at is None else {"timestamp": at.isoformat()})

    async def values(self) -> list[float]:
        """Stored, in the order of time."""
        async with self.rest.connection() as conn:
            return list(dict(sorted((await stored.readings_of(conn, self.id)).items())).values())


@pytest.fixture
async def event(rest: Rest) -> Event:
    return await make_event(rest)


async def make_event(rest: Rest, source: str | None = None) -> Event:
    name, public_id = uuid4().hex, uuid4()
    async with rest.connection() as conn:
        event_id = await conn.fetchval(
            """INSERT INTO events (public_id, name, type, unit, writer_id, channel_key)
               SELECT $1, $2, 'sensor', '°C', w.id, $2 FROM writers w LEFT JOIN sources s ON s.id = w.source_id
                WHERE s.name IS NOT DISTINCT FROM $3 RETURNING id""",
            public_id, name, source,
        )  # fmt: skip
    await rest.app.state.catalogue.load()
    return Event(rest, str(public_id), event_id)


def now() -> datetime:
    return datetime.now(UTC)


async def post(client: httpx.AsyncClient, *items: Any, **headers: str) -> dict[str, Any]:
    answer = await client.post(BATCH, json={"datapoints": items}, headers=headers)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_reading_is_answered_with_its_place_when_it_is_stored(rest: Rest, event: Event) -> None:
    moment = now().replace(microsecond=123_456)
    async with rest.client("operator") as client:
        answer = await client.post(POST, json=event.item(21.5, moment))
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body == {
        "public_id": body["public_id"],
        "event_public_id": event.public_id,
        "timestamp": moment.isoformat().replace("+00:00", "Z"),
        "value": 21.5,
    }
    assert answer.headers["location"] == f"{POST}/{body['public_id']}"
    assert read_reading_id(UUID(body["public_id"])) == (event.id, clock.from_datetime(moment))
    assert await event.values() == [21.5]


async def test_a_reading_without_a_time_is_taken_now(rest: Rest, event: Event) -> None:
    before = now()
    async with rest.client("operator") as client:
        body = (await client.post(POST, content=json.dumps(event.item(-0.5)))).json()  # as curl -d sends it
    assert before <= datetime.fromisoformat(body["timestamp"]) <= now()
    assert await event.values() == [-0.5]


@pytest.mark.parametrize(
    ("body", "status", "place"),
    [
        ({"value": 1}, 422, ["body", "event_public_id"]),
        ({"event_public_id": NOBODY}, 422, ["body", "value"]),
        ({"event_public_id": NOBODY, "value": 1}, 422, ["body", "event_public_id"]),
        ({"event_public_id": NOBODY, "value": "1"}, 422, ["body", "value"]),
        ({"event_public_id": NOBODY, "value": None}, 422, ["body", "value"]),
        ({"event_public_id": NOBODY, "value": 1, "timestamp": "yesterday"}, 422, ["body", "timestamp"]),
        ({"event_public_id": NOBODY, "value": 1, "timestamp": 5}, 422, ["body", "timestamp"]),
        (f'{{"event_public_id": "{NOBODY}", "value": 1, "value": 2}}', 422, ["body", "value"]),
        ({"event_public_id": NOBODY, "value": 1, "unit": "V"}, 422, ["body", "unit"]),
        ({"event_public_id": NOBODY, "value": 2**53 + 1}, 422, ["body", "value"]),
        ({"event_public_id": "x", "value": 1}, 422, ["body", "event_public_id"]),
        ([], 422, ["body"]),
        ("{", 400, None),
        (f'{{"event_public_id": "{NOBODY}", "value": 1e400}}', 422, ["body", "value"]),
        ("", 400, None),
        (b"\xff", 400, None),
        ("[" * 100_000, 400, None),
    ],
)
async def test_what_is_no_reading_is_refused_with_its_place(rest: Rest, body: Any, status: int, place: list[str] | None) -> None:
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    async with rest.client("operator") as client:
        answer = await client.post(POST, content=content)
    assert answer.status_code == status, answer.text
    if place is not None:
        assert answer.json()["errors"][0]["loc"] == place


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, ["body", "datapoints"]),
        ([], ["body"]),
        ({"datapoints": 5}, ["body", "datapoints"]),
        ({"datapoints": [], "unit": "V"}, ["body", "unit"]),
        ({"datapoints": [1] * 10_001}, ["body", "datapoints"]),
    ],
)
async def test_what_is_no_batch_is_refused_with_its_place(rest: Rest, body: Any, place: list[str]) -> None:
    async with rest.client("operator") as client:
        answer = await client.post(BATCH, json=body)
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, place), answer.text


async def test_a_refused_reading_of_a_batch_names_its_field(rest: Rest, event: Event) -> None:
    good = event.item(1)
    wrong: dict[str | None, Any] = {
        "value": good | {"value": "1"},
        "event_public_id": good | {"event_public_id": NOBODY},
        "timestamp": event.item(1, now() - timedelta(days=400)),
        "unit": good | {"unit": "V"},
        None: 5,
    }
    async with rest.client("operator") as client:
        for form in ({"json": {"datapoints": [good, *wrong.values()]}}, {"content": as_lines(good, *wrong.values()), "headers": LINES}):
            answer = await client.post(BATCH, **form)  # type: ignore[arg-type]
            assert [(one["index"], one["field"]) for one in answer.json()["results"]] == list(enumerate(wrong, 1)), answer.text


def as_lines(*items: Any) -> str:
    return "\n".join(json.dumps(item) for item in items)


async def test_times_lie_within_the_limits_of_a_live_reading(rest: Rest, event: Event) -> None:
    async with rest.client("operator") as client:
        for past in (timedelta(days=30, minutes=1), timedelta(hours=-24, minutes=-1)):
            refused = await client.post(POST, json=event.item(1.0, now() - past))
            assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, ["body", "timestamp"])
        for past in (timedelta(days=29, hours=23), timedelta(hours=-23)):
            assert (await client.post(POST, json=event.item(1.0, now() - past))).status_code == 201


async def test_of_a_batch_the_good_are_kept_and_the_others_are_named(rest: Rest, event: Event) -> None:
    other = await make_event(rest)
    begin = now() - timedelta(minutes=1)
    items = [
        event.item(1.0, begin),
        {"event_public_id": NOBODY, "value": 1},
        event.item(2.0, begin + timedelta(seconds=1)),
        event.item(3.0, begin - timedelta(days=40)),
        {"event_public_id": other.public_id, "value": "x"},
        {"event_public_id": other.public_id},
        other.item(4.0, begin),
        "nonsense",
        None,
        event.item(1.0) | {"unit": "V"},
    ]
    async with rest.client("operator") as client:
        answer = await post(client, *items)
    assert (answer["accepted"], answer["refused"]) == (3, 7)
    codes = {1: "unknown_channel", 3: "out_of_bounds"} | dict.fromkeys((4, 5, 7, 8, 9), "malformed")
    assert {one["index"]: one["code"] for one in answer["results"]} == codes
    assert [one["index"] for one in answer["results"]] == sorted(codes)
    assert all(one["detail"] for one in answer["results"])
    assert await event.values() == [1.0, 2.0]
    assert await other.values() == [4.0]


async def test_repeats_without_a_time_come_a_microsecond_apart(rest: Rest, event: Event) -> None:
    async with rest.client("operator") as client:
        assert await post(client, *(event.item(n) for n in range(5))) == {"accepted": 5, "refused": 0, "results": []}
    async with rest.connection() as conn:
        times = sorted(await stored.readings_of(conn, event.id))
    assert [later - times[0] for later in times] == [0, 1, 2, 3, 4]
    assert await event.values() == [0, 1, 2, 3, 4]


async def test_a_batch_has_ten_thousand_readings_and_no_more(rest: Rest, event: Event) -> None:
    begin = now() - timedelta(minutes=5)
    items = [event.item(n, begin + timedelta(milliseconds=n)) for n in range(ingest_core.BATCH_READINGS_MAX + 1)]
    async with rest.client("operator") as client:
        answer = await client.post(BATCH, json={"datapoints": items})
        assert answer.status_code == 422
        assert "10000" in answer.json()["detail"]
        assert await event.values() == []
        assert await post(client, *items[:-1]) == {"accepted": 10_000, "refused": 0, "results": []}
        lines = "\n".join(map(json.dumps, items))
        assert (await client.post(BATCH, content=lines, headers=LINES)).status_code == 422
    assert len(await event.values()) == 10_000


async def test_lines_of_json_are_taken_one_by_one(rest: Rest, event: Event) -> None:
    begin = now() - timedelta(minutes=1)
    lines = [json.dumps(event.item(n, begin + timedelta(seconds=n))) for n in range(3)]
    content = f"{lines[0]}\r\n\n{lines[1]}\n{{broken\n{lines[2]}"
    async with rest.client("operator") as client:
        answer = await client.post(BATCH, content=content, headers=LINES)
        assert answer.status_code == 200
        assert answer.json() == {"accepted": 3, "refused": 1, "results": [answer.json()["results"][0]]}
        assert answer.json()["results"][0] | {"detail": ""} == {"index": 3, "field": None, "code": "malformed", "detail": ""}
        assert "no JSON" in answer.json()["results"][0]["detail"]
        assert (await client.post(BATCH, content=lines[0], headers={"content-type": "application/x-ndjson; charset=utf-8"})).json() == {
            "accepted": 1, "refused": 0, "results": [],
        }  # fmt: skip
        assert (await client.post(BATCH, content=b"", headers=LINES)).json()["accepted"] == 0
    assert await event.values() == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ("{", 400), ("", 400), ("[]", 422), ("{}", 422), ('{"datapoints": 1}', 422), ('{"datapoints": [], "more": 1}', 422),
        ('{"datapoints": [{]}', 400), ('{"datapoints": []} x', 400), ('{"datapoints": ' + "[" * 100_000, 400), (b"\xef\xbb\xbf{}", 400),
    ],
)  # fmt: skip
async def test_a_body_that_is_no_batch_is_refused_whole(rest: Rest, content: Any, status: int) -> None:
    async with rest.client("operator") as client:
        answer = await client.post(BATCH, content=content)
    assert answer.status_code == status, answer.text


async def test_hostile_items_cost_themselves_only(rest: Rest, event: Event) -> None:
    good = json.dumps(event.item(7.0))
    hostile = [
        "[" * 5_000 + "]" * 5_000,
        f'{{"value": 1e999, "event_public_id": "{event.public_id}"}}',
        '{"event_public_id": "\\ud800", "value": 1}',
        '{"event_public_id": "\\u0000", "value": 1}',
        f'{{"event_public_id": "{event.public_id}", "value": 1, "value": 2}}',
        f'{{"event_public_id": "{event.public_id}", "value": 1, "timestamp": "10000-01-01T00:00:00Z"}}',
        f'{{"event_public_id": "{event.public_id}", "value": 1, "timestamp": "2026-01-01T00:00:00"}}',
        f'{{"event_public_id": "{event.public_id}", "value": 9007199254740993}}',
    ]
    async with rest.client("operator") as client:
        answer = await client.post(BATCH, content=f'{{"datapoints": [{", ".join(hostile)}, {good}]}}')
    assert (answer.json()["accepted"], answer.json()["refused"]) == (1, len(hostile)), answer.text
    assert await event.values() == [7.0]


async def test_a_body_may_be_compressed_but_no_bomb(rest: Rest, event: Event) -> None:
    body = json.dumps({"datapoints": [event.item(n, now() - timedelta(seconds=n)) for n in range(1, 100)]}).encode()
    async with rest.client("operator") as client:

        async def send(content: bytes, encoding: str) -> httpx.Response:
            return await client.post(BATCH, content=content, headers={"content-encoding": encoding})

        assert (await send(gzip.compress(body), "gzip")).json()["accepted"] == 99
        assert (await send(body, "gzip")).status_code == 400
        assert (await send(gzip.compress(body)[:-5], "gzip")).status_code == 400
        assert (await send(gzip.compress(body) + b"x", "gzip")).status_code == 400
        assert (await send(body, "br")).status_code == 415
        bomb = gzip.compress(b" " * 20_000_000)
        assert (await send(bomb, "gzip")).status_code == 413
        assert (await send(gzip.compress(body + b" " * 1_000_000), "gzip")).status_code == 413  # more than 100 times its size
        large = b" " * (ingest_core.BATCH_BYTES_MAX + 1)
        assert (await client.post(BATCH, content=large)).status_code == 413


async def test_a_source_writes_its_own_events_and_no_others(rest: Rest, event: Event) -> None:
    own = await make_event(rest, source="source")
    async with rest.client("source") as client:
        answer = await post(client, own.item(1.0), event.item(2.0))
        assert (answer["accepted"], [(one["index"], one["code"]) for one in answer["results"]]) == (1, [(1, "not_granted")])
        assert (await client.post(POST, json=event.item(3.0))).status_code == 403
        assert (await client.post(POST, json=own.item(4.0))).status_code == 201
    async with rest.client("operator") as client:
        assert (await client.post(POST, json=own.item(5.0))).status_code == 201
    assert await own.values() == [1.0, 4.0, 5.0]
    assert await event.values() == []


async def test_under_its_key_a_batch_is_stored_once_and_answered_the_same(rest: Rest, event: Event) -> None:
    items = [event.item(1.0), {"event_public_id": NOBODY, "value": 1}]
    key = {"Idempotency-Key": uuid4().hex}
    async with rest.client("operator") as client:
        first = await client.post(BATCH, json={"datapoints": items}, headers=key)
        again = await client.post(BATCH, json={"datapoints": items}, headers=key)
        assert (again.status_code, again.json()) == (200, first.json())
        assert (again.headers["idempotent-replayed"], "idempotent-replayed" in first.headers) == ("true", False)
        other = await client.post(BATCH, json={"datapoints": items[:1]}, headers=key)
        assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")
        assert (await client.post(BATCH, json={"datapoints": items}, headers={"Idempotency-Key": "a b"})).status_code == 422
    assert await event.values() == [1.0]


async def test_of_requests_under_one_key_at_once_one_is_stored(rest: Rest, event: Event) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    async with rest.client("operator") as client:
        content = json.dumps(event.item(1.0))
        answers = await asyncio.gather(*(client.post(POST, content=content, headers=key) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert len({answer.headers["location"] for answer in answers}) == 1
    async with rest.connection() as conn:
        assert await conn.fetchval("SELECT sum(n) FROM datapoints WHERE event_id = $1", event.id) == 1


async def test_a_refused_reading_leaves_its_key_free(rest: Rest, event: Event) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    async with rest.client("operator") as client:
        assert (await client.post(POST, json={"event_public_id": NOBODY, "value": 1}, headers=key)).status_code == 422
        assert (await client.post(POST, json=event.item(1.0), headers=key)).status_code == 201


async def test_a_source_that_comes_back_meanwhile_costs_no_reading(rest: Rest) -> None:
    """Its events are taken over between the acceptance and the commit, so the flush drops what was accepted; it is offered again."""
    own = await make_event(rest, source="source")
    async with rest.client("operator") as client, rest.connection() as conn:
        for n in range(20):
            answer, _ = await asyncio.gather(
                client.post(POST, json=own.item(n)),
                conn.execute("UPDATE writers SET generation = generation + 1, owner = gen_random_uuid() WHERE source_id IS NOT NULL"),
            )
            assert answer.status_code == 201, answer.text
    assert await own.values() == list(range(20))


async def test_an_event_can_be_written_as_soon_as_it_is_made(rest: Rest) -> None:
    async with rest.client("operator") as client:
        for n in range(5):
            made = await client.post("/api/v1/events", json={"name": f"new {n}", "type": "sensor", "unit": ""})
            answer = await client.post(POST, json={"event_public_id": made.json()["public_id"], "value": n})
            assert answer.status_code == 201, answer.text


async def test_readings_without_times_that_come_at_once_do_not_take_each_others_place(rest: Rest, event: Event) -> None:
    async with rest.client("operator") as client:
        body = {"datapoints": [event.item(value) for value in range(3_000)]}
        answers = await asyncio.gather(*(client.post(BATCH, json=body) for _ in range(8)))
    assert [answer.json()["accepted"] for answer in answers] == [3_000] * 8
    assert len(await event.values()) == 24_000


async def test_a_reading_of_an_event_that_is_deleted_meanwhile_is_no_fault(rest: Rest) -> None:
    async with rest.client("admin") as client:
        for _ in range(10):
            event = await make_event(rest)
            posts = [client.post(POST, json=event.item(1.0)) for _ in range(5)]
            *answers, _ = await asyncio.gather(*posts, client.delete(f"/api/v1/events/{event.public_id}"))
            assert {answer.status_code for answer in answers} <= {201, 422, 503}


async def test_a_source_whose_channel_was_taken_away_is_refused_from_the_first_reading_on(rest: Rest) -> None:
    async with rest.client("admin") as admin, rest.client("source") as source:
        event = (await admin.post("/api/v1/events", json={"name": "Taken away", "type": "sensor", "unit": ""})).json()["public_id"]
        instance = {"source_public_id": str(rest.source), "plugin_id": "simulated", "name": "bench"}
        channels = f"{(await admin.post('/api/v1/plugins', json=instance)).headers['location']}/channels"
        channel = {"channel_key": "t", "name": "T", "unit": "", "event_public_id": event}
        address = (await admin.post(channels, json=channel)).headers["location"]
        reading = {"event_public_id": event, "value": 1}
        while (stored := await source.post(POST, json=reading)).status_code == 403:
            pass  # until word of the mapping has come
        assert stored.status_code == 201
        await admin.put(address, json={"event_public_id": None})
        for _ in range(3):
            refused = await source.post(POST, json=reading)
            assert (refused.status_code, refused.json()["detail"]) == (403, NOT_ITS_OWN), refused.text
        batch = await source.post(BATCH, json={"datapoints": [reading]})
        assert (batch.json()["accepted"], batch.json()["results"][0]["code"]) == (0, "not_granted")
