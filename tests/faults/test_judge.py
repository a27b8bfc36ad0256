"""The judge is judged: readings and gaps that are taken away, copied, altered or strange in the database are all seen."""

import time
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from parts.backend import Backend, make_source
from parts.journal import Journal, check, identity_of, value_of
from parts.source import Source
from webmacs_controller import wire

CHANNELS = 2
READINGS = 10
FRAMES = 7
GAP_EVERY = 2
GAPS = FRAMES // GAP_EVERY


@pytest.mark.parametrize("identity", [(0, 1, 0), (1_023, (1 << 25) - 1, (1 << 18) - 1), (3, 77, 1_999)])
def test_an_identity_survives_as_a_value(identity: tuple[int, int, int]) -> None:
    assert identity_of(value_of(*identity)) == identity


def test_what_is_no_identity_is_not_taken_for_one() -> None:
    assert [identity_of(value) for value in (0.5, -1.0, float(2**53), float("inf"))] == [None] * 4
    with pytest.raises(ValueError, match="no identity"):
        value_of(1_024, 1, 0)


REST = "n, min, max, sum, first, last, experiment_id, encoding, overlapping, payload"
COPY = f"INSERT INTO datapoints (event_id, created_on, last_on, {REST}) SELECT event_id, {{}}, {REST} FROM datapoints "
SAME, SHIFTED = "created_on, last_on", "created_on + interval '1 us', last_on + interval '1 us'"
OF_ONE = "WHERE event_id = (SELECT min(event_id) FROM datapoints)"
ONE = READINGS * (FRAMES - GAPS)
ALL = CHANNELS * ONE


async def delivered(backend: Backend, conn: "asyncpg.Connection[Any]", place: Path, name: str) -> Journal:
    """Nothing else is stored or declared."""
    keys = [f"{name} {channel}" for channel in range(CHANNELS)]
    journal = Journal(place / "journal", name, 7, keys, READINGS, time.time_ns() // 1_000 - 3_600_000_000, gap_every=GAP_EVERY)
    await conn.execute("DELETE FROM datapoints")
    await conn.execute("DELETE FROM gaps")
    async with Source(backend.sockets, await make_source(backend.database, name), journal.stream) as source:
        await source.hello(keys)
        for frame in range(1, FRAMES + 1):
            journal.sent(frame)
            await source.send(journal.encode(frame))
        while source.acked < FRAMES:
            journal.acknowledged((await source.expect(wire.Ack)).committed_seq)
    return journal


@pytest.mark.parametrize(
    ("deeds", "verdict"),
    [
        ([], (0, 0, 0, ALL)),
        (["DELETE FROM datapoints " + OF_ONE], (ONE, 0, 0, ALL - ONE)),
        ([COPY.format(SAME)], (0, ALL, 0, ALL)),
        ([COPY.format(SHIFTED) + OF_ONE], (0, 0, ONE, ALL)),
        (["UPDATE datapoints SET event_id = (SELECT max(event_id) FROM datapoints) " + OF_ONE], (ONE, 0, ONE, ALL - ONE)),
    ],
    ids=["untouched", "taken away", "copied", "moved in time", "under another channel"],
)
async def test_the_checker_sees_what_was_done_to_the_readings(
    backend: Backend,
    conn: "asyncpg.Connection[Any]",
    tmp_path: Path,
    deeds: list[str],
    verdict: tuple[int, ...],
    request: pytest.FixtureRequest,
) -> None:
    journal = await delivered(backend, conn, tmp_path, request.node.name)
    for deed in deeds:
        await conn.execute(deed)
    found = await check(conn, [journal])
    assert (found.lost, found.twice, found.foreign, found.stored) == verdict
    assert found.gaps.stored == GAPS
    assert found.clean is (not deeds)


COPY_GAP = """INSERT INTO gaps (source_id, stream, seq, event_id, from_on, to_on, n, cause)
              SELECT source_id, stream, {}, event_id, from_on, to_on, n, cause FROM gaps """
OF_ONE_GAP = "WHERE id = (SELECT min(id) FROM gaps)"
ALTERED = [
    "n = n + 1",
    "cause = 'disabled'",
    "to_on = to_on + interval '1 us'",
    "seq = seq + 1",
    "stream = decode('00', 'hex')",
    "event_id = NULL",
]


@pytest.mark.parametrize(
    ("deed", "verdict"),
    [
        (None, (0, 0, 0, GAPS)),
        ("DELETE FROM gaps " + OF_ONE_GAP, (1, 0, 0, GAPS - 1)),
        (COPY_GAP.format("seq"), (0, GAPS, 0, GAPS)),
        (COPY_GAP.format("seq + 100") + OF_ONE_GAP, (0, 0, 1, GAPS)),
        *((f"UPDATE gaps SET {altered} {OF_ONE_GAP}", (1, 0, 1, GAPS - 1)) for altered in ALTERED),
    ],
    ids=["untouched", "taken away", "copied", "made up", *ALTERED],
)
async def test_the_checker_sees_what_was_done_to_the_gaps(
    backend: Backend,
    conn: "asyncpg.Connection[Any]",
    tmp_path: Path,
    deed: str | None,
    verdict: tuple[int, ...],
    request: pytest.FixtureRequest,
) -> None:
    journal = await delivered(backend, conn, tmp_path, request.node.name)
    if deed is not None:
        await conn.execute(deed)
    found = await check(conn, [journal])
    assert (found.gaps.lost, found.gaps.twice, found.gaps.foreign, found.gaps.stored) == verdict
    assert found.stored == ALL
    assert found.clean is (deed is None)
