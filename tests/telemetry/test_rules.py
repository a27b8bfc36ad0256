"""Rules as people change them reach the running core: from then on it judges by what they say now."""

import time
from typing import Any

import asyncpg
import httpx
import pytest
from parts import stored
from parts.backend import Backend, make_source, make_user, sign_in
from parts.source import Source, data

TRANSITIONS = "SELECT t.fired, t.value FROM rule_transitions t JOIN rules r ON r.id = t.rule_id WHERE r.name = $1 ORDER BY t.id"


@pytest.fixture
async def client(backend: Backend) -> Any:
    password = await make_user(backend.database, backend.data_dir, "operator@example.org", "operator")
    token = await sign_in(backend, "operator@example.org", password)
    async with httpx.AsyncClient(base_url=backend.url, headers={"Authorization": f"Bearer {token}"}) as opened:
        yield opened


async def test_the_running_core_judges_by_a_rule_that_is_made_changed_and_switched_off(
    backend: Backend, conn: "asyncpg.Connection[Any]", client: httpx.AsyncClient
) -> None:
    t, seq = time.time_ns() // 1_000, 0
    async with Source(backend.sockets, await make_source(backend.database, "judged")) as source:
        await source.hello(["judged"])

        async def send(*values: float) -> None:
            nonlocal t, seq
            seq, t = seq + 1, t + 1_000
            await source.send(data(seq, {0: ([t + n for n in range(len(values))], list(values))}))
            await source.acknowledged(seq)

        async def transitions(name: str) -> list[Any]:
            return await stored.rows(conn, TRANSITIONS, name)

        async def make(name: str) -> str:
            body = {"name": name, "event_public_id": event, "operator": "gt", "threshold": 80}
            return (await client.post("/api/v1/rules", json=body)).headers["location"]

        event = (await client.get("/api/v1/events", params={"search": "judged"})).json()["data"][0]["public_id"]
        address = await make("first")
        while not await transitions("first"):  # until the announcement has arrived
            await send(70.0, 90.0)
        assert await transitions("first") == [(True, 90.0)]
        assert (await client.get(address)).json()["fired"] is True

        assert (await client.put(address, json={"operator": "lt", "threshold": 60})).json()["fired"] is False
        while (True, 50.0) not in await transitions("first"):
            await send(90.0, 50.0)
        assert (await client.get(address)).json()["fired"] is True

        assert (await client.put(address, json={"enabled": False})).json()["fired"] is False
        await make("witness")  # judged only when the other's end has arrived, too
        while not await transitions("witness"):
            await send(50.0, 90.0)
        before = await transitions("first")
        await send(50.0, 90.0, 50.0, 90.0)
        assert await transitions("first") == before
        assert len(await transitions("witness")) >= 4
