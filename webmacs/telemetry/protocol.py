"""The backend's end of delivery, as a state machine without I/O, clock or chance: the socket and the simulator drive the same one.

One `Delivery` is one stream on one connection. It judges each frame's number, counts the bytes that wait for a commit, and says
what may be acknowledged. What is committed is one number; everything else here may be lost without harm.
"""

from collections import deque
from enum import Enum
from typing import Final

import msgspec
from webmacs_controller.wire import FRAME_BYTES_MAX, KIND_GAP, Ack, Gap, Nack, RefusalCode

CREDIT_BYTES_MAX: Final = 64 * 1024 * 1024
"""Frames that all sources together may have sent and not yet seen acknowledged; beyond it they keep sampling into their spools."""
FRAMES_WAITING_MAX: Final = 16_384
"""Frames of one source that wait for a commit, however short: each costs memory beside its bytes, and may be answered by a nack."""


class Verdict(Enum):
    TAKE = "take"
    DUPLICATE = "duplicate"
    """At or below what was taken: dropped, and acknowledged as soon as it is committed."""
    HOLE = "hole"
    """Frames before it are missing. It is refused and consumes nothing: the source says hello again and resumes."""


def credit_for(connections: int) -> int:
    """Bytes of credit for each of so many connections: an equal share, and at least one frame of any size."""
    return max(FRAME_BYTES_MAX, CREDIT_BYTES_MAX // max(1, connections))


class Delivery:
    """One stream's numbers on one connection: committed <= taken, and the frames between them wait for their commit."""

    def __init__(self, stream: bytes, committed_seq: int) -> None:
        self.stream = stream
        self.committed_seq = committed_seq
        self.taken_seq = committed_seq
        self.waiting_bytes = 0
        self._waiting: deque[tuple[int, int]] = deque()

    def judge(self, kind: int, seq: int, frame: bytes) -> Verdict:
        """A gap may be further on when it says that it stands for every number from the next one up to its own."""
        if seq <= self.taken_seq:
            return Verdict.DUPLICATE
        if seq == self.taken_seq + 1 or (kind == KIND_GAP and seq - _stands_for(frame) <= self.taken_seq):
            return Verdict.TAKE
        return Verdict.HOLE

    def take(self, seq: int, size: int) -> None:
        """The frame judged TAKE was handed to the core, which took or refused it: either way its number is consumed."""
        if seq <= self.taken_seq:
            raise ValueError(f"frame {seq} taken twice: {self.taken_seq + 1} is next")
        self.taken_seq = seq
        self.waiting_bytes += size
        self._waiting.append((seq, size))

    def commit(self, seq: int) -> None:
        """Everything up to `seq` is committed. What is older than the last commit changes nothing."""
        if seq > self.taken_seq:
            raise ValueError(f"commit of {seq}, but only {self.taken_seq} was taken")
        self.committed_seq = max(self.committed_seq, seq)
        while self._waiting and self._waiting[0][0] <= seq:
            self.waiting_bytes -= self._waiting.popleft()[1]

    def over(self, credit_bytes: int) -> bool:
        """The source sent more than it was allowed: its socket is left unread until commits make room."""
        return self.waiting_bytes > credit_bytes + FRAME_BYTES_MAX or len(self._waiting) > FRAMES_WAITING_MAX

    def ack(self, credit_bytes: int) -> Ack:
        return Ack(self.committed_seq, credit_bytes)

    def hole(self, seq: int) -> Nack:
        code: RefusalCode = "seq_gap"
        return Nack(seq, None, code, None, None, f"frame {seq} came, {self.taken_seq + 1} is next; say hello again to resume")


_gap: msgspec.msgpack.Decoder[Gap] = msgspec.msgpack.Decoder(Gap)


def _stands_for(gap: bytes) -> int:
    """How many numbers; none when it cannot be read."""
    try:
        return _gap.decode(gap).frames
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
