"""The metrics say what was stored and refused, counted as the sender counts it, to whoever may see it and in the form scrapers read."""

import time

import httpx
from parts.backend import Backend, make_source, make_user, sign_in
from parts.source import Source, data
from prometheus_client.parser import text_string_to_metric_families


async def scraped(backend: Backend, token: str) -> dict[tuple[str, str], float]:
    """{(sample, its labels' values): value}."""
    async with httpx.AsyncClient(base_url=backend.url) as client:
        answer = await client.get("/metrics", headers={"Authorization": f"Bearer {token}"})
    assert answer.headers["content-type"].startswith("text/plain; version=1.0.0")
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_the_metrics_count_what_the_sender_counts(backend: Backend) -> None:
    credential = await make_source(backend.database, "counted")
    token = await sign_in(backend, "watch@example.org", await make_user(backend.database, backend.data_dir, "watch@example.org", "viewer"))
    before = await scraped(backend, token)
    t = time.time_ns() // 1_000
    async with Source(backend.sockets, credential) as source:
        await source.hello(["a"])
        for seq in range(1, 11):
            await source.send(data(seq, {0: ([t + seq, t + seq + 20], [1.0, 2.0])}))
        await source.send(data(11, {0: ([t + 100], [float("nan")])}))
        await source.acknowledged(11)
        now = await scraped(backend, token)
    assert now["webmacs_readings_stored_total", ""] - before["webmacs_readings_stored_total", ""] == 20
    assert now["webmacs_frames_refused_total", "not_finite"] == 1
    assert now["webmacs_source_live", "counted"] == 1
    assert now["webmacs_storing", ""] == 1
    assert now["webmacs_sockets", ""] == 1
    assert 0 < now["webmacs_flush_seconds_count", ""] <= 11
    assert now["process_resident_memory_bytes", ""] > 10_000_000


async def test_strangers_see_no_metrics(backend: Backend) -> None:
    async with httpx.AsyncClient(base_url=backend.url) as client:
        assert (await client.get("/metrics")).status_code == 401
