"""Faults put into the product or into the model of the backend on purpose: the checks count because each of these is found."""

import contextlib
from collections.abc import Callable, Iterator
from unittest.mock import patch

from webmacs_controller import segment, wire
from webmacs_controller.clock import Now
from webmacs_controller.protocol import Delivery, Notice, Refusal
from webmacs_controller.spool import Spool
from webmacs_controller.spooled_stream import SpooledStream

from simulation.backend import Flush, Segment, Worker
from simulation.database import Database
from simulation.disk import MemoryDisk, MemoryFile
from webmacs.telemetry import protocol


@contextlib.contextmanager
def acknowledge_before_commit() -> Iterator[None]:
    def drained(self: Worker, flush: Flush) -> None:
        for session, brought in flush.segments:
            session.delivery.commit(brought.frames[-1][0])
            self.acknowledge(session)

    with patch.object(Worker, "drained", drained):
        yield


@contextlib.contextmanager
def seq_outside_transaction() -> Iterator[None]:
    """The readings in one transaction, the numbers in a second one, which a lost connection prevents."""

    def store(self: Worker, number: int, segments: list[Segment], commit: str) -> None:
        for brought in segments:
            self.database.write(brought)
        if commit == "done":
            self.database.commit(self.owner, number, [])
            for brought in segments:
                self.database.advance(brought)

    with patch.object(Worker, "store", store):
        yield


@contextlib.contextmanager
def forget_fence() -> Iterator[None]:
    with patch.object(Database, "fenced", lambda self, segment: False):
        yield


@contextlib.contextmanager
def swallow_drop() -> Iterator[None]:
    """A full spool drops its oldest frames and says nothing."""
    with patch.object(SpooledStream, "lose", lambda self, records, cause: None):
        yield


@contextlib.contextmanager
def drop_needlessly() -> Iterator[None]:
    """A spool that is half full drops its oldest frames, and declares them as it should."""
    drop = Spool._drop_until_bounded

    def drop_at_half(self: Spool) -> None:
        bytes_max = self._bytes_max
        self._bytes_max = bytes_max // 2
        drop(self)
        self._bytes_max = bytes_max

    with patch.object(Spool, "_drop_until_bounded", drop_at_half):
        yield


@contextlib.contextmanager
def skip_checksum() -> Iterator[None]:
    with patch.object(segment, "_checksum", lambda length, body: 0):
        yield


@contextlib.contextmanager
def forget_resend() -> Iterator[None]:
    """After a reconnect the source goes on behind what it has sent, not behind what is stored."""
    welcomed = Delivery._welcomed

    def go_on(self: Delivery, welcome: object) -> Notice | None:
        sent_seq = self._next_seq
        notice = welcomed(self, welcome)  # type: ignore[arg-type]
        self._next_seq = max(self._next_seq, min(sent_seq, self._stream.next_seq))
        return notice

    with patch.object(Delivery, "_welcomed", go_on):
        yield


@contextlib.contextmanager
def forget_when_sent() -> Iterator[None]:
    """The spool lets go of a frame when it was sent, not when it is stored."""
    frame = Spool.frame

    def send_and_forget(self: Spool, seq: int) -> tuple[int, bytes] | None:
        found = frame(self, seq)
        if found is not None and self._streams[0].live:
            self.committed(found[0])
        return found

    with patch.object(Spool, "frame", send_and_forget):
        yield


@contextlib.contextmanager
def take_behind_a_hole() -> Iterator[None]:
    """The backend takes whatever frame comes next."""
    judge = protocol.Delivery.judge

    def take(self: protocol.Delivery, *frame: object) -> protocol.Verdict:
        verdict = judge(self, *frame)  # type: ignore[arg-type]
        return protocol.Verdict.TAKE if verdict is protocol.Verdict.HOLE else verdict

    with patch.object(protocol.Delivery, "judge", take):
        yield


@contextlib.contextmanager
def take_any_gap() -> Iterator[None]:
    """A gap counts for all that is missing before it, whatever it says that it stands for."""
    judge = protocol.Delivery.judge

    def take(self: protocol.Delivery, kind: int, *frame: object) -> protocol.Verdict:
        verdict = judge(self, kind, *frame)  # type: ignore[arg-type]
        return protocol.Verdict.TAKE if verdict is protocol.Verdict.HOLE and kind == wire.KIND_GAP else verdict

    with patch.object(protocol.Delivery, "judge", take):
        yield


@contextlib.contextmanager
def go_on_behind_a_hole() -> Iterator[None]:
    """The source takes the refusal of a frame behind a hole for one of the frame itself, whose number is used up."""
    with patch.object(Delivery, "_nacked", lambda self, nack: Refusal(nack)):
        yield


@contextlib.contextmanager
def forget_credit() -> Iterator[None]:
    received = Delivery.received

    def receive(self: Delivery, message: bytes, now: Now) -> Notice | None:
        notice = received(self, message, now)
        self._credit_bytes = 1 << 30
        return notice

    with patch.object(Delivery, "received", receive):
        yield


@contextlib.contextmanager
def forget_sync() -> Iterator[None]:
    with patch.object(MemoryFile, "sync", lambda self: None):
        yield


@contextlib.contextmanager
def forget_names() -> Iterator[None]:
    """Files are synced, the directory that names them is not."""
    with patch.object(MemoryDisk, "sync_directory", lambda self, directory: None):
        yield


@contextlib.contextmanager
def trust_the_page_cache() -> Iterator[None]:
    """What a killed process had written counts as being on disk."""

    def trust(self: Spool) -> bool:
        self._settled = True
        return True

    with patch.object(Spool, "_settle_on_disk", trust):
        yield


ALL: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    switch.__name__: switch
    for switch in (
        acknowledge_before_commit,
        seq_outside_transaction,
        forget_fence,
        swallow_drop,
        drop_needlessly,
        skip_checksum,
        forget_resend,
        forget_when_sent,
        take_behind_a_hole,
        take_any_gap,
        go_on_behind_a_hole,
        forget_credit,
        forget_sync,
        forget_names,
        trust_the_page_cache,
    )
}
