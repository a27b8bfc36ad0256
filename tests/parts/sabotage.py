"""Switches that break a promise on purpose: a check counts only once it has been seen to fail.

Nothing of this is in the product. A switch patches one named function of it from outside:
  in this process      with sabotage.applied("forget_fence"): ...
  in a real process    Backend(..., sabotage="forget_fence"), or python -m parts.sabotaged forget_fence -- webmacs serve
  several of them      "hurried+forget_doubt"
A new switch is a function below, decorated with @switch, that is named after what it breaks and patches with `patch.setattr`.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import asyncpg
import msgspec
import pytest
from webmacs_controller import controller, link, segment, wire
from webmacs_controller.clock import now
from webmacs_controller.disk import AppendFile
from webmacs_controller.frame import Readings
from webmacs_controller.protocol import Delivery
from webmacs_controller.sampler import Sampler
from webmacs_controller.sdk import Column
from webmacs_controller.spool import Spool
from webmacs_controller.spooled_stream import Loss

from webmacs import clock
from webmacs.commands import serve
from webmacs.fanout.hub import Client
from webmacs.http import envelope, idempotency, route, socket
from webmacs.ingest_core import Drained
from webmacs.settings import Settings
from webmacs.storage import compact, copy, latest, runs
from webmacs.storage.compact import Compactor
from webmacs.telemetry import flush, sources
from webmacs.telemetry import socket as telemetry_socket
from webmacs.telemetry.flush import Flusher, Void
from webmacs.telemetry.socket import TelemetrySocket
from webmacs.telemetry.sources import Delivered

Switch = Callable[[pytest.MonkeyPatch], None]
SWITCHES: Final[dict[str, Switch]] = {}
WINDOW_S: Final = 0.5
"""How long a broken commit stays half done: long enough that a kill at a random moment often meets it."""


def switch(function: Switch) -> Switch:
    SWITCHES[function.__name__] = function
    return function


@contextmanager
def applied(name: str) -> Iterator[None]:
    """The sabotage is in force in this process until the block ends."""
    with pytest.MonkeyPatch.context() as patch:
        SWITCHES[name](patch)
        yield


_in_force: set[str] = set()


def apply(name: str) -> None:
    """The sabotage is in force in this process until it ends. A worker that was forked has it already."""
    for part in name.split("+"):
        if part not in _in_force:
            _in_force.add(part)
            SWITCHES[part](pytest.MonkeyPatch())


_make_app = serve.make_app


def make_app(name: str, settings: Settings) -> Any:
    """Stands in for serve.make_app, which is called in the web server's worker, wherever that comes from (fork or spawn)."""
    apply(name)
    return _make_app(settings)


# the backend


class Current(int):
    """A number that is never another one."""

    def __ne__(self, other: object) -> bool:
        return False


def _forget_where_streams_are(patch: pytest.MonkeyPatch) -> None:
    """The second guard, which would void what a broken first one lets through."""

    async def committed_seqs(conn: Any, delivered: Sequence[Delivered]) -> dict[Any, int]:
        return {one.key: Current() for one in delivered}

    patch.setattr(sources, "committed_seqs", committed_seqs)


@switch
def acknowledge_before_commit(patch: pytest.MonkeyPatch) -> None:
    store = Flusher._store

    async def acknowledge_and_store(self: Flusher, drained: Drained) -> dict[int, Void]:
        for segment_ in drained.segments:
            self._senders[segment_.connection].committed(segment_, clock.now_us())
        await asyncio.sleep(WINDOW_S)
        return await store(self, drained)

    patch.setattr(Flusher, "_store", acknowledge_and_store)
    _forget_where_streams_are(patch)


@switch
def seq_outside_transaction(patch: pytest.MonkeyPatch) -> None:
    """The readings are committed first, the numbers afterwards."""

    async def write(self: Flusher, conn: Any, delivered: Sequence[Delivered]) -> None:
        aside = await asyncpg.connect(self._dsn)
        try:
            await runs.copy_runs(aside, [d.segment.rows for d in delivered if d.segment.runs])
        finally:
            aside.terminate()
        await asyncio.sleep(WINDOW_S)
        await latest.advance(conn, [d.segment.latest for d in delivered if d.segment.runs])
        await sources.advance(conn, delivered, self._owner, self._number)
        await sources.declare(conn, delivered)

    patch.setattr(Flusher, "_write", write)


