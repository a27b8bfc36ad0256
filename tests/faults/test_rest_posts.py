"""kill -9 of the backend while clients post batches under Idempotency-Keys and send again what was not answered: once each, none lost."""

import asyncio
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import pytest
from parts.backend import Backend, make_source
from parts.journal import Journal, check
from parts.torture import Row

from webmacs import clock
from webmacs.clock import to_datetime
from webmacs.storage.ids import uuid7

POSTERS: Final = 4
CHANNELS: Final = 5
READINGS: Final = 20
PAUSE_S: Final = 0.02


class Poster:
    """One client: frame after frame of its journal, each as one request under one key, until it is answered."""

    def __init__(self, backend: Backend, credential: str, journal: Journal, events: list[str]) -> None:
        self.backend = backend
        self.credential = credential
        self.journal = journal
        self.events = events
        self.again = 0
        """Requests that were sent again."""
        self.replayed = 0
        """Of these, those that had been stored already."""
        self.answered = asyncio.Event()
        self.finishing = False

    async def run(self) -> None:
        headers = {"Authorization": f"Bearer {self.credential}"}
        async with httpx.AsyncClient(base_url=self.backend.url, headers=headers, timeout=20) as client:
            while not self.finishing:
                await self._deliver(client, self.journal.sent_max + 1)

    async def _deliver(self, client: httpx.AsyncClient, frame: int) -> None:
        self.journal.sent(frame)
        body = {"datapoints": self._items(frame)}
        key = {"Idempotency-Key": f"{self.journal.source}-{frame}"}
        while True:
            try:
                answer = await client.post("/api/v1/datapoints/batch", json=body, headers=key)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 200:
                break
            assert answer is None or answer.status_code == 503, answer.text
            self.again += 1
            await asyncio.sleep(PAUSE_S)
        assert answer.json() == {"accepted": CHANNELS * READINGS, "refused": 0, "results": []}
        self.replayed += "idempotent-replayed" in answer.headers
        self.journal.acknowledged(frame)
        self.answered.set()

    def _items(self, frame: int) -> list[dict[str, Any]]:
        first = self.journal.columns(frame)
        return [
            {
                "event_public_id": self.events[column.channel],
                "value": value,
                "timestamp": to_datetime(self.journal.time_of(frame, index)).isoformat(),
            }
            for column in first
            for index, value in enumerate(memoryview(column.values).cast("d"))  # type: ignore[arg-type]
        ]


async def make_poster(backend: Backend, conn: "asyncpg.Connection[Any]", place: Path, test: str, number: int) -> Poster:
    name = f"{test} {number}"[-100:]
    credential = await make_source(backend.database, name)
    keys = [f"c{channel}" for channel in range(CHANNELS)]
    events = [uuid7() for _ in keys]
    await conn.execute(
        """INSERT INTO events (public_id, name, type, unit, writer_id, channel_key)
           SELECT e.id, $1 || ' ' || e.key, 'sensor', '', w.id, e.key
             FROM unnest($2::uuid[], $3::text[]) AS e (id, key), writers w JOIN sources s ON s.id = w.source_id WHERE s.name = $1""",
        name, events, keys,
    )  # fmt: skip
    journal = Journal(place / f"{number}.journal", name, number, keys, READINGS, clock.now_us() - 3_600_000_000)
    return Poster(backend, credential, journal, [str(event) for event in events])


async def post_through_kills(backend: Backend, conn: "asyncpg.Connection[Any]", place: Path, row: Row, kills: int) -> list[Poster]:
    posters = [await make_poster(backend, conn, place, row.test, number) for number in range(POSTERS)]
    await backend.start()
    running = [asyncio.create_task(poster.run()) for poster in posters]
    for kill in range(kills + 1):
        for poster in posters:
            poster.answered.clear()
        async with asyncio.timeout(60):
            await asyncio.gather(*(poster.answered.wait() for poster in posters))
        if kill < kills:
            await asyncio.sleep(row.chance.uniform(0.0, 0.1))  # any moment
            await backend.kill()
            await backend.start()
    for poster in posters:
        poster.finishing = True
    await asyncio.gather(*running)
    assert await backend.stop() == 0
    return posters


@pytest.mark.row(1)
async def test_kills_lose_no_posted_batch_and_store_none_twice(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    kills = row.count(quick=5, full=100)
    backend = Backend(module_database, tmp_path, compacting=False)
    posters = await post_through_kills(backend, conn, tmp_path, row, kills)
    verdict = await check(conn, [poster.journal for poster in posters])
    again, replayed = sum(poster.again for poster in posters), sum(poster.replayed for poster in posters)
    done = sum(poster.journal.acknowledged_max for poster in posters)
    row.record(done=done, unit="requests", refused=0, unknown=again, lost=verdict.lost, twice=verdict.twice, kills=kills, replayed=replayed)
    assert verdict.clean, verdict
    assert again, "no kill hit a request under way: the run proves nothing"
    assert await conn.fetchval("SELECT sum(n) FROM datapoints") == done * CHANNELS * READINGS


@pytest.mark.row(1)
async def test_kills_find_a_receipt_that_is_not_of_the_readings_transaction(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    sabotage = "forget_receipts"
    posters = await post_through_kills(Backend(module_database, tmp_path, sabotage, compacting=False), conn, tmp_path, row, kills=3)
    verdict = await check(conn, [poster.journal for poster in posters])
    row.caught(sabotage, of=test_kills_lose_no_posted_batch_and_store_none_twice, twice=verdict.twice)
    assert verdict.twice
