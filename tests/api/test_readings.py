"""Readings one by one: listed by cursor, read and deleted by their id, deleted by the stretch."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from parts import stored
from parts.rest import Rest

from webmacs import clock
from webmacs.storage import partitions, readings, runs
from webmacs.storage.compact import compact_events
from webmacs.storage.erase import erase
from webmacs.storage.ids import reading_id
from webmacs.storage.readings import Range

LIST = "/api/v1/datapoints"
SECOND = timedelta(seconds=1)


class Channel:
    """An event and what is sent to it: a request for each call of `send`, so a run for each."""

    def __init__(self, rest: Rest, public_id: str, event_id: int) -> None:
        self.rest = rest
        self.public_id = public_id
        self.id = event_id
        noon = (clock.to_datetime(clock.now_us()) - timedelta(days=1)).replace(hour=12, minute=0, second=0, microsecond=0)
        self.begin = noon

    def at(self, second: float) -> datetime:
        return self.begin + second * SECOND

    def us(self, second: float) -> int:
        return clock.from_datetime(self.at(second))

    async def send(self, *pairs: tuple[float, float]) -> None:
        """(s from the beginning, value)"""
        items = [{"event_public_id": self.public_id, "value": value, "timestamp": self.at(second).isoformat()} for second, value in pairs]
        async with self.rest.client("operator") as client:
            answer = await client.post(f"{LIST}/batch", json={"datapoints": items})
        assert answer.json()["accepted"] == len(items)

    async def stored(self) -> dict[float, float]:
        async with self.rest.connection() as conn:
            found = await stored.readings_of(conn, self.id)
        return {(us - self.us(0)) / 1e6: value for us, value in sorted(found.items())}

    async def compact(self) -> None:
        """Merges all that there is, twice, so that packed runs are there too."""
        conn = await asyncpg.connect(self.rest.database)
        day = partitions.day_of(self.us(0))
        for _ in range(2):
            await compact_events(conn, day, [self.id], day + timedelta(days=1), thorough=True)
        await conn.close()


@pytest.fixture
async def channel(rest: Rest) -> Channel:
    return await make_channel(rest)


async def make_channel(rest: Rest) -> Channel:
    async with rest.client("operator") as client:
        made = (await client.post("/api/v1/events", json={"name": uuid4().hex, "type": "sensor", "unit": ""})).json()
    async with rest.connection() as conn:
        event_id = await conn.fetchval("SELECT id FROM events WHERE public_id = $1", UUID(made["public_id"]))
    return Channel(rest, made["public_id"], event_id)


async def read_all(rest: Rest, channels: list[Channel], limit: int, **query: Any) -> list[tuple[int, str, float]]:
    """Page after page: (µs, event, value)."""
    found: list[tuple[int, str, float]] = []
    cursor: dict[str, str] = {}
    async with rest.client("viewer") as client:
        for _ in range(10_000):
            ids = ",".join(one.public_id for one in channels)
            answer = await client.get(LIST, params={"event_public_ids": ids, "limit": limit} | query | cursor)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            assert len(page["data"]) <= limit
            for one in page["data"]:
                moment = clock.from_datetime(datetime.fromisoformat(one["timestamp"]))
                found.append((moment, one["event_public_id"], one["value"]))
            if page["next"] is None:
                return found
            cursor = {"cursor": page["next"]}
    raise AssertionError("the list has no end")


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("limit", [1, 3, 7, 1000])
async def test_pages_hold_every_reading_once_and_in_order(rest: Rest, limit: int, compacted: bool) -> None:
    a, b = await make_channel(rest), await make_channel(rest)
    await a.send(*((n, n) for n in range(10)))
    await a.send((20, 20))
    await a.send((21, 21), (22, 22))
    await a.send((3.5, 100), (4, 104), (21, 121))  # late: between others, and over them
    await b.send(*((n, -n) for n in range(0, 30, 5)))
    await b.send((4, -4))
    if compacted:
        await a.compact()
        await b.compact()
    model = {(a.us(n), a.id, a.public_id): float(n) for n in range(10)}
    model |= {(a.us(n), a.id, a.public_id): float(value) for n, value in ((20, 20), (22, 22), (3.5, 100), (4, 104), (21, 121))}
    model |= {(b.us(n), b.id, b.public_id): -float(n) for n in (*range(0, 30, 5), 4)}
    expected = [(us, public_id, value) for (us, _, public_id), value in sorted(model.items())]
    assert await read_all(rest, [a, b], limit, sort="timestamp") == expected
    assert await read_all(rest, [a, b], limit) == expected[::-1]
    within = {"from": a.at(4).isoformat(), "to": a.at(21).isoformat()}
    inside = [one for one in expected if a.us(4) <= one[0] < a.us(21)]
    assert await read_all(rest, [a, b], limit, sort="timestamp", **within) == inside
    assert await read_all(rest, [b, a], limit, **within) == inside[::-1]


async def test_a_page_far_back_opens_no_more_runs_than_the_first(rest: Rest, channel: Channel) -> None:
    for block in range(40):
        await channel.send(*((block * 10 + n, n) for n in range(10)))
    opened: list[int] = []
    async with rest.connection() as conn:
        plain = await asyncpg.connect(rest.database)
        place = None
        within = Range(channel.at(0), channel.at(400))
        while True:
            async with plain.transaction(isolation="repeatable_read", readonly=True):
                window = await readings._next_window(plain, [channel.id], within, place, True, 10)
                _, place = await readings.read_page(plain, [channel.id], within, place, True, 10)
            if window is not None:
                opened.append(
                    await conn.fetchval(
                        "SELECT count(*) FROM datapoints WHERE event_id = $1 AND created_on < $3 AND last_on >= $2",
                        channel.id, window.start, window.end,
                    )
                )  # fmt: skip
            if place is None:
                break
        await plain.close()
    assert len(opened) >= 40
    assert max(opened) <= 3


async def test_an_experiment_of_other_events_has_no_reading_of_this_one(rest: Rest, channel: Channel) -> None:
    async with rest.connection() as conn:
        experiment = await conn.fetchval(
            "INSERT INTO experiments (public_id, name, started_on, stopped_on, scoped)"
            " VALUES (gen_random_uuid(), 'other', now() - interval '1 day', now() + interval '1 day', true) RETURNING public_id"
        )
    assert await read_all(rest, [channel], 2, experiment_public_id=str(experiment)) == []


async def test_an_experiments_readings_are_those_of_its_time(rest: Rest, channel: Channel) -> None:
    async with rest.connection() as conn:
        experiment = await conn.fetchval(
            "INSERT INTO experiments (public_id, name, started_on, stopped_on) VALUES ($1, 'x', $2, $3) RETURNING public_id",
            uuid4(), channel.at(3), channel.at(6),
        )  # fmt: skip
    await rest.app.state.catalogue.load()
    await channel.send(*((n, n) for n in range(10)))
    assert [one[2] for one in await read_all(rest, [channel], 2, experiment_public_id=str(experiment))] == [5, 4, 3]
    async with rest.client("viewer") as client:
        page = (await client.get(LIST, params={"event_public_ids": channel.public_id, "sort": "timestamp"})).json()["data"]
        assert [one["experiment_public_id"] for one in page[2:7]] == [None, *[str(experiment)] * 3, None]
        params = {"event_public_ids": channel.public_id, "experiment_public_id": channel.public_id}
        assert (await client.get(LIST, params=params)).status_code == 422


async def test_of_which_experiment_a_reading_is_its_time_says(rest: Rest, channel: Channel) -> None:
    """Whatever was known of experiments when it was stored: an experiment started or stopped elsewhere was perhaps not heard of yet."""
    begun, ended, stopped = uuid4(), uuid4(), 106

    async def make(conn: Any, public_id: UUID, start: float, stop: float) -> None:
        await conn.execute(
            """WITH made AS (INSERT INTO experiments (public_id, name, started_on, stopped_on, scoped) VALUES ($1, 'late', $2, $3, true)
                             RETURNING id)
               INSERT INTO experiment_events SELECT made.id, e.id, e.public_id, e.name FROM made, events e WHERE e.id = $4""",
            public_id, channel.at(start), channel.at(stop), channel.id,
        )  # fmt: skip

    async with rest.connection() as conn:
        await make(conn, ended, 105, 200)
        await rest.app.state.catalogue.load()
        await channel.send(*((n, n) for n in range(100, 110)))
        await make(conn, begun, 101, 103)
        await conn.execute("UPDATE experiments SET stopped_on = $2 WHERE public_id = $1", ended, channel.at(stopped))
    expected = [None, str(begun), str(begun), None, None, str(ended), *[None] * 4]
    async with rest.client("viewer") as client:
        page = (await client.get(LIST, params={"event_public_ids": channel.public_id, "sort": "timestamp"})).json()["data"]
        assert [one["experiment_public_id"] for one in page] == expected
        single = [(await client.get(f"{LIST}/{one['public_id']}")).json() for one in page]
        assert single == page
        (latest,) = (await client.get(f"{LIST}/latest", params={"event_public_ids": channel.public_id})).json()["data"]
        assert (latest["value"], latest["experiment_public_id"]) == (109, None)


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ({}, "event_public_ids"),
        ({"event_public_ids": ""}, "event_public_ids"),
        ({"event_public_ids": "01a20a7a-1b53-79ca-9623-0f2e8d54601f"}, "event_public_ids"),
        ({"event_public_ids": ",".join([str(uuid4())] * 21)}, "event_public_ids"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "_____________________w"}, "cursor"),
        ({"cursor": "AAAAAAAAAAD__________w"}, "cursor"),
        ({"cursor": ""}, "cursor"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"sort": "value"}, "sort"),
        ({"from": "2026-11-23T12:00:00Z", "to": "2026-11-22T12:00:00Z"}, None),
        ({"page": "2"}, "page"),
    ],
)
async def test_a_list_that_makes_no_sense_is_refused(rest: Rest, channel: Channel, query: dict[str, str], place: str | None) -> None:
    params = query if place == "event_public_ids" else {"event_public_ids": channel.public_id} | query
    async with rest.client("viewer") as client:
        answer = await client.get(LIST, params=params)
    assert answer.status_code == 422, answer.text
    if place is not None:
        assert place in answer.json()["errors"][0]["loc"]


async def test_a_reading_is_read_and_deleted_by_its_id_through_compaction(rest: Rest, channel: Channel) -> None:
    await channel.send(*((n, n) for n in range(5)))
    await channel.send((2, 22))
    address = f"{LIST}/{reading_id(channel.id, channel.us(2))}"
    async with rest.client("admin") as admin, rest.client("operator") as operator, rest.connection() as conn:
        before = (await admin.get(address)).json()
        assert (before["value"], before["event_public_id"]) == (22, channel.public_id)
        await channel.compact()
        assert (await admin.get(address)).json() == before
        assert (await operator.delete(address)).status_code == 403
        assert (await admin.delete(address, params={"dry_run": "true"})).status_code == 204
        assert (await admin.get(address)).status_code == 200
        assert (await admin.delete(address)).status_code == 204
        assert (await admin.get(address)).status_code == 404
        assert (await admin.delete(address)).status_code == 404
        row = await conn.fetchrow("SELECT action, kind, before FROM audit_log WHERE object_public_id = $1", UUID(before["public_id"]))
        assert (row["action"], row["kind"], '"value": 22' in row["before"]) == ("delete", "datapoint", True)
    assert await channel.stored() == {0: 0, 1: 1, 3: 3, 4: 4}


async def test_deleting_what_was_overwritten_brings_nothing_to_light(rest: Rest, channel: Channel) -> None:
    await channel.send((1, 1), (2, 2), (3, 3))
    await channel.send((2, 22))
    await channel.send((2, 222), (5, 5))
    async with rest.client("admin") as admin:
        assert (await admin.delete(f"{LIST}/{reading_id(channel.id, channel.us(2))}")).status_code == 204
    assert await channel.stored() == {1: 1, 3: 3, 5: 5}
    await channel.compact()
    assert await channel.stored() == {1: 1, 3: 3, 5: 5}


@pytest.mark.parametrize("public_id", [uuid4(), UUID(int=0), UUID(int=2**128 - 1), reading_id(2**31 - 1, 2**53 - 1), reading_id(1, 0)])
async def test_what_is_no_readings_id_is_not_found(rest: Rest, public_id: UUID) -> None:
    async with rest.client("admin") as admin:
        for answer in (await admin.get(f"{LIST}/{public_id}"), await admin.delete(f"{LIST}/{public_id}")):
            assert answer.status_code == 404


async def delete(rest: Rest, channel: Channel, start: float, end: float) -> int:
    params = {"event_public_id": channel.public_id, "from": channel.at(start).isoformat(), "to": channel.at(end).isoformat()}
    async with rest.client("admin") as admin:
        answer = await admin.delete(LIST, params=params)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["deleted"])


@pytest.mark.parametrize("compacted", [False, True])
async def test_a_stretch_is_deleted_and_what_is_around_it_stays(rest: Rest, channel: Channel, compacted: bool) -> None:
    for block in range(5):
        await channel.send(*((block * 10 + n, n) for n in range(10)))
    await channel.send((15.5, -1))
    if compacted:
        await channel.compact()
    assert await delete(rest, channel, 15, 32) == 18
    expected = {float(block * 10 + n): float(n) for block in range(5) for n in range(10) if not 15 <= block * 10 + n < 32}
    assert await channel.stored() == expected  # readings_of() holds each run's statistics to its readings, too
    assert await delete(rest, channel, 15, 32) == 0
    await channel.send((20, 7))
    await channel.compact()
    assert await channel.stored() == dict(sorted((expected | {20: 7}).items()))


async def latest(rest: Rest, channel: Channel) -> list[tuple[float, float]]:
    async with rest.client("viewer") as client:
        data = (await client.get(f"{LIST}/latest", params={"event_public_ids": channel.public_id})).json()["data"]
    return [((datetime.fromisoformat(one["timestamp"]) - channel.at(0)).total_seconds(), one["value"]) for one in data]


async def test_the_latest_is_mended_when_it_is_deleted(rest: Rest, channel: Channel) -> None:
    await channel.send(*((n, n) for n in range(10)))
    await channel.send((5, 55), (6, 66))
    await channel.send((20, 20))
    await delete(rest, channel, 3, 4)
    assert await latest(rest, channel) == [(20, 20)]
    await delete(rest, channel, 20, 30)
    assert await latest(rest, channel) == [(9, 9)]
    await delete(rest, channel, 7, 30)
    assert await latest(rest, channel) == [(6, 66)]
    await delete(rest, channel, 0, 30)
    assert await latest(rest, channel) == []
    await channel.send((1, 1))
    assert await latest(rest, channel) == [(1, 1)]


async def test_a_deletion_that_is_too_large_is_refused(rest: Rest, channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in range(4):
        await channel.send((block, block))
    monkeypatch.setattr(readings, "ERASED_RUNS_MAX", 3)
    params = {"event_public_id": channel.public_id, "from": channel.at(0).isoformat(), "to": channel.at(10).isoformat()}
    async with rest.client("admin") as admin:
        answer = await admin.delete(LIST, params=params)
        assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["query", "to"])
    assert len(await channel.stored()) == 4
    assert await delete(rest, channel, 0, 3) == 3


async def test_a_deletion_waits_for_a_compaction_under_way(rest: Rest, channel: Channel) -> None:
    await channel.send((1, 1), (2, 2))
    other = await asyncpg.connect(rest.database)
    async with other.transaction(), rest.connection() as conn:
        await runs.lock_rewriting(other)
        deletion = asyncio.create_task(delete(rest, channel, 0, 9))
        await waiting_for_a_lock(conn)
        assert len(await channel.stored()) == 2
    assert await deletion == 2
    await other.close()


async def waiting_for_a_lock(conn: Any) -> None:
    """Until some statement waits for a lock of another, of which nobody tells."""
    async with asyncio.timeout(5):
        while not await conn.fetchval(  # noqa: ASYNC110
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ):
            await asyncio.sleep(0.01)  # nobody tells


async def test_a_reading_written_while_others_are_deleted_stays_the_latest(rest: Rest, channel: Channel) -> None:
    """The flush that brings it waits for the deletion, or was seen by it."""
    await channel.send((1, 1), (2, 2))
    async with rest.connection() as conn, rest.connection() as watching:
        async with conn.transaction():
            assert await erase(conn, channel.id, channel.at(0), channel.at(9)) == 2
            sending = asyncio.create_task(channel.send((1.5, 3)))
            await waiting_for_a_lock(watching)
        await sending
    assert await latest(rest, channel) == [(1.5, 3)]
    assert await channel.stored() == {1.5: 3}
