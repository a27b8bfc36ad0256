"""The ledger: what a device gave is stored or declared, to the reading, while everything goes wrong at once. Journal, datapoints,
receipts and gaps agree, and people see the same over REST."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import httpx
import pytest
from parts import stored
from parts.backend import Backend, make_source, make_user, sign_in
from parts.ledger import Ledger, length, read_ledger
from parts.proxy import Proxy
from parts.ramp import Kind, read_journal
from parts.source import Source, data
from parts.station import Station
from parts.torture import Row
from webmacs_controller import wire

CHANNELS = 4
OMITTING, INFINITE, REFUSED, LOST = range(CHANNELS)
"""The first is left out now and then, the second infinite; the third is refused until it gets its event, the fourth loses its own."""
INTERVAL_MS = 40
FAIL_EVERY = 40
MISSED = ("device_error", "source_stopped")
"""Causes of a beat without a reading: which of them, only the sampler knows, the device does not."""


async def take_names(conn: "asyncpg.Connection[Any]", channel: int, source: str) -> None:
    """So that no event can be made for the channel: every name that it might have is another's."""
    for name in (f"Ramp {channel}", f"Ramp {channel} ({source})", f"Ramp {channel} ({source}, ramp.c{channel})"):
        await conn.execute(
            "INSERT INTO events (public_id, name, type, unit) VALUES (gen_random_uuid(), $1, 'sensor', '') ON CONFLICT DO NOTHING", name
        )


async def give_names(conn: "asyncpg.Connection[Any]", channel: int) -> None:
    await conn.execute("DELETE FROM events WHERE name LIKE $1 AND channel_key IS NULL", f"Ramp {channel}%")


@dataclass
class Account:
    """What the device's own journal says must be declared, against what is."""

    ledger: Ledger
    shown: set[tuple[str, int]]
    """Cause and count of the source's gaps over REST."""
    due: list[int]
    """Of each channel: readings that were due and that the device never gave as ones that can be: beats without any, and infinite ones."""

    def declared(self, channel: int) -> int:
        """Of those, under the channel's name."""
        return self.ledger.declared(*MISSED, channel=channel)

    @property
    def undeclared(self) -> int:
        """Of everything that was due and is not stored; below 0 when more is declared."""
        return self.ledger.missing + sum(self.due) - self.ledger.causes.total()

    def missing(self, *channels: int) -> int:
        """Given and not stored."""
        return sum(length(self.ledger.channels[channel].missing) for channel in channels)


def account_of(ledger: Ledger, shown: set[tuple[str, int]], journal: Path) -> Account:
    entries = read_journal(journal)
    assert [kind for kind, *_ in entries[-2:]] == [Kind.GIVEN, Kind.STOPPED], "it ended while the device was closed: no beat is known then"
    missed = beats(entries) - sum(kind is Kind.GIVEN for kind, *_ in entries)
    due = [missed] * CHANNELS
    due[OMITTING] += sum(kind is Kind.OMITTED for kind, *_ in entries)  # a beat of its own, however much it would have given
    due[INFINITE] += sum(count for kind, _, count, _ in entries if kind is Kind.INFINITE)
    return Account(ledger, shown, due)


