"""What was answered is true at once where it was answered, and what was made elsewhere is not refused before it was looked for."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
import websockets
from parts.backend import Backend, make_source, make_user, sign_in
from websockets.asyncio.client import ClientConnection

from webmacs.storage.ids import uuid7

ANSWER_S = 20.0
TIMES = 3
"""Each is tried so often: once might be luck."""


@pytest.fixture(scope="module")
async def token(backend: Backend) -> str:
    return await sign_in(backend, "hasty@example.org", await make_user(backend.database, backend.data_dir, "hasty@example.org"))


@pytest.fixture
async def client(backend: Backend, token: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"{backend.url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def names() -> Iterator[str]:
    return (f"hasty {n}" for n in count())


async def sent(client: httpx.AsyncClient, method: str, path: str, **body: Any) -> Any:
    answer = await client.request(method, path, json=body)
    assert answer.is_success, answer.text
    return answer.json()


async def make_event(client: httpx.AsyncClient, name: str) -> str:
    public_id: str = (await sent(client, "POST", "/events", name=name, type="sensor", unit=""))["public_id"]
    return public_id


async def make_event_elsewhere(conn: "asyncpg.Connection[Any]", name: str) -> str:
    """As another process makes one, of whose word nothing has come here yet."""
    public_id = uuid7()
    await conn.execute("INSERT INTO events (public_id, name, type, unit) VALUES ($1, $2, 'sensor', '')", public_id, name)
    return str(public_id)


@asynccontextmanager
async def opened(backend: Backend, token: str, path: str) -> AsyncIterator[ClientConnection]:
    async with websockets.connect(
        backend.sockets + path, additional_headers={"Authorization": f"Bearer {token}"}, compression=None
    ) as socket:
        yield socket


async def expect(socket: ClientConnection, *kinds: str) -> dict[str, Any]:
    async with asyncio.timeout(ANSWER_S):
        while (message := json.loads(await socket.recv()))["type"] not in kinds:
            pass
        return message


async def test_a_stream_looks_for_an_event_that_was_made_elsewhere(
    backend: Backend, client: httpx.AsyncClient, token: str, conn: "asyncpg.Connection[Any]", names: Iterator[str]
) -> None:
    event, never = await make_event_elsewhere(conn, next(names)), str(uuid7())
    async with opened(backend, token, "/ws/datapoints/stream") as socket:
        await socket.send(json.dumps({"type": "subscribe", "events": [event, never], "interval_ms": 20}))
        refused = await expect(socket, "error")
        assert (refused["detail"], refused["count"]) == (f"no such event: {never}", 1)
        await expect(socket, "snapshot")
        await sent(client, "POST", "/datapoints", event_public_id=event, value=4.5)
        (point,) = (await expect(socket, "datapoints_batch"))["datapoints"]
        assert (point["event_public_id"], point["value"]) == (event, 4.5)


async def test_a_text_frame_may_name_an_event_that_was_made_elsewhere(
    backend: Backend, client: httpx.AsyncClient, token: str, conn: "asyncpg.Connection[Any]", names: Iterator[str]
) -> None:
    event = await make_event_elsewhere(conn, next(names))
    async with opened(backend, token, "/ws/controller/telemetry") as socket:

        async def offer(*events: str) -> dict[str, Any]:
            await socket.send(json.dumps({"datapoints": [{"event_public_id": one, "value": 2.5} for one in events]}))
            while isinstance(message := await asyncio.wait_for(socket.recv(), ANSWER_S), bytes):
                pass
            answer: dict[str, Any] = json.loads(message)
            return answer

        assert (await offer(event)) == {"type": "ack", "index": 0}
        refused = await offer(event, str(uuid7()))
        assert (refused["type"], refused["code"], refused["position"]) == ("nack", "unknown_channel", 1)
    (latest,) = (await client.get("/datapoints/latest", params={"event_public_ids": event})).json()["data"]
    assert latest["value"] == 2.5


async def test_a_rule_judges_from_the_moment_it_is_made(client: httpx.AsyncClient, names: Iterator[str]) -> None:
    for _ in range(TIMES):
        event = await make_event(client, next(names))
        await sent(client, "POST", "/datapoints", event_public_id=event, value=-1)  # so that the event is known
        rule = await sent(client, "POST", "/rules", name=next(names), event_public_id=event, operator="gt", threshold=0)
        await sent(client, "POST", "/datapoints", event_public_id=event, value=5)
        assert (await client.get(f"/rules/{rule['public_id']}")).json()["fired"]


async def test_a_reading_after_the_start_of_an_experiment_is_of_it_and_one_after_its_end_is_not(
    client: httpx.AsyncClient, conn: "asyncpg.Connection[Any]", names: Iterator[str]
) -> None:
    async def newest(event: str) -> UUID | None:
        """Of which experiment it was stored."""
        experiment: UUID | None = await conn.fetchval(
            """SELECT x.public_id FROM latest l JOIN events e ON e.id = l.event_id LEFT JOIN experiments x ON x.id = l.experiment_id
                WHERE e.public_id = $1""",
            event,
        )
        return experiment

    for _ in range(TIMES):
        event = await make_event(client, next(names))
        await sent(client, "POST", "/datapoints", event_public_id=event, value=0)  # so that the event is known
        experiment = (await sent(client, "POST", "/experiments", name=next(names), event_public_ids=[event]))["public_id"]
        await sent(client, "POST", "/datapoints", event_public_id=event, value=1)
        assert await newest(event) == UUID(experiment)
        await sent(client, "PUT", f"/experiments/{experiment}/stop")
        await sent(client, "POST", "/datapoints", event_public_id=event, value=2)
        assert await newest(event) is None


async def test_a_source_may_write_a_channel_from_the_moment_it_is_mapped(
    backend: Backend, client: httpx.AsyncClient, conn: "asyncpg.Connection[Any]", names: Iterator[str]
) -> None:
    credential = await make_source(backend.database, next(names))
    source = await conn.fetchval("SELECT max(id) FROM sources")
    instance = uuid7()
    await conn.execute(
        """INSERT INTO plugin_instances (public_id, name, source_id, plugin_id, created_on, changed_on)
           VALUES ($1, 'hasty', $2, 'x', now(), now())""",
        instance, source,
    )  # fmt: skip
    for _ in range(TIMES):
        event, key = await make_event(client, next(names)), next(names)
        await sent(client, "POST", f"/plugins/{instance}/channels", channel_key=key, name=key, unit="", event_public_id=event)
        reading = {"event_public_id": event, "value": 1}
        posted = await client.post("/datapoints", headers={"Authorization": f"Bearer {credential}"}, json=reading)
        assert posted.status_code == 201, posted.text


async def test_a_series_is_the_event_that_has_its_name_now(client: httpx.AsyncClient, names: Iterator[str]) -> None:
    for n in range(TIMES):
        event = await make_event(client, f"former{n}.v")
        await client.post("/write", content=f"former{n} v=1")
        await sent(client, "PUT", f"/events/{event}", name=f"present{n}.v")
        for line in (f"former{n} v=2", f"present{n} v=3"):
            assert (await client.post("/write", content=line)).is_success
        rows = (await client.get("/datapoints", params={"event_public_ids": event, "sort": "timestamp"})).json()["data"]
        assert [row["value"] for row in rows] == [1, 3]
