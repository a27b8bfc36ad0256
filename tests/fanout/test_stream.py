"""The browsers' socket: what was committed arrives, the same for everybody, and one slow client changes nothing for the others."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
import websockets
from parts.backend import Backend, make_source, make_user, sign_in
from parts.dashboards import make_dashboard
from parts.source import Source, data
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from webmacs import accounts, clock

ANSWER_S = 20.0


@pytest.fixture(scope="module")
async def token(backend: Backend) -> str:
    return await sign_in(
        backend, "watcher@example.org", await make_user(backend.database, backend.data_dir, "watcher@example.org", "viewer")
    )


@asynccontextmanager
async def stream(backend: Backend, token: str, **options: Any) -> AsyncIterator[ClientConnection]:
    async with websockets.connect(
        f"{backend.sockets}/ws/datapoints/stream", additional_headers={"Authorization": f"Bearer {token}"}, compression=None, **options
    ) as socket:
        yield socket


async def expect(socket: ClientConnection, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(ANSWER_S):
        while (message := json.loads(await socket.recv()))["type"] != kind:
            pass
        return message


async def ask(socket: ClientConnection, **message: Any) -> None:
    await socket.send(json.dumps(message))


async def make_kiosk(conn: Any, owner: UUID, dashboard: UUID) -> str:
    """A token of the owner's for this dashboard."""
    token = accounts.new_token()
    await conn.execute(
        """INSERT INTO api_tokens (public_id, user_id, name, hash, role, scopes, dashboard_public_id, created_on)
           SELECT $1::uuid, id, $1::uuid::text, $2, 'viewer', '{}', $1::uuid, now() FROM users WHERE public_id = $3""",
        dashboard, accounts.credential_hash(token), owner,
    )  # fmt: skip
    return token


def now_us() -> int:
    return time.time_ns() // 1_000


async def test_a_subscriber_gets_a_snapshot_and_then_what_is_committed(backend: Backend, token: str) -> None:
    async with Source(backend.sockets, await make_source(backend.database, "seen")) as source, stream(backend, token) as socket:
        await expect(socket, "connected")
        event = (await source.hello(["seen"])).accepted[0][1]
        t = now_us()
        await source.send(data(1, {0: ([t], [1.5])}))
        await source.acknowledged(1)
        await ask(socket, type="subscribe", events=[event], interval_ms=50)
        (known,) = (await expect(socket, "snapshot"))["datapoints"]
        assert (known["event_public_id"], known["value"], known["n"]) == (event, 1.5, 1)
        await source.send(data(2, {0: ([t + 1, t + 2, t + 3], [9.0, -4.0, 2.0])}))
        (point,) = (await expect(socket, "datapoints_batch"))["datapoints"]
        assert (point["value"], point["min"], point["max"], point["n"]) == (2.0, -4.0, 9.0, 3)
        assert point["timestamp"].endswith("Z")
        assert point["experiment_public_id"] is None


async def test_a_snapshot_does_not_show_what_was_deleted(backend: Backend, token: str) -> None:
    admin = await sign_in(backend, "eraser@example.org", await make_user(backend.database, backend.data_dir, "eraser@example.org"))
    async with (
        Source(backend.sockets, await make_source(backend.database, "erased")) as source,
        stream(backend, token) as socket,
        httpx.AsyncClient(base_url=backend.url, headers={"Authorization": f"Bearer {admin}"}) as client,
    ):
        await expect(socket, "connected")
        event = (await source.hello(["erased"])).accepted[0][1]
        t = now_us()
        await source.send(data(1, {0: ([t - 2_000_000, t], [1.5, 9.5])}))
        await source.acknowledged(1)
        for start, left in ((t - 1_000_000, [1.5]), (t - 9_000_000, [])):
            within = {"from": clock.to_datetime(start).isoformat(), "to": clock.to_datetime(t + 1).isoformat()}
            erased = await client.delete("/api/v1/datapoints", params={"event_public_id": event} | within)
            assert erased.json()["deleted"] == 1
            while (await expect(socket, "config"))["what"] != "datapoints":
                pass
            await ask(socket, type="subscribe", events=[event], interval_ms=50)
            assert [one["value"] for one in (await expect(socket, "snapshot"))["datapoints"]] == left