@switch
def declare_outside(patch: pytest.MonkeyPatch) -> None:
    """Gaps and refusals are committed first, the numbers and the readings afterwards."""
    declare, write = sources.declare, Flusher._write

    async def declare_and_write(self: Flusher, conn: Any, delivered: Sequence[Delivered]) -> None:
        aside = await asyncpg.connect(self._dsn)
        try:
            await declare(aside, delivered)
        finally:
            aside.terminate()
        await asyncio.sleep(WINDOW_S)
        await write(self, conn, delivered)

    async def declared_already(conn: Any, delivered: Sequence[Delivered]) -> None:
        pass

    patch.setattr(Flusher, "_write", declare_and_write)
    patch.setattr(sources, "declare", declared_already)


@switch
def forget_fence(patch: pytest.MonkeyPatch) -> None:
    """Whoever writes, no generation is old, nobody waits for it, and where a stream was left is not asked."""

    async def lock_writers(conn: Any, writers: Sequence[int]) -> dict[int, int]:
        return dict.fromkeys(writers, Current())

    patch.setattr(sources, "lock_writers", lock_writers)
    _forget_where_streams_are(patch)


@switch
def forget_doubt(patch: pytest.MonkeyPatch) -> None:
    """After a COMMIT without an answer nobody asks whether it took place."""

    async def last_flush(conn: Any, owner: object) -> int:
        return -1

    patch.setattr(sources, "last_flush", last_flush)
    _forget_where_streams_are(patch)


@switch
def forget_receipts(patch: pytest.MonkeyPatch) -> None:
    """What a request with an Idempotency-Key brought is committed first, and answered a while later; its key is never kept."""
    store = Flusher._store

    async def keep_new(conn: Any, kept: Sequence[Any]) -> list[bool]:
        return [True for _ in kept]

    async def store_and_wait(self: Flusher, drained: Drained) -> dict[int, Void]:
        void = await store(self, drained)
        await asyncio.sleep(WINDOW_S)
        return void

    patch.setattr(idempotency, "keep_new", keep_new)
    patch.setattr(Flusher, "_store", store_and_wait)


@switch
def uncompacted(patch: pytest.MonkeyPatch) -> None:
    """No sabotage: runs stay as the flush wrote them, so that a reading that is stored twice is seen."""

    async def wait(self: Compactor) -> None:
        await asyncio.Event().wait()

    patch.setattr(Compactor, "run", wait)


@switch
def hurried(patch: pytest.MonkeyPatch) -> None:
    """No sabotage: the time limits of sockets and requests are short, so that tests need not wait for them. Torture keeps the real ones."""
    patch.setattr(serve, "HEADER_S_MAX", 1.0)
    patch.setattr(route, "BODY_GRACE_S", 1.0)
    patch.setattr(socket, "FIRST_MESSAGE_S_MAX", 0.5)
    patch.setattr(socket, "SILENCE_S_MAX", 1.0)
    patch.setattr(socket, "SEND_S_MAX", 0.5)
    patch.setattr(envelope, "SEND_S_MAX", 0.5)
    patch.setattr(flush, "STATEMENT_S_MAX", 1.0)
    patch.setattr(copy, "COPY_S_MAX", 1.0)
    connect = link.connect

    def connect_hurried(*args: Any, **options: Any) -> Any:
        return connect(*args, **options | {"ping_interval": 0.3, "ping_timeout": 0.3})

    patch.setattr(link, "connect", connect_hurried)


@switch
def impatient(patch: pytest.MonkeyPatch) -> None:
    """No sabotage: the controller gives a silent backend up after 4 s, and has no other sign of it."""
    link_to, connect = controller.Link, link.connect
    patch.setattr(controller, "Link", lambda *args: link_to(*args, silence_s_max=4.0))
    patch.setattr(link, "connect", lambda *args, **options: connect(*args, **options | {"ping_interval": None}))


