"""A panic inside the native core, at each stage of a frame's way: it costs one frame, or it ends the process and nothing is lost."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from parts import broken_core, journal
from parts.backend import Backend, make_source
from parts.journal import Journal, Verdict
from parts.sender import Sender
from parts.source import Source
from parts.torture import Row
from webmacs_controller import wire

ENDED_BY_ITSELF = 1
"""The web server's main process ends with it when its worker has ended."""
WINDOW = 16
"""Frames under way."""
START_US = time.time_ns() // 1_000 - 3_600_000_000


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broken_core")
    broken_core.build(folder)
    return folder


@asynccontextmanager
async def serving(database: str, folder: Path, core: Path, panics: str, sabotage: str | None = None) -> AsyncIterator[Backend]:
    """Not compacting, so that a reading that is stored twice is seen."""
    backend = Backend(database, folder, sabotage, compacting=False, PYTHONPATH=broken_core.path(core), WEBMACS_TEST_SABOTAGE=panics)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.stop()


def lines(backend: Backend, event: str) -> list[dict[str, Any]]:
    return [line for text in backend.log.splitlines() if text.startswith("{") and (line := json.loads(text))["event"] == event]


@dataclass
class Judged:
    frames: int
    """That panicked."""
    nacks: list[wire.Nack]
    gaps: int
    """Declared with the panic's words."""
    faults: list[int]
    """As the log counts them."""
    verdict: Verdict


