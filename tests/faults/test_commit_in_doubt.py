"""A COMMIT is lost, or only its answer: whether it took place is asked, before anything is written again."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from parts.backend import Backend
from parts.journal import Verdict, check
from parts.proxy import CommitProxy
from parts.sender import Senders
from parts.torture import Row


async def lose_commits(
    database: str, conn: "asyncpg.Connection[Any]", place: Path, row: Row, cuts: int, sabotage: str | None = None
) -> tuple[Senders, Verdict, str]:
    async with CommitProxy(database) as proxy:
        backend = Backend(proxy.database, place, sabotage, compacting=False)
        await backend.start()
        backend.database = database
        shape = {"count": 2, "channels": 10, "readings": 20, "frames_per_s": 50.0}
        async with await Senders.make(backend, row.test, place, **shape, window=1_000) as senders:  # only credit bounds what is under way
            for cut in range(cuts):
                proxy.swallow, proxy.lose = cut % 2, 1 - cut % 2
                while proxy.swallow or proxy.lose:
                    await senders.acknowledged()
                await asyncio.sleep(row.chance.uniform(0, 0.05))
        assert await backend.stop() == 0
    assert (proxy.swallowed, proxy.lost) == (cuts // 2, (cuts + 1) // 2)
    return senders, await check(conn, senders.journals), backend.log


@pytest.mark.row(5)
async def test_lost_commits_and_lost_answers_store_everything_once(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    cuts = row.count(quick=10, full=200)
    senders, verdict, log = await lose_commits(module_database, conn, tmp_path, row, cuts)
    in_doubt = log.count("commit_was_in_doubt")
    senders.record(row, verdict, answers_lost=cuts // 2, commits_lost=cuts - cuts // 2, in_doubt=in_doubt)
    assert verdict.clean, verdict
    assert in_doubt == cuts // 2


@pytest.mark.row(5)
async def test_lost_answers_find_a_backend_that_writes_again_without_asking(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    _, verdict, _ = await lose_commits(module_database, conn, tmp_path, row, 4, "forget_doubt")
    row.caught("forget_doubt", of=test_lost_commits_and_lost_answers_store_everything_once, twice=verdict.twice)
    assert verdict.twice


@pytest.mark.row(5)
async def test_lost_commits_find_gaps_that_are_declared_outside_the_transaction(
    module_database: str, conn: "asyncpg.Connection[Any]", tmp_path: Path, row: Row
) -> None:
    _, verdict, _ = await lose_commits(module_database, conn, tmp_path, row, 6, "declare_outside")
    row.caught("declare_outside", of=test_lost_commits_and_lost_answers_store_everything_once, gaps_twice=verdict.gaps.twice)
    assert verdict.gaps.twice
