"""The ledger: what a device gave is stored or declared, to the reading, while everything goes wrong at once. Journal, datapoints,
receipts and gaps agree, and people see the same over REST."""

import time
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from parts.backend import Backend, make_source, make_user, sign_in
from parts.ledger import Ledger, read_ledger
from parts.proxy import Proxy
from parts.ramp import Kind, read_journal
from parts.source import Source, data
from parts.station import Station
from webmacs_controller import wire

CHANNELS = 4
OMITTING, INFINITE, REFUSED, LOST = range(CHANNELS)
"""The first is left out now and then, the second infinite; the third is refused until it gets its event, the fourth loses its own."""
INTERVAL_MS = 20


async def take_names(conn: "asyncpg.Connection[Any]", channel: int, source: str) -> None:
    """So that no event can be made for the channel: every name that it might have is another's."""
    for name in (f"Ramp {channel}", f"Ramp {channel} ({source})", f"Ramp {channel} ({source}, ramp.c{channel})"):
        await conn.execute(
            "INSERT INTO events (public_id, name, type, unit) VALUES (gen_random_uuid(), $1, 'sensor', '') ON CONFLICT DO NOTHING", name
        )


async def give_names(conn: "asyncpg.Connection[Any]", channel: int) -> None:
    await conn.execute("DELETE FROM events WHERE name LIKE $1 AND channel_key IS NULL", f"Ramp {channel}%")


async def test_everything_that_a_device_gave_is_stored_or_declared_to_the_reading(
    backend: Backend, conn: "asyncpg.Connection[Any]", tmp_path: Path
) -> None:
    name = "ledger"
    credential = await make_source(backend.database, name)
    password = await make_user(backend.database, backend.data_dir, "ledger@example.org")
    token = await sign_in(backend, "ledger@example.org", password)
    await take_names(conn, REFUSED, name)
    async with (
        Proxy(backend.port) as line,
        httpx.AsyncClient(base_url=backend.url, headers={"Authorization": f"Bearer {token}"}) as client,
    ):
        ramp = {
            "interval_ms": INTERVAL_MS,
            "channels": CHANNELS,
            "burst": 600,
            "omit_every": 7,
            "infinite_every": 5,
            "fail_every": 90,
            "refused_retry_s": 1.0,
        }
        station = Station(tmp_path, line.port, credential, spool_mib=1, **ramp)
        try:
            await station.start()
            await station.until(lambda: len(station.said("channels_refused")) == 1)
            await station.read_more(30)
            # the backend goes, the spool overflows
            line.shut()
            await station.read_more(120)
            line.refusing = False
            await station.until(lambda: len(station.said("channels_refused")) >= 2)
            # a channel loses its event, and its name, so that it gets no new one
            former = await conn.fetchrow(
                """SELECT e.id, e.public_id FROM events e JOIN writers w ON w.id = e.writer_id JOIN sources s ON s.id = w.source_id
                    WHERE s.name = $1 AND e.channel_key = $2""",
                name,
                f"ramp.c{LOST}",
            )
            assert former is not None
            await take_names(conn, LOST, name)
            assert (await client.delete(f"/api/v1/events/{former['public_id']}")).status_code == 204
            await conn.execute(
                "INSERT INTO events (public_id, name, type, unit) VALUES (gen_random_uuid(), $1, 'sensor', '') ON CONFLICT DO NOTHING",
                f"Ramp {LOST}",
            )
            await station.until(lambda: any(len(line["channels"]) == 2 for line in station.said("channels_refused")))
            await station.read_more(30)
            # the other one gets its event at last
            offers = len(station.said("channels_refused"))
            await give_names(conn, REFUSED)
            await station.until(lambda: len(station.said("channels_refused")) > offers)
            await station.read_more(30)
            await station.stop()
        finally:
            await station.end()
        ledger = await read_ledger(conn, name, station.journal, CHANNELS, {LOST: former["id"]})
        shown = (await client.get("/api/v1/gaps")).json()["data"]
    assert_agreed(ledger, station)
    mine = [gap for gap in shown if gap["source"] == name]
    assert {(gap["cause"], gap["n"]) for gap in mine} == {(gap.cause, gap.n) for gap in ledger.gaps}


def assert_agreed(ledger: Ledger, station: Station) -> None:
    """What was due is stored or declared: readings that the device gave, what it left out or spoilt, and beats on which it failed. A gap
    that a full spool dropped counts with the overflow, so causes are added up."""
    assert ledger.true, ledger
    causes = ledger.causes
    assert causes.keys() - {"source_stopped"} == {"spool_overflow", "disabled", "device_error"}  # a busy machine may miss a beat
    assert all(channel.missing for channel in ledger.channels)
    entries = read_journal(station.journal)
    left_out = sum(kind is Kind.OMITTED for kind, *_ in entries)
    infinite = sum(count for kind, _, count, _ in entries if kind is Kind.INFINITE)
    failed_beats, rest = divmod(causes.total() - ledger.missing - left_out - infinite, CHANNELS)
    assert rest == 0  # a beat that failed is missing in every channel
    given = sum(kind is Kind.GIVEN for kind, *_ in entries)
    began_us = next(more for kind, _, _, more in entries if kind is Kind.STARTED)
    ended_us = entries[-1][3]
    assert abs((ended_us - began_us) // (INTERVAL_MS * 1000) - 1 - given - failed_beats) <= 1
    for channel in range(CHANNELS):
        own = {OMITTING: left_out, INFINITE: infinite}.get(channel, 0)
        assert ledger.declared("device_error", channel=channel) - own <= failed_beats


async def test_readings_of_a_refused_frame_are_declared_with_the_reason(backend: Backend, conn: "asyncpg.Connection[Any]") -> None:
    """A source whose clock is 40 days ahead of its time, now and then."""
    now_us = time.time_ns() // 1000
    refused, taken = [], []
    async with Source(backend.sockets, await make_source(backend.database, "out of bounds")) as source:
        await source.hello(["a", "b"])
        for seq in range(1, 31):
            late_us = 40 * 86_400_000_000 if seq % 3 == 0 else 0
            n = seq
            times = [now_us + late_us + seq * 1_000 + i for i in range(n)]
            (refused if late_us else taken).append(2 * n)
            await source.send(data(seq, {0: (times, [0.0] * n), 1: (times, [1.0] * n)}))
        await source.send(wire.encode(wire.Gap(31, None, now_us, now_us + 41 * 86_400_000_000, 77, "device_error")))
        refused.append(77)
        await source.acknowledged(31)
        assert len(source.nacks) == len(refused)
    rows = await conn.fetch(
        "SELECT n, cause, code FROM gaps g JOIN sources s ON s.id = g.source_id WHERE s.name = 'out of bounds' ORDER BY g.id"
    )
    assert [tuple(row) for row in rows] == [(n, "refused", "out_of_bounds") for n in refused]
    stored = await conn.fetchval(
        """SELECT sum(n) FROM datapoints d JOIN events e ON e.id = d.event_id JOIN writers w ON w.id = e.writer_id
             JOIN sources s ON s.id = w.source_id WHERE s.name = 'out of bounds'"""
    )
    receipts = await conn.fetchval(
        "SELECT sum(readings) FROM receipts r JOIN sources s ON s.id = r.source_id WHERE s.name = 'out of bounds'"
    )
    assert stored == receipts == sum(taken)