async def judge_panicking(database: str, core: Path, place: Path, stage: str, frames: int, sabotage: str | None = None) -> Judged:
    """Two sources send so many frames each, and every seventh panics."""
    every = 7
    async with serving(database, place, core, f"{stage}:{every}", sabotage) as backend:
        credentials = [await make_source(database, name) for name in ("met", "neighbour")]
        journals = [Journal(place / name, name, k, [f"{name} {stage}"], 5, START_US) for k, name in enumerate(("met", "neighbour"))]
        async with Source(backend.sockets, credentials[0]) as met, Source(backend.sockets, credentials[1]) as neighbour:
            sources = list(zip((met, neighbour), journals, strict=True))
            for source, sent in sources:
                await source.hello(sent.keys)
            for frame in range(1, frames + 1):
                for source, sent in sources:
                    sent.sent(frame)
                    await source.send(sent.encode(frame))
            for source, _ in sources:
                await source.acknowledged(frames)
            nacks = [nack for source, _ in sources for nack in source.nacks]
        faults = [line["count"] for line in lines(backend, "core_fault")]
    conn = await asyncpg.connect(database)
    verdict = await journal.check(conn, journals)
    gaps = await conn.fetchval("SELECT count(*) FROM gaps WHERE cause = 'refused' AND detail LIKE 'internal fault%' AND seq IS NOT NULL")
    await conn.close()
    return Judged(2 * frames // every, nacks, gaps, faults, verdict)


@pytest.mark.row(32)
@pytest.mark.parametrize("stage", ["decoding", "checking"])
async def test_a_panic_while_a_frame_is_judged_costs_that_frame(database: str, core: Path, tmp_path: Path, stage: str, row: Row) -> None:
    """It is refused under its number, counted and logged; the socket and a neighbour go on, and every other frame is stored."""
    frames = row.count(quick=70, full=7_000)
    judged = await judge_panicking(database, core, tmp_path, stage, frames)
    nacks, verdict = judged.nacks, judged.verdict
    row.record(done=verdict.stored // 5, refused=len(nacks), unknown=None, lost=None, twice=verdict.twice, stage=stage)
    assert (len(nacks), judged.gaps) == (judged.frames, judged.frames)
    assert all(nack.code == "malformed" and f"sabotage while {stage}" in nack.detail for nack in nacks)
    assert judged.faults[:3] == [1, 2, 3]
    assert (verdict.stored, verdict.twice, verdict.foreign) == ((2 * frames - judged.frames) * 5, 0, 0)


@pytest.mark.row(32)
async def test_panics_find_a_refusal_that_is_declared_nowhere(database: str, core: Path, tmp_path: Path, row: Row) -> None:
    judged = await judge_panicking(database, core, tmp_path, "checking", 70, "forget_refusals")
    row.caught(
        "forget_refusals",
        of=test_a_panic_while_a_frame_is_judged_costs_that_frame,
        case="checking",
        panics=judged.frames,
        declared=judged.gaps,
    )
    assert judged.gaps < judged.frames


@dataclass
class Ended:
    codes: list[int]
    verdict: Verdict
    sender: Sender
    log: str


async def end_by_panics(database: str, core: Path, place: Path, panics: str, ends: int, sabotage: str | None = None) -> Ended:
    sent = Journal(place / "journal", "resending", 1, ["a", "b"], 10, START_US)
    codes = []
    async with serving(database, place, core, panics, sabotage) as backend:
        sender = Sender(lambda: backend.sockets, await make_source(database, "resending"), sent, window=WINDOW)
        sending = asyncio.create_task(sender.run())
        for _ in range(ends):
            codes.append(await backend.ended())
            await backend.start()
    async with serving(database, place, core, "") as backend:
        await sender.acknowledged(3 * WINDOW)
        sender.finish()
        await sending
    conn = await asyncpg.connect(database)
    verdict = await journal.check(conn, [sent])
    await conn.close()
    return Ended(codes, verdict, sender, (place / "backend.log").read_text())


@pytest.mark.row(32)
@pytest.mark.parametrize("stage", ["taking", "draining", "showing"])
async def test_a_panic_while_state_changes_ends_the_process_and_nothing_is_lost(
    database: str, core: Path, tmp_path: Path, stage: str, row: Row
) -> None:
    ends = row.count(quick=2, full=20)
    every = row.chance.randint(20, 60) if stage == "taking" else row.chance.randint(2, 9)
    ended = await end_by_panics(database, core, tmp_path, f"{stage}:{every}", ends)
    sender, verdict = ended.sender, ended.verdict
    row.record(
        done=sender.journal.acknowledged_max, refused=sender.refused, unknown=sum(sender.unknown),
        lost=verdict.lost, twice=verdict.twice, stage=stage,
    )  # fmt: skip
    assert verdict.clean, verdict
    assert any(sender.unknown), "no end met a frame under way: the run proves nothing"
    assert f"sabotage while {stage}" in ended.log
    assert "the process ends, sources send again" in ended.log
    assert set(ended.codes) == {ENDED_BY_ITSELF}, ended.codes


@pytest.mark.row(32)
async def test_panics_find_an_acknowledgement_before_the_commit(database: str, core: Path, tmp_path: Path, row: Row) -> None:
    """What was acknowledged and waits for its commit dies with the process, and its source has forgotten it."""
    every = row.chance.randint(2 * WINDOW, 4 * WINDOW)
    ended = await end_by_panics(database, core, tmp_path, f"taking:{every}", 2, "acknowledge_before_commit")
    row.caught(
        "acknowledge_before_commit",
        of=test_a_panic_while_state_changes_ends_the_process_and_nothing_is_lost,
        case="taking",
        lost=ended.verdict.lost + ended.verdict.retracted,
    )
    assert ended.verdict.lost + ended.verdict.retracted


async def test_the_only_frame_of_a_stream_is_answered_when_it_meets_a_panic(database: str, core: Path, tmp_path: Path) -> None:
    """No later frame brings its number along: the refusal itself is committed with it. A preview's is answered by its index."""
    async with serving(database, tmp_path, core, "checking:1") as backend:
        credential = await make_source(database, "alone")
        async with Source(backend.sockets, credential) as source:
            await source.hello(["alone"])
            await source.send(Journal(tmp_path / "alone", "alone", 0, ["alone"], 1, START_US).encode(1))
            await source.acknowledged(1)
            assert [nack.seq for nack in source.nacks] == [1]
            assert (await source.hello(["alone"], next_seq=2)).committed_seq == 1
            await source.send(wire.encode(wire.Preview([(0, START_US + 3_600_000_000, 1.0)])))
            assert (await source.expect(wire.Nack)).index == 5