@switch
def eager(patch: pytest.MonkeyPatch) -> None:
    """No sabotage: compaction looks for work all the while and is back at once after a fault, so that tests meet many merges."""
    patch.setattr(compact, "LOOK_S", 0.1)
    patch.setattr(compact, "LOOKING_SHARE", 1.0)
    patch.setattr(compact, "SWEEP_S", 0.0)
    patch.setattr(compact, "RETRY_S", 0.1)


@switch
def endless_patience(patch: pytest.MonkeyPatch) -> None:
    """Nobody who is slow or silent is ever ended."""
    hurried(patch)
    patch.setattr(serve, "HEADER_S_MAX", 900.0)
    patch.setattr(route, "BODY_GRACE_S", 900.0)
    for limit in ("FIRST_MESSAGE_S_MAX", "SILENCE_S_MAX", "SEND_S_MAX"):
        patch.setattr(socket, limit, 900.0)
    patch.setattr(envelope, "SEND_S_MAX", 900.0)


@switch
def keep_what_was_refused(patch: pytest.MonkeyPatch) -> None:
    """Four KiB stay behind of every numbered frame, whatever became of it."""
    kept: list[bytes] = []
    hear = TelemetrySocket._hear_numbered

    async def hear_and_keep(self: TelemetrySocket, frame: bytes, kind: int, seq: int | None) -> None:
        kept.append(bytes(4096))
        await hear(self, frame, kind, seq)

    patch.setattr(TelemetrySocket, "_hear_numbered", hear_and_keep)


@switch
def hear_whoever_does_not_read(patch: pytest.MonkeyPatch) -> None:
    """Answers pile up without a bound while their client reads none, and nobody gives it up."""
    endless_patience(patch)
    patch.setattr(telemetry_socket, "ANSWERS_MAX", 1 << 40)


@switch
def forget_refusals(patch: pytest.MonkeyPatch) -> None:
    """A refused frame is answered, and what is gone with it is declared nowhere."""

    async def declare(conn: Any, delivered: Sequence[Delivered]) -> None:
        pass

    patch.setattr(sources, "declare", declare)


@switch
def give_up_what_waited(patch: pytest.MonkeyPatch) -> None:
    """What could not be stored while the database was away is called stored as soon as it is back."""
    commit = Flusher._commit

    async def commit_nothing(self: Flusher, conn: Any, segments: dict[int, Any], before: dict[int, Void]) -> dict[int, Void]:
        return await commit(self, conn, segments, before) if self._vitals.storing else {}

    patch.setattr(Flusher, "_commit", commit_nothing)
    _forget_where_streams_are(patch)


@switch
def show_previews_as_stored(patch: pytest.MonkeyPatch) -> None:
    """What is shown and not stored comes to the screens as what is stored does."""
    offer = Client.offer

    def offer_stored(self: Client, message: str) -> None:
        batch = msgspec.json.decode(message)
        for preview in batch.pop("previews", ()):
            batch["datapoints"].append(preview | {"min": preview["value"], "max": preview["value"], "n": 1})
        offer(self, msgspec.json.encode(batch).decode())

    patch.setattr(Client, "offer", offer_stored)


@switch
def forget_marks(patch: pytest.MonkeyPatch) -> None:
    """No run says that it may overlap an earlier one."""
    copy_runs = runs.copy_runs

    async def copy_unmarked(conn: Any, rows: Sequence[bytes]) -> None:
        await copy_runs(conn, rows)
        await conn.execute("UPDATE datapoints SET overlapping = false WHERE overlapping")

    patch.setattr(runs, "copy_runs", copy_unmarked)


@switch
def merge_under_new_ids(patch: pytest.MonkeyPatch) -> None:
    """A merged run counts as written when it was merged."""
    copy_rewritten = runs.copy_rewritten

    async def copy_and_number(conn: Any, rows: bytes) -> None:
        await copy_rewritten(conn, rows)
        await conn.execute("UPDATE datapoints SET id = DEFAULT WHERE xmin::text = pg_current_xact_id()::text")

    patch.setattr(runs, "copy_rewritten", copy_and_number)


@switch
def merge_in_two_transactions(patch: pytest.MonkeyPatch) -> None:
    """The small runs are gone for good before the long ones are there."""
    take_runs = runs.take_runs

    async def take_for_good(conn: Any, day: Any, ranges: Any) -> bytes:
        taken = await take_runs(conn, day, ranges)
        await conn.execute("COMMIT")
        await asyncio.sleep(WINDOW_S)
        await conn.execute("BEGIN")
        return taken

    patch.setattr(runs, "take_runs", take_for_good)