def beats(entries: list[tuple[Kind, int, int, int]]) -> int:
    """How many beats there were from the opening to the last read, by the device's own clock. It is asked at a beat or later, never
    earlier; most times tell how far after the opening the first beat is."""
    interval_us = 1000 * INTERVAL_MS
    began_us = next(more for kind, _, _, more in entries if kind is Kind.STARTED)
    asked_us = [more - began_us for kind, _, _, more in entries if kind is Kind.GIVEN]
    phase_us = median(one % interval_us for one in asked_us)
    return int((asked_us[-1] - phase_us + interval_us // 10) // interval_us)


def works(journal: Path) -> bool:
    """The device was opened not long ago and gives readings: its next failure is far."""
    kinds = [kind for kind, *_ in read_journal(journal)]
    opened = len(kinds) - kinds[::-1].index(Kind.STARTED)
    return Kind.FAILED not in kinds[opened:] and 0 < kinds[opened:].count(Kind.GIVEN) < FAIL_EVERY // 2


async def go_wrong(
    backend: Backend, conn: "asyncpg.Connection[Any]", place: Path, name: str, *, overflow: bool, sabotage: str | None = None
) -> Account:
    """A device that fails, omits and spoils; a channel that is refused, another that loses its event; a backend that goes away, so long
    that the spool overflows or not."""
    credential = await make_source(backend.database, name)
    email = f"{name.replace(' ', '-')}@example.org"
    token = await sign_in(backend, email, await make_user(backend.database, backend.data_dir, email))
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
            "fail_every": FAIL_EVERY,
            "refused_retry_s": 1.0,
        }
        station = Station(place, line.port, credential, spool_mib=1 if overflow else 64, sabotage=sabotage, **ramp)
        try:
            await station.start()
            await station.until(lambda: len(station.said("channels_refused")) == 1)
            await station.read_more(20)
            # the backend goes, and the spool overflows
            line.shut()
            await station.read_more(120 if overflow else 10)
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
            await take_names(conn, LOST, name)
            await station.until(lambda: any(len(line["channels"]) == 2 for line in station.said("channels_refused")))
            await station.read_more(20)
            # the other one gets its event at last
            offers = len(station.said("channels_refused"))
            await give_names(conn, REFUSED)
            await station.until(lambda: len(station.said("channels_refused")) > offers)
            await station.read_more(20)
            await station.until(lambda: works(station.journal))
            await station.stop()
        finally:
            await station.end()
        ledger = await read_ledger(conn, name, station.journal, CHANNELS, {LOST: former["id"]})
        shown = (await client.get("/api/v1/gaps", params={"limit": 1_000})).json()["data"]
    return account_of(ledger, {(gap["cause"], gap["n"]) for gap in shown if gap["source"] == name}, station.journal)


def record(row: Row, accounts: list[Account], **figures: int) -> None:
    causes = sum((account.ledger.causes for account in accounts), Counter[str]())
    row.record(
        done=sum(account.ledger.stored for account in accounts), unit="readings", refused=causes["disabled"], unknown=None,
        lost=sum(max(0, account.undeclared) for account in accounts), twice=sum(account.ledger.twice for account in accounts),
        declared_too_often=sum(max(0, -account.undeclared) for account in accounts), **figures, **causes,
    )  # fmt: skip


def by_channel(account: Account) -> dict[str, int]:
    """Of each channel that the device's ledger knows to the reading: declared less due. What a refused channel missed counts with what was
    refused and not under its name, so the two of these are one account."""
    both = sum(account.declared(channel) - account.due[channel] for channel in (REFUSED, LOST))
    return {
        "omitting": account.declared(OMITTING) - account.due[OMITTING],
        "infinite": account.declared(INFINITE) - account.due[INFINITE],
        "refused": account.ledger.declared("disabled") + both - account.missing(REFUSED, LOST),
    }


@pytest.mark.row(34)
async def test_each_cause_and_channel_declares_what_its_device_did_not_give(
    backend: Backend, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    accounts = [
        await go_wrong(backend, conn, tmp_path / f"{time}", f"exact {time}", overflow=False) for time in range(row.count(quick=1, full=5))
    ]
    wrong = sum(abs(off) for account in accounts for off in by_channel(account).values())
    record(row, accounts, wrong_by_channel=wrong)
    for account in accounts:
        assert account.ledger.true, account
        assert by_channel(account) == {"omitting": 0, "infinite": 0, "refused": 0}, account
        assert account.ledger.causes.keys() - {"source_stopped"} == {"disabled", "device_error"}  # a busy machine may miss a beat
        assert account.missing(OMITTING, INFINITE) == 0
        assert 0 < account.missing(REFUSED, LOST) <= account.ledger.declared("disabled")


@pytest.mark.row(34)
async def test_everything_that_a_device_gave_is_stored_or_declared_to_the_reading(
    backend: Backend, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    """With a full spool besides. A gap that it dropped counts with the overflow, so the sum over all causes is exact, and no cause is more
    than it can be."""
    accounts = [
        await go_wrong(backend, conn, tmp_path / f"{time}", f"full {time}", overflow=True) for time in range(row.count(quick=1, full=5))
    ]
    record(row, accounts)
    for account in accounts:
        ledger = account.ledger
        assert ledger.true, account
        assert account.undeclared == 0, account
        assert ledger.causes.keys() - {"source_stopped"} == {"spool_overflow", "disabled", "device_error"}
        assert all(channel.missing for channel in ledger.channels)
        assert all(account.declared(channel) <= account.due[channel] for channel in range(CHANNELS)), account
        swallowed = sum(account.due[channel] - account.declared(channel) for channel in (OMITTING, INFINITE))
        assert ledger.declared("spool_overflow") >= account.missing(OMITTING, INFINITE) + swallowed, account
        assert account.shown == {(gap.cause, gap.n) for gap in ledger.gaps}


@pytest.mark.row(34)
async def test_a_loss_that_is_declared_as_nothing_is_found(
    backend: Backend, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    account = await go_wrong(backend, conn, tmp_path, "swallowing", overflow=True, sabotage="swallow_drop")
    row.caught("swallow_drop", of=test_everything_that_a_device_gave_is_stored_or_declared_to_the_reading, undeclared=account.undeclared)
    assert account.undeclared > 0


@pytest.mark.row(34)
async def test_a_count_that_is_short_by_one_is_found(backend: Backend, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row) -> None:
    account = await go_wrong(backend, conn, tmp_path, "miscounting", overflow=False, sabotage="miscount")
    off = by_channel(account)
    row.caught(
        "miscount",
        of=test_each_cause_and_channel_declares_what_its_device_did_not_give,
        undeclared=account.undeclared,
        of_the_infinite_channel=-off["infinite"],
    )
    assert off["infinite"] < 0
    assert off["omitting"] == 0


@pytest.mark.row(34)
async def test_readings_of_a_refused_frame_are_declared_with_the_reason(
    backend: Backend, conn: "asyncpg.Connection[Any]", row: Row
) -> None:
    """A source whose clock is 40 days ahead of its time, now and then."""
    now_us = time.time_ns() // 1000
    frames = row.count(quick=31, full=1_000)
    refused: list[int] = []
    taken: set[int] = set()
    async with Source(backend.sockets, await make_source(backend.database, "out of bounds")) as source:
        await source.hello(["a", "b"])
        for seq in range(1, frames):
            late_us = 40 * 86_400_000_000 if seq % 3 == 0 else 0
            n = seq
            times = [now_us + late_us + seq * 1_000 + i for i in range(n)]
            await source.send(data(seq, {0: (times, [0.0] * n), 1: (times, [1.0] * n)}))
            if late_us:
                refused.append(2 * n)
            else:
                taken.update(times)
        await source.send(wire.encode(wire.Gap(frames, None, now_us, now_us + 41 * 86_400_000_000, 77, "device_error")))
        refused.append(77)
        await source.acknowledged(frames)
        assert len(source.nacks) == len(refused)
    rows = await conn.fetch(
        "SELECT n, cause, code FROM gaps g JOIN sources s ON s.id = g.source_id WHERE s.name = 'out of bounds' ORDER BY g.id"
    )
    found = [[t_us for t_us, _ in await stored.readings(conn, "out of bounds", key)] for key in ("a", "b")]
    receipts = await conn.fetchval(
        "SELECT sum(readings) FROM receipts r JOIN sources s ON s.id = r.source_id WHERE s.name = 'out of bounds'"
    )
    row.record(
        done=sum(map(len, found)), unit="readings", refused=sum(refused), unknown=None, lost=sum(len(taken - set(one)) for one in found),
        twice=sum(len(one) - len(set(one)) for one in found), declared=sum(gap["n"] for gap in rows),
    )  # fmt: skip
    assert [tuple(gap) for gap in rows] == [(n, "refused", "out_of_bounds") for n in refused]
    assert [sorted(one) for one in found] == [sorted(taken)] * 2
    assert receipts == 2 * len(taken)
