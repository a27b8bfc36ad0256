"""One worker of the backend: the real delivery of each connection, and around it a model of the socket, the core's buffers, the flush
and the take-over. A worker that dies loses all of it."""

import random
from collections import deque
from typing import NamedTuple

import msgspec
from webmacs_controller import wire

from simulation.database import Database, Segment
from simulation.network import Connection
from webmacs.telemetry.protocol import Delivery, Verdict

LIMITS = wire.Limits(wire.FRAME_BYTES_MAX, wire.FRAME_READINGS_MAX, wire.CHANNELS_MAX, 30 * 86_400_000_000, 86_400_000_000)
SILENCE_US = int(wire.SILENCE_S_MAX * 1e6)


class Session:
    """One stream on one connection, as the core knows it."""

    def __init__(self, connection: Connection, hello: wire.Hello, generation: int, committed_seq: int) -> None:
        self.connection = connection
        self.stream = hello.stream
        self.generation = generation
        self.delivery = Delivery(hello.stream, committed_seq)
        self.buffered: list[tuple[int, bytes]] = []
        self.told = True  # its connection still waits for acknowledgements


class Flush(NamedTuple):
    number: int
    segments: list[tuple[Session, Segment]]
    fenced: set[int]
    """As the last try to commit found it."""


class Overdrawn(AssertionError):
    """The source sent more than it was allowed."""


class Nonsense(AssertionError):
    """The source sent what nobody sampled."""


class Worker:
    def __init__(self, owner: int, database: Database, credit_bytes: int) -> None:
        self.owner = owner
        self.frozen_until_us = 0
        self.flush: Flush | None = None
        self.database = database
        self._credit_bytes = credit_bytes
        self._number = 0
        self._heard_us: dict[Connection, int] = {}
        self._sessions: dict[Connection, Session] = {}
        self._closed: list[Session] = []  # what they buffered is still committed under its numbers
        self._live: Session | None = None
        self._hellos: deque[tuple[Connection, wire.Hello]] = deque()

    @property
    def connections(self) -> list[Connection]:
        return list(self._heard_us)

    def accept(self, connection: Connection, now_us: int) -> None:
        self._heard_us[connection] = now_us

    def die(self, chance: random.Random) -> None:
        for connection in self._heard_us:
            connection.cut(chance)

    # the socket

    def hear(self, now_us: int) -> bool:
        """The next message of every connection; whether there was one."""
        heard = False
        for connection, heard_us in list(self._heard_us.items()):
            if any(connection is waiting for waiting, _ in self._hellos):
                continue
            if connection.heard_out(at_backend=True) or now_us - heard_us >= SILENCE_US:
                self._close(connection)
            elif connection.up.messages:
                heard = True
                self._heard_us[connection] = now_us
                self._take(connection, connection.up.messages.popleft(), now_us)
        return heard

    def _take(self, connection: Connection, message: bytes, now_us: int) -> None:
        if message[1] in wire.NUMBERED_KINDS:
            session = self._sessions.get(connection)
            if session is not None:
                self._number_of_a_frame(session, message)
            return
        match wire.decode_from_source(message):
            case wire.Hello() as hello:
                self._leave(connection)
                self._hellos.append((connection, hello))
            case wire.Ping() as ping:
                connection.send_down(wire.encode(wire.Pong(now_us, now_us, ping.wall_us, ping.monotonic_us)))

    def _number_of_a_frame(self, session: Session, message: bytes) -> None:
        try:
            seq = _seq.decode(message)[1]
        except msgspec.DecodeError as error:
            raise Nonsense(f"the source sent what cannot be read: {error}") from error
        match session.delivery.judge(message[1], seq, message):
            case Verdict.TAKE:
                alone = session.delivery.waiting_bytes == 0
                session.delivery.take(seq, len(message))
                if session.delivery.waiting_bytes > self._credit_bytes and not alone:
                    raise Overdrawn(f"{session.delivery.waiting_bytes} bytes are under way, {self._credit_bytes} are allowed")
                session.buffered.append((seq, message))
            case Verdict.DUPLICATE:
                self.database.journal.seen["duplicate frames"] += 1
                self.acknowledge(session)
            case Verdict.HOLE:
                self.database.journal.refused_behind_a_hole(session.stream, session.delivery.taken_seq + 1)
                session.connection.send_down(wire.encode(session.delivery.hole(seq)))

    def acknowledge(self, session: Session) -> None:
        session.connection.send_down(wire.encode(session.delivery.ack(self._credit_bytes)))

    def _leave(self, connection: Connection) -> None:
        session = self._sessions.pop(connection, None)
        if session is not None:
            self._closed.append(session)
            if self._live is session:
                self._live = None

    def _close(self, connection: Connection) -> None:
        connection.backend_open = False
        self._leave(connection)
        self._heard_us.pop(connection, None)
        self._hellos = deque(waiting for waiting in self._hellos if waiting[0] is not connection)

    # the flush

    def step(self, commit: str) -> bool:
        """One step of the flush or of a hello that waits for it; whether there was one. `commit`: done, unanswered or failed."""
        if self.flush is not None:
            self._commit(self.flush, commit)
            return True
        if self._drain():
            return True
        if self._hellos and self.database.up:
            self._enter(*self._hellos.popleft())
            return True
        return False

    def _drain(self) -> bool:
        if self._hellos and self._live is not None:  # the older connection of the source is fenced first
            self._close(self._live.connection)
        sessions = [*self._closed, *self._sessions.values()]
        full = [session for session in sessions if session.buffered]
        self._closed = []
        if not full:
            return False
        self._number += 1
        segments = [(session, Segment(session.stream, session.generation, session.buffered)) for session in full]
        for session in full:
            session.buffered = []
        self.flush = Flush(self._number, segments, set())
        self.drained(self.flush)
        return True

    def drained(self, flush: Flush) -> None:
        """Nothing is acknowledged yet."""

    def _commit(self, flush: Flush, commit: str) -> None:
        if not self.database.up or commit == "failed":
            return
        seen = self.database.journal.seen
        if self.database.has_flush(self.owner, flush.number):
            seen["commits in doubt"] += 1
        else:
            flush.fenced.clear()
            flush.fenced.update(i for i, (_, segment) in enumerate(flush.segments) if self.database.fenced(segment))
            valid = [segment for i, (_, segment) in enumerate(flush.segments) if i not in flush.fenced]
            self.store(flush.number, valid, commit)
            if commit == "unanswered":
                return
        self.flush = None
        for i, (session, segment) in enumerate(flush.segments):
            if i in flush.fenced:
                seen["segments fenced"] += 1
                self._close(session.connection)
            else:
                session.delivery.commit(segment.frames[-1][0])
                if self._sessions.get(session.connection) is session:
                    self.acknowledge(session)

    def store(self, number: int, segments: list[Segment], commit: str) -> None:
        self.database.commit(self.owner, number, segments)

    def _enter(self, connection: Connection, hello: wire.Hello) -> None:
        generation = self.database.take_over()
        committed_seq = self.database.committed(hello.stream)
        session = self._sessions[connection] = self._live = Session(connection, hello, generation, committed_seq)
        new_stream = hello.next_seq <= committed_seq
        session.connection.send_down(
            wire.encode(wire.Welcome(1, hello.stream, committed_seq, self._credit_bytes, [(1, "event")], [], LIMITS, 0, 1, new_stream))
        )


_seq: msgspec.msgpack.Decoder[list[object]] = msgspec.msgpack.Decoder()