@switch
def merge_twice(patch: pytest.MonkeyPatch) -> None:
    """The long runs are written once more beside themselves."""
    copy_rewritten = runs.copy_rewritten

    async def copy_and_double(conn: Any, rows: bytes) -> None:
        await copy_rewritten(conn, rows)
        columns = ", ".join(runs.ingest_core.COPY_COLUMNS)
        await conn.execute(
            f"INSERT INTO datapoints ({columns}) SELECT {columns} FROM datapoints WHERE xmin::text = pg_current_xact_id()::text"
        )

    patch.setattr(runs, "copy_rewritten", copy_and_double)


# the controller


@switch
def miscount(patch: pytest.MonkeyPatch) -> None:
    """Of several readings that a device gave in vain at once, one fewer is counted."""
    miss = Sampler._miss

    def miss_fewer(self: Sampler, account: Any, n: int, *rest: Any) -> None:
        miss(self, account, max(1, n - 1), *rest)

    patch.setattr(Sampler, "_miss", miss_fewer)


@switch
def swallow_drop(patch: pytest.MonkeyPatch) -> None:
    """The gap that stands for what a full spool dropped says that nothing is missing."""
    gap = Loss.gap

    def gap_of_nothing(self: Loss, seq: int, frames: int) -> bytes:
        return wire.encode(msgspec.structs.replace(msgspec.msgpack.decode(gap(self, seq, frames), type=wire.Gap), n=0))

    patch.setattr(Loss, "gap", gap_of_nothing)


@switch
def forget_shared(patch: pytest.MonkeyPatch) -> None:
    """Frames younger than a second are nowhere but in the memory of the process."""
    patch.setattr(Spool, "_share", lambda self, record, now_us: None)


@switch
def forget_withheld(patch: pytest.MonkeyPatch) -> None:
    """What refused channels gave is nowhere but in the memory of the process until it is declared."""
    patch.setattr(Spool, "remember_withheld", lambda self, left_out: None)


@switch
def declare_when_sent(patch: pytest.MonkeyPatch) -> None:
    """What a frame goes without is counted as soon as it was sent, and again when it is sent again."""
    next_frame = Delivery._next_frame

    def next_and_count(self: Delivery) -> bytes | None:
        message = next_frame(self)
        self._withhold(self._next_seq)
        return message

    patch.setattr(Delivery, "_next_frame", next_and_count)


@switch
def derive_stream(patch: pytest.MonkeyPatch) -> None:
    """A stream's id comes from what is on the disk instead of chance."""
    begin = Spool.__init__

    def begin_derived(self: Spool, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options, new_id=lambda: max((stream.order for stream in self._streams), default=0).to_bytes(16))

    patch.setattr(Spool, "__init__", begin_derived)


@switch
def ignore_sync(patch: pytest.MonkeyPatch) -> None:
    """A sync that failed is called success."""
    sync = AppendFile.sync

    def sync_somehow(self: AppendFile) -> None:
        with contextlib.suppress(OSError):
            sync(self)

    patch.setattr(AppendFile, "sync", sync_somehow)


@switch
def believe_wall_clock(patch: pytest.MonkeyPatch) -> None:
    """Readings are stamped with whatever the wall clock says, and nothing keeps their order."""

    def accept_column(self: Sampler, account: Any, column: Column, stamp_us: int, into: Readings) -> int:
        into.times_us.append(now().wall_us)
        into.values.extend(column.values)
        return 1

    patch.setattr(Sampler, "_accept_column", accept_column)


@switch
def skip_checksum(patch: pytest.MonkeyPatch) -> None:
    """Whatever a file of the spool holds is believed."""

    def unsealed(data: bytes, at: int) -> bytes | None:
        if at + segment._SIZES.size > len(data):
            return None
        length, _ = segment._SIZES.unpack_from(data, at)
        start = at + segment._SIZES.size
        return data[start : start + length] if start + length <= len(data) else None

    patch.setattr(segment, "unsealed", unsealed)