async def test_a_kiosk_sees_the_readings_of_its_dashboard_and_no_other(
    backend: Backend, token: str, conn: "asyncpg.Connection[Any]"
) -> None:
    owner = await conn.fetchval("SELECT public_id FROM users WHERE username = 'watcher'")
    async with Source(backend.sockets, await make_source(backend.database, "walled")) as source:
        shown, hidden = [event for _, event in (await source.hello(["on the wall", "not on it"])).accepted]
        kiosk = await make_kiosk(conn, owner, await make_dashboard(conn, owner, [UUID(shown)]))
        async with stream(backend, kiosk) as socket:
            assert (await expect(socket, "status"))["sources"] == []
            t = now_us()
            await source.send(data(1, {0: ([t], [1.0]), 1: ([t], [2.0])}))
            await source.acknowledged(1)
            for events, missing in (("all", False), ([shown, hidden], True)):
                await ask(socket, type="subscribe", events=events)
                if missing:
                    assert hidden in (await expect(socket, "error"))["detail"]
                seen = (await expect(socket, "snapshot"))["datapoints"]
                assert [point["event_public_id"] for point in seen] == [shown]
            await conn.execute("DELETE FROM api_tokens")
            async with asyncio.timeout(ANSWER_S):
                await socket.wait_closed()
            assert socket.close_code == 4401


@pytest.mark.parametrize("asked", ["all", "each"])
async def test_a_kiosk_hears_what_its_dashboard_shows_now_and_ends_with_it(backend: Backend, asked: str) -> None:
    """Also on a socket that subscribed when the dashboard was another."""
    admin = await sign_in(backend, f"{asked}@example.org", await make_user(backend.database, backend.data_dir, f"{asked}@example.org"))
    async with (
        Source(backend.sockets, await make_source(backend.database, f"rehung {asked}")) as source,
        httpx.AsyncClient(base_url=f"{backend.url}/api/v1", headers={"Authorization": f"Bearer {admin}"}) as owner,
    ):
        first, second = [event for _, event in (await source.hello([f"first {asked}", f"second {asked}"])).accepted]

        async def make(path: str, **body: Any) -> Any:
            made = await owner.post(path, json=body)
            assert made.status_code == 201, made.text
            return made.json()

        dashboard = f"/dashboards/{(board := await make('/dashboards', name='wall'))['public_id']}"
        widget = await make(f"{dashboard}/widgets", config={"widget_type": "gauge"}, event_public_ids=[first])
        kiosk = (await make("/tokens", name="wall", dashboard_public_id=board["public_id"]))["token"]
        t = now_us()
        await source.send(data(1, {0: ([t], [1.0]), 1: ([t], [2.0])}))
        await source.acknowledged(1)
        async with stream(backend, kiosk) as socket:

            async def shown() -> list[str]:
                return [point["event_public_id"] for point in (await expect(socket, "snapshot"))["datapoints"]]

            await ask(socket, type="subscribe", events="all" if asked == "all" else [first, second], interval_ms=20)
            assert await shown() == [first]
            put = await owner.put(f"{dashboard}/widgets/{widget['public_id']}", json={"event_public_ids": [second]})
            assert put.status_code == 200
            assert await shown() == [second]
            await source.send(data(2, {0: ([t + 1], [3.0])}))
            await source.send(data(3, {1: ([t + 1], [4.0])}))
            (point,) = (await expect(socket, "datapoints_batch"))["datapoints"]
            assert (point["event_public_id"], point["value"]) == (second, 4.0)
            assert (await owner.delete(dashboard)).status_code == 204
            async with asyncio.timeout(ANSWER_S):
                await socket.wait_closed()
            assert socket.close_code == 4401


async def test_a_kiosk_ends_when_its_owner_sees_the_dashboard_no_more(
    backend: Backend, token: str, conn: "asyncpg.Connection[Any]"
) -> None:
    await make_user(backend.database, backend.data_dir, "lender@example.org")
    owner, lender = [await conn.fetchval("SELECT public_id FROM users WHERE username = $1", username) for username in ("watcher", "lender")]
    dashboard = await make_dashboard(conn, lender, [], is_global=True)
    async with stream(backend, await make_kiosk(conn, owner, dashboard)) as socket:
        await ask(socket, type="subscribe", events="all")
        await expect(socket, "snapshot")
        await conn.execute("UPDATE dashboards SET is_global = false WHERE public_id = $1", dashboard)
        async with asyncio.timeout(ANSWER_S):
            await socket.wait_closed()
        assert socket.close_code == 4401


async def test_only_what_was_asked_for_arrives(backend: Backend, token: str) -> None:
    async with Source(backend.sockets, await make_source(backend.database, "choosy")) as source, stream(backend, token) as socket:
        welcome = await source.hello(["wanted", "other"])
        wanted = dict(welcome.accepted)[0]
        await ask(socket, type="subscribe", events=[wanted], interval_ms=20)
        await expect(socket, "snapshot")
        t = now_us()
        await source.send(data(1, {1: ([t], [1.0])}))
        await source.send(data(2, {0: ([t], [2.0]), 1: ([t + 1], [3.0])}))
        batch = await expect(socket, "datapoints_batch")
        assert [point["event_public_id"] for point in batch["datapoints"]] == [wanted]


@pytest.mark.parametrize(
    "message",
    ["no json", '{"type": "unknown"}', '{"type": "subscribe"}', '{"type": "subscribe", "events": "all", "interval_ms": 1}', "[" * 10_000],
)
async def test_a_message_that_is_not_understood_is_answered_and_the_socket_lives(backend: Backend, token: str, message: str) -> None:
    async with stream(backend, token) as socket:
        await socket.send(message)
        assert (await expect(socket, "error"))["detail"]
        await ask(socket, type="ping")
        await expect(socket, "pong")


async def test_a_status_says_whether_readings_are_stored(backend: Backend, token: str) -> None:
    async with Source(backend.sockets, await make_source(backend.database, "stated")) as source, stream(backend, token) as socket:
        await source.hello(["stated"])
        status = await expect(socket, "status")
        while ("stated", "live") not in {(one["name"], one["state"]) for one in status["sources"]}:
            status = await expect(socket, "status")
        assert status["storing"]


async def test_everybody_is_told_that_the_events_changed(backend: Backend, token: str) -> None:
    async with Source(backend.sockets, await make_source(backend.database, "telling")) as source, stream(backend, token) as socket:
        await expect(socket, "connected")
        await source.hello(["new event"])
        assert (await expect(socket, "config"))["what"] == "events"


async def test_a_slow_client_is_conflated_and_its_neighbour_misses_nothing(backend: Backend, token: str) -> None:
    """The slow one reads nothing while values pass by; what it gets later still holds the highest and lowest of them."""
    async with (
        Source(backend.sockets, await make_source(backend.database, "quick")) as source,
        stream(backend, token, max_queue=1) as slow,
        stream(backend, token) as quick,
    ):
        keys = [f"channel {number} of a wide subscription" for number in range(400)]
        await source.hello(keys)
        for socket in (slow, quick):
            await ask(socket, type="subscribe", events="all", interval_ms=20)
            await expect(socket, "snapshot")
        t, rounds = now_us(), 400
        seen = 0

        async def watch() -> None:
            nonlocal seen
            while seen < rounds:
                for point in (await expect(quick, "datapoints_batch"))["datapoints"]:
                    if point["event_public_id"] == first:
                        seen += point["n"]

        first = dict((await source.hello(keys, next_seq=1)).accepted)[0]
        watching = asyncio.create_task(watch())
        for seq in range(1, rounds + 1):
            values = {channel: ([t + seq], [float(seq) if seq != 7 else 1e6]) for channel in range(len(keys))}
            await source.send(data(seq, values))
            if seq % 10 == 0:
                await source.acknowledged(seq)
        async with asyncio.timeout(60):
            await watching
        assert seen == rounds
        got, highest = 0, 0.0
        async with asyncio.timeout(60):
            while got < rounds:
                for point in (await expect(slow, "datapoints_batch"))["datapoints"]:
                    if point["event_public_id"] == first:
                        got += point["n"]
                        highest = max(highest, point["max"])
        assert (got, highest) == (rounds, 1e6)


async def test_a_browser_comes_with_a_ticket_once(backend: Backend, token: str) -> None:
    async with httpx.AsyncClient(base_url=backend.url, headers={"Authorization": f"Bearer {token}"}) as client:
        path = "/ws/datapoints/stream"
        ticket = (await client.post("/api/v1/auth/socket-ticket", json={"path": path})).json()["ticket"]
    url = f"{backend.sockets}{path}?ticket={ticket}"
    async with websockets.connect(url, compression=None) as socket:
        await expect(socket, "connected")
    with pytest.raises(InvalidStatus):
        await websockets.connect(url)


async def test_a_foreign_page_opens_no_socket(backend: Backend, token: str) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        async with stream(backend, token, origin="http://evil.example"):
            pass
    assert refusal.value.response.status_code == 403


async def test_signing_out_closes_the_sockets_of_the_session(backend: Backend) -> None:
    password = await make_user(backend.database, backend.data_dir, "leaver@example.org", "viewer")
    leaving = await sign_in(backend, "leaver@example.org", password)
    async with stream(backend, leaving) as socket:
        await expect(socket, "connected")
        async with httpx.AsyncClient(base_url=backend.url, headers={"Authorization": f"Bearer {leaving}"}) as client:
            assert (await client.post("/api/v1/auth/logout")).status_code == 204
        async with asyncio.timeout(ANSWER_S):
            with pytest.raises(ConnectionClosed):
                await expect(socket, "never sent")
        assert socket.close_code == 4401


async def test_a_source_cannot_watch(backend: Backend) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        async with stream(backend, await make_source(backend.database, "curious")):
            pass
    assert refusal.value.response.status_code == 403
